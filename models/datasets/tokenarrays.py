"""The arrays ``x`` and ``lengths`` as sequences of token ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from models.datasets.arrays import Array, bad_file
from models.datasets.sequences import Run, Sequences, check_length


def check(x: Array, lengths: Array) -> None:
    """Raise SpecError unless shapes and dtypes are those of sequences; no element is read."""
    if x.dtype.kind not in "iu" or len(x.shape) != 2:
        raise bad_file(
            f"with lengths the file holds sequences of token ids: x must be integers of shape "
            f"(N, longest), got {x.dtype} of shape {list(x.shape)}. Leave lengths out if these are "
            "numbers"
        )
    if 0 in x.shape:
        raise bad_file(f"x has shape {list(x.shape)}: a sequence would hold no token ids")
    check_length(x.shape[1], "a row of x")
    if lengths.dtype.kind not in "iu" or lengths.shape != (x.shape[0],):
        raise bad_file(
            f"lengths must be one integer a sequence, shape ({x.shape[0]},), got {lengths.dtype} "
            f"of shape {list(lengths.shape)}"
        )


def sequences(x: Array, lengths: Array) -> Sequences:
    """The sequences in two arrays that passed `check`; what stands behind an end is not looked at.

    Raises:
        SpecError: a length or an id is none; names its example.
    """
    known = _read_lengths(lengths, most=x.shape[1])

    def read() -> Iterator[Run]:
        done = 0
        for rows in _rows(x):
            held = known[done : done + len(rows)]
            yield Run(lengths=held, ids=rows[np.arange(x.shape[1]) < held[:, None]])
            done += len(rows)

    return Sequences(read, lambda index: f"x[{index}]")


def _read_lengths(lengths: Array, *, most: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    known = np.empty(lengths.shape[0], np.int32)
    done = 0
    for chunk in lengths.chunks():
        wrong = (chunk < 1) | (chunk > most)
        if wrong.any():
            at = int(wrong.argmax())
            raise bad_file(
                f"lengths[{done + at}] is {chunk[at]}; a sequence holds 1 to {most} token ids here"
            )
        known[done : done + len(chunk)] = chunk
        done += len(chunk)
    return known


def _rows(x: Array) -> Iterator[np.ndarray[tuple[int, int], np.dtype[np.integer]]]:
    """Whole rows, some at a time."""
    width = x.shape[1]
    rest = np.empty(0, x.dtype)
    for chunk in x.chunks():
        values = np.concatenate([rest, chunk])
        whole = len(values) // width * width
        rest = values[whole:]
        if whole:
            yield values[:whole].reshape(-1, width)
