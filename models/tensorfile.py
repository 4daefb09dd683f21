"""Safetensors files, written in one canonical way and read strictly, without torch.

The layout (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON
header ``{"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets"}}``, then the data.
The format leaves an order of tensors open; this module always writes the same bytes for the same
content, so that the SHA-256 of a file names what it holds:

* the header is canonical JSON, padded with spaces so that the data starts at a multiple of 64;
* tensors with wider elements come first, then by name: no padding is allowed between tensors, and
  torch refuses a view that is not aligned to its element.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np

from models.canonical import canonical_json, strict_json

ALIGNMENT = 64
MAX_HEADER_BYTES = 16 * 2**20

_UNSENT_BYTES = 2**26
_LIBC = ctypes.CDLL(None)
_SYNC_FILE_RANGE_WRITE = 2

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
DTYPE_NAMES = {dtype: name for name, dtype in NUMPY_DTYPES.items()}

# Element sizes of everything the format defines, numpy's types and those it has no name for.
ITEM_BYTES = {name: dtype.itemsize for name, dtype in NUMPY_DTYPES.items()} | {
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}


class Readable(Protocol):
    """The bytes of a whole file, of which a reader takes slices: a mapping or what acts as one."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes | memoryview: ...


class TensorFileError(ValueError):
    """These bytes are not a well-formed safetensors file; the message says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """Where one tensor lies in a file.

    Attributes:
        dtype: the format's name, a key of `ITEM_BYTES`.
        start: first byte, counted from the start of the file.
        end: one past its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSource:
    """One tensor to write: its type, and its bytes in C order in any number of chunks."""

    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[bytes | memoryview]

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> TensorSource:
        """An array in memory; ValueError for a dtype that the format does not have."""
        contiguous = np.ascontiguousarray(array)
        name = DTYPE_NAMES.get(contiguous.dtype.newbyteorder("<"))
        if name is None:
            raise ValueError(f"safetensors has no dtype for {array.dtype}")
        little = contiguous.astype(NUMPY_DTYPES[name], copy=False)
        return cls(dtype=name, shape=array.shape, chunks=[little.reshape(-1).view(np.uint8).data])

    @property
    def size_bytes(self) -> int:
        """Bytes that the tensor takes in the file."""
        return _size_bytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where everything of a file lies, known before any element is.

    Attributes:
        header: the file's first bytes.
        tensors: by name, in the file's order.
        size_bytes: of the whole file.
    """

    header: bytes
    tensors: dict[str, TensorInfo]
    size_bytes: int


def plan(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], *, metadata: Mapping[str, str]
) -> Plan:
    """Lay out one canonical file.

    Args:
        tensors: dtype and shape by name.
        metadata: what stands in the header beside them.
    """
    order = sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name][0]], name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        dtype, shape = tensors[name]
        start, end = end, end + _size_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = canonical_json(header)
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    base = 8 + len(text)
    return Plan(
        header=struct.pack("<Q", len(text)) + text,
        tensors={name: _info(name, header[name], base) for name in order},
        size_bytes=base + end,
    )


def write(
    stream: BinaryIO, tensors: Mapping[str, TensorSource], *, metadata: Mapping[str, str]
) -> int:
    """Write one canonical file and return its size in bytes.

    Raises:
        ValueError: a source gave more or fewer bytes than its shape says.
    """
    shapes = {name: (source.dtype, source.shape) for name, source in tensors.items()}
    planned = plan(shapes, metadata=metadata)
    stream.write(planned.header)
    for name in planned.tensors:
        written = 0
        for chunk in tensors[name].chunks:
            written += stream.write(chunk)
        if written != tensors[name].size_bytes:
            raise ValueError(f"{name!r} gave {written} bytes, not {tensors[name].size_bytes}")
    return planned.size_bytes


class Placer:
    """Writes a planned file in any order, also from several processes.

    The disk is kept busy meanwhile: gigabytes that only wait in memory would take as long as they
    take when the file is synced, and nothing ends a process before that is done.

    Args:
        descriptor: an empty file; its position is neither used nor moved.
        planned: what the file will be.
    """

    def __init__(self, descriptor: int, planned: Plan) -> None:
        self._descriptor = descriptor
        self._plan = planned
        self._at = {name: info.start for name, info in planned.tensors.items()}
        self._unsent_bytes = 0
        _write_at(descriptor, planned.header, 0)

    def append(self, name: str, data: bytes | memoryview) -> None:
        """Write the next bytes of a tensor; ValueError beyond its end."""
        self._at[name] = self._put(name, data, self._at[name])

    def put(self, name: str, start: int, data: bytes | memoryview) -> None:
        """Write bytes of a tensor from its byte ``start`` on; ValueError beyond its end."""
        self._put(name, data, self._plan.tensors[name].start + start)

    def _put(self, name: str, data: bytes | memoryview, position: int) -> int:
        end = position + len(data)
        if end > self._plan.tensors[name].end:
            raise ValueError(f"{name!r} takes no bytes beyond byte {self._plan.tensors[name].end}")
        _write_at(self._descriptor, data, position)
        self._unsent_bytes += len(data)
        if self._unsent_bytes >= _UNSENT_BYTES:
            self._unsent_bytes = 0
            whole = ctypes.c_int64(0), ctypes.c_int64(0)
            _LIBC.sync_file_range(self._descriptor, *whole, _SYNC_FILE_RANGE_WRITE)
        return end


def _write_at(descriptor: int, data: bytes | memoryview, position: int) -> None:
    rest = memoryview(data)
    while rest:  # a write may take a part
        written = os.pwrite(descriptor, rest, position)
        rest, position = rest[written:], position + written


def parse(data: Readable) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Read the header of a safetensors file of anyone's, checking all that the format demands.

    Args:
        data: the whole file; only its header is touched.

    Returns:
        Tensors by name, in the file's order, and the metadata.

    Raises:
        TensorFileError: truncated, trailing or overlapping data, holes, duplicate names, unknown
            dtypes, sizes that do not match shapes, or a header that is not strict JSON.
    """
    total = len(data)
    if total < 10:
        raise TensorFileError("the file ends before its header")
    (length,) = struct.unpack("<Q", bytes(data[:8]))
    if length > MAX_HEADER_BYTES:
        raise TensorFileError(
            f"the header claims {length} bytes; at most {MAX_HEADER_BYTES} are taken"
        )
    if 8 + length > total:
        raise TensorFileError(
            f"the header claims {length} bytes, but the file has only {total - 8} after the length"
        )
    text = bytes(data[8 : 8 + length])
    if not text.startswith(b"{"):
        raise TensorFileError("the header does not start with '{'")
    try:
        header = strict_json(text)
    except ValueError as error:
        raise TensorFileError(f"the header is not strict JSON: {error}") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise TensorFileError("__metadata__ must map strings to strings")
    base = 8 + length
    tensors = {name: _info(name, entry, base) for name, entry in header.items()}
    expected = base
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != expected:
            raise TensorFileError(
                f"{name!r} starts at byte {info.start}, not at {expected}: the data has holes or "
                "overlaps"
            )
        expected = info.end
    if expected != total:
        raise TensorFileError(
            f"the tensors end at byte {expected}, but the file has {total}: it is truncated or "
            "has trailing bytes"
        )
    return tensors, metadata


def open_arrays(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """Map a file that this module wrote; nothing is read until it is used.

    Returns:
        Arrays by name, views of one private mapping (writing to one changes no file), and the
        metadata. The mapping lives as long as an array does.

    Raises:
        TensorFileError: the file is damaged, or holds a dtype that numpy does not have.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise TensorFileError("the file is empty")
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors, metadata = parse(mapping)
    arrays = {}
    for name, info in tensors.items():
        if info.dtype not in NUMPY_DTYPES:
            raise TensorFileError(f"{name!r} has dtype {info.dtype}, which numpy does not have")
        arrays[name] = np.frombuffer(
            mapping,
            dtype=NUMPY_DTYPES[info.dtype],
            count=(info.end - info.start) // ITEM_BYTES[info.dtype],
            offset=info.start,
        ).reshape(info.shape)
    return arrays, metadata


def _size_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:  # Python's integers: a product of lengths that lie cannot overflow
        count *= length
    return count * ITEM_BYTES[dtype]


def _info(name: str, entry: Any, base: int) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"{name!r} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise TensorFileError(f"{name!r} has dtype {dtype!r}; known: {', '.join(ITEM_BYTES)}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise TensorFileError(f"{name!r}: shape and data_offsets are lists of integers >= 0")
    if len(offsets) != 2 or len(shape) > 32:
        raise TensorFileError(f"{name!r}: data_offsets has 2 entries, shape at most 32")
    if offsets[1] - offsets[0] != _size_bytes(dtype, tuple(shape)):
        raise TensorFileError(
            f"{name!r} has {offsets[1] - offsets[0]} bytes, but shape {shape} of {dtype} takes "
            f"{_size_bytes(dtype, tuple(shape))}"
        )
    return TensorInfo(
        dtype=dtype, shape=tuple(shape), start=base + offsets[0], end=base + offsets[1]
    )
