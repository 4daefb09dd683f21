"""The tensors of `models.architectures.mobilenet`, named and shaped as torchvision's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.layouts import OpenShape, Shape, Shown, TensorSpec
from models.layouts.images import dropout_before_head, image_channels, names_of_head
from models.layouts.norms import batch_norm_tensors
from models.spec import SpecError

STEM_WIDTH = 16
LAST_WIDTH = 576  # of the last convolution
HEAD_WIDTH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileNetParameters:
    """Hyperparameters of MobileNetV3-Small."""

    dropout: float = dropout_before_head(0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One inverted residual block.

    Attributes:
        before: channels that it takes.
        kernel: of its depthwise convolution.
        width: channels of its depthwise convolution.
        after: channels that it gives.
        squeezes: whether it weighs its channels by squeeze and excitation.
        hard_swish: whether its nonlinearity is hard swish, else ReLU.
        stride: of its depthwise convolution.
    """

    before: int
    kernel: int
    width: int
    after: int
    squeezes: bool
    hard_swish: bool
    stride: int

    @property
    def expands(self) -> bool:
        """Whether a 1x1 convolution makes the width of the channels it takes."""
        return self.before != self.width

    @property
    def residual(self) -> bool:
        """Whether its input is added to what it gives."""
        return self.stride == 1 and self.before == self.after

    @property
    def squeezed(self) -> int:
        """Channels in the middle of squeeze and excitation.

        A quarter of the width as a multiple of 8, the nearest one that is not more than a tenth
        below it.
        """
        quarter = self.width // 4
        rounded = max(8, (quarter + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * quarter else rounded + 8


# Table 2 of Howard et al., "Searching for MobileNetV3".
_TABLE = (
    # kernel, width, after, squeezes, hard swish, stride
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


def blocks() -> list[Block]:
    """The blocks in order; the first is ``features.1``."""
    before, found = STEM_WIDTH, []
    for kernel, width, after, squeezes, hard_swish, stride in _TABLE:
        block = Block(
            before=before,
            kernel=kernel,
            width=width,
            after=after,
            squeezes=squeezes,
            hard_swish=hard_swish,
            stride=stride,
        )
        found.append(block)
        before = after
    return found


def tensors(
    parameters: MobileNetParameters, input_shape: OpenShape, outputs: int
) -> dict[str, TensorSpec]:
    """See `models.layouts.Layout.tensors`."""
    channels = image_channels("mobilenet_v3_small", input_shape)
    found = _convolution("features.0", (STEM_WIDTH, channels, 3, 3))
    after = STEM_WIDTH
    for index, block in enumerate(blocks(), 1):
        parts = []
        if block.expands:
            parts.append((block.width, block.before, 1, 1))
        parts.append((block.width, 1, block.kernel, block.kernel))
        for part, shape in enumerate(parts):
            found |= _convolution(f"features.{index}.block.{part}", shape)
        if block.squeezes:
            name = f"features.{index}.block.{len(parts)}"
            found |= _biased(f"{name}.fc1", (block.squeezed, block.width, 1, 1))
            found |= _biased(f"{name}.fc2", (block.width, block.squeezed, 1, 1))
        name = f"features.{index}.block.{len(parts) + block.squeezes}"
        found |= _convolution(name, (block.after, block.width, 1, 1))
        after = block.after
    found |= _convolution(f"features.{len(_TABLE) + 1}", (LAST_WIDTH, after, 1, 1))
    found |= _biased("classifier.0", (HEAD_WIDTH, LAST_WIDTH))
    found |= _biased("classifier.3", (outputs, HEAD_WIDTH))
    return found


def shown(shapes: Mapping[str, Shape]) -> Shown:
    """See `models.layouts.Layout.shown`."""
    stem, head = shapes.get("features.0.0.weight", ()), shapes.get("classifier.3.weight", ())
    if len(stem) != 4 or len(head) != 2:
        raise SpecError(
            "mobilenet_v3_small needs features.0.0.weight with 4 axes and classifier.3.weight "
            "with 2 (outputs, features)"
        )
    return Shown(parameters={}, input_shape=(stem[1], None, None), outputs=head[0])


def _convolution(name: str, shape: Shape) -> dict[str, TensorSpec]:
    """One without a bias, and the batch normalization behind it."""
    return {
        f"{name}.0.weight": TensorSpec(shape=shape),
        **batch_norm_tensors(f"{name}.1", shape[0]),
    }


def _biased(name: str, shape: Shape) -> dict[str, TensorSpec]:
    """A linear layer, or a convolution with a bias."""
    return {
        f"{name}.weight": TensorSpec(shape=shape),
        f"{name}.bias": TensorSpec(shape=shape[:1]),
    }


def other_names(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """See `models.entries.ArchitectureEntry.renames`."""
    return names_of_head(shapes, "classifier.3")
