"""Which columns of a table are the labels, the groups and the features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from models.datasets.arrayfiles import MAX_GROUP_NAME_LETTERS, MAX_GROUPS
from models.datasets.arrays import bad_file
from models.datasets.intake import Intake
from models.datasets.labels import MAX_NAME_LETTERS
from models.spec import DEFAULT_LABEL, DatasetSpec, SpecError
from models.transforms.tables import nearest_first


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """What each column is for, by its index in the file.

    Attributes:
        names: of all columns of the file.
        labels: one, or for a multilabel task those of its labels in the order of the classes.
        multilabel: each label column holds 0 and 1, and its name is the label.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...]
    groups: tuple[int, ...]
    features: tuple[int, ...]
    multilabel: bool

    @property
    def numbers(self) -> tuple[int, ...]:
        """The columns that hold numbers unless a cell shows otherwise."""
        return self.features + (self.labels if self.multilabel else ())

    @property
    def words(self) -> tuple[int, ...]:
        """The columns that are read as text, whatever they hold."""
        return self.groups + (() if self.multilabel else self.labels)

    def place(self, row: int, column: int) -> str:
        """Where a cell is, as people count: rows of data from 1."""
        return f"row {row + 1}, column {self.names[column][:100]!r}"


def roles_of(names: Sequence[str], intake: Intake) -> Roles:
    """Give each column its role; no row is read.

    Args:
        names: of all columns, in the file's order.
        intake: its spec names the columns.

    Raises:
        SpecError: the names are not distinct, there are too many, or the spec names one that is
            not there, or one for two roles.
    """
    spec = intake.spec
    _check_names(names, intake.max_columns)
    index = {name: column for column, name in enumerate(names)}
    labels = _labels(spec, index)
    taken = dict.fromkeys(labels, "label")
    groups = _columns(spec.groups or (), index, taken, "groups")
    taken |= dict.fromkeys(groups, "groups")
    if spec.features is None:
        features = tuple(column for column in range(len(names)) if column not in taken)
        for column in features:
            if re.fullmatch(r"__index_level_[0-9]+__", names[column]):
                raise bad_file(
                    f"column {names[column]!r} is an index that pandas wrote; to_parquet(path, "
                    "index=False) leaves it out, or name the features"
                )
    else:
        features = _columns(spec.features, index, taken, "features")
    if not features:
        raise SpecError(
            "there is no column for the features: every column is a label or a group",
            pointer="/features" if spec.features is not None else "/file",
        )
    return Roles(
        names=tuple(names),
        labels=labels,
        groups=groups,
        features=features,
        multilabel=spec.task == "multilabel",
    )


def _check_names(names: Sequence[str], max_columns: int) -> None:
    if len(names) > max_columns:
        raise bad_file(f"the table has {len(names)} columns; at most {max_columns} are taken")
    seen: dict[str, int] = {}
    for column, name in enumerate(names):
        if not name:
            raise bad_file(
                f"column {column + 1} has no name: every column needs one. pandas writes an index "
                "that way; to_csv(path, index=False) leaves it out"
            )
        if len(name) > MAX_NAME_LETTERS or "\0" in name:
            raise bad_file(
                f"the name of column {column + 1} is {name[:100]!r}; a name has 1 to "
                f"{MAX_NAME_LETTERS} characters and no NUL"
            )
        if name in seen:
            raise bad_file(
                f"columns {seen[name] + 1} and {column + 1} are both called {name[:100]!r}; the "
                "names must be distinct"
            )
        seen[name] = column


def _labels(spec: DatasetSpec, index: dict[str, int]) -> tuple[int, ...]:
    names = spec.label if isinstance(spec.label, tuple) else (spec.label or DEFAULT_LABEL,)
    if spec.label is None and DEFAULT_LABEL not in index:
        raise SpecError(
            f"the table has no column {DEFAULT_LABEL!r}; say in label which holds the labels: "
            + nearest_first(DEFAULT_LABEL, index),
            pointer="/label",
        )
    if not names:
        raise SpecError("label must name at least one column", pointer="/label")
    columns = _columns(names, index, {}, "label", listed=isinstance(spec.label, tuple))
    if spec.task != "multilabel":
        return columns
    for name in names:
        if len(name) > MAX_NAME_LETTERS or not name.isprintable():
            raise SpecError(
                f"{name[:100]!r} cannot be the name of a label: it has 1 to {MAX_NAME_LETTERS} "
                "printable characters",
                pointer="/label",
            )
    if spec.classes is not None:
        if set(spec.classes) != set(names):
            raise SpecError(
                "classes must be the names of the label columns, in index order: "
                + nearest_first("", names),
                pointer="/classes",
            )
        return tuple(index[name] for name in spec.classes)
    return columns


def _columns(
    names: Sequence[str],
    index: dict[str, int],
    taken: dict[int, str],
    role: str,
    *,
    listed: bool = True,
) -> tuple[int, ...]:
    """The columns of these names, none of which has a role already."""
    if role == "groups" and len(names) > MAX_GROUPS:
        raise SpecError(f"at most {MAX_GROUPS} groups, got {len(names)}", pointer="/groups")
    found: dict[int, None] = {}
    for place, name in enumerate(names):
        pointer = f"/{role}/{place}" if listed else f"/{role}"
        if name not in index:
            raise SpecError(
                f"the table has no column {name[:100]!r}; it has {nearest_first(name, index)}",
                pointer=pointer,
            )
        column = index[name]
        if column in taken or column in found:
            other = taken.get(column, role)
            raise SpecError(
                f"column {name[:100]!r} stands in {other} already; a column has one role, once",
                pointer=pointer,
            )
        if role == "groups" and (len(name) > MAX_GROUP_NAME_LETTERS or not name.isprintable()):
            raise SpecError(
                f"{name[:100]!r} cannot be a group: the name of one has at most "
                f"{MAX_GROUP_NAME_LETTERS} characters, all printable",
                pointer=pointer,
            )
        found[column] = None
    return tuple(found)
