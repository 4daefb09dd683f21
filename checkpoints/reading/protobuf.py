"""The wire format of protocol buffers, read strictly and without copying what may be large.

https://protobuf.dev/programming-guides/encoding/. A message is a row of fields, each a number, a
wire type and a value. A schema says of each number what is expected there; whatever it does not
say, and what protobuf's own readers would pass over, is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10
MAX_TEXT_BYTES = 4000
CHUNK_BYTES = 2**20

_FIXED = {FIXED64: 8, FIXED32: 4}


class ProtobufError(ValueError):
    """These bytes are not such a message; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What stands in a field.

    Attributes:
        name: ``integer`` (64 bits, signed), ``float`` (32 bits), ``text`` (UTF-8 without NUL),
            ``view`` (bytes as they lie in the file), ``elements`` (numbers, as they lie in the
            file) or ``any``, of which nothing is kept.
        repeated: any number of them, in a list; else there is at most one.
        wires: the wire types that it may have.
    """

    name: str
    repeated: bool
    wires: tuple[int, ...]


INTEGER = Kind("integer", False, (VARINT,))
INTEGERS = Kind("integer", True, (VARINT, BYTES))
FLOAT = Kind("float", False, (FIXED32,))
FLOATS = Kind("float", True, (FIXED32, BYTES))
TEXT = Kind("text", False, (BYTES,))
TEXTS = Kind("text", True, (BYTES,))
VIEW = Kind("view", False, (BYTES,))
VIEWS = Kind("view", True, (BYTES,))
VARINT_ELEMENTS = Kind("elements", True, (VARINT, BYTES))
FIXED32_ELEMENTS = Kind("elements", True, (FIXED32, BYTES))
FIXED64_ELEMENTS = Kind("elements", True, (FIXED64, BYTES))
IGNORED = Kind("any", True, (VARINT, FIXED64, BYTES, FIXED32))

Schema = Mapping[int, tuple[str, Kind]]


def fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Number, wire type and value of each field, the value as it lies in the message.

    Raises:
        ProtobufError: a field reaches beyond the message, or is of no wire type that is in use.
    """
    position, end = 0, len(data)
    while position < end:
        tag, start = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise ProtobufError(f"there is no field {number}")
        if wire == VARINT:
            _, stop = _varint(data, start)
        elif wire == BYTES:
            length, start = _varint(data, start)
            stop = start + length
        elif wire in _FIXED:
            stop = start + _FIXED[wire]
        else:
            raise ProtobufError(f"field {number} has wire type {wire}, which is not in use")
        if stop > end:
            raise ProtobufError(
                f"field {number} takes {stop - start} bytes, but {end - start} are left: the file "
                "is truncated"
            )
        yield number, wire, data[start:stop]
        position = stop


def parse(data: memoryview, schema: Schema, what: str) -> dict[str, Any]:
    """The fields of one message by the names of its schema, those that are there.

    Args:
        what: the message's name, for the error.

    Raises:
        ProtobufError: malformed, or it holds what the schema does not know.
    """
    found: dict[str, Any] = {}
    try:
        for number, wire, value in fields(data):
            if number not in schema:
                raise ProtobufError(f"field {number} is not known")
            name, kind = schema[number]
            if wire not in kind.wires:
                raise ProtobufError(f"{name} has wire type {wire}")
            if kind is IGNORED:
                continue
            if kind.repeated:
                found.setdefault(name, []).extend(_values(kind, wire, value, name))
            elif name in found:
                raise ProtobufError(f"{name} stands twice")
            else:
                (found[name],) = _values(kind, wire, value, name)
    except ProtobufError as error:
        raise ProtobufError(f"in {what}: {error}") from None
    return found


def varints(data: memoryview) -> Iterator[np.ndarray[Any, np.dtype[np.uint64]]]:
    """The 64-bit integers of a packed field, piece by piece.

    Raises:
        ProtobufError: one is longer than ten bytes, or the last one has no end.
    """
    position = 0
    while position < len(data):
        block = np.frombuffer(data[position : position + CHUNK_BYTES], np.uint8)
        ends = np.flatnonzero(block < 128)
        if not len(ends):
            raise ProtobufError("an integer has no end")
        starts = np.concatenate(([0], ends[:-1] + 1))
        lengths = ends - starts + 1
        longest = int(lengths.max())
        if longest > MAX_VARINT_BYTES:
            raise ProtobufError(f"an integer has more than {MAX_VARINT_BYTES} bytes")
        values = np.zeros(len(ends), np.uint64)
        for index in range(longest):
            there = lengths > index
            digits = (block[starts[there] + index] & 127).astype(np.uint64)
            values[there] |= digits << np.uint64(7 * index)
        yield values
        position += int(ends[-1]) + 1


def count_varints(data: memoryview) -> int:
    """How many integers a packed field holds, if it is sound."""
    return sum(
        int(np.count_nonzero(np.frombuffer(data[start : start + CHUNK_BYTES], np.uint8) < 128))
        for start in range(0, len(data), CHUNK_BYTES)
    )


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """An unsigned integer of at most 64 bits and the position behind it."""
    number = 0
    for index in range(MAX_VARINT_BYTES):
        if position + index >= len(data):
            raise ProtobufError("it ends within an integer: the file is truncated")
        byte = data[position + index]
        number |= (byte & 127) << 7 * index
        if byte < 128:
            if number >= 2**64:
                raise ProtobufError("an integer has more than 64 bits")
            return number, position + index + 1
    raise ProtobufError(f"an integer has more than {MAX_VARINT_BYTES} bytes")


def _values(kind: Kind, wire: int, value: memoryview, name: str) -> list[Any]:
    packed = kind.repeated and wire == BYTES
    match kind.name:
        case "integer" if packed:
            return [int(one) for part in varints(value) for one in part.view(np.int64)]
        case "integer":
            number, _ = _varint(value, 0)
            return [number - 2**64 if number >= 2**63 else number]
        case "float":
            if len(value) % 4:
                raise ProtobufError(f"{name} has {len(value)} bytes, no multiple of 4")
            return list(struct.unpack(f"<{len(value) // 4}f", value))
        case "text":
            if len(value) > MAX_TEXT_BYTES:
                raise ProtobufError(f"{name} has {len(value)} bytes; at most {MAX_TEXT_BYTES}")
            try:
                text = str(value, "utf-8")
            except UnicodeDecodeError:
                raise ProtobufError(f"{name} is not UTF-8 text") from None
            if "\0" in text:  # which no JSON here may hold
                raise ProtobufError(f"{name} holds NUL")
            return [text]
    return [value]
