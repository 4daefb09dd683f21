"""From an uploaded file to the canonical one: the whole work of a reader's process."""

from __future__ import annotations

import math
import mmap
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from checkpoints.errors import CheckpointError, counted, listed, quoted
from checkpoints.reading import formats, onnxcanonical, sniffing, statedicts
from checkpoints.reading.claims import Claims, combined
from checkpoints.reading.formats import Contents
from checkpoints.reading.matching import match, own_names
from checkpoints.reading.statedicts import Tensors
from checkpoints.reading.tensors import (
    DTYPES,
    READABLE_FLOATS,
    StoredTensor,
    float32_chunks,
    int64_chunks,
    not_finite_warnings,
)
from models import catalog, tensorfile
from models.layouts import Shape, TensorSpec

_CANONICAL = {"float32": "F32", "int64": "I64"}

_CHECKED_LATER = (
    "{} comes from a plug-in: whether these are its tensors is checked when it is first evaluated"
)

# Tensors of a batch normalization that are measured and not learned.
NOT_LEARNED = ("running_mean", "running_var")


def convert(request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """Read an uploaded checkpoint, whatever it holds, and write the canonical file.

    Nothing in the upload is executed and none of it is believed before it is checked, in this
    order: structure, names, shapes, dtypes, views within their storages, values.

    Args:
        request: ``{"declaration": {...}, "max_bytes": int, "additions": {...}}``. The declaration
            holds what the sender says: ``architecture``, ``hyperparameters``, ``classes``,
            ``transforms``, ``key_map``. ``max_bytes`` bounds the canonical file. ``additions``
            are, if there are plug-ins, their names as `models.catalog.publish_added` takes them.
        descriptors: the upload (readable, seekable) and the canonical file (writable, empty).

    Returns:
        ``{"checkpoint": {...}}``: format, the manifest's fields, parameters, tensors, adjustments
        and warnings. Or ``{"error": {"kind", "detail", "errors": [{"pointer", "detail"}]}}``,
        after which the second file is to be thrown away.
    """
    source, output = descriptors
    catalog.publish_added(request.get("additions", {}))
    try:
        return {
            "checkpoint": _convert(request["declaration"], request["max_bytes"], source, output)
        }
    except CheckpointError as error:
        return {"error": error.to_json()}


def _convert(
    declaration: Mapping[str, Any], max_bytes: int, source: int, output: int
) -> dict[str, Any]:
    claims = Claims.of(declaration)
    key_map = _key_map(declaration.get("key_map"))
    if os.fstat(source).st_size == 0:
        raise CheckpointError("the file is empty")
    data = mmap.mmap(source, 0, access=mmap.ACCESS_READ)
    kind = sniffing.sniff(data)
    if kind == sniffing.ONNX:
        return onnxcanonical.of_file(data, declaration, max_bytes, output)
    if kind == sniffing.SAFETENSORS:
        tensors_of_file, metadata = formats.header(data)
        if onnxcanonical.is_canonical(metadata):
            return onnxcanonical.of_canonical(
                data, tensors_of_file, metadata, declaration, max_bytes, output
            )
    contents = formats.read(data, kind)
    tensors, stated, adjustments = statedicts.find(contents.value)
    bare, stripped = statedicts.strip(tensors)
    tensors, renamed = statedicts.rename(bare, statedicts.without_prefixes(key_map, bare))
    claims, left_out = combined(claims, _of_file(contents, stated, declaration))
    tensors, taken = statedicts.rename(tensors, own_names(claims, _shapes(tensors)))
    counters = statedicts.missing_counters(tensors)
    manifest, matched = match(claims, {**_shapes(tensors), **dict.fromkeys(counters, ())})
    expected = _as_they_are(tensors) if matched is None else matched
    present = {name: spec for name, spec in expected.items() if name in tensors}
    _check_dtypes(tensors, present)
    _check_views(tensors)
    size_bytes = sum(
        math.prod(spec.shape) * DTYPES[spec.dtype].item_bytes for spec in expected.values()
    )
    metadata = manifest.to_metadata()
    header_bytes = sum(len(text.encode()) for text in metadata.values())
    if size_bytes + header_bytes > max_bytes or header_bytes > tensorfile.MAX_HEADER_BYTES // 4:
        raise CheckpointError(
            f"the tensors take {size_bytes} bytes as float32 and the manifest {header_bytes}; at "
            f"most {max_bytes} are taken",
            kind="too_large",
        )
    not_finite: dict[str, int] = {}
    sources = {}
    for name, spec in expected.items():
        if name not in present:
            zero = tensorfile.TensorSource(dtype="I64", shape=(), chunks=iter([bytes(8)]))
            sources[name] = zero
            continue
        tensor = tensors[name]
        view = tensor.view(data, contents.starts[tensor.storage.key])
        if spec.dtype == "float32":
            chunks = float32_chunks(name, tensor.dtype, view, not_finite)
        else:
            chunks = int64_chunks(name, view)
        sources[name] = tensorfile.TensorSource(
            dtype=_CANONICAL[spec.dtype], shape=spec.shape, chunks=chunks
        )
    with os.fdopen(output, "wb", closefd=False) as stream:
        tensorfile.write(stream, sources, metadata=metadata)
    learned = sum(
        tensors[name].elements
        for name, spec in present.items()
        if spec.dtype == "float32" and name.rsplit(".", 1)[-1] not in NOT_LEARNED
    )
    changes = [*adjustments, *stripped, *renamed, *taken, *left_out]
    if len(present) < len(expected):
        added = counted(len(expected) - len(present), "tensor")
        changes.append(f"added {added} num_batches_tracked, which no evaluation depends on")
    warnings = not_finite_warnings(not_finite)
    if matched is None:
        warnings.append(_CHECKED_LATER.format(manifest.architecture))
    return {
        "format": contents.format,
        **manifest.to_json(),
        "parameters": learned,
        "tensors": len(expected),
        "adjustments": changes + _converted(tensors, present),
        "warnings": warnings,
    }


def _shapes(tensors: Tensors) -> dict[str, Shape]:
    return {name: one.shape for name, one in tensors.items()}


def _as_they_are(tensors: Tensors) -> dict[str, TensorSpec]:
    """What a network is taken to expect whose tensors only a worker knows."""
    return {
        name: TensorSpec(
            shape=one.shape, dtype="int64" if DTYPES[one.dtype].kind == "integer" else "float32"
        )
        for name, one in tensors.items()
    }


def _of_file(
    contents: Contents, stated: Mapping[str, Any], declaration: Mapping[str, Any]
) -> Claims:
    """What the file states; what it states badly counts only where the declaration is silent."""
    if contents.manifest is not None:
        return Claims.of_manifest(contents.manifest)
    good = {}
    for field, value in stated.items():
        try:
            good[field] = statedicts.plain(value, field=field)
            Claims.of({field: good[field]})
        except CheckpointError:
            if declaration.get(field) is None:
                raise
            good.pop(field, None)
    return Claims.of(good)


def _key_map(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(
        isinstance(one, str) for pair in value.items() for one in pair
    ):
        raise CheckpointError("key_map must be an object of strings", pointer="/key_map")
    return dict(value)


def _check_dtypes(tensors: Tensors, expected: Mapping[str, TensorSpec]) -> None:
    wrong = []
    for name, spec in expected.items():
        kind = "float" if spec.dtype == "float32" else "integer"
        if DTYPES[tensors[name].dtype].kind != kind:
            wrong.append(f"{quoted(name)} is {tensors[name].dtype}, expected a kind of {kind}")
    if wrong:
        raise CheckpointError(
            f"wrong dtypes ({len(wrong)}): {listed(wrong)}. Taken as floats are "
            f"{', '.join(READABLE_FLOATS)}",
        )


def _check_views(tensors: Tensors) -> None:
    wrong = [f"{quoted(name)} ({_view(one)})" for name, one in tensors.items() if not one.fits]
    if wrong:
        raise CheckpointError(
            f"tensors reach beyond their storages: {listed(wrong)}; the file is damaged",
        )


def _view(tensor: StoredTensor) -> str:
    return (
        f"shape {list(tensor.shape)}, stride {list(tensor.strides)}, offset {tensor.offset} in "
        f"{counted(tensor.storage.size_bytes, 'byte')}"
    )


def _converted(tensors: Tensors, expected: Mapping[str, TensorSpec]) -> list[str]:
    changes = Counter(
        (tensors[name].dtype, spec.dtype)
        for name, spec in expected.items()
        if tensors[name].dtype != spec.dtype
    )
    return [
        f"converted {counted(number, 'tensor')} from {before} to {after}"
        for (before, after), number in sorted(changes.items())
    ]
