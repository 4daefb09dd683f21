"""What an ONNX network is once it has been read: operators, their order, and names of values.

Its canonical form is JSON that stands in the metadata of the file with the tensors:

* ``opset``: the version of the standard operators.
* ``input`` and ``output``: ``[value, dtype, shape]``; the first axis is the batch.
* ``nodes``: ``[operator, attributes, inputs, outputs]`` in an order in which each can be computed.
  Attributes are ``{name: [kind, value]}``, the kinds those of `KINDS`.

Values are numbers, counted in the order in which they first stand in the graph: the input is 0, and
the tensors of the file are called by their numbers. Names, comments and everything else that an
exporter writes are gone, so that equal networks have equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from models.canonical import canonical_json, strict_json
from models.layouts import OpenShape

METADATA_KEY = "holdout.onnx"
MAX_NODES = 100_000
MIN_OPSET, MAX_OPSET = 7, 25
"""ONNX Runtime guarantees nothing before 7; its oldest release that is supported here knows 25."""

# Codes of element types (onnx.proto3, TensorProto.DataType).
DTYPE_CODES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
}
INPUT_DTYPES = ("float32", "int64", "int32", "uint8")
OUTPUT_DTYPES = ("float32", "float16", "float64")

KINDS = ("int", "float", "text", "ints", "floats", "texts", "tensor")

LARGEST_FLOAT = 3.4028234663852886e38  # of 32 bits, which an attribute has

_HOLDS: dict[str, Any] = {"int": int, "float": float, "text": str, "tensor": str}


class GraphError(ValueError):
    """This is not the canonical form of a graph; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """A constant of a node.

    Attributes:
        kind: one of `KINDS`.
        value: of that kind; a list is a tuple, a tensor the name of one.
    """

    kind: str
    value: Any


@dataclass(frozen=True, slots=True)
class Node:
    """One use of an operator; an empty name is an input or output that was left out."""

    operator: str
    attributes: Mapping[str, Attribute]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """What comes in or goes out.

    Attributes:
        shape: its first axis is the batch; None where any length will do, and instead of the
            whole where nothing is said.
    """

    name: str
    dtype: str
    shape: OpenShape | None


@dataclass(frozen=True, slots=True)
class Graph:
    """A network of one input and one output; its tensors are elsewhere, by name."""

    opset: int
    input: Value
    output: Value
    nodes: tuple[Node, ...]

    def numbered(self) -> tuple[Graph, dict[str, str]]:
        """The same with numbers for names.

        Returns:
            The graph, and the number of each value that is named in it, tensors included.
        """
        numbers: dict[str, str] = {"": ""}

        def number(name: str) -> str:
            return numbers.setdefault(name, str(len(numbers) - 1))

        def attributes(node: Node) -> dict[str, Attribute]:
            return {
                name: Attribute(one.kind, number(one.value)) if one.kind == "tensor" else one
                for name, one in sorted(node.attributes.items())
            }

        taken = replace(self.input, name=number(self.input.name))
        nodes = []
        for node in self.nodes:
            inputs = tuple(map(number, node.inputs))
            known = attributes(node)
            nodes.append(Node(node.operator, known, inputs, tuple(map(number, node.outputs))))
        given = replace(self.output, name=number(self.output.name))
        del numbers[""]
        return Graph(self.opset, taken, given, tuple(nodes)), numbers

    def tensors(self) -> Iterator[str]:
        """The names that are read as tensors, in order, some perhaps twice."""
        made = {self.input.name, ""}
        for node in self.nodes:
            yield from (name for name in node.inputs if name not in made)
            yield from (
                one.value for _, one in sorted(node.attributes.items()) if one.kind == "tensor"
            )
            made.update(node.outputs)

    def to_metadata(self) -> dict[str, str]:
        """The metadata of a file that holds this graph, which is a numbered one."""

        def value(one: Value) -> list[Any]:
            assert one.shape is not None  # noqa: S101 - the reader has settled it
            return [int(one.name), one.dtype, list(one.shape)]

        def names(listed: tuple[str, ...]) -> list[int | None]:
            return [int(name) if name else None for name in listed]

        nodes = [
            [
                node.operator,
                {name: _attribute_to_json(one) for name, one in node.attributes.items()},
                names(node.inputs),
                names(node.outputs),
            ]
            for node in self.nodes
        ]
        found = {
            "opset": self.opset,
            "input": value(self.input),
            "output": value(self.output),
            "nodes": nodes,
        }
        return {METADATA_KEY: canonical_json(found).decode()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Graph:
        """Read the graph back; only its form is checked here, and not whether it can be computed.

        Raises:
            GraphError: there is none, or it is malformed.
        """
        try:
            found = strict_json(metadata.get(METADATA_KEY, ""))
        except ValueError as error:
            raise GraphError(f"it is not strict JSON: {error}") from None
        if not isinstance(found, dict) or set(found) != {"opset", "input", "output", "nodes"}:
            raise GraphError("it must be an object with exactly input, nodes, opset and output")
        if type(found["opset"]) is not int or not isinstance(found["nodes"], list):
            raise GraphError("opset must be an integer and nodes a list")
        nodes = tuple(_node(index, one) for index, one in enumerate(found["nodes"]))
        return cls(found["opset"], _value(found["input"]), _value(found["output"]), nodes)


def _attribute_to_json(one: Attribute) -> list[Any]:
    if one.kind == "tensor":
        return [one.kind, int(one.value)]
    return [one.kind, list(one.value) if isinstance(one.value, tuple) else one.value]


def _name(value: Any) -> str:
    if value is None:
        return ""
    if type(value) is not int or value < 0:
        raise GraphError("a value must be a number from 0 on, or null")
    return str(value)


def _value(found: Any) -> Value:
    if not isinstance(found, list) or len(found) != 3 or found[0] is None:
        raise GraphError("input and output must be [value, dtype, shape]")
    name, dtype, shape = found
    lengths = isinstance(shape, list) and all(
        length is None or (type(length) is int and length >= 0) for length in shape
    )
    if not isinstance(dtype, str) or not lengths:
        raise GraphError("a shape must be a list of lengths and nulls, a dtype a text")
    return Value(_name(name), dtype, tuple(shape))


def _node(index: int, found: Any) -> Node:
    kinds = (str, dict, list, list)
    if (
        not isinstance(found, list)
        or len(found) != len(kinds)
        or not all(isinstance(one, kind) for one, kind in zip(found, kinds, strict=True))
    ):
        raise GraphError(f"node {index} must be [operator, attributes, inputs, outputs]")
    operator, attributes, inputs, outputs = found
    return Node(
        operator,
        {name: _attribute(index, one) for name, one in attributes.items()},
        tuple(map(_name, inputs)),
        tuple(map(_name, outputs)),
    )


def _attribute(index: int, found: Any) -> Attribute:
    if not isinstance(found, list) or len(found) != 2 or found[0] not in KINDS:
        raise GraphError(f"an attribute of node {index} must be [kind, value]")
    kind, value = found
    if kind == "tensor":
        return Attribute(kind, _name(value))
    several = kind not in _HOLDS
    holds = _HOLDS[kind.removesuffix("s")] if several else _HOLDS[kind]
    values = value if several else [value]
    if not isinstance(values, list) or not all(
        type(one) is holds and (holds is not float or abs(one) <= LARGEST_FLOAT) for one in values
    ):
        raise GraphError(f"an attribute of node {index} does not hold what it says")
    return Attribute(kind, tuple(values) if several else value)
