"""The prepared form: one canonical tensor file a dataset, written once and mapped after that.

It holds the tensors ``x`` (N, ...), ``y`` int64 (N,) and, for each group, ``groups.<name>`` int32
(N,), and in its metadata, as canonical JSON, ``classes`` (names in index order) and ``groups``
(for each its values in the order of the codes). Its SHA-256 is the dataset's digest: equal
examples, labels, classes and groups give equal bytes, whatever format they came in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Final

import numpy as np

from models import tensorfile
from models.canonical import canonical_json, strict_json
from models.datasets.arrays import bad_file
from models.tensorfile import TensorFileError, TensorSource

_PREFIX = "groups."
_MAX_NAMES_BYTES = tensorfile.MAX_HEADER_BYTES // 4  # quotes double when JSON stands inside JSON


def write(
    stream: BinaryIO,
    *,
    x: TensorSource,
    y: TensorSource,
    classes: Sequence[str],
    groups: Mapping[str, tuple[TensorSource, Sequence[str]]],
) -> int:
    """Write one dataset and return its size in bytes.

    Args:
        stream: takes the bytes.
        x: examples, (N, ...).
        y: class indices, I64 (N,).
        classes: names in index order.
        groups: codes, I32 (N,), and the values they stand for, by the name of the group.

    Raises:
        SpecError: the names of classes and groups take too much space, or whatever a source says.
    """
    values = {name: list(names) for name, (_, names) in groups.items()}
    metadata = {"classes": canonical_json(list(classes)), "groups": canonical_json(values)}
    if sum(map(len, metadata.values())) > _MAX_NAMES_BYTES:
        raise bad_file(
            "the names of classes and group values take more than "
            f"{_MAX_NAMES_BYTES} bytes together; give shorter ones"
        )
    tensors = {"x": x, "y": y} | {_PREFIX + name: codes for name, (codes, _) in groups.items()}
    return tensorfile.write(
        stream, tensors, metadata={name: text.decode() for name, text in metadata.items()}
    )


class Dataset:
    """A prepared dataset, mapped: opening it reads its header, slicing it gives views.

    Attributes:
        x: (N, ...), uint8, int8, int16, int32, int64 or float32, all values finite.
        y: int64 (N,), each in ``[0, len(classes))``.
        classes: names in index order.
        groups: by name: int32 (N,) codes, and the values that they are indices into.

    Args:
        path: a file that `write` wrote; it is named by its digest and taken at its word.

    Raises:
        TensorFileError: the file is no such file, or damaged.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        arrays, metadata = tensorfile.open_arrays(path)
        try:
            self.x: Final[np.ndarray[Any, Any]] = arrays["x"]
            self.y: Final[np.ndarray[Any, Any]] = arrays["y"]
            self.classes: Final[tuple[str, ...]] = tuple(strict_json(metadata["classes"]))
            self.groups: Final[Mapping[str, tuple[np.ndarray[Any, Any], tuple[str, ...]]]] = {
                name: (arrays[_PREFIX + name], tuple(values))
                for name, values in strict_json(metadata["groups"]).items()
            }
        except KeyError as missing:
            raise TensorFileError(f"not a prepared dataset: it lacks {missing}") from None

    def __len__(self) -> int:
        return len(self.x)
