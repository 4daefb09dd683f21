"""An ONNX network as a file describes it, before anything of it is believed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from checkpoints.errors import CheckpointError, counted, quoted
from checkpoints.reading.protobuf import ProtobufError, count_varints, varints
from models.onnx.graph import Node, Value

MAX_AXES = 32

CHUNK_BYTES = 2**20

ITEM_TYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        *("float16", "float32", "float64", "bool", "uint8", "uint16", "uint32", "uint64"),
        *("int8", "int16", "int32", "int64"),
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """Elements as they lie in the file.

    Attributes:
        name: what the file calls it; for messages.
        dtype: numpy's name, a key of `ITEM_TYPES`.
        pieces: the elements' bytes in C order, little-endian.
        varints: the pieces hold protobuf's integers instead, the bits of float16 among them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[memoryview, ...]
    varints: bool = False

    @property
    def elements(self) -> int:
        """How many its shape says; a Python integer, which lengths that lie cannot overflow."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of that many elements."""
        return self.elements * ITEM_TYPES[self.dtype].itemsize

    def check(self) -> None:
        """Raise CheckpointError unless the file holds as many elements as the shape says."""
        if len(self.shape) > MAX_AXES or any(length < 0 for length in self.shape):
            raise CheckpointError(
                f"tensor {quoted(self.name)} has shape {list(self.shape)[:MAX_AXES]}; taken are at "
                f"most {MAX_AXES} axes of lengths from 0 on"
            )
        if self.varints:
            there, said = sum(map(count_varints, self.pieces)), self.elements
            noun = "element"
        else:
            there, said = sum(map(len, self.pieces)), self.size_bytes
            noun = "byte"
        if there != said:
            raise CheckpointError(
                f"tensor {quoted(self.name)} holds {counted(there, noun)}, but shape "
                f"{list(self.shape)} of {self.dtype} takes {said}: the file is damaged"
            )

    def value(self) -> np.ndarray[Any, Any]:
        """All of it, flat; for a small tensor that passed `check`."""
        content = b"".join(bytes(chunk) for chunk in self.chunks({}))
        return np.frombuffer(content, ITEM_TYPES[self.dtype])

    def chunks(self, not_finite: dict[str, int]) -> Iterator[memoryview]:
        """The bytes in C order, counting in ``not_finite`` the floats that are not finite.

        Raises:
            CheckpointError: a value is none of the dtype.
        """
        for block in self._blocks():
            if block.dtype.kind == "f":
                missing = block.size - int(np.count_nonzero(np.isfinite(block)))
                if missing:
                    not_finite[self.name] = not_finite.get(self.name, 0) + missing
            if block.dtype.kind == "b" and (block.view(np.uint8) > 1).any():
                raise self._no_value()
            yield block.view(np.uint8).data

    def _blocks(self) -> Iterator[np.ndarray[Any, Any]]:
        item = ITEM_TYPES[self.dtype]
        if self.varints:
            for piece in self.pieces:
                try:
                    for values in varints(piece):
                        yield self._cast(values.view(np.int64))
                except ProtobufError as error:
                    raise CheckpointError(f"in tensor {quoted(self.name)}: {error}") from None
            return
        pieces = self.pieces
        if len(pieces) > 1:  # an element may lie across two of them
            pieces = (memoryview(b"".join(pieces)),)
        for piece in pieces:
            for start in range(0, len(piece), CHUNK_BYTES):
                yield np.frombuffer(piece[start : start + CHUNK_BYTES], item)

    def _cast(self, values: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, Any]:
        item = ITEM_TYPES[self.dtype]
        if self.dtype == "uint64":
            return values.astype(item)
        holds = np.dtype("<u2") if self.dtype == "float16" else item
        low, high = (0, 1) if self.dtype == "bool" else (np.iinfo(holds).min, np.iinfo(holds).max)
        if ((values < low) | (values > high)).any():
            raise self._no_value()
        return values.astype(holds).view(item)

    def _no_value(self) -> CheckpointError:
        return CheckpointError(
            f"tensor {quoted(self.name)} holds a value that {self.dtype} does not have: the file "
            "is damaged"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A network and its tensors.

    Attributes:
        opset: version of the standard operators.
        inputs: those that no tensor of the file gives.
        nodes: in the file's order.
        tensors: by name.
    """

    opset: int
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
