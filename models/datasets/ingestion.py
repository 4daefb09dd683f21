"""An uploaded file becomes a prepared dataset, in a limited child process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models import catalog
from models.datasets import examples, labels, prepared
from models.datasets.arrays import Array, ArrayFile, Source, bad_file
from models.datasets.sniffing import HEAD_BYTES, sniff
from models.spec import DatasetSpec, SpecError
from models.tensorfile import TensorSource
from models.transforms import ExampleType

MAX_GROUPS = 64
MAX_GROUP_NAME_LETTERS = 128
_MAX_DETAIL_LETTERS = 2000


def ingest(request: Mapping[str, Any], descriptors: Sequence[int]) -> dict[str, Any]:
    """Read an uploaded file and write its prepared form.

    Args:
        request: ``spec`` (a DatasetSpec as JSON), ``max_examples``, and ``max_bytes`` of the
            prepared form.
        descriptors: the uploaded file, readable and seekable, and an empty file to write to. What
            stands in the latter after a refusal is of no use.

    Returns:
        ``{"dataset": {"format", "examples", "classes", "positive_class", "class_counts",
        "groups", "input"}}``, or ``{"error": {"detail", "pointer"}}`` whatever is wrong with the
        file or the spec. Needs memory for a few chunks and the distinct labels only.

    Raises:
        OSError: the disk is full or fails.
    """
    try:
        return {"dataset": _ingest(request, *descriptors)}
    except SpecError as error:
        detail = error.detail[:_MAX_DETAIL_LETTERS]
        return {"error": {"detail": detail, "pointer": error.pointer}}


def _ingest(request: Mapping[str, Any], source_fd: int, output_fd: int) -> dict[str, Any]:
    spec = DatasetSpec.from_json(request["spec"])
    source = Source(source_fd)
    name = spec.format or sniff(source[:HEAD_BYTES])
    try:
        target = catalog.FORMATS[name]
    except SpecError as error:
        raise error.under("/format") from None
    file: ArrayFile = target.load()(source)
    x, y, groups = _roles(file.arrays, spec)
    max_bytes = request["max_bytes"]
    _check(x, y, groups, max_examples=request["max_examples"], max_bytes=max_bytes)
    x_tensor = examples.prepared(x)
    example = ExampleType(shape=x.shape[1:], dtype=examples.PREPARED_DTYPES[x.dtype.name])
    catalog.output_of(spec.transforms, example, pointer="/transforms")

    found = labels.survey(y)
    classes, order = labels.classes_of(found, spec.classes)
    positive_class = _positive_class(spec, classes)
    found_groups = {group.name: labels.survey(group) for group in groups}
    codes: dict[str, tuple[TensorSource, Sequence[str]]] = {}
    for group in groups:
        values = found_groups[group.name]
        in_order = np.arange(len(values.names))
        codes[group.name] = (labels.codes(group, values, in_order, dtype="int32"), values.names)
    with os.fdopen(output_fd, "wb", closefd=False) as stream:
        size_bytes = prepared.write(
            stream,
            x=x_tensor,
            y=labels.codes(y, found, order, dtype="int64"),
            classes=classes,
            groups=codes,
        )
    if size_bytes > max_bytes:
        raise _too_large(size_bytes, max_bytes)
    counts = np.zeros(len(classes), np.int64)
    counts[order] = found.counts
    return {
        "format": name,
        "examples": x.shape[0],
        "classes": list(classes),
        "positive_class": positive_class,
        "class_counts": dict(zip(classes, counts.tolist(), strict=True)),
        "groups": {
            group: dict(zip(values.names, values.counts.tolist(), strict=True))
            for group, values in found_groups.items()
        },
        "input": {"kind": "array", "shape": list(example.shape), "dtype": example.dtype},
    }


def _roles(arrays: Mapping[str, Array], spec: DatasetSpec) -> tuple[Array, Array, list[Array]]:
    """Which arrays are the examples, the labels and the groups; there may be no others."""
    shown = ", ".join(repr(name[:100]) for name in list(arrays)[:20]) or "no arrays"
    for name in ("x", "y"):
        if name not in arrays:
            raise bad_file(f"the file holds {shown}; it must hold 'x' (examples) and 'y' (labels)")
    names = spec.groups
    if names is None:
        names = ("groups",) if "groups" in arrays else ()
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
        if name not in ("x", "y", *names):
            known = ", ".join(map(repr, ("x", "y", *(names or ("groups",)))))
            raise bad_file(
                f"the file also holds {name[:100]!r}; known are {known}. Leave it out, or name it "
                "in groups"
            )
    return arrays["x"], arrays["y"], [arrays[name] for name in names]


def _check(
    x: Array, y: Array, groups: Sequence[Array], *, max_examples: int, max_bytes: int
) -> None:
    """Refuse what the headers show to be wrong, before any element is read."""
    examples.check(x)
    for array in (y, *groups):
        labels.check(array, examples=x.shape[0])
    if x.shape[0] > max_examples:
        raise bad_file(f"x holds {x.shape[0]} examples; at most {max_examples} are taken")
    size_bytes = examples.prepared(x).size_bytes + x.shape[0] * (8 + 4 * len(groups))
    if size_bytes > max_bytes:
        raise _too_large(size_bytes, max_bytes)
    for array in (y, *groups):
        if array.size_bytes > max_bytes:  # strings of any width become codes of 4 or 8 bytes
            raise bad_file(
                f"{array.name[:100]} takes {array.size_bytes} bytes; at most {max_bytes} are "
                "taken. Give integers, and the names in classes"
            )


def _positive_class(spec: DatasetSpec, classes: Sequence[str]) -> str | None:
    if spec.task != "binary":
        return None
    if len(classes) != 2:
        shown = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        raise SpecError(
            f"a binary task has exactly 2 classes, and y holds {len(classes)}: {shown}",
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


def _too_large(size_bytes: int, max_bytes: int) -> SpecError:
    return bad_file(f"the dataset takes {size_bytes} bytes; at most {max_bytes} are taken")
