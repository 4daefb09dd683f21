"""The random augmentations: only a training can name them.

Each is a frozen dataclass of its parameters that also says, without torch, which examples it takes
and what it makes of them. Names, meanings and defaults are those of ``torchvision.transforms.v2``
where it has them; what differs is said at the class. Amounts of light (``fill``, ``value``,
``std``) are fractions of full scale, which is 255 for uint8 and 1.0 for float32. The computation on
batches stands in `models.augmentations.batches`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.augmentations.checks import (
    check_ascending,
    check_dtype,
    check_image,
    check_light,
)
from models.parameters import parameter
from models.spec import SpecError
from models.transforms import ExampleType

_LARGEST_SIDE = 8192


def _size() -> Any:
    return parameter(
        summary="Pixels of each side of what comes out, or [height, width].",
        type=["integer", "array"],
        minimum=1,
        maximum=_LARGEST_SIDE,
        items={"type": "integer", "minimum": 1, "maximum": _LARGEST_SIDE},
        minItems=2,
        maxItems=2,
    )


def _ratio(what: str, default: tuple[float, float]) -> Any:
    return _interval(f"Smallest and largest {what}.", default, minimum=0.001, maximum=1000)


def _light(what: str) -> Any:
    return parameter(
        summary=f"{what}, as a fraction of full scale: one number, or one for each channel.",
        default=0.0,
        type=["number", "array"],
        items={"type": "number"},
        minItems=1,
        maxItems=4096,
    )


def _probability(default: float) -> Any:
    return parameter(
        summary="Probability that an example is changed.",
        default=default,
        type="number",
        minimum=0,
        maximum=1,
    )


def _interval(summary: str, default: tuple[float, float], **bounds: float) -> Any:
    return parameter(
        summary=summary,
        default=default,
        type="array",
        items={"type": "number", **bounds},
        minItems=2,
        maxItems=2,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomCrop:
    """Cut out a window of fixed size at a random place, after padding on demand."""

    size: int | tuple[int, int] = _size()
    padding: int | tuple[int, ...] = parameter(
        summary=(
            "Pixels added before cutting: on every side, or [left and right, top and bottom], or "
            "[left, top, right, bottom]."
        ),
        default=0,
        type=["integer", "array"],
        minimum=0,
        maximum=_LARGEST_SIDE,
        items={"type": "integer", "minimum": 0, "maximum": _LARGEST_SIDE},
        minItems=1,
        maxItems=4,
    )
    fill: float | tuple[float, ...] = _light("Value of the pixels that padding adds")

    def __post_init__(self) -> None:
        if isinstance(self.padding, tuple) and len(self.padding) == 3:
            raise SpecError("padding has 1, 2 or 4 entries, got 3", pointer="/padding")

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Padding on the left, top, right and bottom."""
        given = (self.padding,) if isinstance(self.padding, int) else self.padding
        left, top, right, bottom = (given * 4)[:4]
        return left, top, right, bottom

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example; SpecError where the window does not fit."""
        check_image("random_crop", example)
        check_light("fill", self.fill, example)
        channels, *lengths = example.shape
        size, (left, top, right, bottom) = height_and_width(self.size), self.sides
        added = (top + bottom, left + right)
        for wanted, length, more, word in zip(size, lengths, added, ("high", "wide"), strict=True):
            if length is not None and wanted > length + more:
                raise SpecError(
                    f"random_crop cuts {wanted} pixels out of images that are {length + more} "
                    f"{word} with their padding: a smaller size or more padding would fit",
                    pointer="/size",
                )
        return ExampleType(shape=(channels, *size), dtype=example.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomResizedCrop:
    """Cut out a window of random area and aspect ratio, and resize it (bilinear, antialiased)."""

    size: int | tuple[int, int] = _size()
    scale: tuple[float, float] = _interval(
        "Smallest and largest area of the window, as a share of the image.",
        (0.08, 1.0),
        exclusiveMinimum=0,
        maximum=1,
    )
    ratio: tuple[float, float] = _ratio("width / height of the window", (3 / 4, 4 / 3))

    def __post_init__(self) -> None:
        check_ascending(self, "scale", "ratio")

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example."""
        check_image("random_resized_crop", example)
        size = height_and_width(self.size)
        return ExampleType(shape=(example.shape[0], *size), dtype=example.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomHorizontalFlip:
    """Swap left and right."""

    p: float = _probability(0.5)

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example."""
        return check_image("random_horizontal_flip", example)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomVerticalFlip:
    """Swap top and bottom."""

    p: float = _probability(0.5)

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example."""
        return check_image("random_vertical_flip", example)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomRotation:
    """Rotate about the centre by a random angle; each pixel is the nearest one of the image."""

    degrees: float | tuple[float, float] = parameter(
        summary="Angles, counter-clockwise: between -degrees and degrees, or [lowest, highest].",
        type=["number", "array"],
        minimum=0,
        maximum=360,
        items={"type": "number", "minimum": -360, "maximum": 360},
        minItems=2,
        maxItems=2,
    )
    fill: float | tuple[float, ...] = _light("Value of the pixels that lie outside the image")

    def __post_init__(self) -> None:
        check_ascending(self, "degrees")

    @property
    def interval(self) -> tuple[float, float]:
        """Lowest and highest angle in degrees."""
        return self.degrees if isinstance(self.degrees, tuple) else (-self.degrees, self.degrees)

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example."""
        check_image("random_rotation", example)
        check_light("fill", self.fill, example)
        return example


def _factor(what: str, center: float, **bounds: float) -> Any:
    lowest = "max(0, 1 - x)" if center else "-x"
    highest = "1 + x" if center else "x"
    return parameter(
        summary=f"{what}: x for a factor between {lowest} and {highest}, or [lowest, highest].",
        default=0.0,
        type=["number", "array"],
        minimum=0,
        maximum=bounds["maximum"],
        items={"type": "number", **bounds},
        minItems=2,
        maxItems=2,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue, in an order random for each example.

    Values are taken as light: outside of 0 to full scale they are cut off. Grey is ITU-R BT.601's
    0.299 R + 0.587 G + 0.114 B, of which the weights add up to 1, so that grey pixels stay as they
    are; torchvision's 0.2989 darkens them by one part in 10,000.
    """

    brightness: float | tuple[float, float] = _factor(
        "Factor on all light", 1.0, minimum=0, maximum=1000
    )
    contrast: float | tuple[float, float] = _factor(
        "Factor on the distance from the image's mean grey", 1.0, minimum=0, maximum=1000
    )
    saturation: float | tuple[float, float] = _factor(
        "Factor on the distance from the pixel's grey", 1.0, minimum=0, maximum=1000
    )
    hue: float | tuple[float, float] = _factor(
        "Shift around the circle of colours, of which 1 is a full turn",
        0.0,
        minimum=-0.5,
        maximum=0.5,
    )

    def __post_init__(self) -> None:
        check_ascending(self, "brightness", "contrast", "saturation", "hue")

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest factor by name, of those that change anything."""
        found = {}
        for name in ("brightness", "contrast", "saturation", "hue"):
            center = 0.0 if name == "hue" else 1.0
            given = getattr(self, name)
            if not isinstance(given, tuple):
                given = (max(0.0, center - given) if center else -given, center + given)
            if given != (center, center):
                found[name] = given
        return found

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example; SpecError where it has no colours."""
        check_image("color_jitter", example)
        channels = example.shape[0]
        if channels not in (1, 3, None):
            raise SpecError(
                "color_jitter takes images of 1 channel (grey) or 3 (red, green, blue), got "
                f"{channels}"
            )
        for name in ("saturation", "hue"):
            if channels == 1 and name in self.intervals:
                raise SpecError(
                    f"{name} belongs to images of 3 channels; these have 1, for which only "
                    "brightness and contrast change anything",
                    pointer=f"/{name}",
                )
        return example


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomErasing:
    """Overwrite a rectangle of random place, area and aspect ratio.

    torchvision's ``value="random"`` is left out: its normal numbers are meant for images that were
    normalized before.
    """

    p: float = _probability(0.5)
    scale: tuple[float, float] = _interval(
        "Smallest and largest area of the rectangle, as a share of the image.",
        (0.02, 0.33),
        minimum=0,
        maximum=1,
    )
    ratio: tuple[float, float] = _ratio("height / width of the rectangle", (0.3, 3.3))
    value: float | tuple[float, ...] = _light("What the rectangle is overwritten with")

    def __post_init__(self) -> None:
        check_ascending(self, "scale", "ratio")

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example."""
        check_image("random_erasing", example)
        check_light("value", self.value, example)
        return example


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianNoise:
    """Add an independent normal number to each value.

    Nothing is cut off in float32, whose values need not be light; torchvision clips by default.
    """

    std: float = parameter(
        summary="Standard deviation, as a fraction of full scale (torchvision's sigma).",
        default=0.1,
        type="number",
        minimum=0,
        maximum=1e6,
    )
    p: float = _probability(1.0)

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example."""
        return check_dtype("gaussian_noise", example)


def _alpha() -> Any:
    return parameter(
        summary="The share of an example that stays is drawn from Beta(alpha, alpha).",
        default=1.0,
        type="number",
        minimum=0.001,
        maximum=1000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MixUp:
    """Mix each example and its class probabilities with those of the next one of the batch."""

    alpha: float = _alpha()
    p: float = _probability(1.0)

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example."""
        return check_dtype("mixup", example)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutMix:
    """Paste a rectangle of the next image of the batch; mix class probabilities by its area."""

    alpha: float = _alpha()
    p: float = _probability(1.0)

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example."""
        return check_image("cutmix", example)


Mixing = MixUp | CutMix
"""Those that change targets too, and need them as class probabilities."""

Augmentation = (
    RandomCrop
    | RandomResizedCrop
    | RandomHorizontalFlip
    | RandomVerticalFlip
    | RandomRotation
    | ColorJitter
    | RandomErasing
    | GaussianNoise
    | Mixing
)


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """Both sides of a size as a request writes it."""
    return size if isinstance(size, tuple) else (size, size)
