"""The queue: jobs are rows, a claim is a lease on one, and every move is fenced and recorded.

Every function takes a `Connection` inside a transaction (`service.db.connection.writing`, or
`reading` for `get` and `events_after`) and the present time in POSIX seconds. A worker's moves hold
only while the job is running under the attempt that the worker claimed: who lost the lease changes
nothing and is told so.

Every move appends to the job's events, whose numbers have no gaps and rise in commit order, because
the counter stands in the job's own row. Finishing a job also adds to `job_totals`, whose rows are
shared: finish at most one job a transaction, or two transactions may wait for each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, bindparam, exists, insert, null, select, tuple_, update
from sqlalchemy.sql.dml import ReturningUpdate

from service.db.tables import job_events, job_needs, jobs
from service.jobs import moves
from service.jobs.job import JOB_COLUMNS, Event, Job, JobEnded, JobMissing, JobNotResumable
from service.jobs.lifecycle import State, ended, priority, uuid7

__all__ = [
    "ANY_DEVICE",
    "Event",
    "Job",
    "JobEnded",
    "JobMissing",
    "JobNotResumable",
    "cancel",
    "cancelled",
    "claim",
    "crash",
    "events_after",
    "fail",
    "get",
    "progress",
    "reap",
    "release",
    "renew",
    "resume",
    "submit",
    "succeed",
]

ANY_DEVICE = "auto"

_FIRST = (
    select(jobs.c.id)
    .where(jobs.c.state == State.QUEUED, jobs.c.device.in_(bindparam("devices", expanding=True)))
    .where(
        ~exists()
        .where(job_needs.c.job_id == jobs.c.id)
        .where(job_needs.c.distribution.not_in(bindparam("provides", expanding=True)))
    )
    .order_by(jobs.c.priority, jobs.c.created_at, jobs.c.id)
    .limit(1)
    .with_for_update(skip_locked=True)  # a no-op on SQLite, whose writers are already serial
)


def _claim_of(first: Select[tuple[str]]) -> ReturningUpdate[Any]:
    return (
        update(jobs)
        .where(jobs.c.id == first.scalar_subquery())
        .values(
            state=State.RUNNING,
            attempt=jobs.c.attempt + 1,
            started_at=bindparam("at"),
            worker=bindparam("by"),
            lease_expires_at=bindparam("until"),
            progress=null(),
            events=jobs.c.events + 1,
        )
        .returning(*JOB_COLUMNS)
    )


# Built once: composing such a statement takes as long as running it.
_CLAIM_ANY = _claim_of(_FIRST)
_CLAIM_OF = _claim_of(_FIRST.where(jobs.c.kind.in_(bindparam("kinds", expanding=True))))
_GET = select(*JOB_COLUMNS).where(jobs.c.id == bindparam("id"))


def submit(
    db: Connection,
    *,
    kind: str,
    request: Mapping[str, Any],
    payload: Mapping[str, Any],
    device: str,
    created_by: str,
    labels: Mapping[str, str],
    timeout_s: float | None,
    now: float,
    needs: Collection[str] = (),
) -> Job:
    """Put a new job into the queue.

    ``needs`` are the distributions that a worker must have to do it, beside Holdout itself.
    """
    job = Job(
        id=uuid7(now),
        kind=kind,
        state=State.QUEUED,
        reason=None,
        attempt=0,
        crashes=0,
        created_at=now,
        started_at=None,
        finished_at=None,
        created_by=created_by,
        labels=labels,
        error=None,
        request=request,
        payload=payload,
        result=None,
        progress=None,
        key=None,
        device=device,
        timeout_s=timeout_s,
        cancel_requested=False,
        worker=None,
        lease_expires_at=None,
        events=1,
        saved=None,
    )
    values = {column.name: getattr(job, column.name) for column in JOB_COLUMNS}
    db.execute(insert(jobs), {**values, "priority": priority(kind)})
    if needs:
        db.execute(insert(job_needs), [{"job_id": job.id, "distribution": one} for one in needs])
    moves.append(db, job.id, 1, [("state", {"state": State.QUEUED, "attempt": 0})], now=now)
    return job


def claim(
    db: Connection,
    *,
    worker: str,
    devices: Sequence[str],
    kinds: Sequence[str] | None,
    provides: Collection[str] = (),
    lease_s: float,
    now: float,
) -> Job | None:
    """Take the first job of the queue: by priority of its kind, then in order of arrival.

    ``devices`` are the names that the job may ask for; one that asks for `ANY_DEVICE` is always
    taken. ``kinds`` limits what is looked at; None is all. ``provides`` are the distributions that
    the worker has of those that jobs may need. The claim ends after ``lease_s`` unless it is
    renewed.

    Returns:
        The job, running, its attempt risen by one; None if there is none to take.
    """
    values = {
        "by": worker,
        "at": now,
        "until": now + lease_s,
        "devices": [ANY_DEVICE, *devices],
        "kinds": kinds,
        "provides": list(provides),
    }
    row = db.execute(_CLAIM_ANY if kinds is None else _CLAIM_OF, values).one_or_none()
    if row is None:
        return None
    job = Job.from_row(row)
    data = {"state": State.RUNNING, "attempt": job.attempt}
    moves.append(db, job.id, job.events, [("state", data)], now=now)
    return job


def renew(
    db: Connection, held: Sequence[tuple[str, int]], *, lease_s: float, now: float
) -> dict[str, bool]:
    """Prolong the leases on jobs, given as id and attempt.

    Returns:
        For each job that is still held, whether its cancellation was asked for. A job that is
        missing was lost: its attempt must be stopped.
    """
    if not held:
        return {}
    rows = db.execute(
        update(jobs)
        .where(
            jobs.c.state == State.RUNNING,
            tuple_(jobs.c.id, jobs.c.attempt).in_(held),
        )
        .values(lease_expires_at=now + lease_s)
        .returning(jobs.c.id, jobs.c.cancel_requested)
    )
    return {job_id: cancel_requested for job_id, cancel_requested in rows}


def succeed(
    db: Connection,
    job: Job,
    *,
    result: Mapping[str, Any],
    key: str | None,
    forward_s: float,
    now: float,
) -> bool:
    """Record the result of ``job``; False if its lease was lost.

    ``key`` says what the result is the answer to, None that it answers no later request;
    ``forward_s`` are the seconds spent in forward passes, for the totals.
    """
    return moves.end(
        db,
        job,
        State.SUCCEEDED,
        reason="completed",
        now=now,
        forward_s=forward_s,
        result=result,
        key=key,
    )


def fail(db: Connection, job: Job, *, reason: str, error: Mapping[str, Any], now: float) -> bool:
    """Record why ``job`` cannot be done, which no retry would change; False if it was lost.

    ``reason`` is one word for programs, such as ``bad_request`` or ``timed_out``; ``error`` is
    ``{"detail": sentence, "pointer": of the request's field at fault, if one is}``.
    """
    return moves.end(db, job, State.FAILED, reason=reason, now=now, error=error)


def cancelled(db: Connection, job: Job, *, now: float) -> bool:
    """Record that ``job`` was stopped because somebody asked for it; False if it was lost."""
    return moves.end(db, job, State.CANCELLED, reason="cancelled", now=now)


def crash(db: Connection, job: Job, *, detail: str, limit: int, now: float) -> Job | None:
    """Record that the present attempt of ``job`` ended without a word.

    ``detail`` says for people how ("the child was killed by SIGKILL"); as many crashes as ``limit``
    fail the job.

    Returns:
        The job: queued again, failed at the limit, or cancelled if that was asked for. None if
        its lease was lost.
    """
    return _crash(db, job.id, job.attempt, detail=detail, limit=limit, now=now)


def release(db: Connection, job: Job, *, now: float) -> bool:
    """Give ``job`` back unfinished, which is no crash; False if its lease was lost.

    It keeps its place in the queue. If its cancellation was asked for, it is cancelled instead.
    """
    held = moves.held(db, job.id, job.attempt)
    if held is None:
        return False
    if held.cancel_requested:
        return cancelled(db, job, now=now)
    moves.requeue(db, held, reason="released", now=now)
    return True


def cancel(db: Connection, job_id: str, *, now: float) -> Job:
    """Cancel a queued job, or ask the worker that runs it to stop.

    Returns:
        The job as it now is; one that is running stays so until its worker has stopped it.

    Raises:
        JobMissing: there is no such job.
        JobEnded: it is too late.
    """
    row = db.execute(
        select(*JOB_COLUMNS).where(jobs.c.id == job_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise JobMissing(job_id)
    job = Job.from_row(row)
    if ended(job.state):
        raise JobEnded(job)
    if job.state == State.QUEUED:
        moves.end(db, job, State.CANCELLED, source=State.QUEUED, reason="cancelled", now=now)
    else:
        db.execute(update(jobs).where(jobs.c.id == job_id).values(cancel_requested=True))
    return _existing(db, job_id)


def reap(db: Connection, *, limit: int, now: float) -> list[Job]:
    """Take running jobs from workers that stopped renewing their leases.

    Each counts as a crash; a job whose cancellation was asked for is cancelled.

    Returns:
        The jobs taken, as they now are.
    """
    rows = db.execute(
        select(jobs.c.id, jobs.c.attempt, jobs.c.worker, jobs.c.kind, jobs.c.cancel_requested)
        .where(jobs.c.state == State.RUNNING, jobs.c.lease_expires_at < now)
        .with_for_update(skip_locked=True)
    ).all()
    taken = []
    # In the order of the totals that they add to, so that two reapers never wait for each other.
    for row in sorted(rows, key=lambda row: (row.kind, not row.cancel_requested)):
        detail = f"worker {row.worker} stopped renewing its lease"
        taken.append(_crash(db, row.id, row.attempt, detail=detail, limit=limit, now=now))
    return [job for job in taken if job is not None]


def progress(
    db: Connection, job: Job, *, done: int, total: int | None, unit: str, first: int = 0, now: float
) -> bool:
    """Record how far the present attempt is, ``first`` of it before; False if it was lost."""
    data = {"done": done, "total": total, "unit": unit}
    events = db.execute(
        update(jobs)
        .where(*moves.fence(job.id, job.attempt))
        .values(progress=data | ({"first": first} if first else {}), events=jobs.c.events + 1)
        .returning(jobs.c.events)
    ).scalar_one_or_none()
    if events is None:
        return False
    moves.append(db, job.id, events, [("progress", data)], now=now)
    return True


def resume(db: Connection, job_id: str, *, now: float) -> Job:
    """Queue a training again that failed or was cancelled; it goes on at its last stored epoch.

    Raises:
        JobMissing: there is no such job.
        JobNotResumable: it has not ended, it succeeded, or what was stored of it is gone.
    """
    row = db.execute(
        select(*JOB_COLUMNS).where(jobs.c.id == job_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise JobMissing(job_id)
    job = Job.from_row(row)
    if job.state not in (State.FAILED, State.CANCELLED):
        raise JobNotResumable(
            job, f"the training is {job.state}: only a failed or a cancelled one is resumed"
        )
    if job.saved is None and job.result is not None:
        raise JobNotResumable(
            job,
            "the stored state of the training was removed a month after it ended; start a new one "
            "with its checkpoint as initial_checkpoint",
        )
    anew: dict[str, Any] = {
        "crashes": 0,
        "cancel_requested": False,
        "error": null(),
        "result": null(),
    }
    moves.requeue(db, job, reason="resumed", now=now, source=job.state, **anew)
    return _existing(db, job_id)


def get(db: Connection, job_id: str) -> Job | None:
    """The job of this id, if there is one."""
    row = db.execute(_GET, {"id": job_id}).one_or_none()
    return None if row is None else Job.from_row(row)


def events_after(db: Connection, job_id: str, seq: int) -> list[Event]:
    """The job's events numbered above ``seq``, in order."""
    rows = db.execute(
        select(job_events.c.seq, job_events.c.type, job_events.c.data, job_events.c.created_at)
        .where(job_events.c.job_id == job_id, job_events.c.seq > seq)
        .order_by(job_events.c.seq)
    )
    return [Event(seq=n, type=kind, data=data, created_at=at) for n, kind, data, at in rows]


def _crash(
    db: Connection, job_id: str, attempt: int, *, detail: str, limit: int, now: float
) -> Job | None:
    job = moves.held(db, job_id, attempt)
    if job is None:
        return None
    crashes = job.crashes + 1
    if job.cancel_requested:
        moves.end(db, job, State.CANCELLED, reason="cancelled", now=now, crashes=crashes)
    elif crashes < limit:
        moves.requeue(db, job, reason="crashed", now=now, detail=detail, crashes=crashes)
    else:
        last = detail if crashes == 1 else f"{crashes} attempts crashed; the last: {detail}"
        error = {"detail": last}
        moves.end(db, job, State.FAILED, reason="crashed", now=now, error=error, crashes=crashes)
    return _existing(db, job_id)


def _existing(db: Connection, job_id: str) -> Job:
    return Job.from_row(db.execute(select(*JOB_COLUMNS).where(jobs.c.id == job_id)).one())
