"""How far a metric could be off by the luck of which examples the dataset holds."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import numpy as np

from models.metrics import Counts, Floats, Indicators, Integers, macro, ratios

Interval = tuple[float, float]

RESAMPLES = 1000

# Numbers held at a time: 2 MiB, so that they stay in a core's cache.
CHUNK_ELEMENTS = 2**18

# Drawing ten examples takes as long as drawing how often one cell comes up (measured).
EXAMPLES_PER_CELL = 10

# Summing fifty labels of a row takes as long as drawing an example (measured).
LABELS_PER_EXAMPLE = 50

# What one resample of rows of labels may cost, in drawn examples: all of them take about 3 s then.
MAX_RESAMPLED_COST = 300_000

# Drawn counts that are summed over rows at once: 16 MiB, so that the rows are read a few times.
BLOCK_ELEMENTS = 2**22


def wilson(successes: int, total: int, *, level: float) -> Interval:
    """Wilson's score interval of a share, without continuity correction.

    Args:
        successes: in ``[0, total]``.
        total: at least 1.
        level: confidence, in (0, 1).

    >>> low, high = wilson(10, 10, level=0.95)
    >>> round(low, 4), high
    (0.7225, 1.0)
    """
    z = _quantile(level)
    share = successes / total
    spread = z * z / total
    centre = share + spread / 2
    half = z * (share * (1 - share) / total + spread / (4 * total)) ** 0.5
    # the formula's ends are 0 and 1 here; rounding would put them just beside
    low = 0.0 if successes == 0 else (centre - half) / (1 + spread)
    high = 1.0 if successes == total else (centre + half) / (1 + spread)
    return low, high


def normal_mean(values: Floats, *, level: float) -> Interval:
    """Interval of a mean by normal theory: the mean and its standard error.

    Args:
        values: float64 ``(N,)``, N at least 2.
        level: confidence, in (0, 1).
    """
    mean = float(values.sum() / len(values))
    half = _quantile(level) * float(values.std(ddof=1)) / len(values) ** 0.5
    return mean - half, mean + half


def resampled_ratios(
    predicted: Integers,
    targets: Integers,
    *,
    positive: int | None,
    level: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Bootstrap intervals of precision, recall and F1: percentiles over resampled datasets.

    Drawing examples with replacement is one multinomial draw over the cells of the confusion
    matrix that are not empty, and the metrics need no more than those.

    Args:
        predicted: int64 ``(N,)``, class indices.
        targets: int64 ``(N,)``.
        positive: the class whose metrics are meant; None is the mean over the classes that are
            present in a resample's targets or predictions.
        level: confidence, in (0, 1).
        resamples: number of datasets drawn.
        seed: equal seeds and equal inputs give equal intervals.
    """
    present, flat = np.unique(np.concatenate([targets, predicted]), return_inverse=True)
    width = len(present)
    true, guess = flat[: len(targets)], flat[len(targets) :]
    cells, cell_counts = np.unique(true * width + guess, return_counts=True)
    true, guess = np.divmod(cells, width)
    # RandomState and not Generator: NumPy promises that its draws stay as they are
    random = np.random.RandomState(seed)
    found = [
        _of_cells(drawn, true, guess, width, present, positive)
        for drawn in _draws(random, cell_counts, resamples)
    ]
    return _percentiles(np.concatenate(found, axis=1), level)


def distinct_rows(predicted: Indicators, targets: Indicators) -> tuple[Integers, Integers]:
    """Find the examples that differ in what was predicted or is true.

    Args:
        predicted: uint8 ``(N, L)``, 0 or 1.
        targets: uint8 ``(N, L)``, 0 or 1.

    Returns:
        int64 ``(K,)`` each: the index of one example of each kind, and how many are of it.
    """
    bits = [np.packbits(one, axis=1) for one in (predicted, targets)]
    width = sum(one.shape[1] for one in bits)
    padding = np.zeros((len(targets), -width % 8), dtype=np.uint8)
    words = np.concatenate([*bits, padding], axis=1).view(np.uint64)
    order = np.lexsort(words.T)
    ranked = words[order]
    first = np.flatnonzero(np.append(True, (ranked[1:] != ranked[:-1]).any(axis=1)))
    return order[first], np.diff(first, append=len(order))


def label_cost(row_counts: Integers, labels: int) -> int:
    """What one resample costs `resampled_label_ratios`, in drawn examples."""
    rows = len(row_counts)
    drawn = min(int(row_counts.sum()), EXAMPLES_PER_CELL * rows)
    return drawn + rows * labels // LABELS_PER_EXAMPLE


def resampled_label_ratios(
    predicted: Indicators,
    targets: Indicators,
    *,
    rows: Integers,
    row_counts: Integers,
    level: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """As `resampled_ratios`, of examples that have several labels each; the mean over all labels.

    Args:
        predicted: uint8 ``(N, L)``, 0 or 1.
        targets: uint8 ``(N, L)``, 0 or 1.
        rows: int64 ``(K,)``, as `distinct_rows` finds them.
        row_counts: int64 ``(K,)``, as `distinct_rows` finds them.
        level: confidence, in (0, 1).
        resamples: number of datasets drawn.
        seed: equal seeds and equal inputs give equal intervals.
    """
    kinds, labels = len(rows), targets.shape[1]
    random = np.random.RandomState(seed)
    at_once = min(resamples, max(1, BLOCK_ELEMENTS // max(kinds, 3 * labels)))
    # a sum of counts is a whole number, exact in any order while it has fewer bits than these
    dtype = np.float32 if row_counts.sum() < 2**24 else np.float64
    block = np.empty((at_once, kinds), dtype)
    found = []
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        done = 0
        for counts in _draws(random, row_counts, size):
            block[done : done + len(counts)] = counts
            done += len(counts)
        by_label = _of_rows(block[:size], predicted, targets, rows)
        mean = macro(by_label, everywhere=True)
        found.append(np.stack([mean.precision, mean.recall, mean.f1]))
    return _percentiles(np.concatenate(found, axis=1), level)


def _of_rows(
    drawn: np.ndarray[Any, Any], predicted: Indicators, targets: Indicators, rows: Integers
) -> Counts:
    """Counts by label ``(R, L)`` of resampled rows ``(R, K)``."""
    sums = np.zeros((len(drawn), 3 * targets.shape[1]), drawn.dtype)
    at_once = max(64, CHUNK_ELEMENTS // sums.shape[1])  # fewer would cost more than they save
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        guess, true = predicted[rows[part]], targets[rows[part]]
        columns = np.concatenate([guess & true, guess, true], axis=1).astype(drawn.dtype)
        sums += drawn[:, part] @ columns
    correct, guessed, support = np.split(sums.astype(np.int64), 3, axis=1)
    return Counts(correct=correct, predicted=guessed, support=support)


def _percentiles(found: Floats, level: float) -> dict[str, Interval]:
    """The interval in the middle of each row of resampled precision, recall and F1 ``(3, R)``."""
    tail = (1 - level) / 2
    ends = np.quantile(found, [tail, 1 - tail], axis=1)
    return {
        name: (float(low), float(high))
        for name, low, high in zip(("precision", "recall", "f1"), *ends, strict=True)
    }


def _draws(
    random: np.random.RandomState, cell_counts: Integers, resamples: int
) -> Iterator[Integers]:
    """Resampled counts ``(R, K)`` of cells ``(K,)``, a few resamples at a time."""
    at_once = max(1, CHUNK_ELEMENTS // (EXAMPLES_PER_CELL * len(cell_counts)))
    for start in range(0, resamples, at_once):
        yield _drawn(random, cell_counts, min(at_once, resamples - start))


def _drawn(random: np.random.RandomState, cell_counts: Integers, size: int) -> Integers:
    """Resampled counts ``(size, K)`` of cells ``(K,)``, by whichever way is quicker."""
    cells, total = len(cell_counts), int(cell_counts.sum())
    if total > EXAMPLES_PER_CELL * cells:
        return random.multinomial(total, cell_counts / total, size=size)
    owner = np.repeat(np.arange(cells), cell_counts)
    bits = random.randint(0, 2**32, size=size * total, dtype=np.uint32).astype(np.uint64)
    bits *= np.uint64(total)
    bits >>= np.uint64(32)  # to an example, evenly: the product of 32 random bits and their number
    drawn = owner[bits.view(np.int64)].reshape(size, total)
    drawn += np.arange(size)[:, None] * cells
    return np.bincount(drawn.ravel(), minlength=size * cells).reshape(size, cells)


def _of_cells(
    drawn: Integers,
    true: Integers,
    guess: Integers,
    width: int,
    present: Integers,
    positive: int | None,
) -> Floats:
    """Precision, recall and F1, float64 ``(3, R)``, of resampled confusion cells ``(R, K)``."""
    by_class = Counts(
        correct=_summed(drawn * (true == guess), true, width),
        predicted=_summed(drawn, guess, width),
        support=_summed(drawn, true, width),
    )
    if positive is None:
        found = macro(by_class)
        return np.stack([found.precision, found.recall, found.f1])
    each = ratios(by_class)
    column = np.flatnonzero(present == positive)
    if not len(column):  # neither true nor predicted anywhere: an empty division, 0
        return np.zeros((3, len(drawn)))
    return np.stack([each.precision, each.recall, each.f1])[:, :, column[0]]


def _summed(drawn: Integers, classes: Integers, width: int) -> Integers:
    """Sum the cells ``(R, K)`` of each class: ``(R, width)``."""
    order = np.argsort(classes, kind="stable")
    which, starts = np.unique(classes[order], return_index=True)
    summed = np.zeros((len(drawn), width), dtype=np.int64)
    summed[:, which] = np.add.reduceat(drawn[:, order], starts, axis=1)
    return summed


def _quantile(level: float) -> float:
    """How many standard deviations to each side hold ``level`` of a normal distribution."""
    return NormalDist().inv_cdf((1 + level) / 2)
