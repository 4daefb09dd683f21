"""The labels and groups of a table: what its rows hold of them, and how they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.datasets import decoded, labels
from models.datasets.arrays import byte_view
from models.datasets.intake import positive_class_of
from models.datasets.tablerows import Rows
from models.spec import DatasetSpec
from models.tensorfile import Placer


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What the columns of labels and groups hold.

    Attributes:
        order: of the label column the class of each code; empty for a multilabel task.
        groups: by column, with the place of each code among the sorted values.
    """

    multilabel: bool
    classes: tuple[str, ...]
    positive_class: str | None
    order: np.ndarray[Any, Any]
    groups: Mapping[int, tuple[labels.Survey, np.ndarray[Any, Any]]]

    def shape(self, rows: int) -> tuple[int, ...]:
        """The shape of ``y``."""
        return (rows, len(self.classes)) if self.multilabel else (rows,)

    @property
    def group_values(self) -> dict[str, tuple[str, ...]]:
        """The values of each group by its name."""
        return {found.name: found.names for found, _ in self.groups.values()}

    @property
    def group_counts(self) -> dict[str, dict[str, int]]:
        """How many rows have each value of each group."""
        return {
            found.name: dict(zip(found.names, found.counts.tolist(), strict=True))
            for found, _ in self.groups.values()
        }


def targets_of(rows: Rows, spec: DatasetSpec) -> Targets:
    """Give each label its class and each group its values.

    Raises:
        SpecError: the labels are not those of the task or of the spec's classes.
    """
    roles = rows.roles
    if roles.multilabel:
        classes = tuple(roles.names[column] for column in roles.labels)
        order = np.empty(0, np.int64)
    else:
        survey, ranks = _survey(rows, roles.labels[0])
        classes, places = labels.classes_of(survey, spec.classes)
        order = places[ranks]
    return Targets(
        multilabel=roles.multilabel,
        classes=classes,
        positive_class=positive_class_of(spec, classes),
        order=order,
        groups={column: _survey(rows, column) for column in roles.groups},
    )


def write_targets(out: Placer, rows: Rows, targets: Targets) -> np.ndarray[Any, Any]:
    """Write the groups and ``y``, and return how many rows each class has."""
    for column, (found, ranks) in targets.groups.items():
        for codes in rows.codes(column):
            out.append(decoded.group_tensor(found.name), byte_view(ranks.astype("<i4")[codes]))
    counts = np.zeros(len(targets.classes), np.int64)
    if rows.roles.multilabel:
        for matrix in rows.matrix():
            out.append("y", byte_view(matrix))
            counts += matrix.sum(axis=0, dtype=np.int64)
    else:
        (label,) = rows.roles.labels
        for codes in rows.codes(label):
            out.append("y", byte_view(targets.order.astype("<i8")[codes]))
        counts[targets.order] = rows.vocabularies[label].counts
    return counts


def _survey(rows: Rows, column: int) -> tuple[labels.Survey, np.ndarray[Any, Any]]:
    """The distinct values of a column that was read as text, and the rank of each code."""
    vocabulary = rows.vocabularies[column]
    texts = list(vocabulary.codes)
    integers = all(labels.INTEGER.fullmatch(t) and -(2**63) <= int(t) < 2**63 for t in texts)
    values = np.array(list(map(int, texts)), np.int64) if integers else np.array(texts)
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    survey = labels.Survey(
        name=rows.roles.names[column],
        values=values[order],
        names=tuple(texts[index] for index in order),
        first=np.array(vocabulary.first)[order],
        counts=np.array(vocabulary.counts)[order],
        of_rows=True,
    )
    return survey, ranks
