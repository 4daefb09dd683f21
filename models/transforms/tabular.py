"""The transforms of tables on batches of rows, in float64, with NumPy.

Each value of the output depends on one cell of the input alone, by operations that IEEE 754 rounds
exactly, so that the same row gives the same bytes in a batch of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from models.catalog import TRANSFORMS
from models.datasets.decoded import TableColumn
from models.spec import SpecError
from models.transforms import Transform
from models.transforms.tables import Impute, OneHot, Standardize, indicator


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some consecutive rows of a table.

    Attributes:
        x: float64 ``(n, F)``, as `models.datasets.decoded` says: NaN is a missing cell, a text its
            index in the column's categories.
        columns: of each of the F.
        first: index of the first row in its table.
    """

    x: np.ndarray[Any, Any]
    columns: tuple[TableColumn, ...]
    first: int

    def place(self, row: int, column: int) -> str:
        """Where a cell is, as people count."""
        return f"row {self.first + row + 1}, column {self.columns[column].name[:100]!r}"


def impute(rows: Rows, parameters: Impute) -> Rows:
    """Put a constant where a cell is missing.

    Args:
        rows: no other cells change.
        parameters: ``values`` by column; a text may be new to its column.
    """
    values, columns = parameters.values or {}, list(rows.columns)
    fill = np.full(len(columns), np.nan)
    for index, column in enumerate(columns):
        value = values.get(column.name)
        if isinstance(value, str):
            texts = column.categories or ()
            if value not in texts:
                texts = (*texts, value)
                columns[index] = replace(column, categories=texts)
            fill[index] = texts.index(value)
        elif value is not None:
            fill[index] = value
    return replace(rows, x=np.where(np.isnan(rows.x), fill, rows.x), columns=tuple(columns))


def one_hot(rows: Rows, parameters: OneHot) -> Rows:
    """Replace columns of text by one column of 0 and 1 for each category, in their places.

    Args:
        rows: no cell of such a column is missing.
        parameters: ``categories`` by column.

    Raises:
        SpecError: a text is no category, unless ``unknown`` says that it becomes zeros.
    """
    categories, pieces, columns = parameters.categories or {}, [], []
    for index, column in enumerate(rows.columns):
        if column.name not in categories:
            pieces.append(rows.x[:, index : index + 1])
            columns.append(column)
            continue
        known = {text: code for code, text in enumerate(categories[column.name])}
        texts = column.categories or ()
        table = np.array([known.get(text, -1) for text in texts], np.int64)
        codes = table[rows.x[:, index].astype(np.int64)]
        if parameters.unknown == "error" and (codes < 0).any():
            row = int((codes < 0).argmax())
            raise SpecError(
                f"{rows.place(row, index)} holds {texts[int(rows.x[row, index])][:100]!r}, which "
                f"is no category of one_hot ({_shown(list(known))}); name it there, or set unknown "
                "to 'zeros'"
            )
        pieces.append((codes[:, None] == np.arange(len(known))).astype(np.float64))
        columns += [TableColumn(name=indicator(column.name, text)) for text in known]
    x = np.concatenate(pieces, axis=1) if pieces else rows.x
    return replace(rows, x=x, columns=tuple(columns))


def standardize(rows: Rows, parameters: Standardize) -> Rows:
    """Compute ``(x - mean) / std`` for the columns that are named, with 1 for a ``std`` of 0."""
    mean, std = parameters.mean or {}, parameters.std or {}
    names = [column.name for column in rows.columns]
    means = np.array([mean.get(name, 0.0) for name in names])
    deviations = np.array([std.get(name, 1.0) or 1.0 for name in names])
    with np.errstate(over="ignore"):
        return replace(rows, x=(rows.x - means) / deviations)


def apply(
    transforms: Sequence[Transform],
    x: np.ndarray[Any, Any],
    columns: Sequence[TableColumn],
    *,
    first: int,
) -> np.ndarray[Any, Any]:
    """Apply a chain to a batch of rows.

    Args:
        transforms: in order; `models.chains.output_of` said that they fit the columns.
        x: float64 ``(n, F)`` of the decoded form.
        columns: of the decoded form.
        first: index of the batch's first row, for what the errors say.

    Returns:
        float32 ``(n, G)``, finite: the prepared form.

    Raises:
        SpecError: a cell cannot be taken; names its row and column.
    """
    rows = Rows(x=x, columns=tuple(columns), first=first)
    for transform in transforms:
        rows = _function(type(transform))(rows, transform)
    with np.errstate(over="ignore"):
        result = rows.x.astype(np.float32)
    finite = np.isfinite(result)
    if not finite.all():
        row, column = (int(index) for index in np.argwhere(~finite)[0])
        raise SpecError(
            f"{rows.place(row, column)} becomes {rows.x[row, column]:g}, and a network takes "
            "finite numbers that fit into float32"
        )
    return result


@cache
def _function(kind: type[Transform]) -> Callable[[Rows, Any], Rows]:
    target = next(TRANSFORMS[name] for name in TRANSFORMS if TRANSFORMS[name].parameters is kind)
    function: Callable[[Rows, Any], Rows] = target.load()
    return function


def _shown(texts: Sequence[str]) -> str:
    return ", ".join(repr(one[:100]) for one in texts[:20]) + (", ..." if len(texts) > 20 else "")
