"""Tables, of whatever format, as datasets: columns of labels, groups and features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from models import chains
from models.canonical import canonical_json
from models.datasets import decoded, kinds
from models.datasets.arrays import bad_file, byte_view
from models.datasets.decoded import TableColumn
from models.datasets.intake import Found, Intake, check_examples, check_size
from models.datasets.tablecolumns import Roles, roles_of
from models.datasets.tablerows import Batch, Rows, decoded_row_bytes
from models.datasets.tablesummary import Summary, described, summaries
from models.datasets.tabletargets import targets_of, write_targets
from models.spec import Component, SpecError
from models.tensorfile import Placer
from models.transforms import Column, ExampleType, Transform
from models.transforms.tables import Impute, OneHot
from models.transforms.tabular import apply

Texts = Mapping[int, tuple[int, str] | None]

_PROBE_CELLS = 2**19


class Table(Protocol):
    """What a format gives of a file.

    Attributes:
        names: of all columns, in the file's order.
        rows: how many the file announces; None where only reading shows it.
    """

    @property
    def names(self) -> Sequence[str]:
        """Of all columns."""
        ...

    @property
    def rows(self) -> int | None:
        """How many there are."""
        ...

    def batches(self, roles: Roles, texts: Texts) -> Iterator[Batch]:
        """Start reading the columns that have a role anew.

        Args:
            roles: of the columns.
            texts: the features that are columns of text, whatever their cells look like.

        Raises:
            SpecError: the file is damaged, or a cell cannot be read; names its row and column.
        """
        ...


def take(table: Table, intake: Intake) -> Found:
    """Make a dataset of a table; needs memory for batches, hashes and a column at a time.

    Raises:
        SpecError: whatever is wrong with the file or the spec.
    """
    spec = intake.spec
    kinds.check(spec, "table")
    roles = roles_of(table.names, intake)
    gives = spec.split == "train" and not spec.sealed  # constants show what is in a dataset
    chains.check_constants(spec.transforms, pointer="/transforms", own=gives)
    forced = _texts_by_spec(spec.transforms, roles)
    if table.rows is not None:
        check_examples(table.rows, intake)
        check_size(table.rows * decoded_row_bytes(roles), intake)
    rows, texts = _gathered(table, roles, forced, intake)
    check_examples(rows.count, intake)
    if rows.not_finite:
        column, (row, value) = min(rows.not_finite.items(), key=lambda item: item[1][0])
        raise bad_file(
            f"{roles.place(row, column)} holds {value} as float64; every number must be finite, "
            "and a missing cell empty"
        )

    columns = [_column(rows, column, forced) for column in roles.features]
    numbers = summaries(rows, threads=intake.processes)
    statistics = described(rows, columns, numbers)
    components: Sequence[Component] = spec.transforms
    if spec.split == "train":
        components = chains.filled(components, statistics, pointer="/transforms")
    example = _example(columns)
    prepared, _ = chains.divided(components, pointer="/transforms")
    try:
        chains.output_of(components, example, pointer="/transforms")
    except SpecError as error:
        raise _located(error, prepared, example, rows, texts) from None
    _check_cells(prepared, columns, numbers, rows)

    targets = targets_of(rows, spec)
    planned = decoded.plan(
        x=("F64", (rows.count, len(columns))),
        y=targets.shape(rows.count),
        classes=targets.classes,
        groups=targets.group_values,
        columns=columns,
    )
    check_size(planned.size_bytes, intake)
    out = Placer(intake.output, planned)
    hashes = _write_features(out, rows, columns)
    counts = write_targets(out, rows, targets)
    return Found(
        examples=rows.count,
        classes=targets.classes,
        positive_class=targets.positive_class,
        class_counts=dict(zip(targets.classes, counts.tolist(), strict=True)),
        groups=targets.group_counts,
        kind="table",
        example=example,
        duplicates=decoded.duplicates(hashes),
        transforms=chains.resolved(components, pointer="/transforms"),
        columns=statistics,
    )


def _texts_by_spec(components: Sequence[Component], roles: Roles) -> Texts:
    """The features that the constants call text, even if this file's cells look like numbers."""
    names: set[str] = set()
    for one in chains.transforms(components, pointer="/transforms"):
        if isinstance(one, OneHot):
            names |= set(one.categories or ())
        if isinstance(one, Impute):
            names |= {name for name, value in (one.values or {}).items() if type(value) is str}
    return {column: None for column in roles.features if roles.names[column] in names}


def _gathered(table: Table, roles: Roles, texts: Texts, intake: Intake) -> tuple[Rows, Texts]:
    """All rows, and the features that turned out to be columns of text.

    Where a column of numbers turns out to be one of text after rows of it were laid aside, the
    rest is only looked through for more of them, and then all is read a second time.
    """
    rows = Rows(intake, roles, frozenset(texts))
    for batch in table.batches(roles, texts):
        texts = batch.texts
        if rows.texts != texts.keys() and rows.count == 0:
            rows = Rows(intake, roles, frozenset(texts))
        if rows.texts == texts.keys():
            rows.add(batch)
    if rows.texts != texts.keys():
        return _gathered(table, roles, texts, intake)
    rows.finish()
    return rows, texts


def _column(rows: Rows, column: int, forced: Texts) -> TableColumn:
    name, missing = rows.roles.names[column], column in rows.missing
    texts = tuple(rows.vocabularies[column].codes) if column in rows.texts else ()
    # A column without any text is one of numbers, as it is in a format without types.
    categories = texts if texts or column in forced else None
    return TableColumn(name=name, categories=categories, missing=missing)


def _example(columns: Sequence[TableColumn]) -> ExampleType:
    found = tuple(
        Column(name=one.name, text=one.categories is not None, missing=one.missing)
        for one in columns
    )
    return ExampleType(shape=(len(found),), dtype="float64", columns=found)


def _located(
    error: SpecError,
    prepared: Sequence[Transform],
    example: ExampleType,
    rows: Rows,
    texts: Texts,
) -> SpecError:
    """The complaint that a chain does not fit, with the cell that it does not fit."""
    encoded = {name for one in prepared if isinstance(one, OneHot) for name in one.categories or ()}
    imputed = {name for one in prepared if isinstance(one, Impute) for name in one.values or ()}
    for column, one in zip(rows.roles.features, example.columns or (), strict=True):
        if one.text and one.name not in encoded:
            vocabulary = rows.vocabularies[column]
            row, text = texts[column] or (vocabulary.first[0], next(iter(vocabulary.codes)))
            return SpecError(
                f"{rows.roles.place(row, column)} holds the text {text[:100]!r}"
                f"{_lacking(OneHot, prepared)}, correct the cell, or leave the column out of "
                "features",
                pointer=error.pointer,
            )
        if one.missing and one.name not in imputed:
            return SpecError(
                f"{rows.roles.place(rows.missing[column][1], column)} is empty"
                f"{_lacking(Impute, prepared)}, or leave the column out of features",
                pointer=error.pointer,
            )
    return error


def _lacking(kind: type[Impute | OneHot], prepared: Sequence[Transform]) -> str:
    """Why a transform of this kind does not help a column, and how it would."""
    name, where, what, parameter = (
        ("impute", "missing cells", "no value", "values")
        if kind is Impute
        else ("one_hot", "columns of text", "no categories", "categories")
    )
    if not any(isinstance(one, kind) for one in prepared):
        return f": add the transform {name} for {where}"
    return (
        f", and {name} has {what} for this column: add it to its {parameter}, take its constants "
        "from a training dataset that has the column"
    )


def _check_cells(
    prepared: Sequence[Transform],
    columns: Sequence[TableColumn],
    numbers: Sequence[Summary | None],
    rows: Rows,
) -> None:
    """Refuse a cell that the chain cannot take, such as an unknown category.

    The chain is tried on a few rows that hold the lowest and the highest number of every column,
    each of its texts, and nothing where a cell is missing: what it does to a cell depends on that
    cell alone and does not change the order of numbers. Only where one of them is refused all
    rows are tried, to name the one at fault.
    """
    cells = []
    for one, summary in zip(columns, numbers, strict=True):
        if summary is None:
            found = np.arange(len(one.categories or ()), dtype=np.float64)
        else:
            found = np.array([summary.low, summary.high])
        cells.append(np.append(found, [np.nan] * one.missing))
    count, step = max(map(len, cells)), max(1, _PROBE_CELLS // len(cells))
    try:
        for start in range(0, count, step):
            index = np.arange(start, min(start + step, count))
            x = np.stack([one[index % len(one)] for one in cells], axis=1)
            apply(prepared, x, columns, first=0)
    except SpecError as error:
        done = 0
        for x in rows.features():
            try:
                apply(prepared, x, columns, first=done)
            except SpecError as located:
                raise located.under("/file") from None
            done += len(x)
        raise error.under("/file") from None


def _write_features(
    out: Placer, rows: Rows, columns: Sequence[TableColumn]
) -> np.ndarray[Any, Any]:
    """Write ``x`` and ``hashes``, and return the hashes."""
    # Equal rows have equal hashes in all datasets of the same columns, in whatever order columns
    # and categories stand there.
    stand_ins = {
        index: np.append(_text_hashes(one.categories), np.full(1, np.nan).view(np.uint64))
        for index, one in enumerate(columns)
        if one.categories
    }
    names = [one.name for one in columns]
    order = sorted(range(len(names)), key=names.__getitem__)
    kind = f"table {canonical_json(sorted(names)).decode()}"
    prints = decoded.Fingerprints(kind, 8 * len(columns))
    hashes = bytearray()
    for x in rows.features():
        out.append("x", byte_view(x))
        hashed = x.view(np.uint64).copy() if stand_ins else x
        for index, values in stand_ins.items():
            missing = np.isnan(x[:, index])
            hashed[:, index] = values[np.where(missing, -1, x[:, index]).astype(np.int64)]
        hashes += prints.of(byte_view(hashed[:, order]))
    out.append("hashes", memoryview(hashes))
    return np.frombuffer(hashes, "<u8")


def _text_hashes(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """A hash of each text, uint64."""
    digests = (hashlib.blake2b(one.encode(), digest_size=8).digest() for one in texts)
    return np.frombuffer(b"".join(digests), np.uint64)
