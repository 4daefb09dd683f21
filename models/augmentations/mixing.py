"""The augmentations that mix an example with the next one of its batch, the last with the first.

How much is mixed, and where, depends on the example alone; its partner depends on the batch, and
nothing else does. In a batch of one an example is its own partner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.augmentations import CutMix, MixUp, quantiles
from models.augmentations.boxes import Boxes
from models.augmentations.draws import Draws, below, chosen


def mixup(batch: Tensor, targets: Tensor, parameters: MixUp, draws: Draws) -> tuple[Tensor, Tensor]:
    """Take ``b * example + (1 - b) * partner`` of values and class probabilities.

    Args:
        batch: float32 ``(N, ...)``.
        targets: float32 ``(N, C)``, class probabilities.
        parameters: ``b`` is drawn from Beta(alpha, alpha) for each example.
        draws: of its position in the chain.

    Returns:
        Both, changed with probability p.
    """
    chance, amount = draws.words(2).unbind(1)
    kept = quantiles.picked(quantiles.beta(parameters.alpha, batch.device), amount)
    change = chosen(chance, parameters.p)
    return _mixed(batch, kept, change), _mixed(targets, kept, change)


def cutmix(
    batch: Tensor, targets: Tensor, parameters: CutMix, draws: Draws
) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of the partner at its place, and mix class probabilities by its area.

    The rectangle has the image's aspect ratio and ``1 - b`` of its area, its centre is uniform over
    the image, and what reaches over the edge is cut off, as torchvision does it.

    Args:
        batch: float32 ``(N, C, H, W)``.
        targets: float32 ``(N, classes)``, class probabilities.
        parameters: ``b`` is drawn from Beta(alpha, alpha) for each example.
        draws: of its position in the chain.

    Returns:
        Both, changed with probability p.
    """
    height, width = batch.shape[2:]
    chance, amount, row, column = draws.words(4).unbind(1)
    side = quantiles.picked(quantiles.roots_beta(parameters.alpha, batch.device), amount)
    top, bottom = _reach(below(row, height), side, height)
    left, right = _reach(below(column, width), side, width)
    box = Boxes(top=top, left=left, height=bottom - top, width=right - left)
    change = chosen(chance, parameters.p)
    pasted = change[:, None, None, None] & box.mask(height, width)
    pixels = torch.full_like(side, height * width)
    kept = 1 - box.height * box.width / pixels
    return torch.where(pasted, batch.roll(-1, 0), batch), _mixed(targets, kept, change)


def _mixed(values: Tensor, kept: Tensor, change: Tensor) -> Tensor:
    wide = (-1, *[1] * (values.dim() - 1))
    mine, others = (share.to(torch.float32).reshape(wide) for share in (kept, 1 - kept))
    mixed = values * mine + values.roll(-1, 0) * others
    return torch.where(change.reshape(wide), mixed, values)


def _reach(center: Tensor, side: Tensor, size: int) -> tuple[Tensor, Tensor]:
    half = (side * (size / 2)).floor().to(torch.int64)
    return (center - half).clamp(min=0), (center + half).clamp(max=size)
