"""Everything that a report says, computed from nothing but logits and targets."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models import metrics, statistics
from models.metrics import Booleans, Counts, Examined, Integers, Logits, Ratios
from models.report import EvaluationError, EvaluationReport

# Above these a score or a table is null, with the reason among the warnings: ranking 20 million
# probabilities takes about 3 s on one core, and a matrix of 4 million cells is 10 MB of JSON.
MAX_RANKED_ELEMENTS = 20_000_000
MAX_MATRIX_CLASSES = 2_000

# Class or group names that one warning lists.
MAX_NAMED = 20

Groups = Mapping[str, tuple[np.ndarray[Any, Any], Sequence[str]]]


def score(
    logits: Logits,
    targets: Integers,
    *,
    task: str,
    classes: Sequence[str],
    positive_class: str | None,
    threshold: float | None,
    groups: Groups | None = None,
    level: float = 0.95,
) -> EvaluationReport:
    """Compute everything from float32 logits ``(N, outputs)``; the rest is as for `evaluate`.

    Raises:
        EvaluationError: targets or group codes of the wrong length, type or range; a threshold or
            a positive class that does not belong to the task; logits of the wrong shape, or not
            finite.
    """
    started = time.perf_counter()
    positive = _positive(task, classes, positive_class, threshold)
    _check_indices(targets, len(logits), len(classes), "targets")
    check_logits(logits.shape, len(targets), task=task, classes=len(classes))
    check_finite(logits)
    if threshold is None and logits.shape[1] == 1:
        threshold = 0.5
    unclear = logits.shape[1] == 1 and positive == 0
    examined = metrics.examine(logits, targets, positive=positive, threshold=threshold)
    correct = examined.predicted == targets
    by_class = metrics.counts(examined.predicted, targets, cells=len(classes))
    main = _main(by_class, positive)
    warnings = _empty_divisions(by_class, classes, positive)
    if unclear:
        warnings.append(
            f"the one output is read as the logit of the second class, {classes[1]!r}, although "
            f"{classes[0]!r} is the positive class"
        )
    report = EvaluationReport(
        metrics={
            "loss": float(examined.loss.sum() / len(targets)),
            "accuracy": float(correct.sum() / len(targets)),
            **main.to_json(),
        },
        averaging="macro" if positive is None else "binary",
        averages={
            "micro": metrics.micro(by_class).to_json(),
            "macro": metrics.macro(by_class).to_json(),
            "weighted": metrics.weighted(by_class).to_json(),
        },
        per_class=_per_class(by_class, classes),
        per_group=_per_group(groups or {}, examined, targets, len(classes), positive, warnings),
        confusion_matrix=_matrix(examined.predicted, targets, len(classes), warnings),
        scores=_scores(logits, examined, targets, by_class, classes, positive, warnings),
        intervals=_intervals(examined, targets, correct, positive, level, warnings),
        level=level,
        warnings=warnings,
        logits=logits,
        logits_sha256=hashlib.sha256(np.ascontiguousarray(logits, dtype="<f4").data).hexdigest(),
        predicted=examined.predicted,
        confidence=examined.confidence.astype(np.float32),
        forward_s=0.0,
        metrics_s=0.0,
    )
    return replace(report, metrics_s=time.perf_counter() - started)


def _main(by_class: Counts, positive: int | None) -> Ratios:
    if positive is None:
        return metrics.macro(by_class)
    each = metrics.ratios(by_class)
    return Ratios(
        precision=each.precision[positive], recall=each.recall[positive], f1=each.f1[positive]
    )


def _per_class(by_class: Counts, classes: Sequence[str]) -> list[dict[str, Any]]:
    each = metrics.ratios(by_class)
    columns = (each.precision, each.recall, each.f1, by_class.support)
    return [
        {"class": name, "precision": precision, "recall": recall, "f1": f1, "support": support}
        for name, precision, recall, f1, support in zip(
            classes, *(column.tolist() for column in columns), strict=True
        )
    ]


def _per_group(
    groups: Groups,
    examined: Examined,
    targets: Integers,
    classes: int,
    positive: int | None,
    warnings: list[str],
) -> list[dict[str, Any]]:
    found = []
    for group, (codes, values) in groups.items():
        _check_indices(codes, len(targets), len(values), f"codes of group {group!r}")
        codes = codes.astype(np.int64)
        size = np.bincount(codes, minlength=len(values))
        loss = np.bincount(codes, weights=examined.loss, minlength=len(values))
        right = np.bincount(codes[examined.predicted == targets], minlength=len(values))
        # pairs of value and class that occur: all pairs could be far more than the examples
        pairs, which = np.unique(
            np.concatenate([codes * classes + targets, codes * classes + examined.predicted]),
            return_inverse=True,
        )
        by_pair = metrics.counts(which[len(targets) :], which[: len(targets)], cells=len(pairs))
        owner = pairs // classes
        taken = np.ones(len(pairs), bool) if positive is None else pairs % classes == positive
        each = metrics.ratios(by_pair)
        shares = np.maximum(1, np.bincount(owner[taken], minlength=len(values)))
        means = [
            np.bincount(owner[taken], weights=column[taken], minlength=len(values)) / shares
            for column in (each.precision, each.recall, each.f1)
        ]
        found += [
            {
                "group": group,
                "value": values[index],
                "examples": int(size[index]),
                "loss": float(loss[index] / size[index]),
                "accuracy": float(right[index] / size[index]),
                "precision": float(means[0][index]),
                "recall": float(means[1][index]),
                "f1": float(means[2][index]),
            }
            for index in np.flatnonzero(size).tolist()
        ]
        for metric, divisor in (("precision", by_pair.predicted), ("recall", by_pair.support)):
            seen = taken & (divisor > 0)
            # a macro mean is marred by one empty division, a positive class by its own
            empty = (
                np.bincount(owner[taken & (divisor == 0)], minlength=len(values)) > 0
                if positive is None
                else np.bincount(owner[seen], minlength=len(values)) == 0
            )
            named = [values[index] for index in np.flatnonzero(empty & (size > 0)).tolist()]
            if named:
                warnings.append(
                    f"{metric} by {group} counts an empty division as 0 for {_listed(named)}"
                )
    return found


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
    roc_auc, average_precision = _areas(logits, examined, targets, classes, positive, warnings)
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


def _areas(
    logits: Logits,
    examined: Examined,
    targets: Integers,
    classes: Sequence[str],
    positive: int | None,
    warnings: list[str],
) -> tuple[float | None, float | None]:
    """ROC AUC and average precision: of the positive class, or the mean of one against the rest."""
    if len(targets) * len(classes) > MAX_RANKED_ELEMENTS:
        warnings.append(
            f"roc_auc and average_precision are null: {len(targets)} examples of {len(classes)} "
            f"classes are more than {MAX_RANKED_ELEMENTS} scores to rank"
        )
        return None, None
    judged = range(len(classes)) if positive is None else [positive]
    support = np.bincount(targets, minlength=len(classes))
    missing = [classes[index] for index in judged if not support[index]]
    if missing:
        warnings.append(f"roc_auc and average_precision are null: no example of {_listed(missing)}")
        return None, None
    at_once = max(1, metrics.CHUNK_ELEMENTS // len(targets))
    found = []
    for start in range(judged[0], judged[-1] + 1, at_once):
        part = slice(start, min(start + at_once, judged[-1] + 1))
        columns = metrics.probabilities(logits, examined, part)
        found += [
            metrics.ranking(column, targets == index)
            for index, column in enumerate(columns, start=part.start)
        ]
    curves, precisions = zip(*found, strict=True)
    average_precision = sum(precisions) / len(precisions)
    if None in curves:
        whole = classes[int(support.argmax())]
        warnings.append(f"roc_auc is null: every example is of {whole!r}")
        return None, average_precision
    return sum(curves) / len(curves), average_precision


def _intervals(
    examined: Examined,
    targets: Integers,
    correct: Booleans,
    positive: int | None,
    level: float,
    warnings: list[str],
) -> dict[str, list[float] | None]:
    found: dict[str, list[float] | None] = dict.fromkeys(
        ("loss", "accuracy", "precision", "recall", "f1")
    )
    found["accuracy"] = list(statistics.wilson(int(correct.sum()), len(targets), level=level))
    if len(targets) < 2:
        warnings.append(
            "the intervals of loss, precision, recall and f1 are null: they need 2 examples"
        )
        return found
    found["loss"] = list(statistics.normal_mean(examined.loss, level=level))
    resampled = statistics.resampled_ratios(
        examined.predicted, targets, positive=positive, level=level
    )
    found |= {name: list(ends) for name, ends in resampled.items()}
    flat = [name for name, (low, high) in resampled.items() if low == high]
    if flat:
        warnings.append(
            f"the intervals of {_listed(flat)} have no width: resampling cannot show errors that "
            "these examples do not hold; that of accuracy can"
        )
    return found


def _empty_divisions(by_class: Counts, classes: Sequence[str], positive: int | None) -> list[str]:
    """Say which classes' ratios are 0 because there was nothing to divide by."""
    unpredicted, absent = by_class.predicted == 0, by_class.support == 0
    left_out = ", which the macro averages leave out" if positive is None else ""
    sentences = (
        (unpredicted & ~absent, "precision", "never predicted"),
        (absent & ~unpredicted, "recall", "predicted but without examples"),
        (absent & unpredicted, "precision, recall and f1", "without examples or predictions"),
    )
    found = []
    for where, metric, why in sentences:
        named = [classes[index] for index in np.flatnonzero(where).tolist()]
        if named:
            tail = left_out if metric != "precision" and metric != "recall" else ""
            found.append(
                f"{metric}: an empty division counts as 0 for {_listed(named)} ({why}{tail})"
            )
    return found


def _positive(
    task: str, classes: Sequence[str], positive_class: str | None, threshold: float | None
) -> int | None:
    """Index of the positive class; None for a multiclass task."""
    if task != "binary":
        if positive_class is not None or threshold is not None:
            raise EvaluationError(
                f"positive_class and threshold belong to task 'binary', not to {task!r}",
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


def _check_indices(indices: np.ndarray[Any, Any], count: int, bound: int, what: str) -> None:
    """Raise unless these are ``count`` integers in ``[0, bound)``."""
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise EvaluationError(
            f"{what} must be one axis of integers, got {indices.dtype} of shape "
            f"{list(indices.shape)}",
            reason="bad_request",
        )
    if len(indices) != count or not count:
        raise EvaluationError(
            f"there are {len(indices)} {what} for {count} examples; at least 1 is needed",
            reason="wrong_count",
        )
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= bound:
        raise EvaluationError(
            f"{what} must lie in 0..{bound - 1}, got {low}..{high}", reason="bad_request"
        )


def check_logits(shape: Sequence[int], count: int, *, task: str, classes: int) -> None:
    """Raise EvaluationError unless this is the shape of ``count`` examples' logits.

    A binary task takes one or two outputs, a multiclass task as many as there are classes.
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


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
