"""A dataset in two parts, by a seed: equal examples stay together, classes keep their shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from models import tensorfile
from models.datasets import decoded, tablesummary
from models.datasets.decoded import Dataset, TableColumn
from models.spec import SpecError
from models.tensorfile import DTYPE_NAMES, Placer

_CHUNK_BYTES = 2**24

Indices = np.ndarray[Any, np.dtype[np.int64]]


def divide(
    dataset: Dataset, *, fraction: float, seed: int, stratify: bool
) -> tuple[Indices, Indices]:
    """Choose which examples go to the validation part.

    Equal examples go to the same part, so that the parts do not overlap.

    Args:
        fraction: of the examples, in (0, 1), for the validation part; as near as equal examples
            and, with ``stratify``, the classes allow.
        stratify: take the fraction of each class instead of the whole; for a multilabel task, of
            each combination of labels.

    Returns:
        Indices of the training and of the validation part, int64, each in the dataset's order.

    Raises:
        SpecError: a part would be empty.
    """
    _, first, member, sizes = np.unique(
        dataset.hashes, return_index=True, return_inverse=True, return_counts=True
    )
    strata = np.zeros(len(first), np.int64)
    if stratify:
        labels = dataset.y[first]
        _, strata = np.unique(labels, axis=0, return_inverse=True)
    # RandomState and not Generator: NumPy promises that its draws stay as they are
    order = np.random.RandomState(seed).permutation(len(first))
    chosen = np.zeros(len(first), np.bool_)
    by_stratum = order[np.argsort(strata.reshape(-1)[order], kind="stable")]
    bounds = np.flatnonzero(np.diff(strata.reshape(-1)[by_stratum])) + 1
    for part in np.split(by_stratum, bounds):
        counted = np.cumsum(sizes[part])
        # an example more is taken while that brings the sum nearer to the fraction
        before = counted - sizes[part]
        chosen[part] = (before + counted) / 2 < fraction * counted[-1]
    validation = chosen[member]
    parts = np.flatnonzero(~validation), np.flatnonzero(validation)
    if not len(parts[0]) or not len(parts[1]):
        raise _empty(
            "training" if not len(parts[0]) else "validation", len(dataset), len(first), stratify
        )
    return parts


def _empty(part: str, examples: int, distinct: int, stratify: bool) -> SpecError:
    if distinct == 1:
        cure = "a dataset of one distinct example cannot be divided"
    elif stratify:
        cure = (
            "each class, or for a multilabel task each combination of labels, is divided by "
            "itself: take another fraction, or set stratify to false"
        )
    else:
        cure = "take another fraction"
    return SpecError(
        f"the {part} part of {examples} examples would be empty. Equal examples stay together, "
        f"which leaves {distinct} to choose from; {cure}",
        pointer="/fraction",
    )


def write_part(dataset: Dataset, indices: Indices, descriptor: int) -> int:
    """Write the decoded form of some of the examples and return its size in bytes.

    Sequences of token ids keep the length and the vocabulary of the whole, so that a network that
    takes one part takes the other.

    Args:
        indices: int64, rising.
        descriptor: an empty file.
    """
    sizes = None if dataset.sizes is None else dataset.sizes[indices]
    shape = (len(indices), *dataset.x.shape[1:])
    if sizes is not None:
        shape = (int(np.prod(sizes.astype(np.int64), axis=1).sum()),)
    planned = decoded.plan(
        x=(DTYPE_NAMES[dataset.x.dtype.newbyteorder("<")], shape),
        y=(len(indices), *dataset.y.shape[1:]),
        classes=dataset.classes,
        groups={name: values for name, (_, values) in dataset.groups.items()},
        ragged=sizes is not None,
        columns=_columns(dataset, indices),
        vocabulary=dataset.vocabulary,
    )
    out = Placer(descriptor, planned)
    for piece in _examples(dataset, indices):
        out.append("x", _bytes(piece))
    out.append("y", _bytes(dataset.y[indices]))
    out.append("hashes", _bytes(dataset.hashes[indices]))
    if sizes is not None:
        out.append("sizes", _bytes(sizes))
    for name, (codes, _) in dataset.groups.items():
        out.append(decoded.group_tensor(name), _bytes(codes[indices]))
    return planned.size_bytes


def found(part: Dataset, whole: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a part, in the form of `models.datasets.intake.Found`.

    Args:
        whole: what is known of the dataset that it is a part of.
        spec: the part's.
    """
    if part.y.ndim == 2:
        counts = part.y.sum(axis=0, dtype=np.int64)
    else:
        counts = np.bincount(part.y, minlength=len(part.classes))
    known = {
        "format": whole["format"],
        "examples": len(part),
        "classes": list(part.classes),
        "positive_class": whole["positive_class"],
        "class_counts": dict(zip(part.classes, counts.tolist(), strict=True)),
        "groups": {
            name: dict(zip(values, np.bincount(codes, minlength=len(values)).tolist(), strict=True))
            for name, (codes, values) in part.groups.items()
        },
        "input": whole["input"],
        "duplicates": decoded.duplicates(part.hashes),
        "transforms": spec["transforms"],
    }
    if part.columns is None:
        return known
    return {**known, "columns": tablesummary.of_dataset(part)}


def _columns(dataset: Dataset, indices: Indices) -> list[TableColumn] | None:
    """A table's columns, each said to have missing cells where these rows have some."""
    if dataset.columns is None:
        return None
    gaps = np.zeros(len(dataset.columns), np.bool_)
    for rows in _examples(dataset, indices):
        gaps |= np.isnan(rows).any(axis=0)
    return [
        replace(one, missing=missing)
        for one, missing in zip(dataset.columns, gaps.tolist(), strict=True)
    ]


def _examples(dataset: Dataset, indices: Indices) -> Iterator[np.ndarray[Any, Any]]:
    if dataset.sizes is not None:
        lengths = np.prod(dataset.sizes.astype(np.int64), axis=1)
        starts = np.cumsum(lengths) - lengths
        for index in indices:
            yield dataset.x[starts[index] : starts[index] + lengths[index]]
        return
    one = max(1, dataset.x[:1].nbytes)
    step = max(1, _CHUNK_BYTES // one)
    for start in range(0, len(indices), step):
        yield dataset.x[indices[start : start + step]]


def _bytes(array: np.ndarray[Any, Any]) -> memoryview:
    little = array.astype(tensorfile.NUMPY_DTYPES[DTYPE_NAMES[array.dtype.newbyteorder("<")]])
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
