"""The engine that runs a task where it was given, for tests and for debugging a handler."""

from __future__ import annotations

import importlib
import json
from collections import deque
from multiprocessing.connection import wait
from typing import Any, cast

from service.jobs.engines import (
    ChildOptions,
    EngineError,
    HasFileno,
    Message,
    Slot,
    Task,
    Work,
    outcome,
)


class InlineEngine:
    """One slot in this very process; `give` returns when the task is done.

    Nothing runs between calls, so there is never anything to kill, and a handler that brings its
    process down brings this one down.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; the first that it stands for is used.
    """

    def __init__(self, options: ChildOptions, *, device: str = "cpu") -> None:
        self._options = options
        self._device = device
        self._messages: deque[Message] = deque()
        self._work: Work | None = None
        self._context: Any = None
        self._task_id: str | None = None  # until its outcome was fetched

    def start(self) -> None:
        """See `Engine.start`."""
        work = cast(Work, importlib.import_module(self._options.handlers))
        try:
            self._device = work.devices(self._device)[0]
        except ValueError as error:
            raise EngineError(str(error)) from error
        self._context = work.open_context(self._options, self._device)
        hello = {"type": "hello", "slot": 0, "device": self._device, **work.hello(self._context)}
        self._messages.append(hello)
        self._work = work

    def slots(self) -> list[Slot]:
        """See `Engine.slots`."""
        ready = self._work is not None
        return [Slot(index=0, device=self._device, ready=ready, busy_with=self._task_id)]

    def give(self, slot: Slot, task: Task) -> None:
        """See `Engine.give`."""
        if self._work is None or self._task_id is not None:
            raise ValueError(f"slot {slot.index} is not free")
        self._task_id = task["id"]
        self._receive(outcome(self._work, task, self._context, self._receive))

    def _receive(self, message: bytes) -> None:
        self._messages.append(json.loads(message))

    def wait(self, timeout_s: float, *wake: HasFileno) -> list[Message]:
        """See `Engine.wait`."""
        if not self._messages:
            watched: list[Any] = list(wake)
            wait(watched, timeout_s)
        found = list(self._messages)
        self._messages.clear()
        self._task_id = None
        return found

    def kill(self, task_id: str) -> None:
        """See `Engine.kill`."""
        if task_id == self._task_id:
            self._messages = deque(one for one in self._messages if one.get("id") != task_id)
            self._task_id = None

    def close(self) -> None:
        """See `Engine.close`."""
        self._work = self._context = self._task_id = None
        self._messages.clear()
