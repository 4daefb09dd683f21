"""The tensors of `models.architectures.transformer_encoder.TransformerEncoder`.

Those of the layers have the names and shapes of ``torch.nn.TransformerEncoder``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.layouts import OpenShape, Shape, Shown, TensorSpec, TokenLimits
from models.layouts.tokens import (
    check_sequences,
    embedding_tensors,
    head_tensors,
    vocabulary_parameter,
)
from models.parameters import parameter
from models.spec import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerEncoderParameters:
    """Hyperparameters of the transformer encoder."""

    vocabulary: int = vocabulary_parameter()
    width: int = parameter(
        summary="Features of each place (torch's d_model); an upload's shapes show it.",
        default=256,
        type="integer",
        minimum=1,
        maximum=65536,
    )
    depth: int = parameter(
        summary="Number of layers (torch's num_layers); an upload's names show it.",
        default=4,
        type="integer",
        minimum=1,
        maximum=256,
    )
    heads: int = parameter(
        summary="Attention heads of each layer (torch's nhead), a divisor of the width; weights do "
        "not show it.",
        default=8,
        type="integer",
        minimum=1,
        maximum=65536,
    )
    feedforward: int = parameter(
        summary="Hidden features of each layer's perceptron (torch's dim_feedforward); an upload's "
        "shapes show it.",
        default=1024,
        type="integer",
        minimum=1,
        maximum=262_144,
    )
    max_length: int = parameter(
        summary="Number of positions, and so of a sequence's token ids at most; an upload's shapes "
        "show it.",
        default=512,
        type="integer",
        minimum=1,
        maximum=1_000_000,
    )
    activation: str = parameter(
        summary="The nonlinearity of each layer's perceptron; weights do not show it.",
        default="relu",
        type="string",
        enum=["relu", "gelu"],
    )
    norm_first: bool = parameter(
        summary="Layer normalization before attention and perceptron instead of behind the sums "
        "with their shortcuts; weights do not show it.",
        default=False,
        type="boolean",
    )
    final_norm: bool = parameter(
        summary="A layer normalization behind the last layer; an upload's names show it.",
        default=False,
        type="boolean",
    )
    dropout: float = parameter(
        summary="Probability of zeroing a feature behind the positions, within each layer and "
        "before the head; no effect on evaluation.",
        default=0.1,
        type="number",
        minimum=0,
        exclusiveMaximum=1,
    )


def tensors(
    parameters: TransformerEncoderParameters, input_shape: OpenShape, outputs: int
) -> dict[str, TensorSpec]:
    """See `models.layouts.Layout.tensors`."""
    check_sequences("transformer_encoder", input_shape)
    width, feedforward = parameters.width, parameters.feedforward
    (length,) = input_shape
    if length is not None and length > parameters.max_length:
        raise SpecError(
            f"max_length is {parameters.max_length}, and the longest sequence holds {length} token "
            "ids"
        )
    if width % parameters.heads:
        raise SpecError(
            f"heads is {parameters.heads}, which does not divide width {width}: state the number "
            "that the network has",
            pointer="/heads",
        )
    found = embedding_tensors(parameters.vocabulary, width)
    found["positions.weight"] = TensorSpec(shape=(parameters.max_length, width))
    for layer in (f"encoder.layers.{index}" for index in range(parameters.depth)):
        found[f"{layer}.self_attn.in_proj_weight"] = TensorSpec(shape=(3 * width, width))
        found[f"{layer}.self_attn.in_proj_bias"] = TensorSpec(shape=(3 * width,))
        found |= _biased(f"{layer}.self_attn.out_proj", (width, width))
        found |= _biased(f"{layer}.linear1", (feedforward, width))
        found |= _biased(f"{layer}.linear2", (width, feedforward))
        found |= _biased(f"{layer}.norm1", (width,))
        found |= _biased(f"{layer}.norm2", (width,))
    if parameters.final_norm:
        found |= _biased("encoder.norm", (width,))
    return found | head_tensors(width, outputs)


def shown(shapes: Mapping[str, Shape]) -> Shown:
    """See `models.layouts.Layout.shown`."""
    embedding, positions, perceptron, head = (
        shapes.get(f"{name}.weight", ())
        for name in ("embedding", "positions", "encoder.layers.0.linear1", "head")
    )
    if (len(embedding), len(positions), len(perceptron), len(head)) != (2, 2, 2, 2):
        raise SpecError(
            "transformer_encoder needs embedding.weight with shape (vocabulary, width), "
            "positions.weight with shape (max_length, width), encoder.layers.0.linear1.weight and "
            "head.weight with 2 axes"
        )
    depth = 1
    while f"encoder.layers.{depth}.linear1.weight" in shapes:
        depth += 1
    return Shown(
        parameters={
            "vocabulary": embedding[0],
            "width": embedding[1],
            "depth": depth,
            "feedforward": perceptron[0],
            "max_length": positions[0],
            "final_norm": "encoder.norm.weight" in shapes,
        },
        input_shape=(None,),
        outputs=head[0],
    )


def limits(parameters: TransformerEncoderParameters) -> TokenLimits:
    """Which sequences such a network takes."""
    return TokenLimits(vocabulary=parameters.vocabulary, max_length=parameters.max_length)


def _biased(name: str, shape: Shape) -> dict[str, TensorSpec]:
    """A linear layer or a layer normalization."""
    return {
        f"{name}.weight": TensorSpec(shape=shape),
        f"{name}.bias": TensorSpec(shape=shape[:1]),
    }
