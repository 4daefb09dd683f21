"""The networks of timm, where it is installed: ``timm/NAME``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
from torch import nn

from models.entries import Entry, NoParameters
from models.layouts import OpenShape


def entries() -> dict[str, Entry]:
    """What the catalog offers of them."""
    names: list[str] = timm.list_models()
    return {
        f"timm/{name}": Entry(
            target=f"{__name__}:{name}", summary=f"timm's {name}, for images.", provider="timm"
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
    channels = input_shape[0] if input_shape else 3
    built: Any = timm.create_model(name, pretrained=False, num_classes=outputs, in_chans=channels)
    network: nn.Module = built
    return network
