"""Counts of jobs for whoever watches the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from service.db.connection import reading
from service.db.tables import job_totals, jobs
from service.jobs.lifecycle import State
from service.operations import workers
from service.operations.services import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatistics:
    """What is queued and running now, and what ended since the database was made.

    Attributes:
        totals: rows of ``job_totals``.
        present: number of jobs by kind and state.
        queue_age_s: seconds since the oldest queued job arrived; 0 without one.
        workers: how many are alive.
    """

    totals: list[Any]
    present: dict[tuple[str, str], int]
    queue_age_s: float
    workers: int


def of_jobs(services: Services) -> JobStatistics:
    """Read the present counts."""
    now = services.clock()
    waiting = (State.QUEUED, State.RUNNING)
    with reading(services.database) as db:
        query = select(jobs.c.kind, jobs.c.state, func.count()).where(jobs.c.state.in_(waiting))
        present = {
            (kind, state): count
            for kind, state, count in db.execute(query.group_by(jobs.c.kind, jobs.c.state))
        }
        oldest = db.scalar(select(func.min(jobs.c.created_at)).where(jobs.c.state == State.QUEUED))
        return JobStatistics(
            totals=list(db.execute(select(job_totals))),
            present=present,
            queue_age_s=0.0 if oldest is None else max(now - oldest, 0.0),
            workers=len(workers.live(db, now)),
        )
