"""An ONNX network judged by the service, beside ONNX Runtime alone with the same options."""

import statistics
import time

import numpy as np
import pytest
import torch
from torch import nn

from models.onnx.session import onnxruntime
from tests.benchmarks.test_service import register
from tests.e2e.conftest import Client
from tests.onnx_networks import export

pytestmark = pytest.mark.benchmark

EXAMPLES, BATCH, THREADS, ROUNDS = 4000, 128, 1, 5


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        )
        self.around = nn.Identity()
        if stride != 1 or before != after:
            self.around = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x):
        return torch.relu(self.second(self.first(x)) + self.around(x))


def resnet18():
    """As torchvision's, for 10 classes."""
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    before = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(before, width, stride), Block(width, width, 1)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def test_a_whole_request_takes_little_more_than_a_bare_session(commands, figure):
    torch.manual_seed(0)
    data = export(resnet18().eval(), torch.zeros(2, 3, 32, 32))
    random = np.random.default_rng(0)
    x = random.normal(size=(EXAMPLES, 3, 32, 32)).astype(np.float32)
    _, client = commands.start_web(
        "serve", data_dir=commands.folder / "onnx", children=1, threads_per_child=THREADS
    )
    arrays = {"x": x, "y": random.integers(0, 10, EXAMPLES)}
    register(client, commands.folder, "images", arrays, split="validation")
    (commands.folder / "resnet.onnx").write_bytes(data)
    began = time.perf_counter()
    stored = client.upload("/v1/checkpoints", {"file": commands.folder / "resnet.onnx"})
    figure("upload of 45 MB of ONNX", time.perf_counter() - began, 5.0, "s")
    request = {
        "checkpoint": stored.body["digest"],
        "dataset": "images",
        "batch_size": BATCH,
        "fresh": True,
    }
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.use_deterministic_compute = True
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (name,) = [one.name for one in session.get_inputs()]
    ratios = []
    for _ in range(ROUNDS + 1):
        whole_s = evaluated(client, request)
        began = time.perf_counter()
        for start in range(0, EXAMPLES, BATCH):
            session.run(None, {name: x[start : start + BATCH]})
        bare_s = time.perf_counter() - began
        ratios.append(whole_s / bare_s)
    ratios = ratios[1:]  # the first maps and checks what the others find
    figure("bare session over 4,000 images", bare_s, 1.0, "s", at_least=True)
    figure("a whole request, of a bare session", statistics.median(ratios), 1.05, "times")


def evaluated(client: Client, request) -> float:
    """Seconds from the request to the metrics."""
    began = time.perf_counter()
    answer = client.post("/v1/evaluations?wait", request)
    taken_s = time.perf_counter() - began
    assert answer.body["state"] == "succeeded", answer.text
    return taken_s
