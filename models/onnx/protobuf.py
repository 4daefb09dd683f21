"""The file that ONNX Runtime takes, written from a graph and its tensors.

The wire format is https://protobuf.dev/programming-guides/encoding/, the numbers of the fields are
those of onnx.proto3. Nothing is written that the graph does not hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from models.onnx.graph import DTYPE_CODES, Attribute, Graph, Node, Value

Array = np.ndarray[Any, Any]
Piece = bytes | memoryview

IR_VERSION = 10
"""Of onnx.proto3; knows every element type that is taken, and every supported runtime reads it."""

MAX_BYTES = 2**31 - 2**24
"""A message has less than 2 GiB; this leaves room for the graph beside the tensors."""

_VARINT, _FIXED32, _BYTES = 0, 5, 2

# Of AttributeProto: number of the field, number of the type.
_ATTRIBUTES = {
    "float": (2, 1),
    "int": (3, 2),
    "text": (4, 3),
    "tensor": (5, 4),
    "floats": (7, 6),
    "ints": (8, 7),
    "texts": (9, 8),
}


def varint(number: int) -> bytes:
    """A 64-bit integer, seven bits a byte; a negative one as its two's complement."""
    number &= 2**64 - 1
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def model(graph: Graph, arrays: Mapping[str, Array]) -> bytes:
    """The ModelProto.

    Args:
        graph: each node is called by its index, so that messages can name it.
        arrays: every tensor that the graph reads, little-endian.
    """
    inside = dict.fromkeys(
        one.value
        for node in graph.nodes
        for one in node.attributes.values()
        if one.kind == "tensor"
    )
    parts: list[Piece] = []
    for index, node in enumerate(graph.nodes):
        parts += _message(1, _node(index, node, arrays))
    parts += _text(2, "network")
    for name, array in arrays.items():
        if name not in inside:
            parts += _message(5, _tensor(name, array))
    parts += _message(11, _value(graph.input))
    # Without its lengths: what an exporter wrote of them need not be right, and is not needed.
    parts += _message(12, _value(Value(graph.output.name, graph.output.dtype, (None, None))))
    opset = [*_text(1, ""), *_integer(2, graph.opset)]
    return b"".join([*_integer(1, IR_VERSION), *_message(7, parts), *_message(8, opset)])


def _tag(number: int, wire: int) -> bytes:
    return varint(number << 3 | wire)


def _integer(number: int, value: int) -> list[Piece]:
    return [_tag(number, _VARINT), varint(value)]


def _text(number: int, value: str) -> list[Piece]:
    return _message(number, [value.encode()])


def _message(number: int, parts: Iterable[Piece]) -> list[Piece]:
    listed = list(parts)
    length = sum(one.nbytes if isinstance(one, memoryview) else len(one) for one in listed)
    return [_tag(number, _BYTES), varint(length), *listed]


def _node(index: int, node: Node, arrays: Mapping[str, Array]) -> list[Piece]:
    parts: list[Piece] = []
    for name in node.inputs:
        parts += _text(1, name)
    for name in node.outputs:
        parts += _text(2, name)
    parts += _text(3, str(index))
    parts += _text(4, node.operator)
    for name, one in node.attributes.items():
        parts += _message(5, _attribute(name, one, arrays))
    return parts


def _attribute(name: str, one: Attribute, arrays: Mapping[str, Array]) -> list[Piece]:
    number, kind = _ATTRIBUTES[one.kind]
    parts = _text(1, name)
    for value in one.value if isinstance(one.value, tuple) else (one.value,):
        match one.kind:
            case "int" | "ints":
                parts += _integer(number, value)
            case "float" | "floats":
                parts += [_tag(number, _FIXED32), struct.pack("<f", value)]
            case "text" | "texts":
                parts += _text(number, value)
            case _:
                parts += _message(number, _tensor("", arrays[value]))
    return [*parts, *_integer(20, kind)]


def _tensor(name: str, array: Array) -> list[Piece]:
    parts: list[Piece] = []
    for length in array.shape:
        parts += _integer(1, length)
    parts += _integer(2, DTYPE_CODES[array.dtype.name])
    parts += _text(8, name)
    return [*parts, *_message(9, [np.ascontiguousarray(array).reshape(-1).view("u1").data])]


def _value(value: Value) -> list[Piece]:
    axes: list[Piece] = []
    for length in value.shape or ():
        axes += _message(1, [] if length is None else _integer(1, length))
    tensor = [*_integer(1, DTYPE_CODES[value.dtype]), *_message(2, axes)]
    return [*_text(1, value.name), *_message(2, _message(1, tensor))]
