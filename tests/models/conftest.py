"""What the tests of these packages share."""

import json
import os
import tempfile

import pytest
import torch

from models.datasets import ingest

BOUNDS = {
    "max_examples": 1000,
    "max_bytes": 10**7,
    "max_columns": 100,
    "max_pixels": 10**6,
    "processes": 2,
}


@pytest.fixture
def take(tmp_path):
    """Ingest bytes; gives the answer, and leaves the decoded file at ``take.path``."""

    def run(data, **given):
        bounds = {name: given.pop(name, value) for name, value in BOUNDS.items()}
        (tmp_path / "upload").write_bytes(data)
        request = {"spec": {"name": "d", "split": "test", **given}, **bounds}
        with (
            open(tmp_path / "upload", "rb") as source,
            open(run.path, "w+b") as output,
            tempfile.TemporaryFile() as scratch,
        ):
            answer = ingest(request, [source.fileno(), output.fileno(), scratch.fileno()])
        assert json.loads(json.dumps(answer, allow_nan=False)) == answer
        return answer

    run.path = tmp_path / "decoded"
    return run


def accepted(answer):
    assert "error" not in answer, answer
    return answer["dataset"]


def refused(answer, *words, pointer="/file"):
    assert set(answer) == {"error"}, answer
    for word in words:
        assert word in answer["error"]["detail"]
    assert answer["error"]["pointer"] == pointer
    return answer["error"]["detail"]


@pytest.fixture
def numerics():
    """Put threads, determinism and precision back as they were."""
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    threads = torch.get_num_threads()
    deterministic = torch.get_deterministic_debug_mode()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    tf32 = torch.backends.cudnn.allow_tf32
    precision = torch.backends.fp32_precision
    yield
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if workspace is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(deterministic)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.fp32_precision = precision


@pytest.fixture(scope="session")
def draw():
    """The 64 bits of one draw of an augmentation, computed on Python's whole numbers."""

    def output(state, number):
        for _ in range(number + 1):
            state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        return mixed ^ (mixed >> 31)

    def bits(seed, epoch, index, position, number):
        state = seed % 2**64
        for one in (epoch, index, position):
            state = output(state, one)
        return output(state, number)

    return bits


@pytest.fixture(scope="session")
def word(draw):
    """The upper 32 bits of the same: ``word(index, number)`` of seed 7, epoch 3, position 0."""
    return lambda index, number: draw(7, 3, index, 0, number) >> 32
