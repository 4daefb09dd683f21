"""The sections of a report that are made alike for every task, with the warnings they need."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models import metrics, statistics
from models.checks import check_indices
from models.metrics import Booleans, Counts, Floats, Integers, Logits, Ratios
from models.statistics import Interval

# Above this the areas under the curves are null, with the reason among the warnings: ranking 20
# million probabilities takes about 3 s on one core.
MAX_RANKED_ELEMENTS = 20_000_000

# Class or group names that one warning lists.
MAX_NAMED = 20

Groups = Mapping[str, tuple[np.ndarray[Any, Any], Sequence[str]]]


def averages(by_class: Counts, *, everywhere: bool = False) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 in each way; ``everywhere`` is as for `metrics.macro`."""
    return {
        "micro": metrics.micro(by_class).to_json(),
        "macro": metrics.macro(by_class, everywhere=everywhere).to_json(),
        "weighted": metrics.weighted(by_class).to_json(),
    }


def per_class(by_class: Counts, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Precision, recall, F1 and support of each class."""
    each = metrics.ratios(by_class)
    columns = (each.precision, each.recall, each.f1, by_class.support)
    return [
        {"class": name, "precision": precision, "recall": recall, "f1": f1, "support": support}
        for name, precision, recall, f1, support in zip(
            classes, *(column.tolist() for column in columns), strict=True
        )
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ByValue:
    """Of each of a group's V values.

    Attributes:
        ratios: float64 ``(V,)`` each.
        unpredicted: bool ``(V,)``, whether an empty division is in its precision.
        absent: bool ``(V,)``, whether one is in its recall.
    """

    ratios: Ratios
    unpredicted: Booleans
    absent: Booleans


def merged_groups(groups: Groups, *, least: int) -> Groups:
    """The same slices, of each group those values made one that have fewer examples than ``least``.

    As many of the next larger values join them as it takes for the one to have that many, so that
    what is left out cannot be found by subtraction.
    """
    merged: dict[str, tuple[Integers, Sequence[str]]] = {}
    for group, (codes, values) in groups.items():
        size = np.bincount(codes, minlength=len(values))
        there = np.flatnonzero(size)
        ascending = there[np.argsort(size[there], kind="stable")]
        together = np.cumsum(size[ascending])
        # all below the bound, and then until they are enough
        count = int(np.count_nonzero(size[ascending] < least))
        while 0 < count < len(ascending) and together[count - 1] < least:
            count += 1
        if count == 0:
            merged[group] = (codes, values)
            continue
        one = f"{count} values, such as have fewer than {least} examples"
        kept = np.sort(ascending[count:])
        new = np.full(len(values), len(kept), np.int64)
        new[kept] = np.arange(len(kept))
        merged[group] = (new[codes], [*(values[index] for index in kept), one])
    return merged


def per_group(
    groups: Groups,
    loss: Floats,
    correct: Booleans,
    judge: Callable[[Integers, int], ByValue],
    warnings: list[str],
) -> list[dict[str, Any]]:
    """Metrics of each group's values that have examples.

    Args:
        loss: float64 ``(N,)``.
        correct: bool ``(N,)``.
        judge: from the examples' codes, int64 ``(N,)``, and the number of values.
        warnings: what is to be said is added.

    Raises:
        EvaluationError: codes of the wrong length, type or range.
    """
    found = []
    for group, (codes, values) in groups.items():
        check_indices(codes, len(loss), len(values), f"codes of group {group!r}")
        codes = codes.astype(np.int64)
        size = np.bincount(codes, minlength=len(values))
        total = np.bincount(codes, weights=loss, minlength=len(values))
        right = np.bincount(codes[correct], minlength=len(values))
        judged = judge(codes, len(values))
        found += [
            {
                "group": group,
                "value": values[index],
                "examples": int(size[index]),
                "loss": float(total[index] / size[index]),
                "accuracy": float(right[index] / size[index]),
                "precision": float(judged.ratios.precision[index]),
                "recall": float(judged.ratios.recall[index]),
                "f1": float(judged.ratios.f1[index]),
            }
            for index in np.flatnonzero(size).tolist()
        ]
        for metric, empty in (("precision", judged.unpredicted), ("recall", judged.absent)):
            named = [values[index] for index in np.flatnonzero(empty & (size > 0)).tolist()]
            if named:
                warnings.append(
                    f"{metric} by {group} counts an empty division as 0 for {listed(named)}"
                )
    return found


def areas(
    probabilities: Callable[[slice], Floats],
    positive: Callable[[int], Booleans],
    judged: range,
    support: Integers,
    count: int,
    classes: Sequence[str],
    warnings: list[str],
) -> tuple[float | None, float | None]:
    """ROC AUC and average precision: the mean over the judged classes, each against the rest.

    Args:
        probabilities: of some classes, float64 ``(classes, N)``.
        positive: bool ``(N,)``, the examples of one class.
        judged: indices of classes, without a gap.
        support: int64 ``(C,)``, number of examples of each class.
        count: N.
        warnings: the reason for each None is added.
    """
    if count * len(classes) > MAX_RANKED_ELEMENTS:
        warnings.append(
            f"roc_auc and average_precision are null: {count} examples of {len(classes)} "
            f"classes are more than {MAX_RANKED_ELEMENTS} scores to rank"
        )
        return None, None
    missing = [classes[index] for index in judged if not support[index]]
    if missing:
        warnings.append(f"roc_auc and average_precision are null: no example of {listed(missing)}")
        return None, None
    at_once = max(1, metrics.CHUNK_ELEMENTS // count)
    found = []
    for start in range(judged.start, judged.stop, at_once):
        part = slice(start, min(start + at_once, judged.stop))
        columns = probabilities(part)
        found += [
            metrics.ranking(column, positive(index))
            for index, column in enumerate(columns, start=part.start)
        ]
    curves, precisions = zip(*found, strict=True)
    average_precision = sum(precisions) / len(precisions)
    if None in curves:
        whole = [repr(classes[index]) for index in judged if support[index] == count]
        warnings.append(f"roc_auc is null: every example is of {listed(whole)}")
        return None, average_precision
    return sum(curves) / len(curves), average_precision


def intervals(
    loss: Floats,
    correct: Booleans,
    resampled: Callable[[], Mapping[str, Interval]],
    *,
    level: float,
    warnings: list[str],
) -> dict[str, list[float] | None]:
    """``[low, high]`` of loss and accuracy, and of what ``resampled`` gives.

    Args:
        loss: float64 ``(N,)``.
        correct: bool ``(N,)``.
        resampled: intervals of precision, recall and F1; of none of them, and the reason among
            the warnings, where that is too costly.
        level: confidence, in (0, 1).
        warnings: what is to be said is added.
    """
    found: dict[str, list[float] | None] = dict.fromkeys(
        ("loss", "accuracy", "precision", "recall", "f1")
    )
    found["accuracy"] = list(statistics.wilson(int(correct.sum()), len(correct), level=level))
    if len(loss) < 2:
        warnings.append(
            "the intervals of loss, precision, recall and f1 are null: they need 2 examples"
        )
        return found
    found["loss"] = list(statistics.normal_mean(loss, level=level))
    ends = resampled()
    found |= {name: list(pair) for name, pair in ends.items()}
    flat = [name for name, (low, high) in ends.items() if low == high]
    if flat:
        warnings.append(
            f"the intervals of {listed(flat)} have no width: resampling cannot show errors that "
            "these examples do not hold; that of accuracy can"
        )
    return found


def empty_divisions(by_class: Counts, classes: Sequence[str], *, left_out: bool) -> list[str]:
    """Say which classes' ratios are 0 because there was nothing to divide by.

    Args:
        left_out: whether the macro average that the metrics are leaves out absent classes.
    """
    unpredicted, absent = by_class.predicted == 0, by_class.support == 0
    tail = ", which the macro averages leave out" if left_out else ""
    sentences = (
        (unpredicted & ~absent, "precision", "never predicted"),
        (absent & ~unpredicted, "recall", "predicted but without examples"),
        (
            absent & unpredicted,
            "precision, recall and f1",
            f"without examples or predictions{tail}",
        ),
    )
    found = []
    for where, metric, why in sentences:
        named = [classes[index] for index in np.flatnonzero(where).tolist()]
        if named:
            found.append(f"{metric}: an empty division counts as 0 for {listed(named)} ({why})")
    return found


def logits_digest(logits: Logits) -> str:
    """Lower-case SHA-256 hex of their little-endian bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(logits, dtype="<f4").data).hexdigest()


def listed(names: Sequence[str]) -> str:
    """The first `MAX_NAMED`, and how many more there are."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
