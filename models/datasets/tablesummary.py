"""What the features of a table hold, in a few numbers and lists each.

Each column is summed up over all its rows at once, so that the same table gives the same bits in
whatever format and batches it came.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.datasets.ahead import ahead
from models.datasets.decoded import Dataset, TableColumn
from models.datasets.tablerows import Rows

_MAX_BYTES = 2**28  # of columns that are held at a time, unless one alone is longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The values of a column of numbers, missing cells left out.

    Attributes:
        std: the population's deviation, exactly 0 where all values are equal.
    """

    mean: float
    std: float
    median: float
    low: float
    high: float


def summaries(rows: Rows, *, threads: int) -> list[Summary | None]:
    """Sum up each feature; None for one of text and for one without any value."""
    width = len(rows.roles.features)
    step = max(1, _MAX_BYTES // (8 * rows.count))

    def columns() -> Iterator[np.ndarray[Any, Any] | None]:
        for first in range(0, width, step):
            block = rows.columns(first, min(first + step, width))
            for index, column in enumerate(rows.roles.features[first : first + step]):
                yield None if column in rows.texts else block[index]

    return list(ahead(_summary, columns(), threads=threads))


def described(
    rows: Rows, columns: Sequence[TableColumn], numbers: Sequence[Summary | None]
) -> list[dict[str, Any]]:
    """`models.datasets.intake.Found.columns`: what `models.transforms.tables` fills from.

    For each feature ``name``, ``kind`` (``number`` or ``text``) and ``missing`` (cells); of numbers
    ``mean``, ``std`` and ``median``, of texts ``most_frequent`` (the first in sorted order of
    several) and ``categories`` (sorted). What there is no value for is null.
    """
    found = []
    for column, one, summary in zip(rows.roles.features, columns, numbers, strict=True):
        counts = None
        if one.categories is not None:
            vocabulary = rows.vocabularies[column]
            counts = dict(zip(vocabulary.codes, vocabulary.counts, strict=True))
        missing = rows.missing.get(column, (0, 0))[0]
        found.append(_described(one, missing, summary, counts))
    return found


def of_dataset(dataset: Dataset) -> list[dict[str, Any]]:
    """The same of a decoded table, whose columns may have categories that no row has."""
    found = []
    for index, one in enumerate(dataset.columns or ()):
        column = np.array(dataset.x[:, index])
        missing = np.isnan(column)
        if one.categories is None:
            counts = None
        else:
            times = np.bincount(column[~missing].astype(np.int64), minlength=len(one.categories))
            counts = {t: n for t, n in zip(one.categories, times.tolist(), strict=True) if n}
        summary = None if counts is not None else _summary(column)
        found.append(_described(one, int(np.count_nonzero(missing)), summary, counts))
    return found


def _described(
    column: TableColumn, missing: int, summary: Summary | None, counts: dict[str, int] | None
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": column.name,
        "kind": "number" if counts is None else "text",
        "missing": missing,
    }
    if counts is None:
        for name in ("mean", "std", "median"):
            entry[name] = None if summary is None else getattr(summary, name)
    else:
        entry["most_frequent"] = min(counts, key=lambda t: (-counts[t], t), default=None)
        entry["categories"] = sorted(counts)
    return entry


def _summary(column: np.ndarray[Any, Any] | None) -> Summary | None:
    """Of float64 ``(N,)``, which is overwritten."""
    if column is None:
        return None
    missing = np.isnan(column)
    values = column[~missing] if missing.any() else column
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if low == high:  # rounding in the mean would make a tiny deviation of none
        return Summary(mean=low, std=0.0, median=low, low=low, high=high)
    peak, exponent = math.frexp(max(abs(low), abs(high)))
    if abs(exponent) < 256:
        peak, exponent = math.ldexp(peak, exponent), 0
    else:  # squares and sums would leave the range of float64
        values = np.ldexp(values, -exponent)
    mean = min(max(float(values.mean()), -peak), peak)  # a rounded one could pass the largest value
    std = min(float(values.std()), peak)
    middle = len(values) // 2
    if len(values) % 2:
        values.partition(middle)
        median = float(values[middle])
    else:
        values.partition((middle - 1, middle))
        median = float(values[middle - 1] + values[middle]) / 2
    return Summary(
        mean=math.ldexp(mean, exponent),
        std=math.ldexp(std, exponent),
        median=math.ldexp(median, exponent),
        low=low,
        high=high,
    )
