"""ONNX files that are taken, and what each refusal says."""

from __future__ import annotations

import io
import json
import random

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from checkpoints.reading import onnxchecks, onnxfile
from models import tensorfile
from models.onnx.graph import MAX_OPSET, METADATA_KEY, Graph
from models.onnx.operators import ADVICE, OPERATORS
from tests.checkpoints.test_reading_damage import assert_sane, mutations
from tests.onnx_networks import (
    BOOL,
    FLOAT,
    INT64,
    LINEAR,
    NETWORKS,
    WEIGHT,
    exported,
    made,
    network,
    node,
    proto,
    tensor,
    value,
)

BOTH = pytest.mark.parametrize("dynamo", [True, False])


def graph_of(answer):
    """The canonical graph and its arrays, by the safetensors library."""
    length = int.from_bytes(answer.content[:8], "little")
    metadata = json.loads(answer.content[8 : 8 + length])["__metadata__"]
    return Graph.from_metadata(metadata), safetensors.numpy.load(answer.content)


@BOTH
@pytest.mark.parametrize("name", NETWORKS)
def test_what_both_exporters_write_is_taken(convert, name, dynamo):
    found = convert(exported(name, dynamo=dynamo)).checkpoint
    _, shape, dtype = NETWORKS[name]
    integers = dtype.is_floating_point is False
    assert (found["format"], found["architecture"]) == ("onnx", "onnx")
    assert (tuple(found["input_shape"]), found["outputs"]) == (shape, 3)
    expected = {"opset": 20, "dtype": "int64" if integers else "float32", "batch": None}
    assert found["hyperparameters"] == expected | ({"padding_id": 0} if integers else {})
    assert found["assumed"] == [*(["padding_id"] if integers else []), "classes", "transforms"]
    assert found["adjustments"] == []


@BOTH
def test_every_learned_number_arrives(convert, dynamo):
    answer = convert(exported("bag", dynamo=dynamo))
    _, arrays = graph_of(answer)
    weights = [one.detach().numpy() for one in network("bag").parameters()]
    for weight in weights:
        assert any(np.array_equal(weight, one) for one in arrays.values())
    assert answer.checkpoint["parameters"] >= sum(weight.size for weight in weights)


@BOTH
@pytest.mark.parametrize("name", NETWORKS)
def test_the_canonical_file_is_taken_again_and_is_the_same(convert, name, dynamo):
    declared = {"classes": ["a", "b", "c"], "transforms": [{"name": "to_float"}]}
    if name in ("bag", "attention"):
        declared["hyperparameters"] = {"padding_id": 5}
    first = convert(exported(name, dynamo=dynamo), **declared)
    again = convert(first.content)
    assert again.content == first.content
    assert again.checkpoint["format"] == "safetensors"
    same = ("classes", "transforms", "hyperparameters", "assumed", "parameters")
    for field in same:
        assert again.checkpoint[field] == first.checkpoint[field]
    other = convert(first.content, classes=["c", "b", "a"])
    assert other.checkpoint["classes"] == ["c", "b", "a"]
    assert other.digest != first.digest


def renamed(model, random_):
    """The same network as another tool might write it: names, comments, order of tensors."""
    names = {}

    def name(old):
        return names.setdefault(old, f"v{random_.random()}") if old else ""

    graph = model.graph
    for one in graph.node:
        one.input[:] = [name(old) for old in one.input]
        one.output[:] = [name(old) for old in one.output]
        one.name, one.doc_string = name("node"), "a comment"
        for _ in range(3):
            one.attribute.append(one.attribute.pop(0)) if one.attribute else None
    for one in (*graph.initializer, *graph.input, *graph.output):
        one.name = name(one.name)
    tensors = list(graph.initializer)
    random_.shuffle(tensors)
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(tensors)
    graph.name, model.producer_name, model.doc_string = "other", "somebody", "something"
    model.metadata_props.add(key="k", value="v")
    return model


@BOTH
@pytest.mark.parametrize("name", NETWORKS)
def test_equal_networks_have_equal_digests_whatever_they_are_called(convert, name, dynamo):
    data = exported(name, dynamo=dynamo)
    other = renamed(onnx.load_from_string(data), random.Random(1)).SerializeToString()
    assert other != data
    assert convert(other).digest == convert(data).digest


@BOTH
def test_other_weights_have_another_digest(convert, dynamo):
    one, other = (convert(exported("mlp", dynamo=dynamo, seed=seed)) for seed in (0, 1))
    assert one.digest != other.digest


def test_constants_in_nodes_and_tensors_beside_them_are_the_same_network(convert):
    bias = [0.5, -0.5]
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])]
    forms = [
        made(nodes, [WEIGHT, tensor("b", FLOAT, [2], bias)]),
        made([node("Constant", [], ["b"], value_floats=bias), *nodes]),
        made([node("Constant", [], ["b"], value=tensor("z", FLOAT, [2], bias)), *nodes]),
        made(nodes, [WEIGHT, numpy_helper.from_array(np.array(bias, "f4"), "b")]),
    ]
    assert len({convert(one).digest for one in forms}) == 1


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TensorProto.FLOAT, [1.5, -2.0, 3e38]),
        (TensorProto.DOUBLE, [1.5, -2.0, 1e300]),
        (TensorProto.FLOAT16, [1.5, -2.0, 65504.0]),
        (TensorProto.INT64, [1, -2, 2**62]),
        (TensorProto.INT32, [1, -2, 2**31 - 1]),
        (TensorProto.INT16, [1, -2, 2**15 - 1]),
        (TensorProto.INT8, [1, -2, 127]),
        (TensorProto.UINT8, [1, 2, 255]),
        (TensorProto.UINT16, [1, 2, 65535]),
        (TensorProto.UINT32, [1, 2, 2**32 - 1]),
        (TensorProto.UINT64, [1, 2, 2**64 - 1]),
        (TensorProto.BOOL, [True, False, True]),
    ],
)
def test_every_dtype_is_read_as_the_onnx_package_reads_it(convert, kind, values):
    plain = helper.make_tensor("c", kind, [3], values)
    raw = numpy_helper.from_array(numpy_helper.to_array(plain), "c")
    expected = numpy_helper.to_array(plain)
    for one in (plain, raw):
        nodes = [LINEAR, node("Identity", ["c"], ["unused"])]
        _, arrays = graph_of(convert(made(nodes, [WEIGHT, one])))
        (found,) = [array for array in arrays.values() if array.shape == (3,)]
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_older_files_list_their_tensors_among_the_inputs(convert):
    inputs = (value("x", ["n", 3]), value("w", [3, 2]))
    old = convert(made(inputs=inputs, ir=3, opset=9))
    assert old.checkpoint["hyperparameters"]["opset"] == 9
    assert old.checkpoint["input_shape"] == [3]


def test_other_operator_sets_may_be_named_as_long_as_none_is_used(convert):
    assert convert(made(imports=[("ai.onnx.ml", 3), ("com.microsoft", 1)])).checkpoint


def test_a_file_whose_fields_stand_in_another_order_is_known_by_its_content(convert):
    model = proto()
    graph = onnx.ModelProto(graph=model.graph).SerializeToString()
    rest = onnx.ModelProto(ir_version=10, opset_import=model.opset_import).SerializeToString()
    assert convert(graph + rest).digest == convert(model.SerializeToString()).digest


def test_one_example_at_a_time_is_taken_with_a_warning(convert):
    answer = convert(made(inputs=(value("x", [1, 3]),), outputs=(value("y", [1, 2]),)))
    assert answer.checkpoint["hyperparameters"]["batch"] == 1
    (warning,) = answer.checkpoint["warnings"]
    assert "one example at a time" in warning
    assert convert(answer.content).content == answer.content


def test_log_probabilities_are_logits(convert):
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("LogSoftmax", ["m"], ["y"])]
    assert convert(made(nodes)).checkpoint["outputs"] == 2


@pytest.mark.parametrize(
    "last",
    [
        [node("Gemm", ["x", "w"], ["y"])],
        [node("MatMul", ["x", "w"], ["y"])],
        [node("MatMul", ["x", "w"], ["m"]), node("Identity", ["m"], ["y"])],
        [node("MatMul", ["x", "v"], ["m"]), node("Add", ["b", "m"], ["y"])],
        [node("Gemm", ["x", "t"], ["m"], transB=1), node("Cast", ["m"], ["y"], to=1)],
    ],
)
def test_the_number_of_outputs_is_read_from_the_last_layer_where_the_file_is_silent(convert, last):
    tensors = [
        WEIGHT,
        tensor("t", FLOAT, [2, 3], [0.0] * 6),
        tensor("b", FLOAT, [2], [0.0] * 2),
        tensor("v", FLOAT, [3, 2], [0.0] * 6),
    ]
    for shape in (["n", "classes"], None):
        answer = convert(made(last, tensors, outputs=(value("y", shape),)))
        assert answer.checkpoint["outputs"] == 2
        assert "that no node reads" in answer.checkpoint["adjustments"][0]


def test_values_that_are_not_finite_are_told(convert):
    odd = tensor("w", FLOAT, [3, 2], [1.0, float("nan"), 3.0, 4.0, float("-inf"), 6.0])
    assert convert(made(tensors=[odd])).checkpoint["warnings"] == [
        "'w' holds 2 values that are not finite"
    ]


def test_a_range_over_the_batch_is_told(convert):
    nodes = [LINEAR, node("DynamicQuantizeLinear", ["x"], ["a", "b", "c"])]
    (warning,) = convert(made(nodes)).checkpoint["warnings"]
    assert "batch_size" in warning


# Refusals


DROPOUT = node("Dropout", ["x", "ratio", "mode"], ["d"])
NORM = ("x", "s", "s", "s", "s")
VECTOR = tensor("s", FLOAT, [3], [1.0] * 3)
RATIO = tensor("ratio", FLOAT, [], [0.5])
MULTIPLY = node("MatMul", ["d", "w"], ["y"])


def external():
    one = TensorProto(name="w", data_type=1, dims=[3, 2], data_location=TensorProto.EXTERNAL)
    one.external_data.add(key="location", value="/etc/passwd")
    return one


def training():
    model = proto()
    model.training_info.add()
    return model.SerializeToString()


def function():
    model = proto()
    model.functions.add(name="f", domain="d")
    return model.SerializeToString()


def sparse():
    model = proto()
    model.graph.sparse_initializer.add()
    return model.SerializeToString()


def of_versions(*versions):
    model = proto()
    del model.opset_import[:]
    for version, domain in zip(versions, ("", "ai.onnx"), strict=False):
        model.opset_import.add(domain=domain, version=version)
    return model.SerializeToString()


REFUSED = {
    "lies outside the file (external data)": made(tensors=[external()]),
    "external_data=False": made(tensors=[external()]),
    "holds a training": training(),
    "functions of its own": function(),
    "sparse tensors": sparse(),
    "IR version 2": made(ir=2),
    "IR version 15": made(ir=15),
    "opset 6; taken are 7 to": made(opset=6),
    f"opset {MAX_OPSET + 1}": made(opset=MAX_OPSET + 1),
    "names 0 versions": of_versions(),
    "names 2 versions": of_versions(11, 20),
    "domain 'com.microsoft'": made([node("Gelu", ["x"], ["y"], domain="com.microsoft")]),
    "uses 'RandomNormalLike'. 'RandomNormalLike': it is random": made(
        [LINEAR, node("RandomNormalLike", ["y"], ["z"])]
    ),
    "uses 'Nonsense'": made([node("Nonsense", ["x"], ["y"])]),
    "'ImageDecoder': a network takes and gives numbers only": made(
        [LINEAR, node("ImageDecoder", ["y"], ["z"])]
    ),
    "control flow": made(
        [
            LINEAR,
            node(
                "If",
                ["x"],
                ["z"],
                then_branch=helper.make_graph([], "t", [], []),
                else_branch=helper.make_graph([], "e", [], []),
            ),
        ]
    ),
    "is a sparse tensor": made(
        [
            LINEAR,
            node(
                "Constant",
                [],
                ["z"],
                sparse_value=helper.make_sparse_tensor(
                    tensor("v", FLOAT, [1], [1.0]), tensor("i", INT64, [1], [0]), [3]
                ),
            ),
        ]
    ),
    "holds 'value_string'": made([LINEAR, node("Constant", [], ["z"], value_string="a")]),
    "is not finite; use a large": made([node("Elu", ["x"], ["y"], alpha=float("inf"))]),
    "is a Dropout that drops": made(
        [DROPOUT, MULTIPLY], [WEIGHT, RATIO, tensor("mode", BOOL, [], [True])]
    ),
    "Dropout that drops": made(
        [
            node("ReduceMax", ["x"], ["r"], keepdims=0),
            node("Cast", ["r"], ["mode"], to=BOOL),
            DROPOUT,
            MULTIPLY,
        ],
        [WEIGHT, RATIO],
    ),
    "is a BatchNormalization that normalizes by the batch": made(
        [node("BatchNormalization", NORM, ["d", "m", "v"], training_mode=1), MULTIPLY],
        [WEIGHT, VECTOR],
    ),
    "BatchNormalization that normalizes by the batch": made(
        [node("BatchNormalization", NORM, ["d", "m", "v", "a", "b"]), MULTIPLY],
        [WEIGHT, VECTOR],
        opset=11,
    ),
    "reads 'later', which nothing before it makes": made(
        [node("MatMul", ["later", "w"], ["y"]), node("Relu", ["x"], ["later"])]
    ),
    "makes 'y', which is there already": made([LINEAR, LINEAR]),
    "makes 'w', which is there already": made([node("Relu", ["x"], ["w"]), LINEAR]),
    "tensor 'w' stands twice": made(tensors=[WEIGHT, WEIGHT]),
    "takes 2 inputs ('x', 'z')": made(inputs=(value("x", ["n", 3]), value("z", [1]))),
    "takes 0 inputs": made(inputs=()),
    "gives 2 outputs ('y', 'y')": made(outputs=(value("y", ["n", 2]), value("y", ["n", 2]))),
    "gives 0 outputs": made(outputs=()),
    "the input 'x' is float64; taken are float32, int64": made(
        inputs=(value("x", ["n", 3], TensorProto.DOUBLE),)
    ),
    "the input 'x' is of bfloat16": made(inputs=(value("x", ["n", 3], TensorProto.BFLOAT16),)),
    "the input 'x' is of text": made(inputs=(value("x", ["n", 3], TensorProto.STRING),)),
    "has a batch axis of 8": made(inputs=(value("x", [8, 3]),)),
    "the input 'x' has shape (any)": made(inputs=(value("x", ["n"]),)),
    "the input 'x' has no shape": made(inputs=(value("x", None),)),
    "has an axis without entries": made(inputs=(value("x", ["n", 0]),)),
    "the output 'y' is int64": made(outputs=(value("y", ["n", 2], INT64),)),
    "the output 'y' has shape (any), expected (batch, outputs)": made(outputs=(value("y", ["n"]),)),
    "made by Softmax, so it gives probabilities": made(
        [node("MatMul", ["x", "w"], ["m"]), node("Softmax", ["m"], ["y"])]
    ),
    "made by Sigmoid": made(
        [
            node("MatMul", ["x", "w"], ["m"]),
            node("Sigmoid", ["m"], ["s"]),
            node("Identity", ["s"], ["y"]),
        ]
    ),
    "does not say how many outputs": made(
        [node("Relu", ["x"], ["y"])], outputs=(value("y", ["n", "c"]),)
    ),
    "is made by no node": made(outputs=(value("w", ["n", 2]),)),
    "holds 20 bytes, but shape [3, 2] of float32 takes 24": made(
        tensors=[TensorProto(name="w", data_type=1, dims=[3, 2], raw_data=bytes(20))]
    ),
    "holds 0 bytes, but shape [1099511627776, 1099511627776]": made(
        tensors=[TensorProto(name="w", data_type=1, dims=[2**40, 2**40])]
    ),
    "has shape [-3, -2]": made(
        tensors=[TensorProto(name="w", data_type=1, dims=[-3, -2], raw_data=bytes(24))]
    ),
    "at most 32 axes": made(
        tensors=[TensorProto(name="w", data_type=1, dims=[1] * 33, raw_data=bytes(4))]
    ),
    "holds 1 element, but shape [2]": made(
        [LINEAR, node("Identity", ["c"], ["z"])],
        [WEIGHT, TensorProto(name="c", data_type=7, dims=[2], int64_data=[1])],
    ),
    "a value that bool does not have": made(
        [LINEAR, node("Identity", ["c"], ["z"])],
        [WEIGHT, TensorProto(name="c", data_type=9, dims=[1], raw_data=b"\x02")],
    ),
    "a value that int8 does not have": made(
        [LINEAR, node("Identity", ["c"], ["z"])],
        [WEIGHT, TensorProto(name="c", data_type=3, dims=[1], int32_data=[200])],
    ),
    "is stored in int64_data, not in raw_data or float_data": made(
        tensors=[TensorProto(name="w", data_type=1, dims=[3, 2], int64_data=[1] * 6)]
    ),
    "tensor 'w' is of complex64": made(tensors=[TensorProto(name="w", data_type=14, dims=[1])]),
    "in segments or as texts": made(
        tensors=[
            TensorProto(
                name="w", data_type=1, dims=[1], segment=TensorProto.Segment(begin=0, end=1)
            )
        ]
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_judged_is_refused_with_its_reason(convert, words):
    convert(REFUSED[words]).assert_refused(words)


def test_too_many_nodes_are_refused(convert, monkeypatch):
    monkeypatch.setattr(onnxfile, "MAX_NODES", 3)
    chain = [node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(4)]
    convert(made(chain)).assert_refused("has 4 nodes; at most 3", kind="too_large")
    monkeypatch.setattr(onnxchecks, "MAX_NODES", 0)
    answer = convert(made())
    answer.assert_refused("has 1 nodes; at most 0", kind="too_large")


def test_more_bytes_than_are_taken_are_refused_before_any_is_written(convert):
    answer = convert(exported("mlp"), max_bytes=100)
    answer.assert_refused("at most 100 are taken", kind="too_large")
    assert answer.content == b""


@pytest.mark.parametrize(
    ("declared", "pointer", "words"),
    [
        ({"architecture": "mlp"}, "/architecture", "leave architecture out, or say 'onnx'"),
        ({"key_map": {"a": "b"}}, "/key_map", "leave key_map out"),
        ({"hyperparameters": {"opset": 20}}, "/hyperparameters/opset", "padding_id, not 'opset'"),
        ({"hyperparameters": {"padding_id": 1}}, "/hyperparameters/padding_id", "takes float32"),
        ({"classes": ["a"]}, "/classes", "2 outputs"),
        ({"transforms": [{"name": "no"}]}, "/transforms/0/name", "unknown transform"),
    ],
)
def test_what_is_declared_badly_is_refused_at_its_field(convert, declared, pointer, words):
    for data in (made(), convert(made()).content):
        answer = convert(data, **declared)
        assert [one["pointer"] for one in answer.error["errors"]] == [pointer]
        assert words in answer.error["detail"]


@pytest.mark.parametrize("padding_id", [-1, 2**31, 1.0, True, "0"])
def test_only_an_id_stands_for_padding(convert, padding_id):
    answer = convert(exported("bag", dynamo=False), hyperparameters={"padding_id": padding_id})
    assert answer.error["errors"][0]["pointer"] == "/hyperparameters/padding_id"


def test_saying_that_a_file_of_weights_is_onnx_is_refused(convert, save, mlp):
    answer = convert(save(mlp()), architecture="onnx")
    assert answer.error["errors"][0]["pointer"] == "/architecture"
    answer.assert_refused("the file is not ONNX")


# Our own form, made by somebody else


def changed(answer, change):
    """A canonical file with other content of its graph or manifest."""
    length = int.from_bytes(answer.content[:8], "little")
    metadata = json.loads(answer.content[8 : 8 + length])["__metadata__"]
    values = {name: json.loads(text) for name, text in metadata.items()}
    change(values)
    texts = {name: json.dumps(one) for name, one in values.items() if one is not None}
    arrays = safetensors.numpy.load(answer.content)
    sources = {name: tensorfile.TensorSource.of(array) for name, array in arrays.items()}
    stream = io.BytesIO()
    tensorfile.write(stream, sources, metadata=texts)
    return stream.getvalue()


CHANGES = {
    "no manifest of such a network": lambda values: values.update(holdout=None),
    "but no manifest": lambda values: values["holdout"].update(architecture="mlp"),
    "states input shape": lambda values: values["holdout"].update(input_shape=[4]),
    "exactly input, nodes, opset": lambda values: values[METADATA_KEY].update(more=1),
    "must be [operator, attributes, inputs, outputs]": lambda values: values[METADATA_KEY].update(
        nodes=[["Relu", {}, [0]]]
    ),
    "uses 'Loop'": lambda values: values[METADATA_KEY]["nodes"][0].__setitem__(0, "Loop"),
    "a value must be a number from 0 on": lambda values: values[METADATA_KEY]["nodes"][
        0
    ].__setitem__(2, ["0", 1]),
    "reads '99'": lambda values: values[METADATA_KEY]["nodes"][0].__setitem__(2, [0, 99]),
    "makes '0', which is there": lambda values: values[METADATA_KEY]["nodes"][0].__setitem__(
        3, [0]
    ),
    "must be [kind, value]": lambda values: values[METADATA_KEY]["nodes"][0].__setitem__(
        1, {"a": 1}
    ),
    "does not hold what it says": lambda values: values[METADATA_KEY]["nodes"][0].__setitem__(
        1, {"alpha": ["float", 1e39]}
    ),
    "names a tensor that is not there": lambda values: values[METADATA_KEY]["nodes"][0].__setitem__(
        1, {"value": ["tensor", 77]}
    ),
    "the input '0' is complex": lambda values: values[METADATA_KEY]["input"].__setitem__(
        1, "complex"
    ),
    "has a batch axis of 7": lambda values: values[METADATA_KEY]["input"].__setitem__(2, [7, 3]),
    "expected (batch, outputs)": lambda values: values[METADATA_KEY]["output"].__setitem__(
        2, [None]
    ),
    "opset 99": lambda values: values[METADATA_KEY].update(opset=99),
}


@pytest.mark.parametrize("words", CHANGES)
def test_our_own_form_is_checked_as_strictly(convert, words):
    convert(changed(convert(made()), CHANGES[words])).assert_refused(words)


# Damage


@pytest.mark.parametrize("form", ["onnx", "canonical"])
def test_a_file_cut_anywhere_is_refused(convert, form):
    data = exported("mlp", dynamo=False)
    if form == "canonical":
        data = convert(data).content
    assert convert(data).checkpoint
    for end in range(len(data)):
        answer = convert(data[:end])
        answer.assert_refused(kind=answer.error["kind"])


@pytest.mark.parametrize("name", ["mlp", "convnet", "attention"])
def test_no_damage_makes_the_reader_fail_otherwise_than_by_refusing(convert, name):
    for dynamo in (True, False):
        data = exported(name, dynamo=dynamo)
        for one in mutations(data, random.Random(f"{name} {dynamo}"), 400):
            assert_sane_and_stable(convert, one)


def test_no_damage_of_our_own_form_makes_the_reader_fail_otherwise_than_by_refusing(convert):
    data = convert(exported("convnet", dynamo=False)).content
    rng = random.Random(4)
    for one in mutations(data, rng, 400):
        assert_sane_and_stable(convert, one)


def assert_sane_and_stable(convert, data):
    """Refused, or taken in a form that is taken again and stays."""
    answer = convert(data)
    assert_sane(answer)
    if "checkpoint" in answer.value:
        assert convert(answer.content).content == answer.content


# The list of operators


def test_operators_are_those_of_the_standard():
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert known >= OPERATORS
    assert known >= set(ADVICE)
    assert not OPERATORS & set(ADVICE)


def test_no_operator_that_is_taken_holds_a_graph_or_is_not_numeric():
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain or schema.name not in OPERATORS:
            continue
        kinds = {str(one.type).rpartition(".")[2] for one in schema.attributes.values()}
        assert not kinds & {"GRAPH", "GRAPHS", "SPARSE_TENSOR", "TYPE_PROTO"}, schema.name
        assert "seed" not in schema.attributes or schema.name == "Dropout", schema.name
        assert not any("seq(" in one or "optional(" in one for one in _types(schema))


def _types(schema):
    exact = ("Identity", "Shape", "Size")  # these also take sequences, which nothing here makes
    if schema.name in exact:
        return []
    return [one for each in schema.type_constraints for one in each.allowed_type_strs]
