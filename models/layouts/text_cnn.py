"""The tensors of `models.architectures.text_cnn.TextCNN`."""

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
class TextCNNParameters:
    """Hyperparameters of the convolutional network for text; the defaults are Kim's."""

    vocabulary: int = vocabulary_parameter()
    width: int = parameter(
        summary="Features of an embedding; an upload's shapes show it.",
        default=300,
        type="integer",
        minimum=1,
        maximum=65536,
    )
    kernel_sizes: tuple[int, ...] = parameter(
        summary="Token ids that each convolution looks at; an upload's shapes show them.",
        default=(3, 4, 5),
        type="array",
        items={"type": "integer", "minimum": 1, "maximum": 1024},
        minItems=1,
        maxItems=64,
    )
    channels: int = parameter(
        summary="Features that each convolution looks for; an upload's shapes show it.",
        default=100,
        type="integer",
        minimum=1,
        maximum=65536,
    )
    dropout: float = parameter(
        summary="Probability of zeroing a feature before the head; no effect on evaluation.",
        default=0.5,
        type="number",
        minimum=0,
        exclusiveMaximum=1,
    )


def tensors(
    parameters: TextCNNParameters, input_shape: OpenShape, outputs: int
) -> dict[str, TensorSpec]:
    """See `models.layouts.Layout.tensors`."""
    check_sequences("text_cnn", input_shape)
    width, channels = parameters.width, parameters.channels
    found = embedding_tensors(parameters.vocabulary, width)
    for index, size in enumerate(parameters.kernel_sizes):
        found[f"convs.{index}.weight"] = TensorSpec(shape=(channels, width, size))
        found[f"convs.{index}.bias"] = TensorSpec(shape=(channels,))
    return found | head_tensors(channels * len(parameters.kernel_sizes), outputs)


def shown(shapes: Mapping[str, Shape]) -> Shown:
    """See `models.layouts.Layout.shown`."""
    sizes: list[int] = []
    channels = 0
    while len(shape := shapes.get(f"convs.{len(sizes)}.weight", ())) == 3:
        channels = channels if sizes else shape[0]
        sizes.append(shape[2])
    embedding, head = shapes.get("embedding.weight", ()), shapes.get("head.weight", ())
    if (len(embedding), len(head)) != (2, 2) or not sizes:
        raise SpecError(
            "text_cnn needs embedding.weight with shape (vocabulary, width), convs.0.weight with "
            "shape (channels, width, kernel size) and head.weight with 2 axes"
        )
    return Shown(
        parameters={
            "vocabulary": embedding[0],
            "width": embedding[1],
            "kernel_sizes": sizes,
            "channels": channels,
        },
        input_shape=(None,),
        outputs=head[0],
    )


def limits(parameters: TextCNNParameters) -> TokenLimits:
    """Which sequences such a network takes."""
    return TokenLimits(vocabulary=parameters.vocabulary, max_length=None)
