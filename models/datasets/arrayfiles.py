"""Files of named arrays, of whatever format, as datasets: ``x``, ``y``, ``lengths`` and groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models import chains
from models.datasets import decoded, examples, kinds, labels, tokenarrays
from models.datasets.arrays import Array, bad_file
from models.datasets.intake import (
    Found,
    Intake,
    check_examples,
    check_size,
    positive_class_of,
)
from models.spec import DatasetSpec, SpecError
from models.tensorfile import Placer
from models.transforms import ExampleType

MAX_GROUPS = 64
MAX_GROUP_NAME_LETTERS = 128
LENGTHS = "lengths"


def take(arrays: Mapping[str, Array], intake: Intake) -> Found:
    """Make a dataset of the arrays of a file; needs memory for chunks, hashes and labels only.

    Args:
        arrays: all that the file holds, by name.

    Raises:
        SpecError: whatever is wrong with the file or the spec.
    """
    spec = intake.spec
    kinds.check(spec, "array")
    x, y, lengths, groups = _roles(arrays, spec)
    _check(x, y, lengths, groups, intake)
    content = _Numbers(x) if lengths is None else tokenarrays.sequences(x, lengths)
    example = content.example
    chains.output_of(spec.transforms, example, pointer="/transforms")
    multilabel = spec.task == "multilabel"
    if multilabel:
        classes = labels.names_of_labels(y, spec.classes)
        order = np.empty(0, np.int64)
    else:
        survey = labels.survey(y)
        classes, order = labels.classes_of(survey, spec.classes)
    positive_class = positive_class_of(spec, classes)
    surveys = {group.name: labels.survey(group) for group in groups}

    planned = decoded.plan(
        x=content.stored,
        y=y.shape,
        classes=classes,
        groups={name: found.names for name, found in surveys.items()},
        vocabulary=example.vocabulary,
    )
    check_size(planned.size_bytes, intake)
    out = Placer(intake.output, planned)
    hashes = content.write(out)
    for group in groups:
        found = surveys[group.name]
        in_order = np.arange(len(found.names))
        for piece in labels.codes(group, found, in_order, dtype="int32"):
            out.append(decoded.group_tensor(group.name), piece)
    if multilabel:
        counts = np.zeros(len(classes), np.int64)
        for rows in labels.matrix(y):
            out.append("y", rows.reshape(-1).data)
            counts += rows.sum(axis=0, dtype=np.int64)
    else:
        for piece in labels.codes(y, survey, order, dtype="int64"):
            out.append("y", piece)
        counts = np.zeros(len(classes), np.int64)
        counts[order] = survey.counts
    return Found(
        examples=x.shape[0],
        classes=classes,
        positive_class=positive_class,
        class_counts=dict(zip(classes, counts.tolist(), strict=True)),
        groups={
            name: dict(zip(found.names, found.counts.tolist(), strict=True))
            for name, found in surveys.items()
        },
        kind="array" if lengths is None else "tokens",
        example=example,
        duplicates=decoded.duplicates(hashes),
        transforms=chains.resolved(spec.transforms, pointer="/transforms"),
    )


class _Numbers:
    """Examples that are arrays of numbers, as `models.datasets.sequences.Sequences` has ids."""

    def __init__(self, x: Array) -> None:
        dtype = examples.PREPARED_DTYPES[x.dtype.name]
        self._x = x
        self.example = ExampleType(shape=x.shape[1:], dtype=dtype)
        self.stored = examples.stored_dtype(x), x.shape
        self._example_bytes = math.prod(x.shape[1:]) * np.dtype(dtype).itemsize

    def write(self, out: Placer) -> np.ndarray[Any, Any]:
        """Write ``x`` and ``hashes``, and return the hashes."""
        kind = f"{self.example.dtype} {list(self.example.shape)}"
        prints = decoded.Fingerprints(kind, self._example_bytes)
        hashes = bytearray()
        for piece in examples.prepared(self._x):
            out.append("x", piece)
            hashes += prints.of(piece)
        out.append("hashes", memoryview(hashes))
        return np.frombuffer(hashes, "<u8")


def _roles(
    arrays: Mapping[str, Array], spec: DatasetSpec
) -> tuple[Array, Array, Array | None, list[Array]]:
    """Which arrays are examples, labels, lengths and groups; there may be no others."""
    shown = ", ".join(repr(name[:100]) for name in list(arrays)[:20]) or "no arrays"
    for name in ("x", "y"):
        if name not in arrays:
            raise bad_file(f"the file holds {shown}; it must hold 'x' (examples) and 'y' (labels)")
    names = spec.groups
    if names is None:
        names = ("groups",) if "groups" in arrays else ()
    if LENGTHS in names:
        raise SpecError(
            f"the array {LENGTHS!r} says how many token ids each row of x holds, and cannot be a "
            "group: save the group under another name",
            pointer=f"/groups/{names.index(LENGTHS)}",
        )
    if len(names) > MAX_GROUPS:
        raise SpecError(f"at most {MAX_GROUPS} groups, got {len(names)}", pointer="/groups")
    for index, name in enumerate(names):
        fit = 0 < len(name) <= MAX_GROUP_NAME_LETTERS and name.isprintable()
        if name in ("x", "y") or names.index(name) != index or not fit:
            raise SpecError(
                f"{name[:100]!r} cannot be a group: groups are distinct printable names of arrays "
                f"other than x and y, at most {MAX_GROUP_NAME_LETTERS} characters each",
                pointer=f"/groups/{index}",
            )
        if name not in arrays:
            raise SpecError(
                f"the file holds {shown}, and none is {name!r}", pointer=f"/groups/{index}"
            )
    for name in arrays:
        if name not in ("x", "y", LENGTHS, *names):
            known = ", ".join(map(repr, ("x", "y", LENGTHS, *(names or ("groups",)))))
            raise bad_file(
                f"the file also holds {name[:100]!r}; known are {known}. Leave it out, or name it "
                "in groups"
            )
    groups = [arrays[name] for name in names]
    return arrays["x"], arrays["y"], arrays.get(LENGTHS), groups


def _check(
    x: Array, y: Array, lengths: Array | None, groups: Sequence[Array], intake: Intake
) -> None:
    """Refuse what the headers show to be wrong, before any element is read."""
    check_examples(x.shape[0] if x.shape else 0, intake)
    if lengths is None:
        examples.check(x)
        itemsize = np.dtype(examples.PREPARED_DTYPES[x.dtype.name]).itemsize
    else:
        tokenarrays.check(x, lengths)
        itemsize = 4  # at most, if the longest sequence fills its row
    if intake.spec.task == "multilabel":
        labels.check_matrix(y, examples=x.shape[0])
    else:
        labels.check(y, examples=x.shape[0])
    for group in groups:
        labels.check(group, examples=x.shape[0])
    y_bytes = math.prod(y.shape) * (1 if intake.spec.task == "multilabel" else 8)
    hashes_and_codes = x.shape[0] * (8 + 4 * len(groups))
    check_size(math.prod(x.shape) * itemsize + y_bytes + hashes_and_codes, intake)
    for array in (y, *groups):
        if array.size_bytes > intake.max_bytes:  # strings of any width become codes of 4 or 8 bytes
            raise bad_file(
                f"{array.name[:100]} takes {array.size_bytes} bytes; at most {intake.max_bytes} "
                "are taken. Give integers, and the names in classes"
            )
