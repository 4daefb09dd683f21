"""Settings that decide the bits of a forward pass, and the record of them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
import torch

from models import runtime
from models.evaluation_key import evaluation_key


@pytest.fixture
def cards(monkeypatch):
    """Pretend that so many CUDA devices are visible."""

    def pretend(count):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.usefixtures("numerics")
def test_configuring_sets_every_switch_and_again_after_someone_changed_them():
    for threads in (1, 2):
        runtime.configure("cpu", threads)
        assert torch.get_num_threads() == threads
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
        for backend in (torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn):
            for operation in {"matmul", "conv", "rnn"} & set(dir(backend)):
                assert getattr(backend, operation).fp32_precision == "ieee"
        torch.set_deterministic_debug_mode("default")
        torch.backends.cudnn.deterministic = False
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.set_float32_matmul_precision("medium")
    runtime.configure("cpu", 2)


@pytest.mark.usefixtures("numerics")
def test_a_thread_at_least_is_needed():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        runtime.configure("cpu", 0)


def test_a_process_that_configures_twice_prints_no_warning_and_imports_no_compiler():
    program = """
import sys
import torch
from models import runtime
runtime.configure("cpu", 1)
torch.randn(64, 64) @ torch.randn(64, 64)
runtime.configure("cpu", 2)
torch.nn.functional.conv2d(torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3))
print(torch.get_num_threads(), torch.cuda.is_initialized(), "torch._inductor" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2", "False", "False"]
    assert done.stderr == ""


@pytest.mark.usefixtures("numerics")
def test_a_cuda_process_gets_a_fixed_cublas_workspace_and_its_own_card(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":0:0"  # what someone's shell left: not deterministic
    runtime.configure("cuda:1", 1)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert taken == ["cuda:1"]


@pytest.mark.parametrize(
    ("name", "count", "devices"),
    [
        ("cpu", 0, ["cpu"]),
        ("cpu", 2, ["cpu"]),
        ("auto", 0, ["cpu"]),
        ("auto", 2, ["cuda:0", "cuda:1"]),
        ("cuda", 2, ["cuda:0", "cuda:1"]),
        ("cuda:1", 2, ["cuda:1"]),
    ],
)
def test_a_name_stands_for_devices(name, count, devices, cards):
    cards(count)
    assert runtime.resolve_device(name) == devices


@pytest.mark.parametrize(
    ("name", "count", "match"),
    [
        ("cuda", 0, "no CUDA device is visible; here are: cpu"),
        ("cuda:0", 0, "device 'cuda:0' is not here; here are: cpu"),
        ("cuda:2", 2, "device 'cuda:2' is not here; here are: cpu, cuda:0, cuda:1"),
        ("tpu", 1, "device 'tpu' is not here; here are: cpu, cuda:0"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name, count, match, cards):
    cards(count)
    with pytest.raises(runtime.DeviceError, match=match):
        runtime.resolve_device(name)


@pytest.mark.usefixtures("numerics")
def test_the_policy_is_json_and_follows_the_threads():
    runtime.configure("cpu", 1)
    one = runtime.policy("cpu")
    assert one == {
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "torch": importlib.metadata.version("torch"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "image_backend": f"Pillow {importlib.metadata.version('pillow')}",
    }
    assert json.loads(json.dumps(one)) == one
    runtime.configure("cpu", 2)
    two = runtime.policy("cpu")
    fields = {
        "checkpoint": "a",
        "dataset_digest": "b",
        "task": "multiclass",
        "positive_class": None,
        "threshold": None,
        "transforms": [],
        "batch_size": 1,
    }
    assert evaluation_key(policy=one, **fields) != evaluation_key(policy=two, **fields)


def test_the_policy_of_a_card_names_its_model_and_not_its_index(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H200")
    assert runtime.policy("cuda:3") == runtime.policy("cuda:0")
    assert runtime.policy("cuda:0")["device"] == "cuda"
    assert runtime.policy("cuda:0")["device_name"] == "H200"


def test_the_environment_holds_the_policy_and_the_versions_around_it():
    found = runtime.environment("cpu")
    assert found.items() >= runtime.policy("cpu").items()
    assert found["python"] == platform.python_version()
    assert found["numpy"] == np.__version__
    assert found["holdout"] == importlib.metadata.version("holdout")
    assert json.loads(json.dumps(found)) == found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
@pytest.mark.usefixtures("numerics")
def test_a_card_multiplies_in_full_float32():
    runtime.configure("cuda:0", 2)
    found = runtime.environment("cuda:0")
    assert {"device_name", "cuda", "cudnn"} <= set(found)
    a, b = torch.randn(2, 512, 512, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ b.double()
    error = ((a.cuda() @ b.cuda()).cpu() - exact).abs().max().item()
    assert error < 2e-4, "TF32 is off by about 0.05 here"
