"""What predictions are worth, in float64, as scikit-learn's defaults define it.

Everything is NumPy on the CPU: the logits are few beside the forward pass that made them, and no
result may depend on a device or on a number of threads. A network with one output is read as one
with two, whose first logit is 0: the softmax of ``(0, z)`` is ``(1 - sigmoid(z), sigmoid(z))``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Integers: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Booleans: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
Indicators: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Logits: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

# Logits turned to float64 at a time: 1 MiB, so that the work stays in a core's cache.
CHUNK_ELEMENTS = 2**17

TOP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What one pass over the logits says of each of N examples.

    Attributes:
        loss: ``(N,)``, cross-entropy in nats.
        predicted: ``(N,)``, class index.
        confidence: ``(N,)``, probability of the predicted class.
        squared_error: ``(N,)``, squared distance of the probabilities from the true class's
            one-hot vector, in [0, 2].
        in_top: ``(N,)``, whether the true class is among the `TOP` most probable ones.
        peak: ``(N,)``, the largest logit.
        scale: ``(N,)``, sum of the exponentials of the logits less ``peak``.
    """

    loss: Floats
    predicted: Integers
    confidence: Floats
    squared_error: Floats
    in_top: Booleans
    peak: Floats
    scale: Floats


def examine(
    logits: Logits, targets: Integers, *, positive: int | None = None, threshold: float | None
) -> Examined:
    """Pass once over the logits, a chunk at a time.

    Args:
        logits: float32 ``(N, C)``, or ``(N, 1)`` for two classes; finite.
        targets: int64 ``(N,)`` in ``[0, C)``.
        positive: the class that ``threshold`` is about; two classes only.
        threshold: the positive class is predicted where its probability is at least this; None
            predicts the largest logit, the first of equals.
    """
    count = len(logits)
    found = Examined(
        loss=np.empty(count),
        predicted=np.empty(count, dtype=np.int64),
        confidence=np.empty(count),
        squared_error=np.empty(count),
        in_top=np.empty(count, dtype=np.bool_),
        peak=np.empty(count),
        scale=np.empty(count),
    )
    rows = max(1, CHUNK_ELEMENTS // max(2, logits.shape[1]))
    for start in range(0, count, rows):
        part = slice(start, min(start + rows, count))
        x, target = _two_sided(logits[part]), targets[part]
        each = np.arange(len(x))
        peak = x.max(axis=1)
        p = np.exp(x - peak[:, None])
        scale = p.sum(axis=1)
        p /= scale[:, None]
        if threshold is None or positive is None:
            predicted = x.argmax(axis=1)
        else:
            predicted = np.where(p[:, positive] >= threshold, positive, 1 - positive)
        found.loss[part] = losses(x[each, target], peak=peak, scale=scale)
        found.predicted[part] = predicted
        found.confidence[part] = p[each, predicted]
        found.squared_error[part] = (p * p).sum(axis=1) - 2 * p[each, target] + 1
        found.in_top[part] = _in_top(x, target)
        found.peak[part], found.scale[part] = peak, scale
    return found


def losses(target_logit: Floats, *, peak: Floats, scale: Floats) -> Floats:
    """Cross-entropy of each example in nats: minus the log of the true class's softmax.

    Args:
        target_logit: float64 ``(N,)``, the true class's logit.
        peak: float64 ``(N,)``, the largest logit.
        scale: float64 ``(N,)``, sum of the exponentials of the logits less ``peak``.

    >>> losses(np.array([0.0]), peak=np.array([0.0]), scale=np.array([2.0])).round(4)
    array([0.6931])
    """
    return np.log(scale) + (peak - target_logit)


def probabilities(logits: Logits, examined: Examined, classes: slice) -> Floats:
    """Softmax probabilities, float64 ``(classes, N)``, of some of the classes."""
    x = _two_sided(logits) if logits.shape[1] == 1 else logits
    p = x[:, classes].T.astype(np.float64, order="C")
    p -= examined.peak
    np.exp(p, out=p)
    p /= examined.scale
    return p


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Per class (or per cell of anything else) how often it was right, predicted and true.

    Attributes:
        correct: int64, predicted and true.
        predicted: int64, same shape.
        support: int64, same shape; true.
    """

    correct: Integers
    predicted: Integers
    support: Integers

    @property
    def present(self) -> Booleans:
        """Where there are examples or predictions."""
        return (self.predicted > 0) | (self.support > 0)


def counts(predicted: Integers, targets: Integers, *, cells: int) -> Counts:
    """Count by class.

    Args:
        predicted: int64 ``(N,)`` in ``[0, cells)``.
        targets: int64 ``(N,)``, same range.
        cells: number of classes.

    >>> counts(np.array([0, 1, 1]), np.array([0, 1, 0]), cells=2).support
    array([2, 1])
    """
    return Counts(
        correct=np.bincount(targets[predicted == targets], minlength=cells),
        predicted=np.bincount(predicted, minlength=cells),
        support=np.bincount(targets, minlength=cells),
    )


def confusion_matrix(predicted: Integers, targets: Integers, *, classes: int) -> Integers:
    """Count how often each true class was predicted as each class.

    Args:
        predicted: int64 ``(N,)`` in ``[0, classes)``.
        targets: int64 ``(N,)``, same range.
        classes: number of classes C.

    Returns:
        int64 ``(C, C)``; row = true class, column = predicted.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 1, 0]), classes=2)
    array([[1, 1],
           [0, 1]])
    """
    flat = np.bincount(targets * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratios:
    """Precision, recall and F1: float64 arrays of one shape, or one number each."""

    precision: Any
    recall: Any
    f1: Any

    def to_json(self) -> dict[str, float]:
        """Of one number each."""
        return {
            "precision": float(self.precision),
            "recall": float(self.recall),
            "f1": float(self.f1),
        }


def ratios(found: Counts) -> Ratios:
    """Precision, recall and F1, element by element; an empty division is 0.

    >>> ratios(Counts(correct=np.array([2]), predicted=np.array([3]), support=np.array([4]))).recall
    array([0.5])
    """
    return Ratios(
        precision=_divided(found.correct, found.predicted),
        recall=_divided(found.correct, found.support),
        f1=_divided(2 * found.correct, found.predicted + found.support),
    )


def macro(found: Counts, *, everywhere: bool = False) -> Ratios:
    """The plain mean over the classes present, along the last axis; 0 where none is.

    Args:
        everywhere: whether absent classes count too, as 0. scikit-learn leaves out classes that
            are absent, but no column of an indicator matrix.
    """
    each, present = ratios(found), found.present.sum(axis=-1)
    divisor = np.full_like(present, found.present.shape[-1]) if everywhere else present
    return Ratios(
        precision=_divided(each.precision.sum(axis=-1), divisor),  # absent classes add 0
        recall=_divided(each.recall.sum(axis=-1), divisor),
        f1=_divided(each.f1.sum(axis=-1), divisor),
    )


def weighted(found: Counts) -> Ratios:
    """The mean over the classes ``(C,)``, weighted by the number of true examples; 0 for none."""
    each, total = ratios(found), found.support.sum()
    return Ratios(
        precision=_divided((each.precision * found.support).sum(), total),
        recall=_divided((each.recall * found.support).sum(), total),
        f1=_divided((each.f1 * found.support).sum(), total),
    )


def micro(found: Counts) -> Ratios:
    """Of the counts of all classes ``(C,)`` together."""
    total = Counts(
        correct=found.correct.sum(keepdims=True),
        predicted=found.predicted.sum(keepdims=True),
        support=found.support.sum(keepdims=True),
    )
    each = ratios(total)
    return Ratios(precision=each.precision[0], recall=each.recall[0], f1=each.f1[0])


def balanced_accuracy(found: Counts) -> float:
    """Mean recall over the classes ``(C,)`` that have examples, of which there is at least one."""
    has = found.support > 0
    return float((found.correct[has] / found.support[has]).mean())


def matthews_corrcoef(found: Counts) -> float | None:
    """Correlation of predicted and true classes ``(C,)`` (Gorodkin 2004).

    Returns:
        In [-1, 1]; None where all examples or all predictions are of one class.
    """
    total = int(found.support.sum())
    # Python's integers, which do not overflow
    true, predicted = found.support.tolist(), found.predicted.tolist()
    both = total * int(found.correct.sum()) - sum(
        a * b for a, b in zip(true, predicted, strict=True)
    )
    spread = (total**2 - sum(n * n for n in true)) * (total**2 - sum(n * n for n in predicted))
    return both / math.sqrt(spread) if spread else None


def ranking(score: Floats, positive: Booleans) -> tuple[float | None, float | None]:
    """Areas under the curves of one class against the rest; equal scores are one step.

    Args:
        score: float64 ``(N,)``, larger for the positive class.
        positive: bool ``(N,)``.

    Returns:
        ROC AUC by trapezoids (None unless there are both positive and negative examples), and
        average precision, the sum of precisions weighted by the gain in recall (None without a
        positive example).

    >>> ranking(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    (0.75, 0.8333333333333333)
    """
    order = np.argsort(score)[::-1]
    ranked = score[order]
    last_of_equals = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    true = np.cumsum(positive[order])[last_of_equals].astype(np.float64)
    false = last_of_equals + 1 - true
    gain = np.diff(true, prepend=0.0)
    if not true[-1]:
        return None, None
    average_precision = float((gain * true / (true + false)).sum() / true[-1])
    if not false[-1]:
        return None, average_precision
    below = (np.diff(false, prepend=0.0) * (true - gain / 2)).sum()
    return float(below / (true[-1] * false[-1])), average_precision


def expected_calibration_error(confidence: Floats, correct: Booleans, *, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over equal bins of confidence (Guo 2017).

    Args:
        confidence: float64 ``(N,)`` in [0, 1], the predicted class's probability.
        correct: bool ``(N,)``.
        bins: number of bins of equal width; each holds its upper edge and not its lower one.

    >>> expected_calibration_error(np.array([0.75, 0.75]), np.array([True, False]))
    0.25
    """
    gaps = calibration_gaps(confidence, correct, bins=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def calibration_gaps(confidence: Floats, correct: Booleans, *, bins: int = 15) -> Floats:
    """What `expected_calibration_error` sums: confidence less correctness, ``(bins,)``."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    which = np.searchsorted(edges[1:-1], confidence, side="left")
    gaps = np.bincount(which, weights=confidence - correct, minlength=bins)
    return gaps.astype(np.float64, copy=False)


def _two_sided(logits: Logits) -> Floats:
    """As float64, with a logit of 0 for class 0 put before a single one."""
    x = logits.astype(np.float64)
    return np.concatenate([np.zeros_like(x), x], axis=1) if x.shape[1] == 1 else x


def _in_top(x: Floats, target: Integers) -> Booleans:
    """Whether the true class is among the `TOP`; of equal logits the later class ranks higher.

    That is scikit-learn's rule for ties, though its arg max is the first.
    """
    classes = x.shape[1]
    if classes <= TOP:
        return np.ones(len(x), dtype=np.bool_)
    own = x[np.arange(len(x)), target][:, None]
    ahead = (x > own) | ((x == own) & (np.arange(classes) > target[:, None]))
    within: Booleans = ahead.sum(axis=1) < TOP
    return within


def _divided(numerator: Any, denominator: Any) -> Any:
    """Quotient in float64; 0 where the denominator is 0."""
    quotient = np.zeros(np.shape(denominator))
    return np.divide(numerator, denominator, out=quotient, where=np.asarray(denominator) > 0)
