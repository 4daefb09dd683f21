"""From a checkpoint's tensors to the network that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from checkpoints.errors import listed, quoted
from checkpoints.manifest import Manifest
from models import catalog, plugins
from models.entries import Entry
from models.evaluation import EvaluationError
from models.layouts import OpenShape
from models.spec import SpecError
from service.jobs.engines import TaskFailed

Array = np.ndarray[Any, Any]


def build(
    manifest: Manifest,
    arrays: Mapping[str, Array],
    *,
    shape: OpenShape,
    classes: int,
    task: str,
    device: str,
) -> nn.Module:
    """The network of a checkpoint, in evaluation mode on its device.

    Args:
        arrays: its tensors by name.
        shape: of an example after the transforms; only a plug-in's network is built for it.
        classes: how many the dataset has; likewise.
        task: the dataset's; likewise.

    Raises:
        TaskFailed: ``bad_request``, the architecture is not in the catalog, or a plug-in's network
            cannot be built or has other tensors.
    """
    try:
        entry = catalog.ARCHITECTURES.find(manifest.architecture)
        parameters = entry.build(manifest.hyperparameters)
    except SpecError as error:
        raise TaskFailed("bad_request", error.detail, pointer="/checkpoint") from error
    weights = {name: copied(array) for name, array in arrays.items()}
    if entry.provider is not None:
        model = _of_plugin(entry, manifest.architecture, parameters, weights, shape, classes, task)
    else:
        with torch.device("meta"):  # nothing is initialized that the weights replace
            model = entry.load()(parameters, manifest.input_shape, manifest.outputs)
        model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().to(device)


def copied(array: Array) -> Tensor:
    """A tensor in torch's own memory: how a view is aligned can show in a result's last bit."""
    return torch.from_numpy(array).clone(memory_format=torch.contiguous_format)


class _OfPlugin(nn.Module):
    """A plug-in's network, whose failures are the request's and not the service's."""

    def __init__(self, network: nn.Module, architecture: str) -> None:
        super().__init__()
        self.network = network
        self._architecture = architecture

    def forward(self, x: Tensor) -> Any:
        try:
            return self.network(x)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if "DefaultCPUAllocator" in str(error):  # memory, which is reported as such
                raise
            raise EvaluationError(
                f"{self._architecture} failed on a batch of shape {list(x.shape)}: "
                f"{plugins.in_one_line(error)}",
                reason="network_failed",
            ) from error


def _of_plugin(
    entry: Entry,
    architecture: str,
    parameters: Any,
    weights: Mapping[str, Tensor],
    shape: OpenShape,
    classes: int,
    task: str,
) -> nn.Module:
    """Build it for as many outputs as the dataset asks for, and compare all tensors."""
    different = ""
    for outputs in (classes, 1) if task == "binary" else (classes,):
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # what is no tensor of the file is the same each time
                model: Any = entry.load()(parameters, shape, outputs)
            if not isinstance(model, nn.Module):
                raise TypeError(f"its target gave a {type(model).__name__} and no nn.Module")
        except Exception as error:
            detail = error.detail if isinstance(error, SpecError) else plugins.in_one_line(error)
            raise TaskFailed(
                "bad_request",
                f"{architecture} cannot be built for examples of shape {list(shape)} and "
                f"{outputs} outputs: {detail}",
                pointer="/checkpoint",
            ) from error
        found = _differences(model, weights)
        if not found:
            model.load_state_dict(weights, strict=True)
            return _OfPlugin(model, architecture)
        different = different or found
    raise TaskFailed(
        "bad_request",
        f"the tensors are not those of {architecture} for examples of shape {list(shape)} and "
        f"{classes} classes: {different}",
        pointer="/checkpoint",
    )


def _differences(model: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Which tensors are missing, unexpected or misshapen; empty if none."""
    expected = {name: list(one.shape) for name, one in model.state_dict().items()}
    groups = {
        "missing": [
            quoted(name)
            for name in expected
            if name not in weights and not name.endswith("num_batches_tracked")
        ],
        "unexpected": [quoted(name) for name in weights if name not in expected],
        "misshapen": [
            f"{quoted(name)} has shape {list(weights[name].shape)}, expected {shape}"
            for name, shape in expected.items()
            if name in weights and list(weights[name].shape) != shape
        ],
    }
    return "; ".join(
        f"{kind} ({len(names)}): {listed(names)}" for kind, names in groups.items() if names
    )
