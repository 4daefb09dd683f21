"""The augmentations that move pixels: crops, flips and rotation.

Each takes float32 ``(N, C, H, W)``, its parameters and the `Draws` of its position, and gives
float32 of the same shape but for the sides that crops change. Pixels are looked up, and where they
are weighted, added one after the other: every step is one that IEEE 754 rounds exactly, so that an
example comes out with the same bytes in any batch and on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.augmentations import (
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    boxes,
    height_and_width,
    quantiles,
)
from models.augmentations.draws import Draws, below, chosen


def random_crop(batch: Tensor, parameters: RandomCrop, draws: Draws) -> Tensor:
    """Cut out a window at a place uniform over all where it fits, after padding."""
    height, width = height_and_width(parameters.size)
    left, top, right, bottom = parameters.sides
    rows, columns = (
        torch.arange(size, device=batch.device) + below(word, room + 1)[:, None] - before
        for word, size, room, before in zip(
            draws.words(2).unbind(1),
            (height, width),
            (batch.shape[2] + top + bottom - height, batch.shape[3] + left + right - width),
            (top, left),
            strict=True,
        )
    )
    cut = _looked_up(batch, 2, rows.clamp(0, batch.shape[2] - 1))
    cut = _looked_up(cut, 3, columns.clamp(0, batch.shape[3] - 1))
    inside = (
        _exist(rows, batch.shape[2])[:, None, :, None]
        & _exist(columns, batch.shape[3])[:, None, None, :]
    )
    return torch.where(inside, cut, light(parameters.fill, batch.device))


def random_resized_crop(batch: Tensor, parameters: RandomResizedCrop, draws: Draws) -> Tensor:
    """Cut out a window that `models.augmentations.boxes.drawn` drew, and resize it.

    Where none of its attempts fits: as much of the centre as the ratio allows. Resizing weights
    pixels by a triangle that is widened where the window shrinks, as PyTorch's ``interpolate``
    does with ``mode="bilinear", antialias=True`` for the window alone.
    """
    height, width = batch.shape[2:]
    narrowest, widest = parameters.ratio
    shape = boxes.Shape(
        height=height, width=width, scale=parameters.scale, ratio=(1 / widest, 1 / narrowest)
    )
    window, fits = boxes.drawn(draws.words(boxes.WORDS), shape)
    middle_height = min(height, max(1, round(width / narrowest)))
    middle_width = min(width, max(1, round(height * widest)))
    for axis, start, length, middle, size in (
        (2, window.top, window.height, middle_height, height_and_width(parameters.size)[0]),
        (3, window.left, window.width, middle_width, height_and_width(parameters.size)[1]),
    ):
        start = torch.where(fits, start, (batch.shape[axis] - middle) // 2)
        batch = _resized(batch, axis, start, torch.where(fits, length, middle), size)
    return batch


def random_horizontal_flip(batch: Tensor, parameters: RandomHorizontalFlip, draws: Draws) -> Tensor:
    """Swap left and right with probability p."""
    return _flipped(batch, 3, parameters.p, draws)


def random_vertical_flip(batch: Tensor, parameters: RandomVerticalFlip, draws: Draws) -> Tensor:
    """Swap top and bottom with probability p."""
    return _flipped(batch, 2, parameters.p, draws)


def random_rotation(batch: Tensor, parameters: RandomRotation, draws: Draws) -> Tensor:
    """Rotate about the centre by a uniform angle; each pixel is the nearest one of the image."""
    height, width = batch.shape[2:]
    table = quantiles.directions(*parameters.interval, batch.device)
    directions = quantiles.picked(table, draws.words(1)[:, 0])
    cosine, sine = directions[:, :, None, None].unbind(1)
    down, right = (
        torch.arange(size, dtype=torch.float64, device=batch.device) - (size - 1) / 2
        for size in (height, width)
    )
    # where each pixel comes from: rotated back, that is clockwise, with the y axis pointing down
    columns = (cosine * right - sine * down[:, None] + width / 2).floor().to(torch.int64)
    rows = (sine * right + cosine * down[:, None] + height / 2).floor().to(torch.int64)
    inside = _exist(rows, height) & _exist(columns, width)
    places = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    turned = _looked_up(batch.flatten(2), 2, places.flatten(1)).reshape(batch.shape)
    return torch.where(inside[:, None], turned, light(parameters.fill, batch.device))


def light(given: float | tuple[float, ...], device: torch.device) -> Tensor:
    """One number, or one for each channel, so that it broadcasts with ``(N, C, H, W)``."""
    return torch.tensor(given, dtype=torch.float32, device=device).reshape(-1, 1, 1)


def _flipped(batch: Tensor, axis: int, p: float, draws: Draws) -> Tensor:
    swap = chosen(draws.words(1), p)[:, :, None, None]
    return torch.where(swap, batch.flip(axis), batch)


def _looked_up(batch: Tensor, axis: int, places: Tensor) -> Tensor:
    """What stands along one axis at the places, int64 ``(N, M)``, that each example names."""
    wide = [1] * batch.dim()
    wide[0], wide[axis] = places.shape
    shape = list(batch.shape)
    shape[axis] = places.shape[1]
    return batch.gather(axis, places.reshape(wide).expand(shape))


def _exist(places: Tensor, size: int) -> Tensor:
    return (places >= 0) & (places < size)


def _resized(batch: Tensor, axis: int, start: Tensor, length: Tensor, size: int) -> Tensor:
    """Resize along one axis the part of each example that starts and is as long as said.

    Args:
        batch: float32 ``(N, C, H, W)``.
        axis: 2 or 3.
        start: int64 ``(N,)``.
        length: int64 ``(N,)``, at least 1.
        size: what the axis measures afterwards.
    """
    start, length = start[:, None], length[:, None]
    # tensors on the device, for CUDA multiplies by the rounded inverse of a Python number
    step = length / torch.full_like(length, size, dtype=torch.float64)
    reach = step.clamp(min=1)
    middles = (torch.arange(size, device=batch.device) + 0.5) * step
    first = (middles - reach + 0.5).floor().clamp(min=0).to(torch.int64)
    taps = []
    for number in range(max(2, -(-2 * batch.shape[axis] // size))):
        place = first + number
        weight = (1 - (place + 0.5 - middles).abs() / reach).clamp(min=0)
        taps.append((place, torch.where(place < length, weight, 0)))
    total = taps[0][1]
    for _, weight in taps[1:]:
        total = total + weight
    wide = (len(batch), 1) + ((size, 1) if axis == 2 else (1, size))
    shape = list(batch.shape)
    shape[axis] = size
    resized = batch.new_zeros(shape)
    for place, weight in taps:
        pixels = _looked_up(batch, axis, start + torch.minimum(place, length - 1))
        resized = resized + pixels * (weight / total).to(torch.float32).reshape(wide)
    return resized
