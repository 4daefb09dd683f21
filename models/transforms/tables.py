"""The transforms of tables: they act on columns by name, with constants from a training dataset.

Each holds its constants, or names the dataset that they are to be taken from, or neither as long
as nobody has said: such a transform is `filled` before anything is done with it. So what evaluation
applies is always written out, and never computed from the examples that are judged.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from models.parameters import parameter
from models.spec import SpecError
from models.transforms import Column, ExampleType, Transform, refuse_tokens

MAX_COLUMNS = 100_000
MAX_CATEGORIES = 10_000

_BY_COLUMN: dict[str, Any] = {"type": ["object", "null"], "maxProperties": MAX_COLUMNS}
_DATASET: dict[str, Any] = {
    "summary": "The training dataset that the constants are taken from, instead of giving them.",
    "default": None,
    "type": ["string", "null"],
}


@runtime_checkable
class TakesConstants(Transform, Protocol):
    """A transform whose constants may come from a training dataset.

    Attributes:
        dataset: its name, or None.
    """

    dataset: str | None

    @property
    def needs_constants(self) -> bool:
        """There are none yet."""
        ...

    def filled(self, columns: Sequence[Mapping[str, Any]]) -> Self:
        """The same with constants.

        Args:
            columns: `models.datasets.intake.Found.columns` of the training dataset.

        Raises:
            SpecError: the training dataset cannot give one of them.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Impute:
    """Put a constant where a cell is missing."""

    on_host: ClassVar[bool] = True

    values: Mapping[str, float | str] | None = parameter(
        summary="What is put into the missing cells of each column: a number, or a text.",
        default=None,
        additionalProperties={"type": ["number", "string"]},
        **_BY_COLUMN,
    )
    strategy: str = parameter(
        summary=(
            "What of a column of numbers is taken from the dataset; of a column of text it is "
            "always the most frequent."
        ),
        default="mean",
        type="string",
        enum=["mean", "median"],
    )
    dataset: str | None = parameter(**_DATASET)

    def __post_init__(self) -> None:
        _check_source(self.dataset, values=self.values)

    @property
    def needs_constants(self) -> bool:
        """There are none yet."""
        return self.values is None

    def filled(self, columns: Sequence[Mapping[str, Any]]) -> Self:
        """The same with constants; SpecError for a column without any value."""
        values = {}
        for one in columns:
            statistic = "most_frequent" if one["kind"] == "text" else self.strategy
            values[one["name"]] = _given(one, statistic)
        return dataclasses.replace(self, values=values, dataset=None)

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example; SpecError where a value does not fit its column."""
        columns = _columns_of(example, "impute", self.values, self.dataset)
        named = _named(columns, self.values or {}, "impute", "/values")
        for name, value in (self.values or {}).items():
            if named[name].text != isinstance(value, str):
                right = "a text" if named[name].text else "a number"
                raise SpecError(
                    f"impute puts {value!r} into column {name[:100]!r}, which takes {right}",
                    pointer="/values",
                )
        return _example(
            dataclasses.replace(one, missing=one.missing and one.name not in named)
            for one in columns
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OneHot:
    """Replace a column of text by one column of 0 and 1 for each of its categories."""

    on_host: ClassVar[bool] = True

    categories: Mapping[str, tuple[str, ...]] | None = parameter(
        summary="The texts of each column of text, in the order of the columns that replace it.",
        default=None,
        additionalProperties={
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": MAX_CATEGORIES,
        },
        **_BY_COLUMN,
    )
    unknown: str = parameter(
        summary="What becomes of a text that is no category: the row is refused, or gets zeros.",
        default="error",
        type="string",
        enum=["error", "zeros"],
    )
    dataset: str | None = parameter(**_DATASET)

    def __post_init__(self) -> None:
        _check_source(self.dataset, categories=self.categories)
        for name, texts in (self.categories or {}).items():
            if len(set(texts)) != len(texts):
                raise SpecError(
                    f"the categories of column {name[:100]!r} must be distinct",
                    pointer="/categories",
                )

    @property
    def needs_constants(self) -> bool:
        """There are none yet."""
        return self.categories is None

    def filled(self, columns: Sequence[Mapping[str, Any]]) -> Self:
        """The same with constants; SpecError for a column of text without any."""
        categories = {
            one["name"]: tuple(_given(one, "categories"))
            for one in columns
            if one["kind"] == "text"
        }
        return dataclasses.replace(self, categories=categories, dataset=None)

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example; SpecError where a column is not one of text."""
        columns = _columns_of(example, "one_hot", self.categories, self.dataset)
        categories = self.categories or {}
        for name, column in _named(columns, categories, "one_hot", "/categories").items():
            if not column.text:
                raise SpecError(
                    f"one_hot names column {name[:100]!r}, which holds numbers; leave it out",
                    pointer="/categories",
                )
            if column.missing:
                raise SpecError(
                    f"column {name[:100]!r} has missing cells: put impute before one_hot"
                )
        found: list[Column] = []
        for column in columns:
            if column.name in categories:
                found += (
                    Column(name=indicator(column.name, one)) for one in categories[column.name]
                )
            else:
                found.append(column)
        if len(found) > MAX_COLUMNS:
            raise SpecError(f"one_hot makes {len(found)} columns; at most {MAX_COLUMNS} are taken")
        if len({column.name for column in found}) != len(found):
            raise SpecError(
                "one_hot calls its columns COLUMN=CATEGORY, and the table has such a column already"
            )
        return _example(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardize:
    """Subtract a column's mean and divide by its deviation; by 1 where that is 0."""

    on_host: ClassVar[bool] = True

    mean: Mapping[str, float] | None = parameter(
        summary="What is subtracted from each column of numbers.",
        default=None,
        additionalProperties={"type": "number"},
        **_BY_COLUMN,
    )
    std: Mapping[str, float] | None = parameter(
        summary="What each of the same columns is divided by.",
        default=None,
        additionalProperties={"type": "number", "minimum": 0},
        **_BY_COLUMN,
    )
    dataset: str | None = parameter(**_DATASET)

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None) or set(self.mean or {}) != set(self.std or {}):
            raise SpecError("mean and std must name the same columns", pointer="/std")
        _check_source(self.dataset, mean=self.mean)

    @property
    def needs_constants(self) -> bool:
        """There are none yet."""
        return self.mean is None

    def filled(self, columns: Sequence[Mapping[str, Any]]) -> Self:
        """The same with constants; SpecError for a column without any value."""
        numbers = [one for one in columns if one["kind"] == "number"]
        mean, std = ({one["name"]: _given(one, key) for one in numbers} for key in ("mean", "std"))
        return dataclasses.replace(self, mean=mean, std=std, dataset=None)

    def output(self, example: ExampleType) -> ExampleType:
        """What comes out of such an example; SpecError where a column is not one of numbers."""
        columns = _columns_of(example, "standardize", self.mean, self.dataset)
        for name, column in _named(columns, self.mean or {}, "standardize", "/mean").items():
            if column.text:
                raise SpecError(
                    f"standardize names column {name[:100]!r}, which holds text; leave it out",
                    pointer="/mean",
                )
            if column.missing:
                # The constants are those of the values as they stand, not of shifted ones.
                raise SpecError(
                    f"column {name[:100]!r} has missing cells: put impute before standardize"
                )
        return example


def indicator(column: str, category: str) -> str:
    """The name of the column that says whether ``column`` holds ``category``."""
    return f"{column}={category}"


def nearest_first(name: str, known: Iterable[str]) -> str:
    """Up to 20 of the known names for a sentence, those like ``name`` first."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3)
    near += [one for one in names if one.lower() == name.lower() and one not in near]
    order = near + [one for one in names if one not in near]
    shown = ", ".join(repr(one[:100]) for one in order[:20])
    return shown + (f" and {len(order) - 20} more" if len(order) > 20 else "")


def missing_constants(name: str, dataset: str | None) -> SpecError:
    """The complaint that a transform is still without constants."""
    if dataset is not None:
        return SpecError(
            f"the constants of {name} are those of dataset {dataset[:200]!r}, which were not taken",
            pointer="/dataset",
        )
    return SpecError(
        f"{name} needs constants: name a training dataset, such as "
        f'{{"name": "{name}", "dataset": "adult-train"}}'
    )


def _check_source(dataset: str | None, **constants: Any) -> None:
    (name, values), *_ = constants.items()
    if dataset is not None and values is not None:
        raise SpecError(
            f"give either {name} or dataset, from which it is taken, and not both",
            pointer="/dataset",
        )


def _given(column: Mapping[str, Any], statistic: str) -> Any:
    value = column.get(statistic)
    if value is None or value == []:
        raise SpecError(
            f"column {column['name'][:100]!r} of the training dataset holds no values to take "
            f"{statistic.replace('_', ' ')} from: leave it out of features"
        )
    return value


def _columns_of(
    example: ExampleType, name: str, constants: object, dataset: str | None
) -> tuple[Column, ...]:
    refuse_tokens(name, example)
    if example.columns is None:
        raise SpecError(f"{name} works on the columns of a table, and these examples have none")
    if constants is None:
        raise missing_constants(name, dataset)
    return example.columns


def _named(
    columns: Sequence[Column], names: Iterable[str], transform: str, pointer: str
) -> dict[str, Column]:
    known = {column.name: column for column in columns}
    for name in names:
        if name not in known:
            raise SpecError(
                f"{transform} names column {name[:100]!r}, which the table does not have; it has "
                + nearest_first(name, known),
                pointer=pointer,
            )
    return {name: known[name] for name in names}


def _example(columns: Iterable[Column]) -> ExampleType:
    found = tuple(columns)
    return ExampleType(shape=(len(found),), dtype="float64", columns=found)
