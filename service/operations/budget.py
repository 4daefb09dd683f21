"""What a training takes, worked out from shapes before anything of it is allocated."""

from __future__ import annotations

import math
from collections.abc import Mapping

from models.layouts import TensorSpec
from models.optimization import SGD, Adam, AdamW, Optimizer
from models.spec import EVALUATION_BATCH_SIZE, SpecError
from models.transforms import ExampleType

_FLOAT_BYTES = 4


def check_epochs(epochs: int, examples: int, *, most_examples: int) -> None:
    """Raise SpecError if all epochs together go through more examples than they may."""
    if epochs * examples > most_examples:
        raise SpecError(
            f"{epochs} epochs x {examples} examples are {epochs * examples}; at most "
            f"{most_examples} are taken (HOLDOUT_TRAINING_EXAMPLES)",
            pointer="/epochs",
        )


def check_memory(
    tensors: Mapping[str, TensorSpec],
    optimizer: Optimizer,
    example: ExampleType,
    *,
    augmented: ExampleType,
    batch_size: int,
    most_bytes: int,
) -> None:
    """Raise SpecError that shows the sum, if a training takes more than it may.

    What a forward pass keeps for the backward pass only the network's code knows.

    Args:
        tensors: of the network.
        example: one, as the network takes it.
        augmented: the largest that one becomes on its way through the augmentations.
    """
    numbers = sum(math.prod(one.shape) for one in tensors.values())
    kept = _kept_by(optimizer)
    # weights, gradients, the copy that is judged, and a copy of all that is stored
    copies = 3 + kept + (1 + kept)
    batch, rows = max(
        (count * _FLOAT_BYTES * math.prod(length or 1 for length in one.shape), count)
        for one, count in ((example, EVALUATION_BATCH_SIZE), (augmented, batch_size))
    )
    total = numbers * _FLOAT_BYTES * copies + batch
    if total > most_bytes:
        pointer = "/batch_size" if batch * 2 > total else "/hyperparameters"
        raise SpecError(
            f"this takes {total} bytes: {numbers} parameters x {_FLOAT_BYTES} bytes x {copies} "
            f"(weights, gradients, {kept} of the optimizer, the copy that is judged, and "
            f"{1 + kept} to be stored) + a batch of {rows} examples of {batch // rows} bytes; at "
            f"most {most_bytes} are taken (HOLDOUT_TRAINING_MEMORY_BYTES)",
            pointer=pointer,
        )


def _kept_by(optimizer: Optimizer) -> int:
    """How many numbers an optimizer keeps of each parameter."""
    if isinstance(optimizer, SGD):
        return int(optimizer.momentum > 0)
    if isinstance(optimizer, (Adam, AdamW)):
        return 2 + int(optimizer.amsgrad)
    return 1 + int(optimizer.momentum > 0) + int(optimizer.centered)
