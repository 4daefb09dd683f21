"""A job under a lease of this worker, and the log's line for each state that it comes to."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import structlog

from service.jobs.engines import Message
from service.jobs.job import Job

_log = structlog.get_logger("service.jobs")

# As `service.jobs.queue` stores them; any other ending is its own reason.
_REASONS = {"succeeded": "completed", "cancelled": "cancelled"}
_SHOWN = ("error", "detail", "signal", "traceback")


@dataclass(slots=True)
class Held:
    """One attempt.

    Attributes:
        began: when it was given to the engine, monotonic.
        progress: what it last reported, until that is written.
        stored: its messages of the type ``epoch``, until they are written.
        ending: what it came to, until that is written; see `service.jobs.endings`.
    """

    job: Job
    began: float = field(default_factory=time.monotonic)
    progress: Message | None = None
    stored: list[Message] = field(default_factory=list)
    ending: Message | None = None

    @property
    def deadline(self) -> float:
        """When its time is up, monotonic."""
        return self.began + (float("inf") if self.job.timeout_s is None else self.job.timeout_s)

    def log(self, state: str) -> None:
        """Say that the job is now in ``state``."""
        job, ending = self.job, self.ending or {}
        about = {"id": job.id, "kind": job.kind, "state": str(state), "attempt": job.attempt}
        if not ending and job.started_at is not None:
            about["queued_s"] = round(job.started_at - job.created_at, 4)
        if ending:
            about["duration_s"] = round(time.monotonic() - self.began, 4)
            about["reason"] = _REASONS.get(state, ending.get("reason", ending["type"]))
            about |= {name: ending[name] for name in _SHOWN if ending.get(name) is not None}
        _log.info("job", **about)
