"""Rectangles of random area and aspect ratio in an image, one for each example."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.augmentations import quantiles
from models.augmentations.draws import below

_ATTEMPTS = 10  # as torchvision
WORDS = 2 * _ATTEMPTS + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes:
    """Rectangles, in pixels: int64 ``(N,)`` each, the lower and right edges not included."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def mask(self, height: int, width: int) -> Tensor:
        """Which pixels of an image of that size lie inside: bool ``(N, 1, height, width)``."""
        rows = _within(self.top, self.height, height)
        columns = _within(self.left, self.width, width)
        return rows[:, None, :, None] & columns[:, None, None, :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What rectangles are drawn from.

    Attributes:
        height: of the image, in pixels.
        width: likewise.
        scale: smallest and largest area, as a share of the image.
        ratio: smallest and largest height / width.
    """

    height: int
    width: int
    scale: tuple[float, float]
    ratio: tuple[float, float]


def drawn(words: Tensor, shape: Shape) -> tuple[Boxes, Tensor]:
    """Rectangles with uniform area, log-uniform aspect ratio and uniform place.

    As torchvision draws them: up to ten times, until one fits.

    Args:
        words: int64 ``(N, WORDS)`` of `models.augmentations.draws.Draws.words`.
        shape: what to draw from.

    Returns:
        The rectangles, and bool ``(N,)``, whether one fits; where none does, the rectangle means
        nothing.
    """
    device = words.device
    areas = quantiles.roots_uniform(*shape.scale, device)
    ratios = quantiles.roots_loguniform(*shape.ratio, device)
    side = quantiles.picked(areas, words[:, :_ATTEMPTS]) * math.sqrt(shape.height * shape.width)
    root = quantiles.picked(ratios, words[:, _ATTEMPTS : 2 * _ATTEMPTS])
    heights, widths = (side * root).round(), (side / root).round()
    fits = (heights >= 1) & (heights <= shape.height) & (widths >= 1) & (widths <= shape.width)
    numbers = torch.arange(_ATTEMPTS, device=device)
    first = torch.where(fits, numbers, _ATTEMPTS - 1).amin(1, keepdim=True)
    height, width = (sides.to(torch.int64).gather(1, first)[:, 0] for sides in (heights, widths))
    boxes = Boxes(
        top=below(words[:, -2], shape.height - height + 1),
        left=below(words[:, -1], shape.width - width + 1),
        height=height,
        width=width,
    )
    return boxes, fits.any(1)


def _within(start: Tensor, length: Tensor, size: int) -> Tensor:
    places = torch.arange(size, device=start.device)
    return (places >= start[:, None]) & (places < (start + length)[:, None])
