"""The deterministic transforms on batches, in float32, on the device where the batch lies.

Each value of the output depends on one value of the input alone, by operations that IEEE 754
rounds exactly, so that the same example gives the same bytes in a batch of any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from models.catalog import TRANSFORMS
from models.transforms import Clip, Flatten, Normalize, ToFloat, Transform


def to_float(batch: Tensor, parameters: ToFloat) -> Tensor:
    """Convert to float32 and scale.

    Args:
        batch: any integer dtype or float32, ``(N, ...)``.
        parameters: ``scale`` multiplies; without one uint8 is divided by 255, as torchvision's
            ``to_tensor`` does, and other dtypes keep their values.

    Returns:
        float32, same shape.
    """
    values = batch.to(torch.float32)
    if parameters.scale is not None:
        return values * torch.tensor(parameters.scale, dtype=torch.float32, device=batch.device)
    if batch.dtype is torch.uint8:
        # A tensor on the device, for CUDA multiplies by the rounded inverse of a Python number.
        return values / torch.tensor(255.0, dtype=torch.float32, device=batch.device)
    return values


def normalize(batch: Tensor, parameters: Normalize) -> Tensor:
    """Compute ``(batch - mean) / std``.

    Args:
        batch: float32, ``(N, C, ...)``.
        parameters: one mean and std, or one of each for every index of the axis ``C``.

    Returns:
        float32, same shape.
    """
    shape = (-1,) + (1,) * (batch.dim() - 2)
    mean, std = (
        torch.tensor(numbers, dtype=torch.float32, device=batch.device).reshape(shape)
        for numbers in (parameters.mean, parameters.std)
    )
    return (batch - mean) / std


def clip(batch: Tensor, parameters: Clip) -> Tensor:
    """Replace what lies beyond a bound by the bound.

    Args:
        batch: float32, ``(N, ...)``.
        parameters: bounds, rounded to float32.

    Returns:
        float32, same shape. A value that equals a bound keeps its bits, also -0.0 at the bound 0.0,
        of which torch's ``clamp`` leaves open what it becomes.
    """
    for bound, beyond in ((parameters.minimum, torch.lt), (parameters.maximum, torch.gt)):
        if bound is not None:
            limit = torch.tensor(bound, dtype=torch.float32, device=batch.device)
            batch = torch.where(beyond(batch, limit), limit, batch)
    return batch


def flatten(batch: Tensor, parameters: Flatten) -> Tensor:
    """Make one axis of all axes of an example: ``(N, ...)`` becomes ``(N, M)``, same dtype."""
    return batch.reshape(len(batch), math.prod(batch.shape[1:]))


def apply(transforms: Sequence[Transform], batch: Tensor) -> Tensor:
    """Apply a chain to a batch.

    Args:
        transforms: in order; `models.chains.output_of` said that they fit the examples.
        batch: ``(N, ...)``, a dtype of the prepared form.

    Returns:
        ``(N, ...)`` of the type that `models.chains.output_of` said; with no transforms the
        batch itself.
    """
    for transform in transforms:
        batch = _function(type(transform))(batch, transform)
    return batch


@cache
def _function(kind: type[Any]) -> Callable[[Tensor, Any], Tensor]:
    entries = [*(TRANSFORMS[name] for name in TRANSFORMS), *TRANSFORMS.added.values()]
    found: Callable[[Tensor, Any], Tensor] = next(
        entry for entry in entries if entry.parameters is kind
    ).load()
    return found
