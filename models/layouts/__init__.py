"""Which tensors each architecture has, without torch.

One module a family. Each declares the family's parameters, says its tensors from them, and reads
back from the shapes in a file whatever the shapes show, so that a wrong checkpoint is refused at
its upload by a process that never imports torch. A test compares each with the ``state_dict()``
of the module it describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Shape = tuple[int, ...]
OpenShape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor of a state dict.

    Attributes:
        dtype: ``float32``, or ``int64`` for counters such as ``num_batches_tracked``.
    """

    shape: Shape
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the shapes in a file say about the network that wrote them.

    Attributes:
        parameters: the hyperparameters that the shapes determine, as JSON values.
        input_shape: of one example; None for a length that the weights do not depend on.
        outputs: number of output units.
    """

    parameters: Mapping[str, Any]
    input_shape: OpenShape
    outputs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """Which sequences of token ids a network takes.

    Attributes:
        vocabulary: every id is smaller.
        max_length: of a sequence; None where any length will do.
    """

    vocabulary: int
    max_length: int | None


class Layout(Protocol):
    """What a module of this package offers."""

    def tensors(
        self, parameters: Any, input_shape: OpenShape, outputs: int
    ) -> dict[str, TensorSpec]:
        """Every tensor of the state dict by name.

        Raises:
            SpecError: the network cannot be built for such an input.
        """
        ...

    def shown(self, shapes: Mapping[str, Shape]) -> Shown:
        """Read back what the shapes determine.

        Raises:
            SpecError: these are not the names and shapes of this family; says which is missing.
        """
        ...
