"""Which kind of file this is, from its first bytes; and of what is not read, what would be."""

from __future__ import annotations

import mmap

from checkpoints.errors import CheckpointError
from checkpoints.reading import onnxfile

ZIP, PICKLE, SAFETENSORS, ONNX = "zip", "pickle", "safetensors", "onnx"

_TORCH = "save model.state_dict() with torch.save, or as safetensors"

_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself: run git lfs pull"),
    (0, b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstandard: unpack it first"),
    (0, b"BZh", "compressed with bzip2: unpack it first"),
    (0, b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (0, b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (257, b"ustar", f"a tar archive: {_TORCH}"),
    (0, b"\x89HDF\r\n\x1a\n", f"HDF5 (Keras writes it): load it in PyTorch and {_TORCH}"),
    (0, b"GGUF", f"GGUF, a format of language models: {_TORCH}"),
    (0, b"\x93NUMPY", f"a NumPy array: {_TORCH}"),
    (0, b"\x89PNG", f"a PNG image: {_TORCH}"),
    (0, b"\xff\xd8\xff", f"a JPEG image: {_TORCH}"),
    (0, b"\x7fELF", f"a program: {_TORCH}"),
    (0, b"%PDF", f"a PDF document: {_TORCH}"),
    (0, b"<", "HTML or XML, perhaps the error page of a download: fetch the file again"),
    (0, b"{", f"JSON, perhaps an index or a configuration: {_TORCH}"),
)


def sniff(data: mmap.mmap) -> str:
    """One of `ZIP`, `PICKLE`, `SAFETENSORS` and `ONNX`.

    Raises:
        CheckpointError: of kind ``unsupported``; says what the file seems to be and what is right.
    """
    # Before pickle: a safetensors header of 128 bytes starts with pickle's first byte.
    if data[8:9] == b"{" and data[4:8] == bytes(4):
        return SAFETENSORS
    if data[:2] == b"PK":
        return ZIP
    if data[:1] == b"\x80":
        return PICKLE
    for position, signature, words in _OTHERS:
        if data[position : position + len(signature)] == signature:
            raise unsupported(f"the file is {words}")
    if onnxfile.looks(data):
        return ONNX
    raise unsupported(
        "the file is of no known kind; what torch.save writes is read (the zip and the older "
        "stream), safetensors, and what torch.onnx.export writes"
    )


def unsupported(detail: str) -> CheckpointError:
    """The error for a file that is sound, as far as one can see, and not ours to read."""
    return CheckpointError(detail, kind="unsupported")
