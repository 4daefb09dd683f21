"""The geometry of images, one image at a time: NumPy, and Pillow for all that computes pixels.

Pillow alone, because other libraries round and sample differently: torch's antialiased resize of
uint8 differs from Pillow's by one level, and which of the two ran must not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from models.catalog import TRANSFORMS
from models.transforms import Transform
from models.transforms.images import CenterCrop, Grey, Pad, Resize

Array = np.ndarray[Any, Any]

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


def resize(image: Array, parameters: Resize) -> Array:
    """Resample to another size.

    Args:
        image: uint8 ``(C, H, W)``, C is 1 or 3.
        parameters: with ``antialias`` this is ``Image.resize``, whose filters get wider as the
            image gets smaller (its cubic has a = -0.5). Without it this is ``Image.transform`` with
            ``EXTENT``, which samples at the same points with filters of one width (its cubic has
            a = -1) and rounds down.

    Returns:
        uint8 ``(C, H2, W2)``.
    """
    _, height, width = image.shape
    height_2, width_2 = parameters.resized(height, width)
    wanted, resample = (width_2, height_2), _FILTERS[parameters.interpolation]
    if parameters.antialias or resample is Image.Resampling.NEAREST:
        return _array(_picture(image).resize(wanted, resample))
    extent = (0, 0, width, height)
    found = _picture(image).transform(wanted, Image.Transform.EXTENT, extent, resample)
    return _array(found)


def center_crop(image: Array, parameters: CenterCrop) -> Array:
    """Cut out the middle, as torchvision does: of two middles the one that ``round`` chooses.

    Args:
        image: uint8 or float32 ``(C, H, W)``; where it is smaller, zeros are put around it first.
        parameters: the size.

    Returns:
        ``(C, H2, W2)``, same dtype.
    """
    height, width = parameters.cropped
    missing_y, missing_x = max(0, height - image.shape[1]), max(0, width - image.shape[2])
    sides = (missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2)
    image = _bordered(image, sides, 0.0)
    top, left = round((image.shape[1] - height) / 2), round((image.shape[2] - width) / 2)
    return image[:, top : top + height, left : left + width]


def pad(image: Array, parameters: Pad) -> Array:
    """Put a border around an image: uint8 or float32 ``(C, H, W)``, same dtype."""
    parameters.padded(*image.shape[1:])
    return _bordered(image, parameters.sides, parameters.fill)


def grey(image: Array, parameters: Grey) -> Array:
    """Make grey of colour by ITU-R 601-2, L = 0.299 R + 0.587 G + 0.114 B, rounded.

    Args:
        image: uint8 ``(C, H, W)``, C is 1 (already grey) or 3.
        parameters: how many channels come out, all of them equal.

    Returns:
        uint8 ``(channels, H, W)``.
    """
    if len(image) == 3:
        image = _array(_picture(image).convert("L"))
    return np.repeat(image, parameters.channels, axis=0)


def apply(transforms: Sequence[Transform], image: Array) -> Array:
    """Apply the geometric part of a chain to one image.

    Args:
        transforms: in order; `models.chains.output_of` said that they fit the images.
        image: uint8 or float32 ``(C, H, W)``; it is not changed.

    Returns:
        C-contiguous, same dtype, of the shape that `models.chains.output_of` said.

    Raises:
        SpecError: it would become too large.
    """
    for transform in transforms:
        image = _function(type(transform))(image, transform)
    return np.ascontiguousarray(image)


@cache
def _function(kind: type[Any]) -> Callable[[Array, Any], Array]:
    entries = (TRANSFORMS[name] for name in TRANSFORMS)
    (found,) = [entry.load() for entry in entries if entry.parameters is kind]
    return found  # type: ignore[no-any-return]


def _bordered(image: Array, sides: tuple[int, int, int, int], fill: float) -> Array:
    left, top, right, bottom = sides
    border = ((0, 0), (top, bottom), (left, right))
    return np.pad(image, border, constant_values=image.dtype.type(fill))


def _picture(image: Array) -> Image.Image:
    """As Pillow has it."""
    return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def _array(picture: Image.Image) -> Array:
    """As NumPy has it: ``(C, H, W)``."""
    values = np.asarray(picture)
    return values[np.newaxis] if values.ndim == 2 else values.transpose(2, 0, 1)
