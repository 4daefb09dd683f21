"""One move of a job: the fenced update of its row, its events, and the totals if it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, null, select, update

from service.db.connection import upsert
from service.db.tables import job_events, job_totals, jobs
from service.jobs.job import JOB_COLUMNS, Job
from service.jobs.lifecycle import MOVES, State


def fence(job_id: str, attempt: int, state: State = State.RUNNING) -> list[ColumnElement[bool]]:
    """What must hold of a row for a move by who claimed this attempt."""
    return [jobs.c.id == job_id, jobs.c.state == state, jobs.c.attempt == attempt]


def held(db: Connection, job_id: str, attempt: int) -> Job | None:
    """The job, its row locked until the transaction ends; None if the lease was lost."""
    found = select(*JOB_COLUMNS).where(*fence(job_id, attempt)).with_for_update()
    row = db.execute(found).one_or_none()
    return None if row is None else Job.from_row(row)


def requeue(
    db: Connection,
    job: Job,
    *,
    reason: str,
    now: float,
    source: State = State.RUNNING,
    detail: str | None = None,
    **values: Any,
) -> None:
    """Put a job whose row is locked back where it stood in the queue."""
    data = {"state": State.QUEUED, "attempt": job.attempt, "reason": reason}
    if detail is not None:
        data["detail"] = detail
    values |= {"started_at": None, "worker": None, "lease_expires_at": None, "progress": null()}
    values |= {"reason": None, "finished_at": None}
    move(db, job, State.QUEUED, [("state", data)], now=now, source=source, **values)


def end(
    db: Connection,
    job: Job,
    state: State,
    *,
    reason: str,
    now: float,
    source: State = State.RUNNING,
    forward_s: float = 0.0,
    **values: Any,
) -> bool:
    """Move ``job`` to a state that it does not leave; False if it is not where it was thought."""
    data = {"state": state, "attempt": job.attempt, "reason": reason}
    events = [("state", data), ("end", data)]
    values |= {"reason": reason, "finished_at": now, "lease_expires_at": None}
    moved = move(db, job, state, events, now=now, source=source, **values)
    if moved is None:
        return False
    ran_s = 0.0 if moved.started_at is None else max(0.0, now - moved.started_at)
    total = upsert(db, job_totals)
    total = total.values(kind=moved.kind, state=state, count=1, seconds=ran_s, forward_s=forward_s)
    added = {
        name: job_totals.c[name] + total.excluded[name]
        for name in ("count", "seconds", "forward_s")
    }
    db.execute(total.on_conflict_do_update(index_elements=["kind", "state"], set_=added))
    return True


def move(
    db: Connection,
    job: Job,
    target: State,
    events: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    now: float,
    source: State = State.RUNNING,
    **values: Any,
) -> Row[Any] | None:
    """Make one move with its events; None if the job is not in ``source`` under its attempt."""
    if target not in MOVES[source]:
        raise ValueError(f"a job that is {source} cannot become {target}")
    row = db.execute(
        update(jobs)
        .where(*fence(job.id, job.attempt, source))
        .values(state=target, events=jobs.c.events + len(events), **values)
        .returning(jobs.c.kind, jobs.c.started_at, jobs.c.events)
    ).one_or_none()
    if row is not None:
        append(db, job.id, row.events, events, now=now)
    return row


def append(
    db: Connection,
    job_id: str,
    last: int,
    events: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    now: float,
) -> None:
    """Write events of which the last has the number ``last``, the counter's new value."""
    first = last - len(events) + 1
    db.execute(
        insert(job_events),
        [
            {"job_id": job_id, "seq": seq, "type": kind, "data": data, "created_at": now}
            for seq, (kind, data) in enumerate(events, first)
        ],
    )
