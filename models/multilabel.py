"""Reports on examples that have any number of labels, each judged by itself.

A multilabel task is L binary ones on the same examples, with one output each, and every output is
read as `models.metrics` reads a single one: the probability is the logit's sigmoid. Numbers are
those that scikit-learn gives for indicator matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models import metrics, sections, statistics
from models.metrics import Counts, Floats, Indicators, Integers, Logits
from models.report import EvaluationReport
from models.sections import ByValue, Groups
from models.statistics import Interval

THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What one pass over the logits says of N examples with L labels each.

    Attributes:
        loss: ``(N,)``, binary cross-entropy in nats, the mean over the labels.
        predicted: uint8 ``(N, L)``, 0 or 1.
        confidence: ``(N,)``, the lowest probability of a label's more probable value.
        squared_error: ``(N,)``, of the probabilities, the mean over the labels, in [0, 1].
        calibration_gaps: see `models.metrics.calibration_gaps`; of every label's more probable
            value (1 if both are equal), which is the predicted one at the threshold 0.5.
    """

    loss: Floats
    predicted: Indicators
    confidence: Floats
    squared_error: Floats
    calibration_gaps: Floats


def examine(logits: Logits, targets: Indicators, *, threshold: float) -> Examined:
    """Pass once over the logits, a chunk at a time.

    Args:
        logits: float32 ``(N, L)``, finite.
        targets: uint8 ``(N, L)``, 0 or 1.
        threshold: a label is predicted where its probability is at least this.
    """
    count, labels = logits.shape
    loss, confidence, squared_error = np.empty(count), np.empty(count), np.empty(count)
    predicted = np.empty((count, labels), dtype=np.uint8)
    gaps = []
    rows = max(1, metrics.CHUNK_ELEMENTS // labels)
    for start in range(0, count, rows):
        part = slice(start, min(start + rows, count))
        x, target = logits[part].astype(np.float64), targets[part]
        p, scale = _sigmoid(x)
        of_label = metrics.losses(np.where(target, x, 0.0), peak=np.maximum(x, 0.0), scale=scale)
        more_probable = np.maximum(p, 1 - p)
        loss[part] = of_label.mean(axis=1)
        predicted[part] = p >= threshold
        confidence[part] = more_probable.min(axis=1)
        squared_error[part] = ((p - target) ** 2).mean(axis=1)
        right = (p >= 0.5) == target
        gaps.append(metrics.calibration_gaps(more_probable.ravel(), right.ravel()))
    return Examined(
        loss=loss,
        predicted=predicted,
        confidence=confidence,
        squared_error=squared_error,
        calibration_gaps=np.sum(gaps, axis=0),
    )


def report(
    logits: Logits,
    targets: Integers | Indicators,
    *,
    classes: Sequence[str],
    threshold: float | None,
    groups: Groups,
    level: float,
    metrics_only: bool,
) -> EvaluationReport:
    """Compute everything from logits and targets that are checked.

    Args:
        logits: float32 ``(N, L)``.
        targets: integers ``(N, L)``, 0 or 1.
        classes: the labels' names.
        threshold: None is 0.5.
        groups: see `models.evaluation.evaluate`.
        level: confidence of the intervals, in (0, 1).
        metrics_only: see `models.scoring.score`.

    Raises:
        EvaluationError: group codes of the wrong length, type or range.
    """
    true = targets.astype(np.uint8, copy=False)
    examined = examine(logits, true, threshold=THRESHOLD if threshold is None else threshold)
    predicted = examined.predicted
    correct = (predicted == true).all(axis=1)
    by_label = Counts(
        correct=(predicted & true).sum(axis=0, dtype=np.int64),
        predicted=predicted.sum(axis=0, dtype=np.int64),
        support=true.sum(axis=0, dtype=np.int64),
    )
    brief = EvaluationReport.brief(
        metrics={
            "loss": float(examined.loss.sum() / len(true)),
            "accuracy": float(correct.sum() / len(true)),
            **metrics.macro(by_label, everywhere=True).to_json(),
        },
        averaging="macro",
        level=level,
        logits=logits,
        predicted=predicted,
        confidence=examined.confidence.astype(np.float32),
    )
    if metrics_only:
        return brief
    warnings = sections.empty_divisions(by_label, classes, left_out=False)
    return replace(
        brief,
        averages=sections.averages(by_label, everywhere=True),
        per_class=sections.per_class(by_label, classes),
        per_group=sections.per_group(
            groups,
            examined.loss,
            correct,
            lambda codes, values: _by_value(codes, values, predicted, true),
            warnings,
        ),
        scores=_scores(logits, examined, true, by_label, classes, warnings),
        intervals=sections.intervals(
            examined.loss,
            correct,
            lambda: _resampled(predicted, true, level, warnings),
            level=level,
            warnings=warnings,
        ),
        warnings=warnings,
        logits_sha256=sections.logits_digest(logits),
    )


def _sigmoid(x: Floats) -> tuple[Floats, Floats]:
    """Probabilities, and the sum of the exponentials of ``(0, x)`` less the larger of the two."""
    smaller = np.exp(-np.abs(x))
    scale = smaller + 1
    return np.where(x < 0, smaller, 1.0) / scale, scale


def _by_value(codes: Integers, values: int, predicted: Indicators, targets: Indicators) -> ByValue:
    """See `sections.per_group`."""
    labels = targets.shape[1]
    sums = np.zeros((3, values))
    unpredicted, absent = np.zeros(values, dtype=np.bool_), np.zeros(values, dtype=np.bool_)
    for label in range(labels):  # a table of all values and labels could be larger than the logits
        guessed, true = predicted[:, label] == 1, targets[:, label] == 1
        found = Counts(
            correct=np.bincount(codes[guessed & true], minlength=values),
            predicted=np.bincount(codes[guessed], minlength=values),
            support=np.bincount(codes[true], minlength=values),
        )
        each = metrics.ratios(found)
        sums += np.stack([each.precision, each.recall, each.f1])
        unpredicted |= found.predicted == 0
        absent |= found.support == 0
    precision, recall, f1 = sums / labels
    return ByValue(
        ratios=metrics.Ratios(precision=precision, recall=recall, f1=f1),
        unpredicted=unpredicted,
        absent=absent,
    )


def _scores(
    logits: Logits,
    examined: Examined,
    targets: Indicators,
    by_label: Counts,
    classes: Sequence[str],
    warnings: list[str],
) -> dict[str, float | None]:
    warnings.append(
        "top_5_accuracy, balanced_accuracy and matthews_corrcoef are null: they are about one "
        "class an example, and a multilabel task has any number"
    )
    roc_auc, average_precision = sections.areas(
        lambda part: _sigmoid(logits[:, part].T.astype(np.float64, order="C"))[0],
        lambda index: targets[:, index] == 1,
        judged=range(len(classes)),
        support=by_label.support,
        count=len(targets),
        classes=classes,
        warnings=warnings,
    )
    return {
        "top_5_accuracy": None,
        "balanced_accuracy": None,
        "roc_auc": roc_auc,
        "average_precision": average_precision,
        "matthews_corrcoef": None,
        "brier": float(examined.squared_error.mean()),
        "expected_calibration_error": float(np.abs(examined.calibration_gaps).sum() / targets.size),
    }


def _resampled(
    predicted: Indicators, targets: Indicators, level: float, warnings: list[str]
) -> Mapping[str, Interval]:
    """See `sections.intervals`."""
    rows, row_counts = statistics.distinct_rows(predicted, targets)
    labels = targets.shape[1]
    if statistics.label_cost(row_counts, labels) > statistics.MAX_RESAMPLED_COST:
        warnings.append(
            "the intervals of precision, recall and f1 are null: resampling "
            f"{len(targets)} examples, of which {len(rows)} differ in their predictions or "
            f"targets of {labels} classes, would take too long"
        )
        return {}
    return statistics.resampled_label_ratios(
        predicted, targets, rows=rows, row_counts=row_counts, level=level
    )
