"""Optimizers over a network's parameters, and their state as tensors and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from models import parameters as declared
from models.optimization import RMSprop
from models.recipes import OPTIMIZERS
from models.spec import Component

# What schedulers change.
_CHANGING = ("lr", "momentum", "betas")


def build(component: Component, model: nn.Module) -> Optimizer:
    """The optimizer of that name over all parameters of a network, on whatever device they lie.

    Weight decay spares parameters of one axis or none, which are biases and those of norms, unless
    ``decay_all`` says otherwise.

    Args:
        component: as a request writes it.

    Raises:
        SpecError: an unknown name or wrong parameters.
    """
    entry = OPTIMIZERS[component.name]
    given = entry.build(component.parameters)
    options = declared.to_json(given)
    decay_all = options.pop("decay_all")
    if not isinstance(given, RMSprop):  # which has no fused form
        options["fused"] = True
    learned = [one for one in model.parameters() if one.requires_grad]
    decayed = [one for one in learned if decay_all or one.dim() > 1]
    spared = [one for one in learned if not (decay_all or one.dim() > 1)]
    groups: list[dict[str, Any]] = []
    if decayed:
        groups.append({"params": decayed})
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    made: Optimizer = entry.load()(groups, **options)
    return made


def state(optimizer: Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """What `restore` takes: tensors by ``<index of the parameter>.<name>``, and JSON values."""
    whole = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value
        for index, values in whole["state"].items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }
    groups = [
        {name: group[name] for name in _CHANGING if name in group}
        for group in whole["param_groups"]
    ]
    return tensors, groups


def restore(
    optimizer: Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Go on from what `state` gave of an optimizer that was built alike."""
    whole = optimizer.state_dict()
    learned = [one for group in optimizer.param_groups for one in group["params"]]
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        like = learned[int(index)]
        if value.shape == like.shape:  # fused steps take them only if they lie in memory alike
            value = torch.empty_like(like, dtype=value.dtype, requires_grad=False).copy_(value)
        whole["state"].setdefault(int(index), {})[name] = value
    for group, changed in zip(whole["param_groups"], groups, strict=True):
        group.update(changed)
        if "betas" in changed:
            group["betas"] = tuple(changed["betas"])
    optimizer.load_state_dict(whole)
