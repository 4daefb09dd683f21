"""The deterministic transforms: the only ones that a dataset or an evaluation can name.

Each is a frozen dataclass of its parameters that also says, without torch, what it makes of an
example's type, so that a mismatch with a network is found before a job exists.

A chain runs in two places. What a table or the geometry of an image needs comes first and is done
once, when the dataset is prepared (`tables` and `tabular`, `images` and `geometric`: NumPy and
Pillow, no torch). The arithmetic after it (declared here, computed in `elementwise`) is done on
each batch, on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

from models.layouts import OpenShape
from models.parameters import Parameters, parameter
from models.spec import SpecError

# Beyond these float32 overflows, or rounds to zero, in what comes after.
LARGEST, SMALLEST = 1e30, 1e-30


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table, as far as transforms are concerned.

    Attributes:
        text: it holds texts, and not numbers.
        missing: some of its cells are empty.
    """

    name: str
    text: bool = False
    missing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleType:
    """What one example is.

    Attributes:
        shape: without the batch axis; None for a length that differs between examples.
        dtype: numpy's name.
        columns: of a table, whose shape is then ``(len(columns),)`` and whose dtype is float64;
            None for everything else.
        vocabulary: of a sequence of token ids, 1 + the largest id of the dataset; its dtype is
            int32, its shape ``(length of the longest,)``, and -1 stands behind a shorter one. None
            for everything else.
    """

    shape: OpenShape
    dtype: str
    columns: tuple[Column, ...] | None = None
    vocabulary: int | None = None

    @property
    def size_bytes(self) -> int:
        """What an example takes whose shape has no open length."""
        bits = int(self.dtype.lstrip("abcdefghijklmnopqrstuvwxyz"))
        return math.prod(length or 0 for length in self.shape) * bits // 8

    def prepared(self) -> ExampleType:
        """The type of an example once its dataset is prepared: a table becomes float32 numbers.

        Raises:
            SpecError: there are texts or missing cells left, or examples differ in shape.
        """
        if self.columns is not None:
            for one in self.columns:
                if one.text or one.missing:
                    what = "holds text" if one.text else "has missing cells"
                    cure = "one_hot with its categories" if one.text else "impute with its value"
                    raise SpecError(
                        f"column {one.name[:100]!r} {what}: add the transform {cure}, or leave it "
                        "out of features"
                    )
            return ExampleType(shape=self.shape, dtype="float32")
        if None in self.shape:
            raise SpecError("the images differ in size: add the transform resize")
        return self


def refuse_tokens(name: str, example: ExampleType) -> None:
    """Raise SpecError if what ``name`` would compute with are token ids."""
    if example.vocabulary is not None:
        raise SpecError(
            f"{name} computes with numbers, and these examples are sequences of token ids, which "
            "are names: leave it out"
        )


class Transform(Parameters, Protocol):
    """What every transform offers.

    Attributes:
        on_host: it belongs to the part of a chain that is done when the dataset is prepared.
    """

    on_host: ClassVar[bool]

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example; SpecError where it cannot be taken."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToFloat:
    """Convert to float32 and scale."""

    on_host: ClassVar[bool] = False

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
        """What comes out of such an example; SpecError where it cannot be taken."""
        refuse_tokens("to_float", example)
        return ExampleType(shape=example.shape, dtype="float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalize:
    """Subtract a mean and divide by a deviation, one for all or one an entry of the first axis."""

    on_host: ClassVar[bool] = False

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
        refuse_tokens("normalize", example)
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

    on_host: ClassVar[bool] = False

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example; SpecError where it cannot be taken."""
        refuse_tokens("flatten", example)
        lengths = [length for length in example.shape if length is not None]
        return ExampleType(shape=(math.prod(lengths),), dtype=example.dtype)


_LARGEST = 3.4028234663852886e38  # the largest finite float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Replace what lies beyond a bound by the bound."""

    on_host: ClassVar[bool] = False

    minimum: float | None = parameter(
        summary="Smaller values become this; null leaves them.",
        default=None,
        type=["number", "null"],
        minimum=-_LARGEST,
        maximum=_LARGEST,
    )
    maximum: float | None = parameter(
        summary="Larger values become this; null leaves them.",
        default=None,
        type=["number", "null"],
        minimum=-_LARGEST,
        maximum=_LARGEST,
    )

    def __post_init__(self) -> None:
        if self.minimum is None and self.maximum is None:
            raise SpecError("clip needs minimum, maximum or both", pointer="/minimum")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise SpecError(
                f"maximum must be at least minimum ({self.minimum:g}), got {self.maximum:g}",
                pointer="/maximum",
            )

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example; SpecError where it cannot be taken."""
        refuse_tokens("clip", example)
        if example.dtype != "float32":
            raise SpecError(f"clip takes float32, got {example.dtype}: put to_float before it")
        return example
