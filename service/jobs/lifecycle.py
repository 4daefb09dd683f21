"""The states of a job, the moves between them, and the names and ranks that jobs get. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


MOVES: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.QUEUED: frozenset({State.RUNNING, State.CANCELLED}),
        # Back to queued: its attempt crashed, or its worker was told to stop.
        State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.QUEUED}),
        State.SUCCEEDED: frozenset(),
        # Back to queued: a training that somebody resumes.
        State.FAILED: frozenset({State.QUEUED}),
        State.CANCELLED: frozenset({State.QUEUED}),
    }
)

_ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})

# Somebody waits for an evaluation; a dataset must be there before it can be evaluated; a training
# takes hours whenever it starts.
_PRIORITIES = {"evaluation": 0, "ingestion": 1, "training": 9}


def ended(state: State) -> bool:
    """Whether nothing happens to a job in ``state`` unless somebody asks for it."""
    return state in _ENDED


def priority(kind: str) -> int:
    """The rank of a kind of job in the queue; lower goes first.

    Raises:
        ValueError: no such kind.
    """
    try:
        return _PRIORITIES[kind]
    except KeyError:
        known = ", ".join(_PRIORITIES)
        raise ValueError(f"unknown kind of job {kind!r}; known: {known}") from None


def uuid7(now: float) -> str:
    """A new UUIDv7 (RFC 9562) whose text sorts by time, to a quarter of a microsecond.

    Args:
        now: POSIX seconds; the 12 bits after the milliseconds hold their fraction (method 3).
    """
    ticks = int(now * 1000 * 4096)  # 48 bits of milliseconds, 12 bits of their fraction
    random = int.from_bytes(os.urandom(8)) >> 2
    value = (ticks >> 12) << 80 | 0x7 << 76 | (ticks & 0xFFF) << 64 | 0b10 << 62 | random
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
