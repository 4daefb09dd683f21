"""What the families for images share: their examples, and dropout before the head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from models.layouts import OpenShape, Shape
from models.parameters import parameter
from models.spec import SpecError


def image_channels(architecture: str, input_shape: OpenShape) -> int:
    """The channels of examples ``(channels, height, width)``.

    Args:
        architecture: what the message calls it.

    Raises:
        SpecError: ``input_shape`` has not three axes, the first of known length.
    """
    if len(input_shape) != 3 or input_shape[0] is None:
        raise SpecError(
            f"{architecture} takes examples of three axes (channels, height, width), got shape "
            f"{list(input_shape)}"
        )
    return input_shape[0]


def names_of_head(shapes: Mapping[str, Shape], head: str) -> dict[str, str]:
    """See `models.entries.ArchitectureEntry.renames`: of a head that became an ``nn.Sequential``.

    Fine-tuned networks often have a dropout there, before the one linear layer.
    """
    inside = re.compile(re.escape(head) + r"\.(\d{1,4})\.weight")
    found = [match[1] for name in shapes if (match := inside.fullmatch(name))]
    return {f"{head}.{found[0]}": head} if len(found) == 1 else {}


def dropout_before_head(default: float) -> Any:
    """Declare the hyperparameter ``dropout`` of a family that has it nowhere else."""
    return parameter(
        summary="Probability of zeroing a feature before the head; no effect on evaluation.",
        default=default,
        type="number",
        minimum=0,
        exclusiveMaximum=1,
    )
