"""ONNX files as `Model`: which fields they have, and which of them are taken.

The messages and the numbers of their fields are those of onnx.proto3 (IR version 14,
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from typing import Any

from checkpoints.errors import CheckpointError, counted, quoted
from checkpoints.reading import protobuf
from checkpoints.reading.onnxmodel import Model, Tensor
from checkpoints.reading.protobuf import (
    FIXED32_ELEMENTS,
    FIXED64_ELEMENTS,
    FLOAT,
    FLOATS,
    IGNORED,
    INTEGER,
    INTEGERS,
    TEXT,
    TEXTS,
    VARINT_ELEMENTS,
    VIEW,
    VIEWS,
    ProtobufError,
    Schema,
)
from models.layouts import OpenShape
from models.onnx.graph import DTYPE_CODES, MAX_NODES, Attribute, Node, Value
from models.onnx.protobuf import varint

MIN_IR, MAX_IR = 3, 14
STANDARD = ("", "ai.onnx")
EXPORT = (
    'torch.onnx.export(network.eval(), (x,), "network.onnx", dynamo=True, external_data=False, '
    'dynamic_shapes=({0: "batch"},))'
)

MODEL: Schema = {
    1: ("ir_version", INTEGER),
    2: ("producer_name", IGNORED),
    3: ("producer_version", IGNORED),
    4: ("domain", IGNORED),
    5: ("model_version", IGNORED),
    6: ("doc_string", IGNORED),
    7: ("graph", VIEW),
    8: ("opset_import", VIEWS),
    14: ("metadata_props", IGNORED),
    20: ("training_info", VIEWS),
    25: ("functions", VIEWS),
    26: ("configuration", IGNORED),
}
OPSET: Schema = {1: ("domain", TEXT), 2: ("version", INTEGER)}
GRAPH: Schema = {
    1: ("node", VIEWS),
    2: ("name", IGNORED),
    5: ("initializer", VIEWS),
    10: ("doc_string", IGNORED),
    11: ("input", VIEWS),
    12: ("output", VIEWS),
    13: ("value_info", IGNORED),
    14: ("quantization_annotation", IGNORED),
    15: ("sparse_initializer", VIEWS),
    16: ("metadata_props", IGNORED),
}
NODE: Schema = {
    1: ("input", TEXTS),
    2: ("output", TEXTS),
    3: ("name", IGNORED),
    4: ("op_type", TEXT),
    5: ("attribute", VIEWS),
    6: ("doc_string", IGNORED),
    7: ("domain", TEXT),
    8: ("overload", TEXT),
    9: ("metadata_props", IGNORED),
    10: ("device_configurations", IGNORED),
}
ATTRIBUTE: Schema = {
    1: ("name", TEXT),
    2: ("f", FLOAT),
    3: ("i", INTEGER),
    4: ("s", TEXT),
    5: ("t", VIEW),
    6: ("g", VIEW),
    7: ("floats", FLOATS),
    8: ("ints", INTEGERS),
    9: ("strings", TEXTS),
    10: ("tensors", VIEWS),
    11: ("graphs", VIEWS),
    13: ("doc_string", IGNORED),
    14: ("tp", VIEW),
    15: ("type_protos", VIEWS),
    20: ("type", INTEGER),
    21: ("ref_attr_name", TEXT),
    22: ("sparse_tensor", VIEW),
    23: ("sparse_tensors", VIEWS),
}
TENSOR: Schema = {
    1: ("dims", INTEGERS),
    2: ("data_type", INTEGER),
    3: ("segment", VIEW),
    4: ("float_data", FIXED32_ELEMENTS),
    5: ("int32_data", VARINT_ELEMENTS),
    6: ("string_data", VIEWS),
    7: ("int64_data", VARINT_ELEMENTS),
    8: ("name", TEXT),
    9: ("raw_data", VIEW),
    10: ("double_data", FIXED64_ELEMENTS),
    11: ("uint64_data", VARINT_ELEMENTS),
    12: ("doc_string", IGNORED),
    13: ("external_data", VIEWS),
    14: ("data_location", INTEGER),
    16: ("metadata_props", IGNORED),
}
VALUE: Schema = {
    1: ("name", TEXT),
    2: ("type", VIEW),
    3: ("doc_string", IGNORED),
    4: ("metadata_props", IGNORED),
}
TYPE: Schema = {
    1: ("tensor_type", VIEW),
    4: ("sequence_type", VIEW),
    5: ("map_type", VIEW),
    6: ("denotation", IGNORED),
    7: ("opaque_type", VIEW),
    8: ("sparse_tensor_type", VIEW),
    9: ("optional_type", VIEW),
}
TENSOR_TYPE: Schema = {1: ("elem_type", INTEGER), 2: ("shape", VIEW)}
SHAPE: Schema = {1: ("dim", VIEWS)}
AXIS: Schema = {1: ("dim_value", INTEGER), 2: ("dim_param", TEXT), 3: ("denotation", IGNORED)}

# Code of the type of an attribute: the field that holds it, and what `Attribute` calls it.
_ATTRIBUTES = {
    1: ("f", "float"),
    2: ("i", "int"),
    3: ("s", "text"),
    4: ("t", "tensor"),
    6: ("floats", "floats"),
    7: ("ints", "ints"),
    8: ("strings", "texts"),
}
_REPEATED = ("floats", "ints", "strings")

_DTYPES = {code: name for name, code in DTYPE_CODES.items()}
_OTHER_DTYPES = {8: "text", 14: "complex64", 15: "complex128", 16: "bfloat16"}

_DATA = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"} | dict.fromkeys(
    ("uint32", "uint64"), "uint64_data"
)
_EVERY_DATA = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "raw_data")


def looks(data: mmap.mmap) -> bool:
    """Whether this seems to be an ONNX file, damaged or not: the first field, or all of them."""
    view = memoryview(data)
    # The version of the format, as every exporter writes it, and one of the fields behind it.
    if len(view) > 2 and view[0] == 8 and 0 < view[1] < 128 and view[2] >> 3 in MODEL:
        return view[2] & 7 in (protobuf.VARINT, protobuf.BYTES)
    try:
        return "graph" in protobuf.parse(view, MODEL, "the file")
    except ProtobufError:
        return False


def read(data: mmap.mmap) -> Model:
    """Read the structure, no tensor's values.

    Raises:
        CheckpointError: it is damaged, or holds what is not taken.
    """
    try:
        return _model(memoryview(data))
    except ProtobufError as error:
        raise CheckpointError(f"the ONNX file is damaged: {error}") from None


def _model(data: memoryview) -> Model:
    found = protobuf.parse(data, MODEL, "the model")
    version = found.get("ir_version", 0)
    if not MIN_IR <= version <= MAX_IR:
        raise CheckpointError(
            f"the ONNX file has IR version {version}; taken are {MIN_IR} to {MAX_IR}"
        )
    if "functions" in found:
        raise CheckpointError(
            "the ONNX file defines functions of its own; only the standard operators are taken: "
            "export with optimize=True, which replaces functions by what they do"
        )
    if "training_info" in found:
        raise CheckpointError(f"the ONNX file holds a training; export the network alone: {EXPORT}")
    if "graph" not in found:
        raise CheckpointError("the ONNX file holds no graph: it is truncated")
    graph = protobuf.parse(found["graph"], GRAPH, "the graph")
    if "sparse_initializer" in graph:
        raise CheckpointError("the ONNX file holds sparse tensors; store them dense")
    nodes = graph.get("node", [])
    if len(nodes) > MAX_NODES:
        raise CheckpointError(
            f"the network has {len(nodes)} nodes; at most {MAX_NODES} are taken", kind="too_large"
        )
    tensors: dict[str, Tensor] = {}
    for one in graph.get("initializer", []):
        tensor = _tensor(one, "")
        _keep(tensors, tensor.name, tensor)
    made = _nodes(nodes, tensors)
    inputs = [_value(one, "input") for one in graph.get("input", [])]
    return Model(
        opset=_opset(found.get("opset_import", [])),
        inputs=tuple(one for one in inputs if one.name not in tensors),
        outputs=tuple(_value(one, "output") for one in graph.get("output", [])),
        nodes=made,
        tensors=tensors,
    )


def _opset(imports: list[memoryview]) -> int:
    """The version of the standard operators; other sets may be named, as long as none is used."""
    versions = set()
    for one in imports:
        found = protobuf.parse(one, OPSET, "an operator set")
        if found.get("domain", "") in STANDARD:
            versions.add(found.get("version", 0))
    if len(versions) != 1:
        raise CheckpointError(
            f"the ONNX file names {counted(len(versions), 'version')} of the standard operators, "
            "not one: the file is damaged"
        )
    version: int = versions.pop()
    return version


def _keep(tensors: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    if not name:
        raise CheckpointError("a tensor has no name: the file is damaged")
    if name in tensors:
        raise CheckpointError(f"tensor {quoted(name)} stands twice: the file is damaged")
    tensors[name] = tensor


def _nodes(listed: list[memoryview], tensors: dict[str, Tensor]) -> tuple[Node, ...]:
    """All nodes but the constants, which become tensors, as those inside of attributes do."""
    made = []
    for index, one in enumerate(listed):
        found = protobuf.parse(one, NODE, f"node {index}")
        operator = found.get("op_type", "")
        named = f"node {index} ({operator[:100]})"
        if found.get("domain", "") not in STANDARD or found.get("overload"):
            raise CheckpointError(
                f"{named} is of the domain {quoted(found.get('domain', ''))}; only standard ONNX "
                f"operators are taken: export again, without other tools' optimizations: {EXPORT}"
            )
        attributes: dict[str, Attribute] = {}
        for part in found.get("attribute", []):
            name, attribute = _attribute(part, named, tensors)
            if name in attributes:
                raise CheckpointError(f"{named} has the attribute {quoted(name)} twice")
            attributes[name] = attribute
        node = Node(
            operator, attributes, tuple(found.get("input", ())), tuple(found.get("output", ()))
        )
        if operator == "Constant":
            _keep_constant(tensors, named, node)
        else:
            made.append(node)
    return tuple(made)


def _attribute(data: memoryview, named: str, tensors: dict[str, Tensor]) -> tuple[str, Attribute]:
    found = protobuf.parse(data, ATTRIBUTE, f"an attribute of {named}")
    name, code = found.pop("name", ""), found.pop("type", 0)
    about = f"the attribute {quoted(name)} of {named}"
    if "sparse_tensor" in found or "sparse_tensors" in found:
        raise CheckpointError(f"{about} is a sparse tensor; store it dense")
    if "g" in found or "graphs" in found or code in (5, 10):
        raise CheckpointError(
            f"{about} is a graph of its own (control flow): export with dynamo=True, which settles "
            "what the shapes decide, and without data-dependent branches and loops"
        )
    if code not in _ATTRIBUTES:
        raise CheckpointError(f"{about} is of type {code}; taken are numbers, texts and a tensor")
    field, kind = _ATTRIBUTES[code]
    if set(found) - {field} or (kind == "tensor" and not found):
        raise CheckpointError(f"{about} does not hold what its type says: the file is damaged")
    if kind == "tensor":
        inner = f"\0{len(tensors)}"  # no text of the file has a NUL in it
        tensors[inner] = _tensor(found["t"], about)
        return name, Attribute(kind, inner)
    # What proto3 leaves out is zero, the empty text or the empty list.
    value = found.get(field, [] if field in _REPEATED else {"f": 0.0, "i": 0, "s": ""}.get(field))
    values = value if isinstance(value, list) else [value]
    if kind in ("float", "floats") and not all(map(math.isfinite, values)):
        raise CheckpointError(f"{about} is not finite; use a large finite number")
    return name, Attribute(kind, tuple(value) if isinstance(value, list) else value)


def _keep_constant(tensors: dict[str, Tensor], named: str, node: Node) -> None:
    """A node without inputs whose output is its one attribute."""
    if len(node.outputs) != 1 or node.inputs or len(node.attributes) != 1:
        raise CheckpointError(f"{named} is not one constant with one output: the file is damaged")
    ((name, one),) = node.attributes.items()
    (output,) = node.outputs
    if (name, one.kind) == ("value", "tensor"):
        tensor = tensors.pop(one.value)
        _keep(
            tensors,
            output,
            Tensor(output, tensor.dtype, tensor.shape, tensor.pieces, tensor.varints),
        )
        return
    dtype = {"value_float": "float32", "value_int": "int64"}.get(name.removesuffix("s"))
    if dtype is None or one.kind != name.removeprefix("value_"):
        raise CheckpointError(f"{named} holds {quoted(name)}; taken are numbers and tensors")
    values = one.value if isinstance(one.value, tuple) else (one.value,)
    shape = (len(values),) if isinstance(one.value, tuple) else ()
    if dtype == "int64":
        pieces, packed = b"".join(map(varint, values)), True
    else:
        pieces, packed = struct.pack(f"<{len(values)}f", *values), False
    _keep(tensors, output, Tensor(output, dtype, shape, (memoryview(pieces),), packed))


def _tensor(data: memoryview, about: str) -> Tensor:
    found = protobuf.parse(data, TENSOR, about or "a tensor")
    name = found.get("name", "")
    about = about or f"tensor {quoted(name)}"
    if "external_data" in found or found.get("data_location", 0) != 0:
        raise CheckpointError(
            f"{about} lies outside the file (external data), and an upload is one file: export "
            f"with external_data=False: {EXPORT}"
        )
    dtype = _dtype(found.get("data_type", 0), about)
    if "segment" in found or "string_data" in found:
        raise CheckpointError(f"{about} is stored in segments or as texts; store it whole")
    given = [field for field in _EVERY_DATA if field in found]
    field = _DATA.get(dtype, "int32_data")
    if len(given) > 1 or set(given) - {field, "raw_data"}:
        raise CheckpointError(
            f"{about} of {dtype} is stored in {', '.join(given)}, not in raw_data or {field} "
            "alone: the file is damaged"
        )
    if "raw_data" in found:
        pieces, packed = [found["raw_data"]], False
    else:
        pieces, packed = found.get(field, []), field not in ("float_data", "double_data")
    return Tensor(name, dtype, tuple(found.get("dims", ())), tuple(pieces), packed)


def _dtype(code: int, about: str) -> str:
    if code not in _DTYPES:
        raise CheckpointError(
            f"{about} is of {_OTHER_DTYPES.get(code, f'element type {code}')}; taken are "
            f"{', '.join(_DTYPES.values())}"
        )
    return _DTYPES[code]


def _value(data: memoryview, role: str) -> Value:
    found = protobuf.parse(data, VALUE, f"an {role}")
    name = found.get("name", "")
    about = f"the {role} {quoted(name)}"
    kind = protobuf.parse(found.get("type", memoryview(b"")), TYPE, about)
    if "tensor_type" not in kind:
        raise CheckpointError(f"{about} is no tensor; a network takes and gives tensors of numbers")
    tensor = protobuf.parse(kind["tensor_type"], TENSOR_TYPE, about)
    dtype = _dtype(tensor.get("elem_type", 0), about)
    return Value(name, dtype, _shape(tensor, about))


def _shape(tensor: Mapping[str, Any], about: str) -> OpenShape | None:
    if "shape" not in tensor:
        return None
    axes = protobuf.parse(tensor["shape"], SHAPE, about).get("dim", [])
    return tuple(protobuf.parse(axis, AXIS, about).get("dim_value") for axis in axes)
