"""From an ONNX file, or from our own file of one, to the canonical file."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from typing import Any

from checkpoints.errors import CheckpointError, counted, quoted
from checkpoints.manifest import Manifest
from checkpoints.reading import onnxchecks, onnxfile
from checkpoints.reading.claims import Claims, stated_classes, stated_transforms
from checkpoints.reading.onnxchecks import Checked
from checkpoints.reading.onnxmodel import ITEM_TYPES, Model, Tensor
from checkpoints.reading.tensors import not_finite_warnings
from models import tensorfile
from models.onnx import ARCHITECTURE
from models.onnx.graph import METADATA_KEY, Graph, GraphError
from models.onnx.protobuf import MAX_BYTES
from models.tensorfile import DTYPE_NAMES, NUMPY_DTYPES, TensorInfo, TensorSource

MAX_GRAPH_BYTES = tensorfile.MAX_HEADER_BYTES // 2
PADDING_ID = "padding_id"
INTEGERS = ("int64", "int32")
LARGEST_ID = 2**31 - 1

_SAFETENSORS = {name: DTYPE_NAMES[item] for name, item in ITEM_TYPES.items()}
_DTYPES = {name: item.name for name, item in NUMPY_DTYPES.items()}


def is_canonical(metadata: Mapping[str, str]) -> bool:
    """Whether a safetensors file says that it holds an ONNX network."""
    return METADATA_KEY in metadata


def of_file(
    data: mmap.mmap, declaration: Mapping[str, Any], max_bytes: int, output: int
) -> dict[str, Any]:
    """Convert what an exporter wrote; arguments and answer as `conversion.convert` has them."""
    said = _claims(declaration)
    return _written("onnx", onnxfile.read(data), said, Claims(), max_bytes, output)


def of_canonical(
    data: mmap.mmap,
    tensors: Mapping[str, TensorInfo],
    metadata: Mapping[str, str],
    declaration: Mapping[str, Any],
    max_bytes: int,
    output: int,
) -> dict[str, Any]:
    """Convert what this package wrote, or what looks so; it is believed as little as any file."""
    said = _claims(declaration)
    manifest = Manifest.from_metadata(metadata)
    if manifest is None or manifest.architecture != ARCHITECTURE:
        raise CheckpointError("the file holds an ONNX graph, but no manifest of such a network")
    try:
        graph = Graph.from_metadata(metadata)
    except GraphError as error:
        raise CheckpointError(f"the graph in the file's metadata is malformed: {error}") from None
    view = memoryview(data)
    model = Model(
        opset=graph.opset,
        inputs=(graph.input,),
        outputs=(graph.output,),
        nodes=graph.nodes,
        tensors={
            name: Tensor(name, _dtype(name, one), one.shape, (view[one.start : one.end],))
            for name, one in tensors.items()
        },
    )
    stated = Claims.of_manifest(manifest)
    return _written("safetensors", model, said, stated, max_bytes, output)


def _claims(declaration: Mapping[str, Any]) -> Claims:
    """What the request says, once it is nothing that an ONNX file says itself."""
    said = Claims.of(declaration)
    if said.architecture not in (None, ARCHITECTURE):
        raise CheckpointError(
            f"the file is ONNX, which holds its network: leave architecture out, or say "
            f"{ARCHITECTURE!r}",
            pointer="/architecture",
        )
    if declaration.get("key_map"):
        raise CheckpointError(
            "an ONNX file holds its network, whose tensors need no other names: leave key_map out",
            pointer="/key_map",
        )
    others = [name for name in said.hyperparameters or {} if name != PADDING_ID]
    if others:
        raise CheckpointError(
            f"an ONNX file holds its network; the only hyperparameter that can be stated is "
            f"{PADDING_ID}, not {quoted(others[0])}",
            pointer=f"/hyperparameters/{others[0].replace('~', '~0').replace('/', '~1')}",
        )
    return said


def _dtype(name: str, info: TensorInfo) -> str:
    if info.dtype not in _DTYPES:
        raise CheckpointError(f"tensor {quoted(name)} is {info.dtype}, which no network has here")
    return _DTYPES[info.dtype]


def _written(
    kind: str, model: Model, said: Claims, stated: Claims, max_bytes: int, output: int
) -> dict[str, Any]:
    checked = onnxchecks.check(model)
    manifest = _manifest(checked, said, stated)
    graph, numbers = checked.graph.numbered()
    tensors = {numbers[name]: model.tensors[name] for name in checked.graph.tensors()}
    metadata = manifest.to_metadata() | graph.to_metadata()
    _check_sizes(tensors, metadata, max_bytes)
    not_finite: dict[str, int] = {}
    sources = {
        number: TensorSource(
            dtype=_SAFETENSORS[one.dtype], shape=one.shape, chunks=one.chunks(not_finite)
        )
        for number, one in tensors.items()
    }
    with os.fdopen(output, "wb", closefd=False) as stream:
        tensorfile.write(stream, sources, metadata=metadata)
    unused = counted(len(checked.unused), "tensor")
    return {
        "format": kind,
        **manifest.to_json(),
        "parameters": sum(
            one.elements for one in tensors.values() if ITEM_TYPES[one.dtype].kind == "f"
        ),
        "tensors": len(tensors),
        "adjustments": [f"left out {unused} that no node reads"] if checked.unused else [],
        "warnings": [*checked.warnings, *not_finite_warnings(not_finite)],
    }


def _manifest(checked: Checked, said: Claims, stated: Claims) -> Manifest:
    shape, outputs, taken = checked.input_shape, checked.outputs, checked.graph.input
    if stated.input_shape is not None and stated.input_shape != shape:
        raise CheckpointError(
            f"the manifest states input shape {list(stated.input_shape)[:32]}, but the graph has "
            f"{list(shape)}"
        )
    hyperparameters: dict[str, Any] = {
        "opset": checked.graph.opset,
        "dtype": taken.dtype,
        "batch": taken.shape[0] if taken.shape else None,
    }
    unsaid = []
    padding_id = _padding_id(taken.dtype, said, stated)
    if taken.dtype in INTEGERS:
        hyperparameters[PADDING_ID] = padding_id or 0
        unsaid += [PADDING_ID] if padding_id is None else []
    classes = stated_classes(stated.classes if said.classes is None else said.classes, outputs)
    transforms = stated_transforms(
        stated.transforms if said.transforms is None else said.transforms
    )
    unsaid += ["classes"] if classes is None else []
    unsaid += ["transforms"] if transforms is None else []
    return Manifest(
        architecture=ARCHITECTURE,
        hyperparameters=hyperparameters,
        input_shape=shape,
        outputs=outputs,
        classes=classes,
        transforms=transforms,
        assumed=tuple(unsaid),
    )


def _padding_id(dtype: str, said: Claims, stated: Claims) -> int | None:
    """What stands for a token that is not there; None if nobody says it."""
    found = (said.hyperparameters or {}).get(
        PADDING_ID, (stated.hyperparameters or {}).get(PADDING_ID)
    )
    if found is None:
        return None
    if dtype not in INTEGERS:
        raise CheckpointError(
            f"{PADDING_ID} belongs to networks of token ids ({' or '.join(INTEGERS)}); this one "
            f"takes {dtype}",
            pointer=f"/hyperparameters/{PADDING_ID}",
        )
    if type(found) is not int or not 0 <= found <= LARGEST_ID:
        raise CheckpointError(
            f"{PADDING_ID} must be an integer between 0 and {LARGEST_ID}",
            pointer=f"/hyperparameters/{PADDING_ID}",
        )
    return found


def _check_sizes(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], max_bytes: int
) -> None:
    size_bytes = sum(one.size_bytes for one in tensors.values())
    most = min(max_bytes, MAX_BYTES)
    if size_bytes > most:
        raise CheckpointError(
            f"the tensors take {size_bytes} bytes; at most {most} are taken", kind="too_large"
        )
    graph_bytes = _bytes_of(metadata.values())
    shapes = {name: (_SAFETENSORS[one.dtype], one.shape) for name, one in tensors.items()}
    header = tensorfile.plan(shapes, metadata=metadata).header
    if graph_bytes > MAX_GRAPH_BYTES or len(header) > tensorfile.MAX_HEADER_BYTES:
        raise CheckpointError(
            f"the graph takes {graph_bytes} bytes without its tensors; at most {MAX_GRAPH_BYTES} "
            "are taken",
            kind="too_large",
        )


def _bytes_of(texts: Iterable[str]) -> int:
    return sum(len(text.encode()) for text in texts)
