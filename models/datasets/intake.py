"""What becoming a dataset takes and gives: each format's target is called with an `Intake`.

It reads the file, writes the decoded form (see `models.datasets.decoded`) and returns `Found`, or
raises SpecError that names the row, the entry or the array at fault, with a pointer to the field
(``/file`` for the file itself). What stands in the output after a refusal is of no use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.datasets.arrays import Source, bad_file
from models.spec import DatasetSpec, SpecError
from models.transforms import ExampleType


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """One file to be decoded.

    Attributes:
        source: the uploaded file.
        output: descriptor of an empty file, for the decoded form.
        scratch: descriptor of an empty file that is thrown away afterwards.
        max_examples: bound on the examples.
        max_bytes: bound on the decoded form, and on the scratch file.
        max_columns: bound on the columns of a table.
        max_pixels: bound on the pixels of one image.
        processes: how many processes may decode at a time, this one included.
    """

    spec: DatasetSpec
    source: Source
    output: int
    scratch: int
    max_examples: int
    max_bytes: int
    max_columns: int
    max_pixels: int
    processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a file turned out to hold, as every answer about the dataset shows it.

    Attributes:
        classes: names in index order.
        class_counts: number of examples by class; of positive ones by label for multilabel.
        groups: for each group the number of examples by value.
        kind: ``array``, ``image``, ``table`` or ``tokens``.
        example: one example before any transform.
        duplicates: how many examples equal an earlier one.
        transforms: the spec's, on the wire's form, with every default and every constant filled in.
        columns: of a table, what `models.transforms.tables` fills constants from, else None.
    """

    examples: int
    classes: Sequence[str]
    positive_class: str | None
    class_counts: Mapping[str, int]
    groups: Mapping[str, Mapping[str, int]]
    kind: str
    example: ExampleType
    duplicates: int
    transforms: Sequence[Mapping[str, Any]]
    columns: Sequence[Mapping[str, Any]] | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values by the contract's names."""
        shown: dict[str, Any] = {
            "examples": self.examples,
            "classes": list(self.classes),
            "positive_class": self.positive_class,
            "class_counts": dict(self.class_counts),
            "groups": {name: dict(values) for name, values in self.groups.items()},
            "input": {
                "kind": self.kind,
                "shape": list(self.example.shape),
                "dtype": self.example.dtype,
            },
            "duplicates": self.duplicates,
            "transforms": [dict(one) for one in self.transforms],
        }
        if self.example.vocabulary is not None:
            shown["input"]["vocabulary"] = self.example.vocabulary
        return shown if self.columns is None else {**shown, "columns": list(self.columns)}


def positive_class_of(spec: DatasetSpec, classes: Sequence[str]) -> str | None:
    """The class that a binary task is about; None for other tasks.

    Raises:
        SpecError: a binary task has not two classes, or not the one that was named.
    """
    if spec.task != "binary":
        return None
    if len(classes) != 2:
        shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        raise SpecError(
            f"a binary task has exactly 2 classes, and the labels show {len(classes)}: {shown}",
            pointer="/task",
        )
    if spec.positive_class is None:
        return classes[1]
    if spec.positive_class not in classes:
        raise SpecError(
            f"positive_class must be one of {', '.join(classes)}; got {spec.positive_class!r}",
            pointer="/positive_class",
        )
    return spec.positive_class


def check_size(size_bytes: int, intake: Intake) -> None:
    """Refuse a dataset whose decoded form is over the bound."""
    if size_bytes > intake.max_bytes:
        raise bad_file(
            f"the dataset takes {size_bytes} bytes decoded; at most {intake.max_bytes} are taken"
        )


def check_examples(examples: int, intake: Intake) -> None:
    """Refuse a file with more examples than the bound, or with none."""
    if examples == 0:
        raise bad_file("the file holds no examples; at least one is needed")
    if examples > intake.max_examples:
        raise bad_file(
            f"the file holds {examples} examples; at most {intake.max_examples} are taken"
        )
