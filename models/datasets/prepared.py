"""The prepared form: what the first part of a chain of transforms makes of a dataset, once.

A table becomes float32 numbers and images get their geometry; the arithmetic that follows is done
on each batch. It is a canonical tensor file with the one tensor ``x``, made from a decoded dataset
by as many threads as there are cores, and mapped after that. A dataset to which nothing of that
kind is to be done is its own prepared form.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import numpy as np

from models import tensorfile
from models.canonical import digest
from models.datasets.decoded import Dataset
from models.tensorfile import DTYPE_NAMES, Placer
from models.transforms import ExampleType, Transform

VERSION = 1  # raise it whenever equal input could be prepared differently

_CHUNK_BYTES = 2**24


def is_prepared(dataset: Dataset, transforms: Sequence[Transform]) -> bool:
    """Whether the dataset is its own prepared form.

    Args:
        transforms: those of a chain that prepare a dataset.
    """
    return not transforms and dataset.columns is None and dataset.sizes is None


def image_backend() -> str:
    """What resizes images, with its version: another one may differ by a level."""
    return f"Pillow {version('pillow')}"


def key(dataset_digest: str, transforms: Iterable[Mapping[str, Any]]) -> str:
    """The name of a prepared form: lower-case SHA-256 hex.

    Args:
        transforms: those that prepare it, on the wire's form with every default filled in.
    """
    named = [dict(one) for one in transforms]
    return digest([VERSION, dataset_digest, named, image_backend()])


def prepare(
    dataset: Dataset,
    transforms: Sequence[Transform],
    made: ExampleType,
    descriptor: int,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the prepared form.

    Args:
        transforms: those of a chain that prepare a dataset.
        made: what they make of an example.
        descriptor: an empty file.
        progress: called with the number of examples done.

    Raises:
        SpecError: a value cannot be transformed; names its row.
        OSError: the disk is full or fails.
    """
    shape = tuple(length for length in made.shape if length is not None)
    dtype = np.dtype(made.dtype).newbyteorder("<")
    planned = tensorfile.plan({"x": (DTYPE_NAMES[dtype], (len(dataset), *shape))}, metadata={})
    out = Placer(descriptor, planned)
    parts = _rows if dataset.columns is not None else _images
    done = 0
    for count in parts(dataset, transforms, out, dtype):
        done += count
        progress(done)


def open_prepared(path: str | os.PathLike[str]) -> np.ndarray[Any, Any]:
    """Map a prepared form: the examples ``(N, ...)`` of the dtype that the chain gives."""
    arrays, _ = tensorfile.open_arrays(path)
    x: np.ndarray[Any, Any] = arrays["x"]
    return x


def _rows(
    dataset: Dataset, transforms: Sequence[Transform], out: Placer, dtype: np.dtype[Any]
) -> Iterator[int]:
    """Write what becomes of a table; yields how many rows were written since."""
    from models.transforms import tabular

    columns = dataset.columns or ()
    step = max(1, _CHUNK_BYTES // (8 * max(1, len(columns))))
    for first in range(0, len(dataset), step):
        rows = dataset.x[first : first + step]
        out.append("x", _bytes(tabular.apply(transforms, rows, columns, first=first), dtype))
        yield len(rows)


def _images(
    dataset: Dataset, transforms: Sequence[Transform], out: Placer, dtype: np.dtype[Any]
) -> Iterator[int]:
    """Write what becomes of images; yields how many were written since."""
    from models.transforms import geometric

    images = Images(dataset)

    def write(index: int) -> None:
        data = _bytes(geometric.apply(transforms, images[index]), dtype)
        out.put("x", index * len(data), data)

    threads = len(os.sched_getaffinity(0))
    step = 64 * threads
    with ThreadPoolExecutor(threads) as pool:  # Pillow works outside of the interpreter's lock
        for first in range(0, len(dataset), step):
            part = range(first, min(first + step, len(dataset)))
            for _ in pool.map(write, part):
                pass
            yield len(part)


def _bytes(values: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> memoryview:
    return np.ascontiguousarray(values, dtype).reshape(-1).view(np.uint8).data


class Images:
    """The images of a dataset one by one, (C, H, W), whether they are of one size or not."""

    def __init__(self, dataset: Dataset) -> None:
        self._x = dataset.x
        self._sizes = dataset.sizes
        if self._sizes is not None:
            ends = np.cumsum(np.prod(self._sizes.astype(np.int64), axis=1))
            self._starts = np.concatenate([[0], ends])

    def __getitem__(self, index: int) -> np.ndarray[Any, Any]:
        if self._sizes is None:
            image: np.ndarray[Any, Any] = self._x[index]
            return image
        start, end = self._starts[index], self._starts[index + 1]
        return self._x[start:end].reshape(self._sizes[index])
