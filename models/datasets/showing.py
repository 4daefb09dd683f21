"""What people ask of a dataset that exists: one example, and what it shares with another.

For limited children, which open a dataset by the descriptor that they are given.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.datasets.decoded import Dataset
from models.datasets.prepared import Images

MAX_SHOWN = 1_000_000  # numbers of one example as JSON
MAX_INDICES = 1_000  # shared examples that are named


def example(request: Mapping[str, Any], descriptors: Sequence[int]) -> dict[str, Any]:
    """Show one example before any transform.

    Args:
        request: ``index``, in ``[0, N)``, and ``format``: ``png`` (images only) or ``json``.
        descriptors: the decoded dataset, and an empty file for the PNG.

    Returns:
        ``{"error": sentence}``; or for ``png`` nothing, the picture being in the file; or
        ``{"example": {"index", "target", "groups", "shape", "dtype", "values"}}``, where values
        are nested lists, or for a table an object by column with null for a missing cell. A
        sequence of token ids is shown without what stands behind its end.
    """
    dataset, index = _open(descriptors[0]), request["index"]
    if not 0 <= index < len(dataset):
        return {"error": f"the dataset has {len(dataset)} examples, numbered from 0"}
    if request["format"] == "png":
        if not _is_picture(dataset):
            return {"error": "its examples are no images: ask for format=json"}
        _write_png(Images(dataset)[index], descriptors[1])
        return {}
    shown = {
        "index": index,
        "target": _target(dataset, index),
        "groups": {name: values[codes[index]] for name, (codes, values) in dataset.groups.items()},
    }
    if dataset.columns is not None:
        cells = dataset.x[index].tolist()
        values = {
            column.name: None
            if np.isnan(cell)
            else cell
            if column.categories is None
            else column.categories[int(cell)]
            for column, cell in zip(dataset.columns, cells, strict=True)
        }
        return {"example": {**shown, "values": values}}
    array = Images(dataset)[index]
    if dataset.vocabulary is not None:
        array = array[array >= 0]
    if array.size > MAX_SHOWN:
        return {"error": f"an example holds {array.size} numbers; at most {MAX_SHOWN} are shown"}
    kind = {"shape": list(array.shape), "dtype": array.dtype.name}
    return {"example": {**shown, **kind, "values": array.tolist()}}


def overlap(request: Mapping[str, Any], descriptors: Sequence[int]) -> dict[str, Any]:
    """Find the examples of one dataset that another has too, labels aside.

    Args:
        request: nothing of it is used.
        descriptors: the two decoded datasets.

    Returns:
        ``examples``: how many of the first's; ``of``: how many it has; ``fraction``; and
        ``indices``: the first of them, at most `MAX_INDICES`.
    """
    one, other = (_open(descriptor) for descriptor in descriptors)
    shared = np.flatnonzero(np.isin(one.hashes, other.hashes))
    return {
        "examples": len(shared),
        "of": len(one),
        "fraction": len(shared) / len(one),
        "indices": shared[:MAX_INDICES].tolist(),
    }


def _open(descriptor: int) -> Dataset:
    return Dataset(f"/proc/self/fd/{descriptor}")


def _is_picture(dataset: Dataset) -> bool:
    shape = dataset.example.shape
    return dataset.x.dtype == np.uint8 and len(shape) == 3 and shape[0] in (1, 3)


def _target(dataset: Dataset, index: int) -> str | list[str]:
    """The class, or the labels that hold."""
    target = dataset.y[index]
    if target.ndim == 0:
        return dataset.classes[int(target)]
    return [name for name, holds in zip(dataset.classes, target, strict=True) if holds]


def _write_png(image: np.ndarray[Any, Any], descriptor: int) -> None:
    from PIL import Image

    pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)
    with os.fdopen(descriptor, "wb", closefd=False) as stream:
        Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
