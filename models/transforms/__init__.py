"""The deterministic transforms: the only ones that a dataset or an evaluation can name.

Each is a frozen dataclass of its parameters that also says, without torch, what it makes of an
example's shape and dtype, so that a mismatch with a network is found before a job exists. The
computation on batches stands in `models.transforms.elementwise`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from models.layouts import OpenShape
from models.parameters import parameter
from models.spec import SpecError

# Beyond these float32 overflows, or rounds to zero, in what comes after.
LARGEST, SMALLEST = 1e30, 1e-30


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleType:
    """Shape (without the batch axis) and dtype (numpy's name) of one example."""

    shape: OpenShape
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToFloat:
    """Convert to float32 and scale."""

    scale: float | None = parameter(
        summary=(
            "Each value is multiplied by it. Without it uint8 is divided by 255 and every other "
            "dtype keeps its values."
        ),
        default=None,
        type=["number", "null"],
        minimum=-LARGEST,
        maximum=LARGEST,
    )

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example."""
        return ExampleType(shape=example.shape, dtype="float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalize:
    """Subtract a mean and divide by a deviation, one for all or one an entry of the first axis."""

    mean: tuple[float, ...] = parameter(
        summary="One number, or one for each entry of the first axis (channel or column).",
        type="array",
        items={"type": "number", "minimum": -LARGEST, "maximum": LARGEST},
        minItems=1,
        maxItems=100_000,
    )
    std: tuple[float, ...] = parameter(
        summary="As many numbers as mean, each at least 1e-30.",
        type="array",
        items={"type": "number", "minimum": SMALLEST, "maximum": LARGEST},
        minItems=1,
        maxItems=100_000,
    )

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise SpecError(
                f"std must have as many entries as mean ({len(self.mean)}), got {len(self.std)}",
                pointer="/std",
            )

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example; SpecError where the numbers do not fit it."""
        if example.dtype != "float32":
            raise SpecError(f"normalize takes float32, got {example.dtype}: put to_float before it")
        first = example.shape[0] if example.shape else 1
        if len(self.mean) not in (1, first):
            raise SpecError(
                f"normalize has {len(self.mean)} means, but the first axis of an example of shape "
                f"{list(example.shape)} has {first} entries",
                pointer="/mean",
            )
        return example


@dataclass(frozen=True, slots=True, kw_only=True)
class Flatten:
    """Make one axis of all axes of an example."""

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example."""
        lengths = [length for length in example.shape if length is not None]
        return ExampleType(shape=(math.prod(lengths),), dtype=example.dtype)


Transform = ToFloat | Normalize | Flatten
