"""The augmentations that change values where they stand: colours, noise and erasing.

Each takes float32, its parameters and the `Draws` of its position, and gives float32 of the same
shape, by steps that IEEE 754 rounds exactly (see `models.augmentations.geometry`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from models.augmentations import ColorJitter, GaussianNoise, RandomErasing, boxes, quantiles
from models.augmentations.draws import Draws, chosen, fractions, upper
from models.augmentations.geometry import light


def color_jitter(batch: Tensor, parameters: ColorJitter, draws: Draws) -> Tensor:
    """Change the colours of images, ``(N, 1 or 3, H, W)``, in a random order for each.

    Every change is torchvision's: a factor is uniform in its interval, and after each change values
    are cut off at 0 and 1.
    """
    words = draws.words(2 * len(_ADJUSTMENTS))
    factors, keys = {}, []
    for number, name in enumerate(_ADJUSTMENTS):
        if name in parameters.intervals:
            lowest, highest = parameters.intervals[name]
            share = fractions(words[:, 2 * number])
            factor = (lowest + share * (highest - lowest)).to(torch.float32)
            factors[name] = factor[:, None, None, None]
            keys.append(words[:, 2 * number + 1])
    if not factors:
        return batch
    batch = batch.clamp(0, 1)
    order = torch.stack(keys, dim=1).argsort(dim=1, stable=True)
    for turn in order.unbind(1):
        for number, (name, factor) in enumerate(factors.items()):
            rows = (turn == number).nonzero()[:, 0]
            changed = _ADJUSTMENTS[name](batch[rows], factor[rows]).clamp(0, 1)
            batch.index_copy_(0, rows, changed)
    return batch


def gaussian_noise(batch: Tensor, parameters: GaussianNoise, draws: Draws) -> Tensor:
    """Add to each value, with probability p for the example, a normal number times std."""
    size = math.prod(batch.shape[1:])
    bits = draws.bits(1 + (size + 1) // 2)
    noise = _normal(bits[:, 1:])[:, :size].reshape(batch.shape) * parameters.std
    change = chosen(upper(bits[:, 0]), parameters.p)
    return torch.where(change.reshape(-1, *[1] * (batch.dim() - 1)), batch + noise, batch)


def random_erasing(batch: Tensor, parameters: RandomErasing, draws: Draws) -> Tensor:
    """Overwrite a rectangle of images, ``(N, C, H, W)``; nothing where none fits in ten attempts.

    torchvision wants each side smaller than the image's; here it may be as large.
    """
    height, width = batch.shape[2:]
    shape = boxes.Shape(height=height, width=width, scale=parameters.scale, ratio=parameters.ratio)
    words = draws.words(1 + boxes.WORDS)
    box, fits = boxes.drawn(words[:, 1:], shape)
    erased = (fits & chosen(words[:, 0], parameters.p))[:, None, None, None]
    value = light(parameters.value, batch.device)
    return torch.where(erased & box.mask(height, width), value, batch)


def _normal(bits: Tensor) -> Tensor:
    """Two standard normal numbers from 64 random bits: float32 ``(N, 2 * M)`` from ``(N, M)``."""
    table = quantiles.normal(bits.device)
    a, b, c, d = (table[bits >> by & 0xFFFF] for by in (0, 16, 32, 48))
    return torch.cat([a + b, c + d], dim=1)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (red * 0.299 + green * 0.587 + blue * 0.114)[:, None]


def _mean(images: Tensor) -> Tensor:
    """The mean of values between 0 and 1, float32 ``(N, 1, 1, 1)``.

    Of whole numbers, whose sum is the same in any order: how a sum of floats is split up depends
    on the batch, the threads and the device.
    """
    total = (images * 2.0**32).round().to(torch.int64).sum(dim=(1, 2, 3), keepdim=True)
    size = torch.full_like(total, math.prod(images.shape[1:]), dtype=torch.float64)
    return (total.to(torch.float64) * 2.0**-32 / size).to(torch.float32)


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return images * factor


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    return images * factor + _mean(_grey(images)) * (1 - factor)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return images * factor + _grey(images) * (1 - factor)


def _hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue of hue, saturation and value (HSV) by a share of the circle."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    divisor = torch.where(chroma == 0, 1, chroma)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    turned = sixths + factor[:, 0] * 6
    channels = []
    for start in (5, 3, 1):
        place = turned + start
        place = place - (place * (1 / 6)).floor() * 6
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, dim=1)


_ADJUSTMENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
}
