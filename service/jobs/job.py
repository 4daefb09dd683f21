"""A job as its row says it is, its events, and the two ways in which asking for one fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Row

from service.db.tables import jobs
from service.jobs.lifecycle import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job's row.

    Attributes:
        reason: why it ended; None until it did.
        attempt: how often it was claimed; together with the state it fences a worker's moves.
        crashes: how many attempts ended without a word.
        started_at: when the present or last attempt began; None while queued.
        request: what was asked, defaults filled in; shown to clients.
        payload: what a handler needs to do it; private.
        progress: ``{"done", "total", "unit"}`` of the present attempt.
        key: what its result is the answer to, if it can answer later requests.
        device: where it may run: ``auto``, or a name that a worker claims for.
        timeout_s: seconds an attempt may run; the worker watches it.
        events: how many events it has.
        saved: of a training, the last stored epoch; see `service.jobs.saving`.
    """

    id: str
    kind: str
    state: State
    reason: str | None
    attempt: int
    crashes: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    created_by: str
    labels: Mapping[str, str]
    error: Mapping[str, Any] | None
    request: Mapping[str, Any]
    payload: Mapping[str, Any]
    result: Mapping[str, Any] | None
    progress: Mapping[str, Any] | None
    key: str | None
    device: str
    timeout_s: float | None
    cancel_requested: bool
    worker: str | None
    lease_expires_at: float | None
    events: int
    saved: Mapping[str, Any] | None

    @classmethod
    def from_row(cls, row: Row[Any]) -> Job:
        """Build from a row of a query over `JOB_COLUMNS`."""
        values = dict(zip(_FIELDS, row, strict=True))
        return cls(**{**values, "state": State(values["state"])})


_FIELDS = tuple(one.name for one in fields(Job))
JOB_COLUMNS = tuple(jobs.c[name] for name in _FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to a job; ``seq`` counts from 1 within the job."""

    seq: int
    type: str
    data: Mapping[str, Any]
    created_at: float


class JobEnded(Exception):
    """The job cannot be cancelled any more."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"job {job.id} has ended: it is {job.state}")
        self.job = job


class JobMissing(LookupError):
    """There is no job of this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id}")
        self.job_id = job_id


class JobNotResumable(Exception):
    """The job cannot go on; ``detail`` says why, and what would."""

    def __init__(self, job: Job, detail: str) -> None:
        super().__init__(detail)
        self.job = job
        self.detail = detail
