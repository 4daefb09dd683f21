"""What must hold before anything is scored; everything else raises EvaluationError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.metrics import Logits
from models.report import EvaluationError


def positive_index(
    task: str, classes: Sequence[str], positive_class: str | None, threshold: float | None
) -> int | None:
    """Index of the positive class; None for every task but ``binary``."""
    if task != "binary":
        if positive_class is not None:
            raise EvaluationError(
                f"positive_class belongs to task 'binary', not to {task!r}", reason="bad_request"
            )
        if threshold is not None and task != "multilabel":
            raise EvaluationError(
                f"threshold belongs to tasks 'binary' and 'multilabel', not to {task!r}",
                reason="bad_request",
            )
        return None
    if len(classes) != 2:
        raise EvaluationError(
            f"a binary task has exactly 2 classes, got {len(classes)}", reason="bad_request"
        )
    if positive_class is None:
        return 1
    if positive_class not in classes:
        raise EvaluationError(
            f"positive_class must be one of {', '.join(classes)}; got {positive_class!r}",
            reason="bad_request",
        )
    return list(classes).index(positive_class)


def check_indices(indices: np.ndarray[Any, Any], count: int, bound: int, what: str) -> None:
    """Raise unless these are ``count`` integers in ``[0, bound)``."""
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise EvaluationError(
            f"{what} must be one axis of integers, got {indices.dtype} of shape "
            f"{list(indices.shape)}",
            reason="bad_request",
        )
    _check_values(indices, count, bound, what)


def check_indicators(targets: np.ndarray[Any, Any], count: int, classes: int) -> None:
    """Raise unless these are ``count`` rows of as many zeros and ones as there are classes."""
    wide = targets.ndim == 2 and targets.shape[1] == classes > 0
    if not wide or targets.dtype.kind not in "iu":
        raise EvaluationError(
            f"targets of a multilabel task with {classes} classes must be integers of shape "
            f"[{count}, {classes}], at least one class, got {targets.dtype} of shape "
            f"{list(targets.shape)}",
            reason="bad_request",
        )
    _check_values(targets, count, 2, "targets")


def _check_values(values: np.ndarray[Any, Any], count: int, bound: int, what: str) -> None:
    if len(values) != count or not count:
        raise EvaluationError(
            f"there are {len(values)} {what} for {count} examples; at least 1 is needed",
            reason="wrong_count",
        )
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= bound:
        raise EvaluationError(
            f"{what} must lie in 0..{bound - 1}, got {low}..{high}", reason="bad_request"
        )


def check_order(order: Sequence[int], *, classes: int) -> None:
    """Raise unless this names each index of the classes once."""
    if sorted(order) != list(range(classes)):
        raise EvaluationError(
            f"order must name each of 0..{classes - 1} once, got {list(order)[:20]}",
            reason="bad_request",
        )


def check_logits(shape: Sequence[int], count: int, *, task: str, classes: int) -> None:
    """Raise EvaluationError unless this is the shape of ``count`` examples' logits.

    A binary task takes one or two outputs, every other as many as there are classes.
    """
    widths = (1, 2) if task == "binary" else (classes,)
    if len(shape) != 2 or shape[0] != count or shape[1] not in widths:
        outputs = " or ".join(map(str, widths))
        raise EvaluationError(
            f"logits have shape {list(shape)}; {count} examples of a {task} task with {classes} "
            f"classes give [{count}, {outputs}]",
            reason="wrong_logits",
        )


def check_finite(logits: Logits, *, first: int = 0) -> None:
    """Raise EvaluationError for the first of these examples with a logit that is not finite.

    Args:
        logits: float32 ``(N, outputs)``.
        first: index in the dataset of the first of them.
    """
    with np.errstate(invalid="ignore"):  # inf - inf
        # float64 holds any sum of float32 numbers, so it is finite exactly where all of them are
        finite = np.isfinite(logits.sum(axis=1, dtype=np.float64))
    if not finite.all():
        index = int(finite.argmin())
        raise EvaluationError(
            f"the network's output for example {first + index} (counted from 0) is not finite: "
            f"{logits[index].tolist()[:10]}",
            reason="non_finite_logits",
        )
