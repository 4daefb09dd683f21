"""From a checkpoint's tensors to the network that they belong to."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
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
from models.transforms import Transform, elementwise
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


def untrained(
    entry: Entry,
    architecture: str,
    parameters: Any,
    *,
    shape: OpenShape,
    outputs: int,
    pointer: str = "/hyperparameters",
) -> nn.Module:
    """A new network on the CPU, its weights drawn from torch's generator.

    Args:
        entry: of the catalog, under the name ``architecture``.
        parameters: what the entry built of the hyperparameters.
        shape: of an example after the transforms.
        pointer: of the field that names it.

    Raises:
        TaskFailed: ``bad_request``, it cannot be built for such examples.
    """
    try:
        model: Any = entry.load()(parameters, shape, outputs)
        if not isinstance(model, nn.Module):
            raise TypeError(f"its target gave a {type(model).__name__} and no nn.Module")
    except Exception as error:
        if entry.provider is None and not isinstance(error, SpecError):
            raise
        detail = error.detail if isinstance(error, SpecError) else plugins.in_one_line(error)
        raise TaskFailed(
            "bad_request",
            f"{architecture} cannot be built for examples of shape {list(shape)} and "
            f"{outputs} outputs: {detail}",
            pointer=pointer,
        ) from error
    return model


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network that `build` gave, by the names in its checkpoint."""
    return (model.network if isinstance(model, _OfPlugin) else model).state_dict()


def start_from(
    model: nn.Module, manifest: Manifest, before: Manifest, arrays: Mapping[str, Array]
) -> list[str]:
    """Copy a checkpoint's weights into a new network, its head only where the classes are the same.

    Args:
        manifest: what the new network's checkpoints say.
        before: the checkpoint's.
        arrays: its tensors.

    Returns:
        A sentence for each thing that was done otherwise than by copying.

    Raises:
        TaskFailed: ``bad_request``, the tensors are not those of such a network.
    """
    own = model.state_dict()
    head = _head(manifest, own, arrays)
    body = {name: array for name, array in arrays.items() if name not in head}
    found = _differences({name: one for name, one in own.items() if name not in head}, body)
    if before.architecture != manifest.architecture:
        found = f"it is of the architecture {before.architecture}"
    if found:
        raise TaskFailed(
            "bad_request",
            f"{manifest.architecture} cannot start from this checkpoint: {found}",
            pointer="/initial_checkpoint",
        )
    order: list[int] | None = None
    ours, theirs = manifest.classes or (), before.classes
    fits = all(name in arrays and arrays[name].shape == own[name].shape for name in head)
    if theirs is not None and set(theirs) != set(ours):
        fits = False
    elif theirs is not None and theirs != ours:
        order = [theirs.index(name) for name in ours]
        fits = fits and all(len(own[name]) == len(order) for name in head)
    adjustments = []
    if fits:
        body = dict(arrays)
        if order is not None:
            body |= {name: arrays[name][order] for name in head}
            adjustments.append(
                "put the outputs of the initial checkpoint into the order of classes"
            )
    else:
        adjustments.append(
            f"replaced {listed(sorted(head))} of the initial checkpoint by new weights: its "
            "outputs stand for other classes"
        )
    with torch.no_grad():
        for name, array in body.items():
            own[name].copy_(copied(array))
    return adjustments


def _head(manifest: Manifest, own: Mapping[str, Tensor], arrays: Mapping[str, Array]) -> set[str]:
    """The tensors whose shapes depend on the number of outputs.

    Of a plug-in's network, whose layout nobody knows, those that have another one here.
    """
    if manifest.input_shape is None or manifest.outputs is None:
        return {
            name
            for name, one in own.items()
            if name in arrays and arrays[name].shape != tuple(one.shape)
        }
    entry = catalog.ARCHITECTURES[manifest.architecture]
    parameters = entry.build(manifest.hyperparameters)
    return entry.head(parameters, manifest.input_shape, manifest.outputs)


class Batches:
    """Examples as a network takes them; counts the seconds spent on making them.

    A batch is copied out of the mapping, so that its memory is aligned alike each time and no
    more than one batch of a large dataset is held.
    """

    def __init__(
        self, x: Array, transforms: Sequence[Transform], batch_size: int, device: str
    ) -> None:
        self._x = x
        self._transforms = transforms
        self._batch_size = batch_size
        self._device = device
        self.spent_s = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self._x), self._batch_size):
            began = time.perf_counter()
            batch = copied(self._x[start : start + self._batch_size]).to(self._device)
            batch = elementwise.apply(self._transforms, batch)
            self.spent_s += time.perf_counter() - began
            yield batch


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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what is no tensor of the file is the same each time
            model = untrained(
                entry,
                architecture,
                parameters,
                shape=shape,
                outputs=outputs,
                pointer="/checkpoint",
            )
        found = _differences(model.state_dict(), weights)
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


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor | Array]) -> str:
    """Which tensors are missing, unexpected or misshapen; empty if none."""
    expected = {name: list(one.shape) for name, one in own.items()}
    groups = {
        "missing": [
            quoted(name)
            for name in expected
            if name not in given and not name.endswith("num_batches_tracked")
        ],
        "unexpected": [quoted(name) for name in given if name not in expected],
        "misshapen": [
            f"{quoted(name)} has shape {list(given[name].shape)}, expected {shape}"
            for name, shape in expected.items()
            if name in given and list(given[name].shape) != shape
        ],
    }
    return "; ".join(
        f"{kind} ({len(names)}): {listed(names)}" for kind, names in groups.items() if names
    )
