"""The formats of weights, each read into the same `Contents`: structure only, no values."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from checkpoints.errors import CheckpointError, quoted
from checkpoints.manifest import Manifest
from checkpoints.reading import sniffing
from checkpoints.reading.onnxfile import EXPORT
from checkpoints.reading.pickles import Pickle
from checkpoints.reading.sniffing import unsupported
from checkpoints.reading.tensors import DTYPES, Storage, StoredTensor
from models import tensorfile, ziparchive

MAX_PICKLE_BYTES = 256 * 2**20
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

_SAFETENSORS_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a file holds.

    Attributes:
        format: ``torch-zip``, ``torch-legacy`` or ``safetensors``.
        value: what was saved: plain values, with a `StoredTensor` for each tensor.
        starts: the first byte of each storage, by its key. Every storage lies inside the file.
        manifest: only a safetensors file has one.
    """

    format: str
    value: Any
    starts: Mapping[str, int]
    manifest: Manifest | None = None


def read(data: mmap.mmap, kind: str) -> Contents:
    """Read the structure of a file of this kind.

    Args:
        kind: as `sniffing.sniff` calls it; ONNX is read elsewhere.

    Raises:
        CheckpointError: it is damaged, or holds what is not loaded; of kind ``unsupported`` if it
            is none of ours after all.
    """
    return _READERS[kind](data)


def _torch_zip(data: mmap.mmap) -> Contents:
    root, found = _checked_zip(data)
    order = found.get(f"{root}byteorder")
    if order is not None and data[order.start : order.start + order.size_bytes] != b"little":
        raise CheckpointError("the file was saved on a big-endian machine; save it on another")
    pickled = found[f"{root}data.pkl"]
    if pickled.size_bytes > MAX_PICKLE_BYTES:
        raise CheckpointError(
            f"data.pkl has {pickled.size_bytes} bytes; at most {MAX_PICKLE_BYTES} are taken: save "
            "model.state_dict() alone"
        )
    end = pickled.start + pickled.size_bytes
    machine = Pickle(data, pickled.start, end)
    value = machine.load()
    if machine.position != end:
        raise CheckpointError("bytes follow the end of the pickle in data.pkl")
    starts = {}
    for storage in machine.storages.values():
        member = found.get(f"{root}data/{storage.key}")
        if member is None or member.size_bytes != storage.size_bytes:
            there = "none are there" if member is None else f"{member.size_bytes} are there"
            raise CheckpointError(
                f"storage {quoted(storage.key)} is described with {storage.size_bytes} bytes, but "
                f"{there}"
            )
        starts[storage.key] = member.start
    return Contents(format="torch-zip", value=value, starts=starts)


def _checked_zip(data: mmap.mmap) -> tuple[str, dict[str, ziparchive.Member]]:
    """The archive's folder and members, each of which is stored and has the right checksum."""
    try:
        found = ziparchive.members(data)
        root = _root(found)
        for name, member in found.items():
            if member.method != ziparchive.STORED:
                raise CheckpointError(
                    f"the member {quoted(name)} is compressed, which torch.save never does"
                )
        for member in found.values():
            for _ in ziparchive.stream(data, member):
                pass  # torch compares no checksums, so this is the only time
    except ziparchive.ChecksumError as error:
        raise CheckpointError(
            f"the zip archive is damaged: {error}. (Files saved under "
            "torch.serialization.set_crc32_options(False) have none: save with checksums)"
        ) from None
    except ziparchive.ZipError as error:
        raise CheckpointError(f"the zip archive is damaged: {error}") from None
    return root, found


def _root(names: Collection[str]) -> str:
    """The folder inside the archive, with its slash, that torch.save made."""
    last = {name.rsplit("/", 1)[-1] for name in names}
    if "constants.pkl" in last or any("/code/" in f"/{name}" for name in names):
        raise unsupported(
            "the file is TorchScript, whose loading runs the code inside; export the network as "
            f"ONNX instead, which is data: {EXPORT}; or save model.state_dict() of the original "
            "module"
        )
    if "archive_format" in last or "serialized_exported_program.json" in last:
        raise unsupported(
            "the file is a program written by torch.export, whose loading can run code; export "
            f"the network as ONNX instead, which is data: {EXPORT}; or save model.state_dict() of "
            "the original module"
        )
    if any(name.endswith(".npy") for name in last):
        raise unsupported(
            "the file is a NumPy archive (npz); a checkpoint is what torch.save writes, or "
            "safetensors"
        )
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(roots) != 1 or roots[0].count("/") != 1:
        raise unsupported(
            "the file is a zip archive, but not one that torch.save wrote: it has no data.pkl in "
            "one folder; upload the checkpoint itself"
        )
    return roots[0]


def _torch_legacy(data: mmap.mmap) -> Contents:
    position, end = 0, len(data)
    header = []
    for _ in range(3):
        machine = Pickle(data, position, end)
        header.append(machine.load())
        position = machine.position
        if header[0] != LEGACY_MAGIC:
            raise unsupported(
                "the file is a plain pickle; save model.state_dict() with torch.save, or as "
                "safetensors"
            )
    system = header[2]
    if header[1] != LEGACY_PROTOCOL or not isinstance(system, dict):
        raise CheckpointError("the file starts as torch.save's older stream and goes on otherwise")
    if system.get("little_endian") is not True:
        raise CheckpointError("the file was saved on a big-endian machine; save it on another")
    saved = Pickle(data, position, end)
    value = saved.load()
    machine = Pickle(data, saved.position, end)
    keys = machine.load()
    position = machine.position
    described = saved.storages
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise CheckpointError("the stream's list of storages is damaged")
    if len(keys) != len(described) or set(keys) != set(described):
        raise CheckpointError("the stream's list of storages is not that of its tensors")
    starts = {}
    for key in keys:
        storage = described[key]
        if position + 8 + storage.size_bytes > end:
            raise CheckpointError(
                f"storage {quoted(key)} is described with {storage.size_bytes} bytes, but the file "
                "ends before: it is truncated"
            )
        (elements,) = struct.unpack("<q", data[position : position + 8])
        if elements * DTYPES[storage.dtype].item_bytes != storage.size_bytes:
            raise CheckpointError(f"storage {quoted(key)} is described with two sizes")
        starts[key] = position + 8
        position += 8 + storage.size_bytes
    if position != end:
        raise CheckpointError(f"{end - position} bytes follow the end of the last storage")
    return Contents(format="torch-legacy", value=value, starts=starts)


def header(data: mmap.mmap) -> tuple[dict[str, tensorfile.TensorInfo], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; CheckpointError if it is damaged."""
    try:
        return tensorfile.parse(data)
    except tensorfile.TensorFileError as error:
        raise CheckpointError(f"the safetensors file is damaged: {error}") from None


def _safetensors(data: mmap.mmap) -> Contents:
    tensors, metadata = header(data)
    value = {}
    for name, info in tensors.items():
        storage = Storage(name, _SAFETENSORS_DTYPES[info.dtype], info.end - info.start)
        value[name] = StoredTensor.contiguous(storage, info.shape)
    return Contents(
        format="safetensors",
        value=value,
        starts={name: info.start for name, info in tensors.items()},
        manifest=Manifest.from_metadata(metadata),
    )


_READERS = {
    sniffing.ZIP: _torch_zip,
    sniffing.PICKLE: _torch_legacy,
    sniffing.SAFETENSORS: _safetensors,
}
