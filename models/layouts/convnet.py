"""The tensors of `models.architectures.convnet.ConvNet`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from models.layouts import OpenShape, Shape, Shown, TensorSpec
from models.layouts.images import dropout_before_head, image_channels
from models.layouts.norms import batch_norm_tensors
from models.parameters import parameter
from models.spec import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvNetParameters:
    """Hyperparameters of the small convolutional network."""

    widths: tuple[int, ...] = parameter(
        summary="Channels of each block; an upload's shapes show them.",
        default=(32, 64, 128),
        type="array",
        items={"type": "integer", "minimum": 1, "maximum": 8192},
        minItems=1,
        maxItems=16,
    )
    dropout: float = dropout_before_head(0.0)


def tensors(
    parameters: ConvNetParameters, input_shape: OpenShape, outputs: int
) -> dict[str, TensorSpec]:
    """See `models.layouts.Layout.tensors`."""
    found = {}
    channels = [image_channels("convnet", input_shape), *parameters.widths]
    for index, (before, after) in enumerate(itertools.pairwise(channels)):
        found[f"convs.{index}.weight"] = TensorSpec(shape=(after, before, 3, 3))
        found |= batch_norm_tensors(f"norms.{index}", after)
    found["head.weight"] = TensorSpec(shape=(outputs, channels[-1]))
    found["head.bias"] = TensorSpec(shape=(outputs,))
    return found


def shown(shapes: Mapping[str, Shape]) -> Shown:
    """See `models.layouts.Layout.shown`."""
    widths: list[int] = []
    channels = None
    while len(shape := shapes.get(f"convs.{len(widths)}.weight", ())) == 4:
        channels = channels if widths else shape[1]
        widths.append(shape[0])
    head = shapes.get("head.weight", ())
    if channels is None or len(head) != 2:
        raise SpecError("convnet needs convs.0.weight with 4 axes and head.weight with 2")
    return Shown(parameters={"widths": widths}, input_shape=(channels, None, None), outputs=head[0])
