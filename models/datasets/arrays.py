"""What a format gives: named arrays, whose elements come in chunks and any number of times."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.spec import SpecError
from models.tensorfile import Readable

CHUNK_BYTES = 2**20
MAX_MAPPED_BYTES = 2**30


class Source:
    """An open file, of which slices are read at any offset.

    It is not mapped as a whole: the reader's address space is limited, and a file may be larger.

    Args:
        descriptor: readable and seekable; its position is neither used nor moved.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size_bytes = os.fstat(descriptor).st_size

    def __len__(self) -> int:
        return self._size_bytes

    def __getitem__(self, part: slice, /) -> bytes:
        start, stop, _ = part.indices(len(self))
        return self.read(start, stop - start)

    def read(self, start: int, count: int) -> bytes:
        """Exactly ``count`` bytes from byte ``start``; SpecError if the file has fewer."""
        data = os.pread(self._descriptor, count, start) if count else b""
        if len(data) != count:
            raise bad_file(f"the file ends at byte {start + len(data)}, inside what it announces")
        return data

    def mapped(self) -> Readable:
        """The same bytes, mapped up to `MAX_MAPPED_BYTES`: small slices come faster."""
        if not 0 < len(self) <= MAX_MAPPED_BYTES:
            return self
        return mmap.mmap(self._descriptor, len(self), access=mmap.ACCESS_READ)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from ``start`` to ``end``, at most `CHUNK_BYTES` at a time."""
        for position in range(start, end, CHUNK_BYTES):
            yield self.read(position, min(CHUNK_BYTES, end - position))


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """One array of a file, still unread.

    Attributes:
        dtype: as the file has it, in either byte order.
        pieces: starts reading its elements anew, in C order and in pieces of any size; together
            they are exactly ``size_bytes`` long, or the iterator raises SpecError.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[bytes]]

    @classmethod
    def of(cls, name: str, values: np.ndarray[Any, Any]) -> Array:
        """An array that is in memory already, as a plug-in's format may have it."""
        data = np.ascontiguousarray(values).tobytes()
        return cls(name=name, dtype=values.dtype, shape=values.shape, pieces=lambda: iter([data]))

    @property
    def size_bytes(self) -> int:
        """Bytes of all elements as the file has them."""
        return math.prod(self.shape) * self.dtype.itemsize

    def chunks(self) -> Iterator[np.ndarray[Any, Any]]:
        """All elements as arrays of one axis, in C order, dtype as stored."""
        rest = b""
        for piece in self.pieces():
            data = rest + piece if rest else piece
            whole = len(data) - len(data) % self.dtype.itemsize
            rest = data[whole:]
            if whole:
                yield np.frombuffer(data, self.dtype, whole // self.dtype.itemsize)


def byte_view(values: np.ndarray[Any, Any]) -> memoryview:
    """The bytes of an array in C order, copied only where it is not contiguous."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def bad_file(detail: str) -> SpecError:
    """The complaint that something in the uploaded file is wrong."""
    return SpecError(detail, pointer="/file")
