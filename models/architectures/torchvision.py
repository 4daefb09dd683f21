"""The classification networks of torchvision, where it is installed: ``torchvision/NAME``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torchvision
from torch import nn

from models.entries import Entry, NoParameters
from models.layouts import OpenShape


def entries() -> dict[str, Entry]:
    """What the catalog offers of them."""
    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return {
        f"torchvision/{name}": Entry(
            target=f"{__name__}:{name}",
            summary=f"torchvision's {name}, for images of three channels.",
            provider="torchvision",
        )
        for name in names
    }


def __getattr__(name: str) -> Callable[..., nn.Module]:
    """What builds the network of that name; the targets of `entries`."""
    if name.startswith("_"):
        raise AttributeError(name)
    return partial(_network, name)


def _network(
    name: str, parameters: NoParameters, input_shape: OpenShape, outputs: int
) -> nn.Module:
    built: Any = torchvision.models.get_model(name, weights=None, num_classes=outputs)
    network: nn.Module = built
    return network
