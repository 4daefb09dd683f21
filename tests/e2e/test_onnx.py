"""ONNX networks that do harm, in a real service: each costs its own job and nothing else."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.onnx_networks import FLOAT, INT64, WEIGHT, greedy, made, node, tensor

PERIOD_S = 30


def endless():
    """A network that is small, legal, and would multiply matrices for an hour."""
    size = tensor("size", INT64, [2], [3000, 3000])
    nodes = [node("ReduceMax", ["x"], ["r"], keepdims=0), node("Expand", ["r", "size"], ["v0"])]
    for index in range(4000):
        nodes += [
            node("MatMul", [f"v{index}", "v0"], [f"m{index}"]),
            node("Tanh", [f"m{index}"], [f"v{index + 1}"]),
        ]
    nodes += [
        node("ReduceSum", ["v4000"], ["s"], keepdims=0),
        node("MatMul", ["x", "w"], ["z"]),
        node("Add", ["z", "s"], ["y"]),
    ]
    return made(nodes, [size, WEIGHT])


def wide():
    """A network that would like 64 GB for the output of a transposed convolution."""
    weight = tensor("k", FLOAT, [1, 1, 1, 1], [1.0])
    shape = tensor("shape", INT64, [4], [-1, 1, 1, 3])
    nodes = [
        node("Reshape", ["x", "shape"], ["i"]),
        node("ConvTranspose", ["i", "k"], ["c"], strides=[1, 2**31 - 1]),
        node("ReduceMax", ["c"], ["r"], keepdims=0),
        node("MatMul", ["x", "w"], ["m"]),
        node("Add", ["m", "r"], ["y"]),
    ]
    return made(nodes, [weight, shape, WEIGHT])


@pytest.fixture(scope="module")
def service(commands):
    running, client = commands.start_web(
        "serve", data_dir=commands.folder / "onnx", children=1, onnx_memory_bytes=2**29
    )
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3)).astype(np.float32)
    np.savez(commands.folder / "points.npz", x=x, y=np.argmax(x[:, :2], axis=1))
    answer = client.upload(
        "/v1/datasets?wait", {"file": commands.folder / "points.npz"}, name="points", split="train"
    )
    assert answer.body["state"] == "succeeded", answer.text
    return running, client


@pytest.fixture
def evaluate(service, tmp_path):
    def act(data, query="?wait"):
        (tmp_path / "network.onnx").write_bytes(data)
        file = {"checkpoint": tmp_path / "network.onnx"}
        answer = service[1].upload(f"/v1/evaluations{query}", file, dataset="points", fresh="true")
        assert answer.status in (200, 202), answer.text
        return answer.body

    return act


def assert_well(evaluate):
    job = evaluate(made())
    assert (job["state"], job["attempt"]) == ("succeeded", 1)


@pytest.mark.parametrize(
    "data",
    [greedy([25_000_000_000], folded=True), greedy([25_000_000_000], folded=False), wide()],
    ids=["folded", "run", "wide"],
)
def test_a_network_that_asks_for_more_memory_than_it_may_fails_at_its_first_attempt(evaluate, data):
    job = evaluate(data)
    assert (job["state"], job["attempt"]) == ("failed", 1)
    assert job["reason"] == "out_of_memory"
    assert "HOLDOUT_ONNX_MEMORY_BYTES" in job["error"]["detail"]
    assert_well(evaluate)


def test_a_network_that_would_run_for_an_hour_is_cancelled_at_once(service, evaluate, wait_until):
    _, client = service
    job = evaluate(endless(), query="")
    path = f"/v1/jobs/{job['id']}"
    wait_until(lambda: client.get(path).body["state"] == "running", what="it runs")
    time.sleep(1)
    began = time.monotonic()
    assert client.post(f"{path}/cancel").status == 202
    wait_until(lambda: client.get(path).body["state"] == "cancelled", what="it is cancelled")
    assert time.monotonic() - began < PERIOD_S
    assert_well(evaluate)
