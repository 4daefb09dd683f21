"""How far a task is, told while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.jobs.engines import Message

Report = Callable[[Message], None]

_PROGRESS_S = 0.5
_SHARE = 0.01


class Progress:
    """Reports how many are done: at first twice a second, and more seldom the longer it takes.

    Args:
        first: how many were done before this attempt, which its pace is not measured by.
    """

    def __init__(self, report: Report, total: int, unit: str, *, first: int = 0) -> None:
        self._report = report
        self._values = {"total": total, "unit": unit} | ({"first": first} if first else {})
        self._began = time.monotonic()
        self._next = self._began + _PROGRESS_S

    def __call__(self, done: int) -> None:
        """Tell it, unless that was done a moment ago."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + max(_PROGRESS_S, _SHARE * (now - self._began))
            self._report({"done": done, **self._values})
