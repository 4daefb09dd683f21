"""Fixtures of the tests that touch PyTorch's global settings."""

from __future__ import annotations

import os

import pytest
import torch


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
