"""Sequences of token ids: which are taken, and how they are padded, hashed and stored.

The first pass over a file finds the longest sequence and the largest id, the second writes, so that
no more than a run of sequences is ever held.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from models.datasets.arrays import bad_file, byte_view
from models.tensorfile import Placer
from models.transforms import ExampleType

MAX_ID = 2**31 - 2  # so that the size of every vocabulary is an int32 too
MAX_LENGTH = 1_000_000
PADDING = -1

_CHUNK_BYTES = 2**24
_PERSON = hashlib.blake2b(b"tokens", digest_size=16).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Some consecutive sequences.

    Attributes:
        lengths: int32 ``(n,)``, each at least 1.
        ids: of all of them one after the other, any integer dtype, ``(sum of lengths,)``.
    """

    lengths: np.ndarray[Any, Any]
    ids: np.ndarray[Any, Any]


class Sequences:
    """All sequences of a file, looked through on construction.

    Args:
        read: starts reading them anew.
        place: where a sequence stands, by its index, for a sentence.

    Attributes:
        count: number of sequences.
        longest: their largest length.
        vocabulary: 1 + the largest id.

    Raises:
        SpecError: an id is none, or a sequence is too long; names its place.
    """

    def __init__(self, read: Callable[[], Iterator[Run]], place: Callable[[int], str]) -> None:
        self._read = read
        count = longest = vocabulary = 0
        for run in read():
            if len(run.lengths):
                _check(run, first=count, place=place)
                count += len(run.lengths)
                longest = max(longest, int(run.lengths.max()))
                vocabulary = max(vocabulary, int(run.ids.max()) + 1)
        self.count: Final = count
        self.longest: Final = longest
        self.vocabulary: Final = vocabulary

    @property
    def example(self) -> ExampleType:
        """One example before any transform."""
        return ExampleType(shape=(self.longest,), dtype="int32", vocabulary=self.vocabulary)

    @property
    def stored(self) -> tuple[str, tuple[int, ...]]:
        """The format's dtype and the shape of ``x``."""
        return "I32", (self.count, self.longest)

    def write(self, out: Placer) -> np.ndarray[Any, Any]:
        """Write ``x`` and ``hashes``, and return the hashes, uint64 ``(N,)``.

        A hash is of the ids alone, so that equal sequences of two datasets have equal ones, however
        long the longest of each is.
        """
        hashes = bytearray()
        step = max(1, _CHUNK_BYTES // (4 * max(1, self.longest)))
        for run in self._read():
            ids = run.ids.astype("<i4")
            ends = np.cumsum(run.lengths)
            starts = ends - run.lengths
            data = byte_view(ids)
            for start, end in zip((4 * starts).tolist(), (4 * ends).tolist(), strict=True):
                hashes += hashlib.blake2b(data[start:end], digest_size=8, person=_PERSON).digest()
            for first in range(0, len(run.lengths), step):
                last = min(first + step, len(run.lengths))
                part = np.full((last - first, self.longest), PADDING, "<i4")
                held = np.arange(self.longest) < run.lengths[first:last, None]
                part[held] = ids[starts[first] : ends[last - 1]]
                out.append("x", byte_view(part))
        out.append("hashes", memoryview(hashes))
        return np.frombuffer(hashes, "<u8")


def check_length(length: int, place: str) -> None:
    """Raise SpecError if a sequence, or the room for one, is longer than any that is taken."""
    if length > MAX_LENGTH:
        raise bad_file(f"{place} holds {length} token ids; at most {MAX_LENGTH} are taken")


def _check(run: Run, *, first: int, place: Callable[[int], str]) -> None:
    """Refuse what is no id, in the sequences from ``first`` on."""
    at = int(run.lengths.argmax())
    check_length(int(run.lengths[at]), place(first + at))
    wrong = (run.ids < 0) | (run.ids > MAX_ID)
    if wrong.any():
        position = int(wrong.argmax())
        ends = np.cumsum(run.lengths)
        at = int(np.searchsorted(ends, position, side="right"))
        start = int(ends[at] - run.lengths[at])
        raise bad_file(
            f"{place(first + at)} holds {run.ids[position]} at position {position - start}, "
            f"counted from 0; a token id is a whole number from 0 to {MAX_ID}"
        )
