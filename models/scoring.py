"""Everything that a report says, computed from nothing but logits and targets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models import metrics, multilabel, sections, statistics
from models.checks import (
    check_finite,
    check_indicators,
    check_indices,
    check_logits,
    positive_index,
)
from models.metrics import Booleans, Counts, Examined, Indicators, Integers, Logits, Ratios
from models.report import EvaluationReport
from models.sections import ByValue, Groups

# Above this the matrix is null, with the reason among the warnings: 4 million cells are 10 MB of
# JSON.
MAX_MATRIX_CLASSES = 2_000


def score(
    logits: Logits,
    targets: Integers | Indicators,
    *,
    task: str,
    classes: Sequence[str],
    positive_class: str | None,
    threshold: float | None,
    groups: Groups | None = None,
    level: float = 0.95,
    metrics_only: bool = False,
) -> EvaluationReport:
    """Compute everything from float32 logits ``(N, outputs)``; the rest is as for `evaluate`.

    Args:
        metrics_only: leave empty all of the report but ``metrics``, ``averaging`` and what there
            is for each example. A training judges every epoch so.

    Raises:
        EvaluationError: targets or group codes of the wrong length, type or range; a threshold or
            a positive class that does not belong to the task; logits of the wrong shape, or not
            finite.
    """
    started = time.perf_counter()
    positive = positive_index(task, classes, positive_class, threshold)
    if task == "multilabel":
        check_indicators(targets, len(logits), len(classes))
    else:
        check_indices(targets, len(logits), len(classes), "targets")
    check_logits(logits.shape, len(targets), task=task, classes=len(classes))
    check_finite(logits)
    report = (
        multilabel.report(
            logits,
            targets,
            classes=classes,
            threshold=threshold,
            groups=groups or {},
            level=level,
            metrics_only=metrics_only,
        )
        if task == "multilabel"
        else _single_label(
            logits,
            targets.astype(np.int64, copy=False),
            classes=classes,
            positive=positive,
            threshold=threshold,
            groups=groups or {},
            level=level,
            metrics_only=metrics_only,
        )
    )
    return replace(report, metrics_s=time.perf_counter() - started)


def _are_probabilities(logits: Logits) -> bool:
    if logits.min() < 0 or logits.max() > 1:
        return False
    return bool(np.abs(logits.sum(axis=1, dtype=np.float64) - 1).max() < 1e-3)


def _single_label(
    logits: Logits,
    targets: Integers,
    *,
    classes: Sequence[str],
    positive: int | None,
    threshold: float | None,
    groups: Groups,
    level: float,
    metrics_only: bool,
) -> EvaluationReport:
    """Of a multiclass task (``positive`` is None) or a binary one."""
    if threshold is None and logits.shape[1] == 1:
        threshold = 0.5
    unclear = logits.shape[1] == 1 and positive == 0
    examined = metrics.examine(logits, targets, positive=positive, threshold=threshold)
    correct = examined.predicted == targets
    by_class = metrics.counts(examined.predicted, targets, cells=len(classes))
    brief = EvaluationReport.brief(
        metrics={
            "loss": float(examined.loss.sum() / len(targets)),
            "accuracy": float(correct.sum() / len(targets)),
            **_main(by_class, positive).to_json(),
        },
        averaging="macro" if positive is None else "binary",
        level=level,
        logits=logits,
        predicted=examined.predicted,
        confidence=examined.confidence.astype(np.float32),
    )
    if metrics_only:
        return brief
    warnings = sections.empty_divisions(by_class, classes, left_out=positive is None)
    if unclear:
        warnings.append(
            f"the one output is read as the logit of the second class, {classes[1]!r}, although "
            f"{classes[0]!r} is the positive class"
        )

    if logits.shape[1] > 1 and _are_probabilities(logits):
        warnings.append(
            "the outputs of every example lie between 0 and 1 and add up to 1, as probabilities "
            "do; loss, brier and calibration take logits: leave out the network's softmax"
        )

    def judge(codes: Integers, values: int) -> ByValue:
        return _by_value(codes, values, examined.predicted, targets, len(classes), positive)

    def resampled() -> dict[str, statistics.Interval]:
        return statistics.resampled_ratios(
            examined.predicted, targets, positive=positive, level=level
        )

    return replace(
        brief,
        averages=sections.averages(by_class),
        per_class=sections.per_class(by_class, classes),
        per_group=sections.per_group(groups, examined.loss, correct, judge, warnings),
        confusion_matrix=_matrix(examined.predicted, targets, len(classes), warnings),
        scores=_scores(logits, examined, targets, by_class, classes, positive, warnings),
        intervals=sections.intervals(
            examined.loss, correct, resampled, level=level, warnings=warnings
        ),
        warnings=warnings,
        logits_sha256=sections.logits_digest(logits),
    )


def _main(by_class: Counts, positive: int | None) -> Ratios:
    if positive is None:
        return metrics.macro(by_class)
    each = metrics.ratios(by_class)
    return Ratios(
        precision=each.precision[positive], recall=each.recall[positive], f1=each.f1[positive]
    )


def _by_value(
    codes: Integers,
    values: int,
    predicted: Integers,
    targets: Integers,
    classes: int,
    positive: int | None,
) -> ByValue:
    """See `sections.per_group`."""
    # pairs of value and class that occur: all pairs could be far more than the examples
    pairs, which = np.unique(
        np.concatenate([codes * classes + targets, codes * classes + predicted]),
        return_inverse=True,
    )
    by_pair = metrics.counts(which[len(targets) :], which[: len(targets)], cells=len(pairs))
    owner = pairs // classes
    taken = np.ones(len(pairs), bool) if positive is None else pairs % classes == positive
    each = metrics.ratios(by_pair)
    shares = np.maximum(1, np.bincount(owner[taken], minlength=values))
    means = [
        np.bincount(owner[taken], weights=column[taken], minlength=values) / shares
        for column in (each.precision, each.recall, each.f1)
    ]

    def empty(divisor: Integers) -> Booleans:
        # a macro mean is marred by one empty division, a positive class by its own
        found: Booleans = (
            np.bincount(owner[taken & (divisor == 0)], minlength=values) > 0
            if positive is None
            else np.bincount(owner[taken & (divisor > 0)], minlength=values) == 0
        )
        return found

    return ByValue(
        ratios=Ratios(precision=means[0], recall=means[1], f1=means[2]),
        unpredicted=empty(by_pair.predicted),
        absent=empty(by_pair.support),
    )


def _matrix(
    predicted: Integers, targets: Integers, classes: int, warnings: list[str]
) -> list[list[int]] | None:
    if classes > MAX_MATRIX_CLASSES:
        warnings.append(
            f"confusion_matrix is null: {classes} classes are more than {MAX_MATRIX_CLASSES}"
        )
        return None
    matrix: list[list[int]] = metrics.confusion_matrix(predicted, targets, classes=classes).tolist()
    return matrix


def _scores(
    logits: Logits,
    examined: Examined,
    targets: Integers,
    by_class: Counts,
    classes: Sequence[str],
    positive: int | None,
    warnings: list[str],
) -> dict[str, float | None]:
    top = None
    if len(classes) > metrics.TOP:
        top = float(examined.in_top.mean())
    else:
        warnings.append(f"top_5_accuracy is null: it says nothing of {len(classes)} classes")
    correlation = metrics.matthews_corrcoef(by_class)
    if correlation is None:
        correlation = 0.0
        warnings.append(
            "matthews_corrcoef is 0 by an empty division: all examples or all predictions are of "
            "one class"
        )
    roc_auc, average_precision = sections.areas(
        lambda part: metrics.probabilities(logits, examined, part),
        lambda index: targets == index,
        judged=range(len(classes)) if positive is None else range(positive, positive + 1),
        support=by_class.support,
        count=len(targets),
        classes=classes,
        warnings=warnings,
    )
    # two classes make the same error twice; scikit-learn counts it once
    half = 0.5 if len(classes) == 2 else 1.0
    return {
        "top_5_accuracy": top,
        "balanced_accuracy": metrics.balanced_accuracy(by_class),
        "roc_auc": roc_auc,
        "average_precision": average_precision,
        "matthews_corrcoef": correlation,
        "brier": half * float(examined.squared_error.mean()),
        "expected_calibration_error": metrics.expected_calibration_error(
            examined.confidence, examined.predicted == targets
        ),
    }
