"""The array ``x``: which dtypes are taken, what they become, and the check of every value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from models.datasets.arrays import Array, bad_file
from models.tensorfile import DTYPE_NAMES

MAX_AXES = 32

# Torch has no arithmetic for uint16 and uint32, and networks take float32.
PREPARED_DTYPES = {
    "bool": "uint8",
    "uint8": "uint8",
    "int8": "int8",
    "int16": "int16",
    "uint16": "int32",
    "int32": "int32",
    "uint32": "int64",
    "int64": "int64",
    "float16": "float32",
    "float32": "float32",
    "float64": "float32",
}


def check(x: Array) -> None:
    """Raise SpecError unless shape and dtype are those of examples; no element is read."""
    if len(x.shape) < 2 or len(x.shape) > MAX_AXES:
        raise bad_file(
            f"x has shape {list(x.shape)}; its first axis counts the examples, and 1 to "
            f"{MAX_AXES - 1} more describe one, such as (N, features) or (N, channels, height, "
            "width)"
        )
    if 0 in x.shape:
        raise bad_file(f"x has shape {list(x.shape)}: an example would hold no values")
    if x.dtype.name not in PREPARED_DTYPES:
        raise bad_file(f"x has dtype {x.dtype}; taken are {', '.join(PREPARED_DTYPES)}")


def stored_dtype(x: Array) -> str:
    """The format's dtype that the elements of an array that passed `check` are stored as."""
    return DTYPE_NAMES[np.dtype(PREPARED_DTYPES[x.dtype.name]).newbyteorder("<")]


def prepared(x: Array) -> Iterator[memoryview]:
    """The bytes of the examples as they are stored, piece by piece.

    Args:
        x: an array that passed `check`.

    Raises:
        SpecError: a value is not finite or does not fit into float32; names the example.
    """
    dtype = np.dtype(PREPARED_DTYPES[x.dtype.name]).newbyteorder("<")
    done = 0
    for chunk in x.chunks():
        if x.dtype.kind == "b":
            chunk = chunk.view(np.uint8) != 0  # any byte may stand where a bool is announced
        with np.errstate(over="ignore"):
            values = chunk.astype(dtype)
        if dtype.kind == "f" and not np.isfinite(values).all():
            raise _not_finite(x, done, chunk, values)
        done += len(chunk)
        yield values.view(np.uint8).data


def _not_finite(
    x: Array, done: int, chunk: np.ndarray[Any, Any], values: np.ndarray[Any, Any]
) -> Exception:
    at = int(np.flatnonzero(~np.isfinite(values))[0])
    example = (done + at) // math.prod(x.shape[1:])
    reason = "does not fit into float32" if np.isfinite(chunk[at]) else "is not finite"
    return bad_file(
        f"x[{example}] holds {chunk[at]}, which {reason}; every value must be a finite float32"
    )
