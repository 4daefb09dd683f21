"""Descriptions of tensors in a file, and their values as the canonical dtypes.

A description is made of numbers that a file claims; nothing is read through it before `fits` has
compared those numbers with the bytes that are there.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from checkpoints.errors import CheckpointError, counted, quoted

CHUNK_BYTES = 2**20  # of the values decoded at a time: small enough to stay in a cache
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class DType:
    """An element type, named as torch names it.

    Attributes:
        kind: ``float``, ``integer``, or ``other`` for what no weight may be.
        raw: how numpy reads its bytes; None if they cannot be read here.
        decode: from an array of ``raw`` to float32, for floats that can be read.
    """

    item_bytes: int
    kind: str
    raw: str | None = None
    decode: Callable[[Array], Array] | None = None


def _cast(array: Array) -> Array:
    # A value that overflows is found by comparing afterwards; numpy need not warn of it.
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype("<f4", copy=False)


def _bfloat16(array: Array) -> Array:
    return (array.astype("<u4") << 16).view("<f4")  # it is the upper half of a float32


def _float8_e5m2(array: Array) -> Array:
    return _cast((array.astype("<u2") << 8).view("<f2"))  # it is the upper half of a float16


def _e4m3fn_values() -> Array:
    """All 256 values: sign, 4 bits of exponent (bias 7), 3 of mantissa, no infinities."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    size = np.where(
        exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    )
    size[(codes & 127) == 127] = np.nan
    return np.where(codes & 128, -size, size).astype("<f4")


_E4M3FN = _e4m3fn_values()


def _float8_e4m3fn(array: Array) -> Array:
    return _E4M3FN[array]


DTYPES: dict[str, DType] = {
    "float64": DType(8, "float", "<f8", _cast),
    "float32": DType(4, "float", "<f4", _cast),
    "float16": DType(2, "float", "<f2", _cast),
    "bfloat16": DType(2, "float", "<u2", _bfloat16),
    "float8_e4m3fn": DType(1, "float", "u1", _float8_e4m3fn),
    "float8_e5m2": DType(1, "float", "u1", _float8_e5m2),
    "int64": DType(8, "integer", "<i8"),
    "int32": DType(4, "integer", "<i4"),
    "int16": DType(2, "integer", "<i2"),
    "int8": DType(1, "integer", "i1"),
    "uint64": DType(8, "integer", "<u8"),
    "uint32": DType(4, "integer", "<u4"),
    "uint16": DType(2, "integer", "<u2"),
    "uint8": DType(1, "integer", "u1"),
    "bool": DType(1, "other"),
    "complex32": DType(4, "other"),
    "complex64": DType(8, "other"),
    "complex128": DType(16, "other"),
    "float8_e4m3fnuz": DType(1, "other"),
    "float8_e5m2fnuz": DType(1, "other"),
    "float8_e8m0fnu": DType(1, "other"),
    "float4_e2m1fn_x2": DType(1, "other"),
}
READABLE_FLOATS = tuple(name for name, dtype in DTYPES.items() if dtype.kind == "float")


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of bytes that tensors view.

    Attributes:
        key: names it in the file.
        dtype: a key of `DTYPES`; ``uint8`` for an untyped one.
    """

    key: str
    dtype: str
    size_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A view of a storage: ``offset`` and ``strides`` count elements of ``dtype``."""

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @classmethod
    def contiguous(cls, storage: Storage, shape: tuple[int, ...]) -> StoredTensor:
        """The whole of a storage in C order."""
        strides = [1]
        for length in reversed(shape[1:]):
            strides.append(strides[-1] * length)
        return cls(storage, storage.dtype, shape, tuple(reversed(strides[: len(shape)])), 0)

    @property
    def elements(self) -> int:
        """How many; a Python integer, which lengths that lie cannot overflow."""
        return math.prod(self.shape)

    @property
    def fits(self) -> bool:
        """Whether every element lies inside the storage."""
        last = self.offset
        if self.elements:
            last += 1 + sum(
                (length - 1) * stride
                for length, stride in zip(self.shape, self.strides, strict=True)
            )
        return last * DTYPES[self.dtype].item_bytes <= self.storage.size_bytes

    def view(self, data: mmap.mmap, start: int) -> Array:
        """The elements as numpy reads their bytes; the storage begins at byte ``start``.

        To be called on a tensor that `fits`, of a dtype that can be read.
        """
        dtype = DTYPES[self.dtype]
        assert dtype.raw is not None  # noqa: S101 - the caller compared dtypes before
        # Where there is no element or the axis has one, a stride says nothing and may be anything.
        strides = [
            stride * dtype.item_bytes if length > 1 and self.elements else 0
            for length, stride in zip(self.shape, self.strides, strict=True)
        ]
        return np.ndarray(
            self.shape,
            np.dtype(dtype.raw),
            buffer=data,
            offset=start + self.offset * dtype.item_bytes,
            strides=strides,
        )


def float32_chunks(
    name: str, dtype: str, view: Array, not_finite: dict[str, int]
) -> Iterator[memoryview]:
    """The values as float32 in C order, counting in ``not_finite`` those that are not finite.

    Raises:
        CheckpointError: a finite value is too large for float32.
    """
    decode = DTYPES[dtype].decode
    assert decode is not None  # noqa: S101 - the caller compared dtypes before
    for block in _blocks(view):
        values = decode(block)
        finite = np.isfinite(values)
        if not finite.all():
            if dtype == "float64" and np.isfinite(block[~finite]).any():
                raise CheckpointError(
                    f"{quoted(name)} holds finite float64 values beyond the range of float32 "
                    "(about 3.4e38)",
                )
            missing = int(finite.size - np.count_nonzero(finite))
            not_finite[name] = not_finite.get(name, 0) + missing
        yield _bytes_of(values)


def int64_chunks(name: str, view: Array) -> Iterator[memoryview]:
    """The values as int64 in C order; CheckpointError if one is too large."""
    for block in _blocks(view):
        if block.dtype.kind == "u" and block.size and int(block.max()) >= 2**63:
            raise CheckpointError(
                f"{quoted(name)} holds an integer that takes more than 64 bits with a sign",
            )
        yield _bytes_of(block.astype("<i8", copy=False))


def not_finite_warnings(not_finite: dict[str, int]) -> list[str]:
    """A sentence for each tensor that `float32_chunks` counted."""
    return [
        f"{quoted(name)} holds {counted(number, 'value')} that {'is' if number == 1 else 'are'} "
        "not finite"
        for name, number in sorted(not_finite.items())
    ]


def _blocks(view: Array) -> Iterator[Array]:
    """Pieces of a view in C order, each of at most `CHUNK_BYTES`."""
    if view.nbytes <= CHUNK_BYTES:
        yield view
        return
    row_bytes = view.nbytes // len(view)
    rows = CHUNK_BYTES // row_bytes
    if rows == 0:
        for row in view:
            yield from _blocks(row)
        return
    for first in range(0, len(view), rows):
        yield view[first : first + rows]


def _bytes_of(values: Array) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view("u1").data
