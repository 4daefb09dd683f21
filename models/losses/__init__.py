"""The training losses: what a request may say of each, without torch.

An evaluation always reports the plain mean of the cross-entropy, whatever a training minimized.
The computation stands in `models.losses.functions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.parameters import parameter
from models.spec import SpecError

BALANCED = "balanced"
_MOST_CLASSES = 100_000
_MOST_WEIGHT = 1_000_000


def _by_class(summary: str, *types: str) -> Any:
    return parameter(
        summary=summary,
        default=None,
        type=["null", "string", "object", *types],
        minimum=0,
        maximum=_MOST_WEIGHT,
        additionalProperties={"type": "number", "minimum": 0, "maximum": _MOST_WEIGHT},
        maxProperties=_MOST_CLASSES,
    )


def _class_weights() -> Any:
    return _by_class(
        "Weight of each class by its name, {\"cat\": 2.0}; classes left out weigh 1. 'balanced' "
        "weighs each by examples / (classes * its examples)."
    )


def _check_balanced(given: Any, name: str) -> None:
    if isinstance(given, str) and given != BALANCED:
        raise SpecError(
            f"{name} must be {BALANCED!r} or numbers by class, got {given[:60]!r}",
            pointer=f"/{name}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEntropy:
    """Softmax cross-entropy; a binary task gets two outputs."""

    label_smoothing: float = parameter(
        summary="Share of each target that is spread evenly over all classes.",
        default=0.0,
        type="number",
        minimum=0,
        exclusiveMaximum=1,
    )
    class_weights: Mapping[str, float] | str | None = _class_weights()

    def __post_init__(self) -> None:
        _check_balanced(self.class_weights, "class_weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryCrossEntropy:
    """Sigmoid cross-entropy: one output for a binary task, one a label for a multilabel one."""

    pos_weight: Mapping[str, float] | float | str | None = _by_class(
        "Weight of the positive examples: a number, or by label, {\"cat\": 2.0}; 'balanced' is "
        "negatives / positives of each.",
        "number",
    )

    def __post_init__(self) -> None:
        _check_balanced(self.pos_weight, "pos_weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Focal:
    """Cross-entropy times (1 - p)^gamma, p being the probability of what is true.

    Lin et al., "Focal Loss for Dense Object Detection" (2017). Softmax for classes, sigmoid for the
    labels of a multilabel task.
    """

    gamma: float = parameter(
        summary="How much less examples count that are predicted well; 0 is cross-entropy.",
        default=2.0,
        type="number",
        minimum=0,
        maximum=20,
    )
    class_weights: Mapping[str, float] | str | None = _class_weights()

    def __post_init__(self) -> None:
        _check_balanced(self.class_weights, "class_weights")


Loss = CrossEntropy | BinaryCrossEntropy | Focal

# The loss of a request that names none.
DEFAULTS = {
    "multiclass": "cross_entropy",
    "binary": "cross_entropy",
    "multilabel": "binary_cross_entropy_with_logits",
}


def outputs_for(loss: Loss, *, task: str, classes: int) -> int:
    """How many outputs a network has that is trained with this loss.

    Raises:
        SpecError: the loss does not belong to the task; says which would.
    """
    if isinstance(loss, BinaryCrossEntropy):
        if task == "multiclass":
            raise SpecError(
                "binary_cross_entropy_with_logits belongs to binary and multilabel tasks; the "
                "dataset is multiclass: cross_entropy or focal would fit",
                pointer="/name",
            )
        return 1 if task == "binary" else classes
    if isinstance(loss, CrossEntropy) and task == "multilabel":
        raise SpecError(
            "cross_entropy belongs to tasks of one class an example; the dataset is multilabel: "
            "binary_cross_entropy_with_logits or focal would fit",
            pointer="/name",
        )
    return classes


def weights(
    loss: Loss, *, task: str, classes: Sequence[str], counts: Sequence[int]
) -> list[float] | None:
    """What the loss weighs classes by, or positive examples: one number for each output.

    Args:
        classes: in index order.
        counts: how many training examples each has; of a multilabel task those with the label,
            and at the end how many there are in all.

    Returns:
        None where nothing is weighted.

    Raises:
        SpecError: weights of a class that there is not, or balanced ones where a class has no
            example; points below the loss.
    """
    if isinstance(loss, BinaryCrossEntropy):
        name, given = "pos_weight", loss.pos_weight
        positive = classes if task == "multilabel" else classes[1:]
        having = counts[:-1] if task == "multilabel" else counts[1:]
        total = counts[-1] if task == "multilabel" else sum(counts)
    else:
        name, given = "class_weights", loss.class_weights
        positive, having, total = classes, counts[: len(classes)], sum(counts[: len(classes)])
    if given is None:
        return None
    if isinstance(given, (int, float)):
        return [float(given)] * len(positive)
    if isinstance(given, Mapping):
        return _by_name(given, positive, name)
    for one, count in zip(positive, having, strict=True):
        if not count:
            raise SpecError(
                f"{name} cannot be balanced: class {one!r} has no training example, so its weight "
                "would be infinite; give numbers by class",
                pointer=f"/{name}",
            )
    if name == "pos_weight":
        return [(total - count) / count for count in having]
    return [total / (len(positive) * count) for count in having]


def _by_name(given: Mapping[str, float], classes: Sequence[str], name: str) -> list[float]:
    for one in given:
        if one not in classes:
            raise SpecError(
                f"{name} names {one[:100]!r}; known: {', '.join(classes[:20])}", pointer=f"/{name}"
            )
    found = [float(given.get(one, 1.0)) for one in classes]
    if not any(found):
        raise SpecError(f"{name} is 0 for every class", pointer=f"/{name}")
    return found
