"""What of a training outlives its attempts: stored epochs, checkpoints, and its result.

The child stores files (`service.jobs.states`) and reports them; here the worker writes down that
they are the ones that count, and removes those of earlier epochs. A training's result is made of
what was stored, however it ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import Connection, select, update

from checkpoints.store import Store
from models.canonical import digest
from service.db.connection import lock_database, upsert
from service.db.tables import checkpoint_sources, checkpoints, job_events, jobs, lineages
from service.jobs import moves
from service.jobs.engines import Message
from service.jobs.job import Job
from service.jobs.lifecycle import State

KIND = "training"

_log = structlog.get_logger("service.jobs")


def files(saved: Mapping[str, Any] | None) -> set[str]:
    """The names of the uploads that hold what was stored."""
    if saved is None:
        return set()
    parts = (saved["state"], saved["last"], saved["best"])
    return {part["file"] for part in parts if part is not None}


def superseded(before: Mapping[str, Any] | None, stored: Sequence[Message]) -> set[str]:
    """The uploads that nobody needs once the last of these epochs is written down.

    Args:
        before: what was written down until now.
        stored: messages of the type ``epoch``, in order.
    """
    every = files(before).union(*(files(one["saved"]) for one in stored))
    return every - files(stored[-1]["saved"])


def record(
    db: Connection,
    job: Job,
    rows: Sequence[Mapping[str, Any]],
    saved: Mapping[str, Any],
    *,
    now: float,
) -> bool:
    """Record epochs of a training that were stored, and where it can go on.

    Crashes are counted anew from here. ``rows`` are those of the history, in order.

    Returns:
        False if the lease was lost.
    """
    held = moves.held(db, job.id, job.attempt)
    if held is None:
        return False
    known = 0 if held.saved is None else held.saved["epoch"]
    new = [row for row in rows if row["epoch"] > known]  # a commit may hold that seemed to fail
    last = held.events + len(new)
    db.execute(update(jobs).where(jobs.c.id == job.id).values(saved=saved, crashes=0, events=last))
    if new:
        moves.append(db, job.id, last, [("epoch", row) for row in new], now=now)
    return True


def history(db: Connection, job_id: str) -> list[dict[str, Any]]:
    """A row for each epoch of a training that is stored, in order."""
    query = select(job_events.c.data).where(
        job_events.c.job_id == job_id, job_events.c.type == "epoch"
    )
    return list(db.scalars(query.order_by(job_events.c.seq)))


def conclude(
    db: Connection, store: Store, job: Job, stopped: Mapping[str, Any] | None, now: float
) -> dict[str, Any] | None:
    """Publish the best and the last checkpoint, write down where they come from, make the result.

    Args:
        stopped: ``{"reason", "epoch"}`` of a training that came to its end; None for one that was
            cancelled or failed, whose reason stands in its row.

    Returns:
        api.md's result of a training; None if no epoch was stored.

    Raises:
        OSError: a checkpoint cannot be published, of a training that came to its end.
    """
    row = db.execute(select(jobs.c.saved, jobs.c.reason).where(jobs.c.id == job.id)).one()
    saved: Mapping[str, Any] | None = row.saved
    if saved is None:
        return None
    lock_database(db)  # against whoever deletes the same checkpoint
    kept = {}
    for which in ("best", "last"):
        part = saved[which]
        if part is None:
            continue
        try:
            _publish(db, store, job, saved, part, now)
        except OSError as error:
            if stopped is not None:
                raise
            # what ended it may be the store: a training that failed must still be able to fail
            _log.warning("checkpoint_not_published", id=job.id, detail=str(error))
        else:
            kept[which] = part["digest"]
    best = saved["best"]
    return {
        "history": history(db, job.id),
        "best": best
        and {"epoch": best["epoch"], "metric": job.payload["monitor"], "value": best["value"]},
        "stopped": stopped or {"reason": row.reason, "epoch": saved["epoch"]},
        "checkpoint": kept.get("best"),
        "last_checkpoint": kept.get("last"),
        "overlap": job.payload["overlap"],
        **{name: saved[name] for name in ("adjustments", "environment", "warnings", "timings")},
    }


def keep_partial(db: Connection, store: Store, job: Job, now: float) -> None:
    """Give a training that was cancelled or failed the result of what was stored of it."""
    if job.kind == KIND and job.state in (State.FAILED, State.CANCELLED):
        result = conclude(db, store, job, None, now)
        db.execute(update(jobs).where(jobs.c.id == job.id).values(result=result))


def _publish(
    db: Connection,
    store: Store,
    job: Job,
    saved: Mapping[str, Any],
    part: Mapping[str, Any],
    now: float,
) -> None:
    """Make a stored file a checkpoint."""
    store.publish_upload(part["file"], part["digest"])
    made = {"digest": part["digest"], "created_at": now, "created_by": job.created_by}
    rows: list[tuple[Any, dict[str, Any]]] = [
        (
            checkpoints,
            {
                **made,
                "size_bytes": part["size_bytes"],
                "manifest": saved["manifest"],
                "details": saved["details"],
                "labels": job.labels,
            },
        ),
        (
            checkpoint_sources,
            {
                **made,
                "source_sha256": part["digest"],
                "declaration": digest({}),
                "format": "safetensors",
                "adjustments": [],
            },
        ),
        (
            lineages,
            {"digest": part["digest"], "job_id": job.id, "epoch": part["epoch"]},
        ),
    ]
    for table, values in rows:
        db.execute(upsert(db, table).values(**values).on_conflict_do_nothing())
