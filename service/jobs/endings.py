"""What an attempt came to, written down: the last step of a worker with a job, in one transaction.

An ending is a message of an engine (``succeeded``, ``failed``, ``crashed``), or one that the worker
makes itself: ``cancelled``, or ``released`` for an attempt that it gives up because it stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from checkpoints.store import Store
from service.jobs import queue, saving
from service.jobs.engines import Message
from service.jobs.job import Job
from service.jobs.lifecycle import State

Conclude = Callable[[Connection, Job, dict[str, Any], float], dict[str, Any]]
"""Called with what a job came to and the time, inside the transaction that ends it: writes down
what else changes with that and returns the job's result."""


class LeaseLost(Exception):
    """Another worker has taken the job over since."""


def write(
    db: Connection,
    store: Store,
    job: Job,
    ending: Message,
    *,
    conclude: Conclude,
    crash_limit: int,
    now: float,
) -> State:
    """Write one ending and return the state that the job is in after it.

    Args:
        store: where a training's checkpoints are published.

    Raises:
        LeaseLost: the job is no longer this attempt's; the transaction must not commit.
    """
    state: State | None = None
    match ending["type"]:
        case "succeeded":
            if _succeed(db, store, job, ending["result"], conclude, now):
                state = State.SUCCEEDED
        case "failed":
            if queue.fail(db, job, reason=ending["reason"], error=ending["error"], now=now):
                state = State.FAILED
        case "cancelled":
            if queue.cancelled(db, job, now=now):
                state = State.CANCELLED
        case "crashed":
            after = queue.crash(db, job, detail=ending["detail"], limit=crash_limit, now=now)
            state = after.state if after else None
        case "released":
            after = queue.get(db, job.id) if queue.release(db, job, now=now) else None
            state = after.state if after else None
    if state is None:
        raise LeaseLost
    saving.keep_partial(db, store, replace(job, state=state), now)
    return state


def failed(reason: str, detail: str) -> Message:
    """The ending of an attempt that the worker itself calls a failure."""
    return {"type": "failed", "reason": reason, "error": {"detail": detail}}


def _succeed(
    db: Connection,
    store: Store,
    job: Job,
    result: dict[str, Any],
    conclude: Conclude,
    now: float,
) -> bool:
    key, forward_s = None, 0.0
    if job.kind == saving.KIND:
        whole = saving.conclude(db, store, job, result["stopped"], now)
        if whole is None:
            raise ValueError("a training ended of which no epoch was stored")
        return queue.succeed(db, job, result=whole, key=None, forward_s=0.0, now=now)
    result = conclude(db, job, result, now)
    if job.kind == "evaluation":
        forward_s = result["timings"]["forward_s"]
        if "verifies" not in job.payload:
            key = result["evidence"]["key"]
        queued_s = (job.started_at or job.created_at) - job.created_at
        added = {"queued_s": queued_s, "total_s": now - job.created_at}
        result = {**result, "timings": {**result["timings"], **added}}
    return queue.succeed(db, job, result=result, key=key, forward_s=forward_s, now=now)
