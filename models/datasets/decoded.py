"""The decoded form: one canonical tensor file a dataset, written once and mapped after that.

It holds the examples before any transform, so that its SHA-256 is the dataset's digest: equal
examples, labels, classes and groups give equal bytes, whatever format they came in. Tensors:

* ``x``: ``(N, ...)``; for images of different sizes the uint8 pixels of all of them, one after the
  other, and beside it ``sizes`` int32 ``(N, 3)``, the (channels, height, width) of each; for a
  table float64 ``(N, columns)``, where a missing cell is NaN and a text is its index in the
  column's categories; for sequences of token ids int32 ``(N, length of the longest)``, -1 behind
  the end of a shorter one;
* ``y``: int64 ``(N,)`` class indices, or for a multilabel task uint8 ``(N, L)`` of 0 and 1;
* ``hashes``: uint64 ``(N,)``, equal where examples are (see `Fingerprints`);
* ``groups.<name>``: int32 ``(N,)``, for each group.

Metadata, as canonical JSON: ``classes`` (names in index order), ``groups`` (for each its values in
the order of the codes), for a table ``columns`` and for token ids ``vocabulary`` (1 + the largest).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from models import tensorfile
from models.canonical import canonical_json, strict_json
from models.datasets.arrays import bad_file
from models.tensorfile import TensorFileError
from models.transforms import Column, ExampleType

_PREFIX = "groups."
_MAX_NAMES_BYTES = tensorfile.MAX_HEADER_BYTES // 4  # quotes double when JSON stands inside JSON

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumn:
    """One feature of a table.

    Attributes:
        categories: for a column of text its distinct texts, in the order of their first rows;
            None for a column of numbers.
        missing: some of its cells are.
    """

    name: str
    categories: tuple[str, ...] | None = None
    missing: bool = False

    def to_json(self) -> dict[str, Any]:
        """The form in the file's metadata."""
        categories = None if self.categories is None else list(self.categories)
        return {"name": self.name, "categories": categories, "missing": self.missing}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TableColumn:
        """Build from what `to_json` gave."""
        listed = value["categories"]
        categories = None if listed is None else tuple(listed)
        return cls(name=value["name"], categories=categories, missing=value["missing"])


def plan(
    *,
    x: tuple[str, Shape],
    y: Shape,
    classes: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    ragged: bool = False,
    columns: Sequence[TableColumn] | None = None,
    vocabulary: int | None = None,
) -> tensorfile.Plan:
    """Lay out the file of one dataset; a `models.tensorfile.Placer` writes it.

    Args:
        x: the format's dtype and the shape.
        y: ``(N,)``, or ``(N, L)`` for a multilabel task.
        groups: values by name.
        ragged: there are ``sizes``.
        vocabulary: of token ids.

    Raises:
        SpecError: the names of classes, groups and columns take too much space.
    """
    values = {name: list(names) for name, names in groups.items()}
    metadata = {"classes": canonical_json(list(classes)), "groups": canonical_json(values)}
    if columns is not None:
        metadata["columns"] = canonical_json([one.to_json() for one in columns])
    if vocabulary is not None:
        metadata["vocabulary"] = canonical_json(vocabulary)
    if sum(map(len, metadata.values())) > _MAX_NAMES_BYTES:
        raise bad_file(
            "the names of classes, columns and group values take more than "
            f"{_MAX_NAMES_BYTES} bytes together; give shorter ones"
        )
    count = y[0]
    tensors: dict[str, tuple[str, Shape]] = {
        "x": x,
        "y": ("I64" if len(y) == 1 else "U8", y),
        "hashes": ("U64", (count,)),
        **{_PREFIX + name: ("I32", (count,)) for name in groups},
    }
    if ragged:
        tensors["sizes"] = ("I32", (count, 3))
    texts = {name: text.decode() for name, text in metadata.items()}
    return tensorfile.plan(tensors, metadata=texts)


def group_tensor(name: str) -> str:
    """The tensor that holds a group's codes."""
    return _PREFIX + name


class Fingerprints:
    """Hashes examples as their bytes pass by: 64 bits of BLAKE2b of type and content.

    Args:
        kind: what tells apart examples whose bytes are equal by chance, such as dtype and shape.
        example_bytes: of each example.
    """

    def __init__(self, kind: str, example_bytes: int) -> None:
        person = hashlib.blake2b(kind.encode(), digest_size=16).digest()
        self._empty = hashlib.blake2b(digest_size=8, person=person)
        self._example_bytes = example_bytes
        self._open = self._empty.copy()
        self._missing = example_bytes  # of the example that is open

    def of(self, data: bytes | memoryview) -> bytes:
        """The hashes, 8 bytes each, of the examples that end within the next bytes."""
        view, size = memoryview(data), self._example_bytes
        if len(view) < self._missing:
            self._open.update(view)
            self._missing -= len(view)
            return b""
        self._open.update(view[: self._missing])
        found = [self._open.digest()]
        end = self._missing + (len(view) - self._missing) // size * size
        for start in range(self._missing, end, size):
            one = self._empty.copy()
            one.update(view[start : start + size])
            found.append(one.digest())
        self._open = self._empty.copy()
        self._open.update(view[end:])
        self._missing = size - (len(view) - end)
        return b"".join(found)


def duplicates(hashes: np.ndarray[Any, Any]) -> int:
    """How many examples, uint64 ``(N,)``, equal an earlier one."""
    order = np.sort(hashes)  # np.unique takes twenty times as long
    return int(np.count_nonzero(order[1:] == order[:-1]))


class Dataset:
    """A decoded dataset, mapped: opening it reads its header, slicing it gives views.

    Attributes:
        x: see the module; uint8, int8, int16, int32, int64, float32 or, for a table, float64.
        y: int64 (N,), each in ``[0, len(classes))``, or uint8 (N, L) of 0 and 1.
        classes: names in index order.
        groups: by name: int32 (N,) codes, and the values that they are indices into.
        hashes: uint64 (N,).
        sizes: int32 (N, 3) for images of different sizes, else None.
        columns: of a table, else None.
        vocabulary: of sequences of token ids, 1 + the largest id, else None.

    Args:
        path: a file that was written by `plan`; it is named by its digest and taken at its word.

    Raises:
        TensorFileError: the file is no such file, or damaged.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        arrays, metadata = tensorfile.open_arrays(path)
        try:
            self.x: Final[np.ndarray[Any, Any]] = arrays["x"]
            self.y: Final[np.ndarray[Any, Any]] = arrays["y"]
            self.hashes: Final[np.ndarray[Any, Any]] = arrays["hashes"]
            self.sizes: Final[np.ndarray[Any, Any] | None] = arrays.get("sizes")
            self.classes: Final[tuple[str, ...]] = tuple(strict_json(metadata["classes"]))
            self.groups: Final[Mapping[str, tuple[np.ndarray[Any, Any], tuple[str, ...]]]] = {
                name: (arrays[_PREFIX + name], tuple(values))
                for name, values in strict_json(metadata["groups"]).items()
            }
        except KeyError as missing:
            raise TensorFileError(f"not a decoded dataset: it lacks {missing}") from None
        listed = strict_json(metadata.get("columns", "null"))
        self.columns: Final[tuple[TableColumn, ...] | None] = listed and tuple(
            map(TableColumn.from_json, listed)
        )
        self.vocabulary: Final[int | None] = strict_json(metadata.get("vocabulary", "null"))

    def __len__(self) -> int:
        return len(self.y)

    @property
    def example(self) -> ExampleType:
        """One example before any transform."""
        if self.columns is not None:
            columns = tuple(
                Column(name=one.name, text=one.categories is not None, missing=one.missing)
                for one in self.columns
            )
            return ExampleType(shape=(len(columns),), dtype="float64", columns=columns)
        if self.sizes is not None:
            return ExampleType(shape=(int(self.sizes[0, 0]), None, None), dtype="uint8")
        return ExampleType(
            shape=self.x.shape[1:], dtype=self.x.dtype.name, vocabulary=self.vocabulary
        )
