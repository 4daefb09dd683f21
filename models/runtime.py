"""How this process computes: device, threads, precision, and what its environment is."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from models.datasets.prepared import image_backend


class DeviceError(ValueError):
    """The named device is not there; the message says which are."""


def resolve_device(name: str) -> list[str]:
    """The devices that a name of a setting or a request stands for.

    Args:
        name: ``auto`` (every CUDA device, else the CPU), ``cpu``, ``cuda`` (every CUDA device)
            or ``cuda:N``.

    Returns:
        PyTorch's names with their index, such as ``["cpu"]`` or ``["cuda:0", "cuda:1"]``.

    Raises:
        DeviceError: no such device here, or not one of the forms above.
    """
    cards = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    here = ", ".join(["cpu", *cards])
    if name == "cpu":
        return ["cpu"]
    if name == "auto":
        return cards or ["cpu"]
    if name == "cuda":
        if not cards:
            raise DeviceError(f"no CUDA device is visible; here are: {here}")
        return cards
    if name not in cards:
        raise DeviceError(f"device {name!r} is not here; here are: {here}")
    return [name]


def configure(device: str, threads: int) -> None:
    """Make this process compute the same bits for the same input; call it first, or again.

    Full float32 everywhere, deterministic algorithms (PyTorch raises where it has none), no
    choice of algorithm by timing. The threads are those inside one operation; the pool between
    operations, which PyTorch lets a process size only once, is left alone because nothing here
    uses it.

    Args:
        device: what the process computes on, as `resolve_device` names it.
        threads: CPU threads of one operation, at least 1. A sum's last bit can depend on it.

    Raises:
        ValueError: ``threads`` is less than 1.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    if device.startswith("cuda"):
        # read when cuBLAS starts: without a fixed workspace its sums vary from run to run
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.cuda.set_device(device)
    torch.set_num_threads(threads)
    # the same as use_deterministic_algorithms(True), which also imports the compiler: 1.6 s a child
    torch.set_deterministic_debug_mode("error")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False  # convolutions: allowed unless switched off
    # what the lines above leave to be inherited; the stubs do not know it
    torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]


def policy(device: str) -> dict[str, Any]:
    """The numeric policy: what besides its inputs decides the bits of a forward pass.

    Part of the evaluation key. It holds the kind of the device and not its index, so that equal
    cards share results.

    Args:
        device: as `resolve_device` names it.

    Returns:
        JSON values: ``device`` (``cpu`` or ``cuda``), ``device_name`` (CUDA only), ``dtype``,
        ``threads``, ``torch`` (its version), ``cpu_capability`` (instruction set PyTorch uses),
        ``image_backend`` (see `models.datasets.prepared`).
    """
    kind = torch.device(device).type
    found: dict[str, Any] = {"device": kind, "dtype": "float32"}
    if kind == "cuda":
        found["device_name"] = torch.cuda.get_device_name(device)
    return found | {
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "image_backend": image_backend(),
    }


def environment(device: str) -> dict[str, Any]:
    """What an evaluation ran in, for the record: the policy and the versions around it.

    Args:
        device: as `resolve_device` names it.

    Returns:
        JSON values: `policy`'s, and ``python``, ``platform``, ``numpy``, ``holdout``; on CUDA
        also ``cuda`` and ``cudnn``.
    """
    found = policy(device) | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "holdout": version("holdout"),
    }
    if found["device"] == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        found |= {"cuda": torch.version.cuda, "cudnn": cudnn}
    return found
