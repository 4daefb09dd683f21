"""The geometry of images: parameters, and what they make of an example's shape; no Pillow here.

An image is ``(C, H, W)``. The work is done by `models.transforms.geometric` when a dataset is
prepared. Every length is bounded, so that no request makes more than `MAX_PIXELS` of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from models.layouts import OpenShape
from models.parameters import parameter
from models.spec import SpecError
from models.transforms import ExampleType, refuse_tokens

MAX_LENGTH = 8192
MAX_PIXELS = MAX_LENGTH**2

_LENGTH = {"type": "integer", "minimum": 1, "maximum": MAX_LENGTH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """Resample to another size, as Pillow does."""

    on_host: ClassVar[bool] = True

    size: int | tuple[int, int] = parameter(
        summary=(
            "[height, width]; or one number for the shorter side, with which the longer one keeps "
            "its ratio, rounded down."
        ),
        type=["integer", "array"],
        minimum=1,
        maximum=MAX_LENGTH,
        items=_LENGTH,
        minItems=2,
        maxItems=2,
    )
    interpolation: str = parameter(
        summary="How values between pixels are made.",
        default="bilinear",
        type="string",
        enum=["bilinear", "bicubic", "nearest"],
    )
    antialias: bool = parameter(
        summary=(
            "Average over all pixels that become one, as Pillow's resize does. Without it bilinear "
            "looks at the nearest 4 pixels and bicubic at 16, however much smaller the image gets. "
            "Nearest looks at one, either way."
        ),
        default=True,
        type="boolean",
    )

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what becomes of an image; SpecError if that is too large."""
        if not isinstance(self.size, int):
            return self.size
        # torchvision's formula, with its rounding: https://docs.pytorch.org/vision/stable/_modules
        shorter, longer = sorted((height, width))
        other = int(self.size * longer / shorter)
        size = (self.size, other) if height <= width else (other, self.size)
        return _bounded("resize", *size)

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example; SpecError where it cannot be taken."""
        channels, height, width = _image(example, "resize", dtypes=("uint8",))
        if channels not in (1, 3):
            raise SpecError(f"resize takes images of 1 or 3 channels, got {channels}")
        if not isinstance(self.size, int):
            return ExampleType(shape=(channels, *self.size), dtype=example.dtype)
        if height is None or width is None:
            return ExampleType(shape=(channels, None, None), dtype=example.dtype)
        return ExampleType(shape=(channels, *self.resized(height, width)), dtype=example.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class CenterCrop:
    """Cut out the middle; an image that is smaller gets zeros around it."""

    on_host: ClassVar[bool] = True

    size: int | tuple[int, int] = parameter(
        summary="[height, width]; or one number for both.",
        type=["integer", "array"],
        minimum=1,
        maximum=MAX_LENGTH,
        items=_LENGTH,
        minItems=2,
        maxItems=2,
    )

    @property
    def cropped(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example; SpecError where it cannot be taken."""
        channels, _, _ = _image(example, "center_crop", dtypes=("uint8", "float32"))
        return ExampleType(shape=(channels, *self.cropped), dtype=example.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad:
    """Put a border around the image."""

    on_host: ClassVar[bool] = True

    padding: int | tuple[int, ...] = parameter(
        summary=(
            "Pixels to add: one number for all sides, [left and right, top and bottom], or "
            "[left, top, right, bottom]."
        ),
        type=["integer", "array"],
        minimum=0,
        maximum=MAX_LENGTH,
        items={"type": "integer", "minimum": 0, "maximum": MAX_LENGTH},
        minItems=1,
        maxItems=4,
    )
    fill: float = parameter(
        summary="Their value; for uint8 a whole number from 0 to 255.",
        default=0.0,
        type="number",
        minimum=-3.4e38,
        maximum=3.4e38,
    )

    def __post_init__(self) -> None:
        if not isinstance(self.padding, int) and len(self.padding) == 3:
            raise SpecError("padding has 1, 2 or 4 entries, got 3", pointer="/padding")

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom."""
        if isinstance(self.padding, int):
            return (self.padding,) * 4
        left, top, right, bottom = (*self.padding * (4 // len(self.padding)),)
        return left, top, right, bottom

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what becomes of an image; SpecError if that is too large."""
        left, top, right, bottom = self.sides
        return _bounded("pad", height + top + bottom, width + left + right)

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example; SpecError where it cannot be taken."""
        channels, height, width = _image(example, "pad", dtypes=("uint8", "float32"))
        if example.dtype == "uint8" and self.fill not in range(256):
            raise SpecError(
                f"fill must be a whole number from 0 to 255 for uint8, got {self.fill:g}",
                pointer="/fill",
            )
        if height is None or width is None:
            left, top, right, bottom = self.sides
            return ExampleType(
                shape=(
                    channels,
                    height and height + top + bottom,
                    width and width + left + right,
                ),
                dtype=example.dtype,
            )
        return ExampleType(shape=(channels, *self.padded(height, width)), dtype=example.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grey:
    """Make grey of colour."""

    on_host: ClassVar[bool] = True

    channels: int = parameter(summary="1, or 3 equal ones.", default=1, type="integer", enum=[1, 3])

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example; SpecError where it cannot be taken."""
        channels, height, width = _image(example, "grey", dtypes=("uint8",))
        if channels not in (1, 3):
            raise SpecError(f"grey takes images of 1 or 3 channels, got {channels}")
        return ExampleType(shape=(self.channels, height, width), dtype=example.dtype)


def _image(example: ExampleType, name: str, *, dtypes: tuple[str, ...]) -> OpenShape:
    """The shape of an example that is an image; SpecError if it is none or has another dtype."""
    refuse_tokens(name, example)
    known = " or ".join(dtypes)
    if len(example.shape) != 3:
        raise SpecError(
            f"{name} takes images, {known} of shape (channels, height, width); an example has the "
            f"shape {list(example.shape)}"
        )
    if example.dtype not in dtypes:
        advice = "; save the images as uint8, 0 to 255" if dtypes == ("uint8",) else ""
        raise SpecError(f"{name} takes {known}, got {example.dtype}{advice}")
    return example.shape


def _bounded(name: str, height: int, width: int) -> tuple[int, int]:
    if height * width > MAX_PIXELS:
        raise SpecError(
            f"{name} would make an image of {height} x {width} (height x width) pixels; at most "
            f"{MAX_PIXELS} are made"
        )
    return height, width
