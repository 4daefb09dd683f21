"""What augmentations refuse: examples that they cannot take, and parameters in disorder."""

from __future__ import annotations

from typing import Any

from models.spec import SpecError
from models.transforms import ExampleType, refuse_tokens


def check_dtype(name: str, example: ExampleType) -> ExampleType:
    """The example, if augmentations compute with its values; SpecError says what would be right."""
    refuse_tokens(name, example)
    if example.dtype not in ("uint8", "float32"):
        raise SpecError(
            f"{name} takes uint8 or float32, got {example.dtype}: augmentations come before the "
            "transforms, so register the dataset with examples of one of the two"
        )
    return example


def check_image(name: str, example: ExampleType) -> ExampleType:
    """The example, if it is an image of such values; SpecError says what would be right."""
    refuse_tokens(name, example)
    if len(example.shape) != 3:
        raise SpecError(
            f"{name} takes images of three axes (channels, height, width), got shape "
            f"{list(example.shape)}"
        )
    return check_dtype(name, example)


def check_light(name: str, light: float | tuple[float, ...], example: ExampleType) -> None:
    """Raise SpecError unless ``light`` fits the channels and is a fraction of their full scale."""
    numbers = light if isinstance(light, tuple) else (light,)
    channels = example.shape[0] if example.shape else None
    if channels is not None and len(numbers) not in (1, channels):
        raise SpecError(
            f"{name} has {len(numbers)} entries, but the images have {channels} channels",
            pointer=f"/{name}",
        )
    outside = [number for number in numbers if not 0 <= number <= 1]
    if example.dtype == "uint8" and outside:
        raise SpecError(
            f"{name} is a fraction of full scale, between 0 and 1 for uint8, got {outside[0]:g}; "
            "full scale is 255, so that level 128 is 0.502",
            pointer=f"/{name}",
        )


def check_ascending(parameters: Any, *names: str) -> None:
    """Raise SpecError if one of these parameters is a pair in the wrong order."""
    for name in names:
        given = getattr(parameters, name)
        if isinstance(given, tuple) and given[0] > given[1]:
            raise SpecError(
                f"{name} is [lowest, highest], got {list(given)}: swap the two", pointer=f"/{name}"
            )
