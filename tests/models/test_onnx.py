"""ONNX networks as workers run them, beside PyTorch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from checkpoints.reading import convert
from models import runtime, tensorfile
from models.evaluation import evaluate
from models.onnx import protobuf
from models.onnx.graph import METADATA_KEY, Graph, GraphError
from models.onnx.session import NetworkError, OnnxNetwork, policy
from tests.onnx_networks import (
    FLOAT,
    INT64,
    LINEAR,
    NETWORKS,
    WEIGHT,
    examples,
    export,
    exported,
    greedy,
    made,
    network,
    node,
    tensor,
    value,
)

BOTH = pytest.mark.parametrize("dynamo", [True, False])


def canonical(data, **declaration):
    """The graph and the mapped arrays that a worker finds in the store."""
    with tempfile.TemporaryFile() as source, tempfile.NamedTemporaryFile() as output:
        source.write(data)
        source.flush()
        request = {"declaration": declaration, "max_bytes": 2**24}
        answer = convert(request, [source.fileno(), output.fileno()])
        assert "checkpoint" in answer, answer
        arrays, metadata = tensorfile.open_arrays(output.name)
    return Graph.from_metadata(metadata), arrays


def opened(data, *, threads=1, padding_id=0):
    graph, arrays = canonical(data)
    return OnnxNetwork(graph, arrays, device="cpu", threads=threads, padding_id=padding_id)


def expected(name, x):
    with torch.inference_mode():
        return network(name)(x)


@BOTH
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_pytorch(name, dynamo):
    found = opened(exported(name, dynamo=dynamo))
    for number in (2, 1, 37):
        x = examples(name, number, seed=number)
        torch.testing.assert_close(found(x), expected(name, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_a_network_for_one_example_is_run_example_by_example(name):
    found = opened(exported(name, dynamo=False, number=1, batch=False))
    x = examples(name, 5)
    torch.testing.assert_close(found(x), expected(name, x), rtol=1e-5, atol=1e-5)


def test_the_file_that_is_written_is_the_network_that_was_read():
    for name in NETWORKS:
        graph, arrays = canonical(exported(name))
        model = onnx.load_from_string(protobuf.model(graph, arrays))
        onnx.checker.check_model(model, full_check=True)
        assert [one.op_type for one in model.graph.node] == [n.operator for n in graph.nodes]
        assert [one.name for one in model.graph.input] == ["0"]
        assert not model.metadata_props
        assert not model.producer_name


def test_attributes_of_every_kind_arrive():
    shape = tensor("shape", INT64, [1], [2])
    fill = tensor("fill", FLOAT, [1], [-0.5])
    nodes = [
        node("ConstantOfShape", ["shape"], ["c"], value=fill),
        node("LeakyRelu", ["x"], ["l"], alpha=0.1),
        node("Gemm", ["l", "w", "c"], ["g"], alpha=2.0, transB=0),
        node("Einsum", ["g"], ["y"], equation="bi->bi"),
    ]
    data = made(nodes, [shape, WEIGHT])
    x = torch.tensor([[1.0, -1.0, 0.5]])
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    wanted = 2 * nn.functional.leaky_relu(x, 0.1) @ weight - 0.5
    torch.testing.assert_close(opened(data)(x), wanted)


def test_equal_input_gives_equal_bits_again_and_in_another_session():
    data = exported("convnet", dynamo=False)
    x = examples("convnet", 64)
    first = opened(data, threads=2)
    wanted = first(x)
    for other in (first, opened(data, threads=2)):
        assert torch.equal(other(x), wanted)


def test_logits_outlive_the_session():
    found = opened(exported("mlp", dynamo=False))
    x = examples("mlp", 9)
    logits = found(x)
    before = logits.clone()
    del found
    assert torch.equal(logits, before)


def test_half_precision_gives_half_precision():
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).half()

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self.module(x.half())

    data = export(Half().eval(), examples("mlp", 2), dynamo=False)
    x = examples("mlp", 5)
    logits = opened(data)(x)
    assert logits.dtype == torch.float16
    torch.testing.assert_close(logits.float(), module(x.half()).float(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.int16])
def test_where_a_sequence_has_ended_the_network_sees_the_padding_id(dtype):
    x = examples("attention", 4)
    x[:, 5:] = -1
    found = opened(exported("attention", dynamo=False))
    wanted = expected("attention", x.clamp(min=0))
    torch.testing.assert_close(found(x.to(dtype)), wanted, rtol=1e-5, atol=1e-5)
    other = opened(exported("attention", dynamo=False), padding_id=7)
    wanted = expected("attention", torch.where(x == -1, 7, x))
    torch.testing.assert_close(other(x.to(dtype)), wanted, rtol=1e-5, atol=1e-5)
    assert (x == -1).sum() == 8  # the batch itself is left alone


def test_of_numbers_that_are_no_tokens_every_one_counts():
    nodes = [node("Cast", ["x"], ["f"], to=1), node("MatMul", ["f", "w"], ["y"])]
    data = made(nodes, inputs=(value("x", ["n", 3], onnx.TensorProto.INT64),))
    x = torch.tensor([[-1, 2, -1]])
    numbers, tokens = opened(data, padding_id=None), opened(data, padding_id=0)
    torch.testing.assert_close(
        numbers(x), tokens(torch.tensor([[0, 2, 0]])) + numbers(torch.tensor([[-1, 0, -1]]))
    )
    assert not torch.equal(numbers(x), tokens(x))


def test_sequences_are_padded_to_the_length_that_a_graph_fixes():
    nodes = [node("Cast", ["x"], ["f"], to=1), node("MatMul", ["f", "w"], ["y"])]
    data = made(nodes, inputs=(value("x", ["n", 3], onnx.TensorProto.INT64),))
    network = opened(data, padding_id=5)
    short, whole = torch.tensor([[1, 2]], dtype=torch.int32), torch.tensor([[1, 2, 5]])
    assert torch.equal(network(short), network(whole))


def test_pixels_are_taken_as_they_are():
    nodes = [node("Cast", ["x"], ["f"], to=1), node("MatMul", ["f", "w"], ["y"])]
    data = made(nodes, inputs=(value("x", ["n", 3], onnx.TensorProto.UINT8),))
    x = torch.tensor([[1, 2, 255]], dtype=torch.uint8)
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    torch.testing.assert_close(opened(data)(x), x.float() @ weight)


def test_a_slice_of_other_memory_is_read_right():
    found = opened(exported("mlp", dynamo=False))
    wide = torch.randn(10, 12)
    x = wide[::2, 3:9]
    torch.testing.assert_close(found(x), expected("mlp", x), rtol=1e-5, atol=1e-5)


def test_it_is_judged_like_every_network():
    x = examples("convnet", 40)
    y = np.arange(40) % 3
    terms = {"task": "multiclass", "classes": ["a", "b", "c"], "positive_class": None}
    found = opened(exported("convnet", dynamo=False))
    ours = evaluate(found, x.split(7), y, **terms, threshold=None)
    theirs = evaluate(network("convnet"), x.split(7), y, **terms, threshold=None)
    assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-5)
    np.testing.assert_allclose(ours.logits, theirs.logits, rtol=1e-5, atol=1e-5)


# Failures


def refusal(call):
    with pytest.raises(NetworkError) as caught:
        call()
    detail = caught.value.detail
    assert not re.search(r"[/\\]|\.cc\b|Traceback|::", detail), detail
    assert len(detail) < 450
    return caught.value


def test_a_graph_of_wrong_types_is_refused_when_it_is_opened():
    data = made([node("Not", ["x"], ["b"]), LINEAR])
    error = refusal(lambda: opened(data))
    assert error.detail.startswith("ONNX Runtime does not take the network: ")
    assert not error.out_of_memory


def test_shapes_that_do_not_fit_are_refused_when_it_is_opened():
    bad = made([node("MatMul", ["x", "w"], ["y"])], [tensor("w", FLOAT, [4, 2], [0.0] * 8)])
    assert "does not take the network" in refusal(lambda: opened(bad)).detail


def test_an_id_that_has_no_embedding_is_named():
    found = opened(exported("bag", dynamo=False))
    x = examples("bag", 3)
    x[1, 2] = 20
    error = refusal(lambda: found(x))
    assert "failed on a batch of 3" in error.detail
    assert "(Gather)" in error.detail
    assert "idx=20" in error.detail
    torch.testing.assert_close(found(x.clamp(max=19)), expected("bag", x.clamp(max=19)))


@pytest.mark.parametrize("folded", [True, False])
def test_a_shape_that_overflows_is_refused(folded):
    data = greedy([2**40, 2**40], folded=folded)
    refusal(lambda: opened(data)(torch.ones(2, 3)))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"opset": 1}', '{"opset":"1","input":[0,"a",[]],"nodes":[],"output":[0]}'],
)
def test_a_graph_that_is_none_is_refused(text):
    with pytest.raises(GraphError):
        Graph.from_metadata({METADATA_KEY: text})


# The policy


def test_the_policy_names_what_decides_the_bits():
    found = policy("cpu")
    others = runtime.policy("cpu")
    assert {name: found[name] for name in others if name != "dtype"} == {
        name: others[name] for name in others if name != "dtype"
    }
    assert (found["dtype"], found["provider"]) == ("as exported", "CPUExecutionProvider")
    import onnxruntime

    assert found["onnxruntime"] == onnxruntime.__version__
    assert ("avx2" in found["instructions"]) == (others["cpu_capability"] in ("AVX2", "AVX512"))


def test_nothing_is_sent_or_kept_about_what_is_run(tmp_path):
    """ONNX Runtime's telemetry keeps what it will send in the home folder."""
    script = (
        "import os\n"
        "import models.onnx.session\n"
        "files = [os.readlink(f'/proc/self/fd/{one}') for one in os.listdir('/proc/self/fd')"
        " if os.path.exists(f'/proc/self/fd/{one}')]\n"
        "assert not any('onnxruntime' in one for one in files), files\n"
    )
    quiet = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()} | quiet,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert list(tmp_path.rglob("*onnxruntime*")) == []
