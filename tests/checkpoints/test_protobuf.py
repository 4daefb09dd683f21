"""The reader of protocol buffers, beside Google's."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from checkpoints.reading import onnxfile, protobuf
from checkpoints.reading.protobuf import ProtobufError
from models.onnx.protobuf import varint

SIGNED = st.integers(-(2**63), 2**63 - 1)


def parse(data, schema, what="it"):
    return protobuf.parse(memoryview(data), schema, what)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (onnxfile.MODEL, onnx.ModelProto),
        (onnxfile.OPSET, onnx.OperatorSetIdProto),
        (onnxfile.GRAPH, onnx.GraphProto),
        (onnxfile.NODE, onnx.NodeProto),
        (onnxfile.ATTRIBUTE, onnx.AttributeProto),
        (onnxfile.TENSOR, onnx.TensorProto),
        (onnxfile.VALUE, onnx.ValueInfoProto),
        (onnxfile.TYPE, onnx.TypeProto),
        (onnxfile.TENSOR_TYPE, onnx.TypeProto.Tensor),
        (onnxfile.SHAPE, onnx.TensorShapeProto),
        (onnxfile.AXIS, onnx.TensorShapeProto.Dimension),
    ],
)
def test_the_fields_are_those_of_the_onnx_package(schema, message):
    theirs = {field.number: field for field in message.DESCRIPTOR.fields}
    assert {number: name for number, (name, _) in schema.items()} == {
        number: field.name for number, field in theirs.items()
    }
    wires = {"int": {0}, "enum": {0}, "float": {5}, "double": {1}, "text": {2}}
    for number, (_, kind) in schema.items():
        if kind is protobuf.IGNORED:
            continue
        field = theirs[number]
        names = {1: "double", 2: "float", 9: "text", 11: "text", 12: "text", 14: "enum"}
        plain = wires[names.get(field.type, "int")]
        assert kind.repeated == field.is_repeated
        assert set(kind.wires) == (plain | {2} if kind.repeated else plain)


@given(
    dims=st.lists(SIGNED, max_size=5),
    floats=st.lists(st.floats(width=32, allow_nan=False), max_size=20),
    integers=st.lists(SIGNED, max_size=200),
    name=st.text(st.characters(min_codepoint=1, exclude_categories=("Cs",)), max_size=20),
    raw=st.binary(max_size=50),
)
def test_a_tensor_is_read_as_google_reads_it(dims, floats, integers, name, raw):
    message = TensorProto(
        dims=dims, data_type=1, float_data=floats, int64_data=integers, name=name, raw_data=raw
    )
    found = parse(message.SerializeToString(), onnxfile.TENSOR)
    assert found.get("dims", []) == list(message.dims)
    assert found["data_type"] == 1
    assert found.get("name", "") == message.name
    assert bytes(found.get("raw_data", b"")) == message.raw_data
    joined = b"".join(bytes(piece) for piece in found.get("float_data", []))
    assert joined == np.array(message.float_data, "<f4").tobytes()
    numbers = [
        one
        for piece in found.get("int64_data", [])
        for part in protobuf.varints(piece)
        for one in part.view(np.int64).tolist()
    ]
    assert numbers == list(message.int64_data)


@given(st.lists(SIGNED, min_size=1, max_size=100), st.integers(1, 40))
def test_integers_are_decoded_alike_wherever_a_piece_ends(numbers, chunk_bytes):
    data = memoryview(b"".join(map(varint, numbers)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protobuf, "CHUNK_BYTES", max(10, chunk_bytes))
        found = [one for part in protobuf.varints(data) for one in part.view(np.int64).tolist()]
        assert found == numbers
        assert protobuf.count_varints(data) == len(numbers)


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_bytes_at_random_are_refused_or_read(data):
    for schema in (onnxfile.MODEL, onnxfile.TENSOR, onnxfile.ATTRIBUTE):
        with contextlib.suppress(ProtobufError):
            assert isinstance(parse(data, schema), dict)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x08", "ends within an integer"),
        (b"\x08" + b"\xff" * 10, "more than 10 bytes"),
        (b"\x08" + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
        (b"\x0a\x05abc", "takes 5 bytes, but 3 are left"),
        (b"\x00\x01", "there is no field 0"),
        (b"\x0b", "wire type 3"),
        (b"\x0c", "wire type 4"),
        (b"\x0f", "wire type 7"),
        (b"\x0d\x00\x00", "takes 4 bytes, but 2 are left"),
        (b"\x0d\x00\x00\x00\x00", "domain has wire type 5"),
        (b"\x0a\x01a\x0a\x01b", "domain stands twice"),
        (b"\x0a\x02\xff\xfe", "not UTF-8"),
        (b"\x0a\x03a\x00b", "holds NUL"),
        (b"\x0a" + varint(5000) + b"a" * 5000, "5000 bytes"),
        (b"\x7a\x00", "field 15 is not known"),
    ],
)
def test_what_googles_reader_would_pass_over_is_refused(data, words):
    with pytest.raises(ProtobufError, match=words):
        parse(data, onnxfile.OPSET)


@pytest.mark.parametrize("data", [b"\x80", b"\x80" * 11, b"\x01" + b"\x80" * 10 + b"\x01"])
def test_packed_integers_without_an_end_or_too_long_are_refused(data):
    with pytest.raises(ProtobufError):
        list(protobuf.varints(memoryview(data)))


def test_large_payloads_are_views_of_the_file():
    array = np.arange(100_000, dtype=np.float32)
    data = numpy_helper.from_array(array, "a").SerializeToString()
    view = memoryview(data)
    raw = protobuf.parse(view, onnxfile.TENSOR, "it")["raw_data"]
    assert raw.obj is data
