"""The tensors of `models.architectures.vit`, named and shaped as torchvision's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from models.layouts import OpenShape, Shape, Shown, TensorSpec
from models.layouts.images import image_channels, names_of_head
from models.parameters import parameter
from models.spec import SpecError

_LAYER = "encoder.layers.encoder_layer_{}"

# The published ones have heads of 64 features, and from the width 1024 on 16 wider ones.
_HEAD_WIDTH, _MOST_HEADS = 64, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ViTParameters:
    """Hyperparameters of the vision transformer; the defaults are those of ViT-B/16."""

    patch_size: int = parameter(
        summary="Height and width of the squares that an image is cut into, in pixels; an upload's "
        "shapes show it.",
        default=16,
        type="integer",
        minimum=1,
        maximum=1024,
    )
    width: int = parameter(
        summary="Features of each place; an upload's shapes show it.",
        default=768,
        type="integer",
        minimum=1,
        maximum=16384,
    )
    depth: int = parameter(
        summary="Number of layers; an upload's names show it.",
        default=12,
        type="integer",
        minimum=1,
        maximum=256,
    )
    heads: int | None = parameter(
        summary="Attention heads of each layer, a divisor of the width; weights do not show it. "
        f"null: width // {_HEAD_WIDTH}, at least 1 and at most {_MOST_HEADS}, as in the published "
        "networks.",
        default=None,
        type=["integer", "null"],
        minimum=1,
        maximum=16384,
    )
    mlp_width: int = parameter(
        summary="Hidden features of each layer's perceptron; an upload's shapes show it.",
        default=3072,
        type="integer",
        minimum=1,
        maximum=65536,
    )
    dropout: float = parameter(
        summary="Probability of zeroing a feature behind the positions, behind the dense layers "
        "and before the head; no effect on evaluation.",
        default=0.0,
        type="number",
        minimum=0,
        exclusiveMaximum=1,
    )


def heads_of(parameters: ViTParameters) -> int:
    """How many heads attention has.

    Raises:
        SpecError: that number does not divide the width.
    """
    heads, width = parameters.heads, parameters.width
    if heads is None:
        heads = min(max(1, width // _HEAD_WIDTH), _MOST_HEADS)
        if width % heads:
            raise SpecError(
                f"weights do not show the number of heads, and the {heads} that are usual for "
                f"width {width} do not divide it: state heads",
                pointer="/heads",
            )
    if width % heads:
        raise SpecError(f"heads is {heads}, which does not divide width {width}", pointer="/heads")
    return heads


def tensors(
    parameters: ViTParameters, input_shape: OpenShape, outputs: int
) -> dict[str, TensorSpec]:
    """See `models.layouts.Layout.tensors`."""
    heads_of(parameters)
    width, patch_size = parameters.width, parameters.patch_size
    channels = image_channels("vit", input_shape)
    side, mlp_width = _side(patch_size, input_shape), parameters.mlp_width
    found = {
        "class_token": TensorSpec(shape=(1, 1, width)),
        "conv_proj.weight": TensorSpec(shape=(width, channels, patch_size, patch_size)),
        "conv_proj.bias": TensorSpec(shape=(width,)),
        "encoder.pos_embedding": TensorSpec(shape=(1, 1 + side * side, width)),
    }
    for layer in map(_LAYER.format, range(parameters.depth)):
        found |= _biased(f"{layer}.ln_1", (width,))
        found[f"{layer}.self_attention.in_proj_weight"] = TensorSpec(shape=(3 * width, width))
        found[f"{layer}.self_attention.in_proj_bias"] = TensorSpec(shape=(3 * width,))
        found |= _biased(f"{layer}.self_attention.out_proj", (width, width))
        found |= _biased(f"{layer}.ln_2", (width,))
        found |= _biased(f"{layer}.mlp.0", (mlp_width, width))
        found |= _biased(f"{layer}.mlp.3", (width, mlp_width))
    found |= _biased("encoder.ln", (width,))
    found |= _biased("heads.head", (outputs, width))
    return found


def shown(shapes: Mapping[str, Shape]) -> Shown:
    """See `models.layouts.Layout.shown`."""
    patches = shapes.get("conv_proj.weight", ())
    positions = shapes.get("encoder.pos_embedding", ())
    perceptron = shapes.get(f"{_LAYER.format(0)}.mlp.0.weight", ())
    head = shapes.get("heads.head.weight", ())
    side = math.isqrt(max(0, positions[1] - 1)) if len(positions) == 3 else 0
    if (
        (len(patches), len(perceptron), len(head)) != (4, 2, 2)
        or patches[2] != patches[3]
        or side == 0
        or positions[1] != 1 + side * side
    ):
        raise SpecError(
            "vit needs conv_proj.weight with shape (width, channels, patch_size, patch_size), "
            "encoder.pos_embedding with shape (1, 1 + side * side, width), "
            f"{_LAYER.format(0)}.mlp.0.weight and heads.head.weight with 2 axes"
        )
    width, channels, patch_size, _ = patches
    depth = 1
    while f"{_LAYER.format(depth)}.mlp.0.weight" in shapes:
        depth += 1
    return Shown(
        parameters={
            "patch_size": patch_size,
            "width": width,
            "depth": depth,
            "mlp_width": perceptron[0],
        },
        input_shape=(channels, side * patch_size, side * patch_size),
        outputs=head[0],
    )


def _side(patch_size: int, input_shape: OpenShape) -> int:
    """How many patches stand beside each other."""
    height, width = input_shape[1:]
    if height is None or height != width:
        raise SpecError(
            "vit takes examples of three axes (channels, side, side), got shape "
            f"{list(input_shape)}: add a transform that makes squares, such as resize"
        )
    if height % patch_size or height == 0:
        raise SpecError(
            f"patch_size is {patch_size}, which does not divide the images' side {height}",
            pointer="/patch_size",
        )
    return height // patch_size


def _biased(name: str, shape: Shape) -> dict[str, TensorSpec]:
    """A linear layer or a layer normalization."""
    return {
        f"{name}.weight": TensorSpec(shape=shape),
        f"{name}.bias": TensorSpec(shape=shape[:1]),
    }


_OLDER_NAMES = re.compile(r"(encoder\.layers\.encoder_layer_\d{1,4}\.mlp)\.linear_([12])\.\w+")


def other_names(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """See `models.entries.ArchitectureEntry.renames`.

    Files that torchvision 0.12 wrote name two layers otherwise, and the weights that it publishes
    are such: its own module renames them as it loads. Of fine-tuned networks the head is another.
    """
    found = [match for name in shapes if (match := _OLDER_NAMES.fullmatch(name))]
    places = {"1": "0", "2": "3"}
    names = {f"{one[1]}.linear_{one[2]}": f"{one[1]}.{places[one[2]]}" for one in found}
    if "heads.weight" in shapes:
        return {**names, "heads": "heads.head"}
    within = names_of_head(shapes, "heads.head")
    return {**names, **(within or {one: "heads.head" for one in names_of_head(shapes, "heads")})}
