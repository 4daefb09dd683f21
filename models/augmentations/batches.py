"""Random augmentations on batches, on the device where the batch lies.

They come before the elementwise transforms such as ``to_float`` and ``normalize``, so that pixels
are still pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from models.augmentations import Augmentation, Mixing
from models.augmentations.draws import Draws
from models.recipes import AUGMENTATIONS


@torch.no_grad()
def apply(
    augmentations: Sequence[Augmentation],
    batch: Tensor,
    targets: Tensor,
    *,
    seed: int,
    epoch: int,
    indices: Tensor,
) -> tuple[Tensor, Tensor]:
    """Apply a chain to a batch.

    What happens to an example depends on ``seed``, ``epoch``, its index and the chain, and not on
    the batch, its place there, the device or the number of threads; only the partner that mixup
    and cutmix mix it with is the next example of the batch, as the chain left it.

    uint8 is computed in float32 as fractions of 255, and rounded and cut off at 0 and 255 at the
    end of the chain; float32 is not cut off.

    Args:
        augmentations: in order; `models.chains.augmented` said that they fit the examples.
        batch: uint8 or float32 ``(N, ...)``; stays as it is.
        targets: float32 ``(N, C)``, class probabilities; anything of length ``N`` where nothing is
            mixed.
        seed: of the run; its lowest 64 bits count.
        epoch: its number in the run.
        indices: int64 ``(N,)``, of the examples in their dataset.

    Returns:
        The batch, of the same dtype and device, and the targets; what nothing changed is the tensor
        that was given.

    Raises:
        ValueError: another dtype, lengths that differ, or targets that cannot be mixed.
    """
    if batch.dtype not in (torch.uint8, torch.float32):
        raise ValueError(f"a batch must be uint8 or float32, got {batch.dtype}")
    if not len(batch) == len(targets) == len(indices):
        raise ValueError(
            f"batch, targets and indices must be equally long, got {len(batch)}, {len(targets)} "
            f"and {len(indices)}"
        )
    mixing = any(isinstance(one, Mixing) for one in augmentations)
    if mixing and (targets.dtype is not torch.float32 or targets.dim() != 2):
        raise ValueError(
            "mixing needs targets as class probabilities, float32 (N, C), got "
            f"{targets.dtype} of shape {tuple(targets.shape)}: torch.nn.functional.one_hot makes "
            "them from class indices"
        )
    if not augmentations:
        return batch, targets
    # A tensor on the device, for CUDA multiplies by the rounded inverse of a Python number.
    full = torch.tensor(255.0, dtype=torch.float32, device=batch.device)
    values = batch / full if batch.dtype is torch.uint8 else batch
    start = Draws.start(seed=seed, epoch=epoch, indices=indices.to(batch.device))
    for position, augmentation in enumerate(augmentations):
        function, draws = _functions()[type(augmentation)], start.at(position)
        if isinstance(augmentation, Mixing):
            values, targets = function(values, targets, augmentation, draws)
        else:
            values = function(values, augmentation, draws)
    if batch.dtype is torch.uint8:
        values = (values * full).round().clamp(0, 255).to(torch.uint8)
    return values, targets


@cache
def _functions() -> dict[type[Any], Callable[..., Any]]:
    entries = (AUGMENTATIONS[name] for name in AUGMENTATIONS)
    return {entry.parameters: entry.load() for entry in entries}
