"""What pyarrow read, as columns of a table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.datasets.tablerows import Numbers, Words


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


def _texts(array: pa.Array) -> list[str | None]:
    found: list[str | None] = array.to_pylist()
    return found
