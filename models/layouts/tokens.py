"""What the families have in common that take sequences of token ids."""

from __future__ import annotations

from typing import Any

from models.layouts import OpenShape, TensorSpec
from models.parameters import parameter
from models.spec import SpecError


def vocabulary_parameter() -> Any:
    """Declare the number of embeddings."""
    return parameter(
        summary="Number of token ids, which are 0 to vocabulary - 1; an upload's shapes show it.",
        default=32_768,
        type="integer",
        minimum=1,
        maximum=2**31 - 1,
    )


def check_sequences(name: str, input_shape: OpenShape) -> None:
    """Raise SpecError unless an example is a sequence, of whatever length."""
    if len(input_shape) != 1:
        raise SpecError(
            f"{name} takes examples of one axis, sequences of token ids, got shape "
            f"{list(input_shape)}"
        )


def embedding_tensors(vocabulary: int, width: int) -> dict[str, TensorSpec]:
    """The embedding of each id."""
    return {"embedding.weight": TensorSpec(shape=(vocabulary, width))}


def head_tensors(features: int, outputs: int) -> dict[str, TensorSpec]:
    """The linear head."""
    return {
        "head.weight": TensorSpec(shape=(outputs, features)),
        "head.bias": TensorSpec(shape=(outputs,)),
    }
