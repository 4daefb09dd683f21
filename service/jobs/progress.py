"""How far a task is, told while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from service.jobs.engines import Message

Report = Callable[[Message], None]

_PROGRESS_S = 0.5


class Progress:
    """Reports how many are done, at most twice a second."""

    def __init__(self, report: Report, total: int, unit: str) -> None:
        self._report = report
        self._total = total
        self._unit = unit
        self._next = time.monotonic() + _PROGRESS_S

    def __call__(self, done: int) -> None:
        """Tell it, unless that was done a moment ago."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + _PROGRESS_S
            self._report({"done": done, "total": self._total, "unit": self._unit})
