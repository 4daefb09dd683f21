"""Who works: the workers that are alive, what they compute on, and whether the service is ready."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from checkpoints.errors import StoreError
from service.db.connection import reading
from service.db.tables import workers
from service.operations.jobs import timestamp
from service.operations.services import Services

# A worker says that it lives every few seconds; this many seconds of silence and it counts as gone.
SILENCE_S = 15.0


def live(db: Connection, now: float) -> list[Any]:
    """Rows of the workers that were heard of lately, oldest first."""
    query = select(workers).where(workers.c.last_seen_at > now - SILENCE_S)
    return list(db.execute(query.order_by(workers.c.started_at, workers.c.id)))


def policies(rows: list[Any], device: str) -> list[dict[str, Any]]:
    """Numeric policies under which these workers would compute a request for ``device``."""
    found = []
    for row in rows:
        wanted = row.device if device == "auto" else device
        kind, _, card = wanted.partition(":")
        if card and row.device not in (kind, wanted):
            continue  # it has but one card, another one
        policy = row.details["policies"].get(kind)
        if policy is not None and policy not in found:
            found.append(policy)
    return found


def describe(services: Services) -> list[dict[str, Any]]:
    """Every live worker as ``GET /v1/workers`` shows it."""
    with reading(services.database) as db:
        rows = live(db, services.clock())
    return [
        {
            "id": row.id,
            "host": row.host,
            "pid": row.pid,
            "version": row.version,
            "device": row.device,
            "started_at": timestamp(row.started_at),
            "last_seen_at": timestamp(row.last_seen_at),
            **row.details,
        }
        for row in rows
    ]


def readiness(services: Services) -> dict[str, str]:
    """What the service needs to do its work, each ``ok`` or a word on what is missing."""
    checks = {"database": "ok", "store": "ok", "worker": "ok"}
    try:
        services.store.check()
    except (StoreError, OSError):
        checks["store"] = "cannot be written to"
    try:
        with reading(services.database) as db:
            if not live(db, services.clock()):
                checks["worker"] = "none is alive; start one with: holdout worker"
    except Exception:  # whatever the driver raises, the answer is the same: not ready
        checks["database"] = "cannot be reached"
        checks["worker"] = "unknown"
    return checks
