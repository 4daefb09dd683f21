"""What pyarrow read, as columns of a table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.datasets.sequences import Run
from models.datasets.tablerows import Numbers, Words


class ListError(ValueError):
    """A list is no sequence of token ids.

    Attributes:
        row: of the list among those that were given.
        words: what is wrong with it, to go on behind its place.
    """

    def __init__(self, row: int, words: str) -> None:
        super().__init__(words)
        self.row = row
        self.words = words


def numbers(array: pa.Array) -> Numbers:
    """A column of numbers.

    Args:
        array: float64; a null is a missing cell.
    """
    missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    return Numbers(values=array.to_numpy(zero_copy_only=False), missing=missing)


def words(array: pa.Array) -> Words:
    """A column of text.

    Args:
        array: texts, or a dictionary of texts; a null and an empty text are missing cells.

    Raises:
        UnicodeDecodeError: a text is not UTF-8.
    """
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    codes = pc.fill_null(array.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    first = np.full(len(array.dictionary) + 1, -1)
    first[codes[::-1]] = np.arange(len(codes))[::-1]  # the last one written is the first cell
    used = np.flatnonzero(first[:-1] >= 0)  # a dictionary may hold what no cell does
    used = used[np.argsort(first[used])]
    found: dict[str, int] = {}
    at: list[int] = []
    table = np.full(len(first), -1)
    for code, value in zip(
        used.tolist(), _texts(array.dictionary.take(pa.array(used))), strict=True
    ):
        if value:
            table[code] = found.setdefault(value, len(found))  # or the same text twice
            if len(at) < len(found):
                at.append(int(first[code]))
    return Words(codes=table[codes], texts=list(found), first=at)


def lists(array: pa.Array) -> Run:
    """A column of sequences.

    Args:
        array: lists of integers, of any kind that has offsets or a fixed size.

    Raises:
        ListError: a list is null or empty, or an item of it is null.
    """
    if array.null_count:
        row = int(array.is_null().to_numpy(zero_copy_only=False).argmax())
        raise ListError(row, "is null; every row needs its list of token ids")
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False).astype(np.int32)
    if not lengths.all():
        raise ListError(int((lengths == 0).argmax()), "is an empty list; at least one id is needed")
    items = array.flatten()
    if items.null_count:
        at = int(items.is_null().to_numpy(zero_copy_only=False).argmax())
        row = int(np.searchsorted(np.cumsum(lengths), at, side="right"))
        raise ListError(row, "holds a null; a token id is a whole number")
    if pa.types.is_dictionary(items.type):
        items = items.dictionary_decode()
    return Run(lengths=lengths, ids=items.to_numpy(zero_copy_only=False))


def _texts(array: pa.Array) -> list[str | None]:
    found: list[str | None] = array.to_pylist()
    return found
