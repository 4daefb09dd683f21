"""Networks that came as ONNX, in a child: whether it can run them, how, and within which memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from types import ModuleType
from typing import Any

from torch import nn

from checkpoints.manifest import Manifest
from models.onnx import DISTRIBUTION, INSTALL
from models.onnx.graph import Graph
from service.jobs import memory
from service.jobs.engines import ChildOptions, TaskFailed
from service.jobs.materials import Array
from service.settings import variable


def _found() -> ModuleType | None:
    """What runs them; None where ONNX Runtime is missing or does not start, whatever it raises."""
    try:
        from models.onnx import session
    except Exception:
        return None
    return session


# At the import, so that the engine's fork server pays for it once and every child has it.
_session = _found()


@cache
def provides() -> dict[str, str]:
    """The version of ONNX Runtime by the name of its distribution; empty where it is missing."""
    return {} if _session is None else {DISTRIBUTION: version(DISTRIBUTION)}


def policies(device: str) -> dict[str, dict[str, Any]]:
    """Numeric policies by kind of device, of those that a child of this device can use."""
    if _session is None:
        return {}
    usable = dict.fromkeys(("cpu", device))
    kinds = {one: one.partition(":")[0] for one in usable}
    return {kind: _session.policy(one) for one, kind in kinds.items() if _session.runs_on(kind)}


def device(wanted: str, own: str) -> str:
    """Which device a request for ``wanted`` is computed on in a child of the device ``own``.

    Raises:
        TaskFailed: ONNX Runtime is not there, or has no such device.
    """
    if _session is None:
        detail = f"this worker has no ONNX Runtime: {INSTALL}"
        raise TaskFailed("not_available", detail, pointer="/checkpoint")
    if wanted == "cpu" or _session.runs_on(own.partition(":")[0]):
        return "cpu" if wanted == "cpu" else own
    if wanted == "auto":
        return "cpu"
    raise TaskFailed(
        "not_available",
        f"this worker's ONNX Runtime does not compute on {wanted}; it does on cpu",
        pointer="/device",
    )


@contextlib.contextmanager
def opened(
    manifest: Manifest,
    graph: Graph,
    arrays: Mapping[str, Array],
    options: ChildOptions,
    on: str,
    *,
    tokens: bool,
) -> Iterator[nn.Module]:
    """The network, which may take as much memory as the options say until the block ends.

    Args:
        on: as `device` gave it.
        tokens: whether the dataset holds sequences of token ids.

    Raises:
        TaskFailed: ``network_failed`` or ``out_of_memory``, also from within the block.
    """
    assert _session is not None  # noqa: S101 - `device` has looked
    try:
        with memory.limited(options.onnx_memory_bytes):
            yield _session.OnnxNetwork(
                graph,
                arrays,
                device=on,
                threads=options.threads,
                padding_id=manifest.hyperparameters.get("padding_id", 0) if tokens else None,
            )
    except _session.NetworkError as error:
        if not error.out_of_memory:
            raise TaskFailed("network_failed", error.detail, pointer="/checkpoint") from error
        raise TaskFailed(
            "out_of_memory",
            f"{error.detail}. An ONNX network may take {options.onnx_memory_bytes} bytes "
            f"({variable('onnx_memory_bytes')}); a smaller batch_size needs less",
            pointer="/checkpoint",
        ) from error
