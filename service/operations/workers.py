"""Who works: the workers that are alive, what they compute on, and whether the service is ready."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, select

from checkpoints.errors import StoreError
from models import catalog
from models.evaluation_key import with_plugins
from models.onnx import INSTALL
from models.spec import SpecError
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


def able(rows: list[Any], needs: Collection[str]) -> list[Any]:
    """The workers that have all of these distributions."""
    return [row for row in rows if set(needs) <= set(row.details.get("provides", ()))]


def policies(
    rows: list[Any], device: str, needs: Collection[str] = (), *, onnx: bool
) -> list[dict[str, Any]]:
    """Numeric policies under which these workers would compute a request for ``device``.

    Args:
        needs: the distributions whose code it runs; a worker without one of them has no policy.
        onnx: for a network that came as ONNX.
    """
    found = []
    for row in able(rows, needs):
        wanted = row.device if device == "auto" else device
        kind, _, card = wanted.partition(":")
        if card and row.device not in (kind, wanted):
            continue  # it has but one card, another one
        published = published_policies(row, onnx=onnx)
        policy = published.get(kind)
        if policy is None and onnx and device == "auto":
            policy = published.get("cpu")  # its ONNX Runtime cannot use the card
        policy = policy and with_plugins(policy, needs, row.details.get("provides", {}))
        if policy is not None and policy not in found:
            found.append(policy)
    return found


def policies_for(
    db: Connection, now: float, device: str, needs: Collection[str], *, onnx: bool, pointer: str
) -> list[dict[str, Any]]:
    """Numeric policies under which live workers would compute a request; none if none lives.

    Args:
        pointer: of the field that names what has these needs.

    Raises:
        SpecError: workers live, and none of them can.
    """
    rows = live(db, now)
    found = policies(rows, device, needs, onnx=onnx)
    if found or not rows:
        return found
    fitting = able(rows, needs)
    if onnx and not fitting:
        raise SpecError(f"no live worker has ONNX Runtime: {INSTALL}", pointer=pointer)
    if not fitting:
        raise SpecError(
            f"no live worker has all of {', '.join(needs)}, whose code this takes; GET /v1/workers "
            "says what each has",
            pointer=pointer,
        )
    offered = {name for row in fitting for name in published_policies(row, onnx=onnx)}
    what = "ONNX Runtime for the device" if onnx else "the device"
    raise SpecError(
        f"no live worker has {what} {device!r}; there are: {', '.join(sorted(offered))}",
        pointer="/device",
    )


def publish_added(db: Connection, now: float) -> dict[str, list[dict[str, Any]]]:
    """Know from now on, in this process, the names that plug-ins of live workers add.

    To be called before names are looked up in `models.catalog`.

    Returns:
        They, as `models.catalog.publish_added` takes them.
    """
    query = select(workers.c.additions).where(
        workers.c.last_seen_at > now - SILENCE_S, workers.c.additions.is_not(None)
    )
    added: dict[str, dict[str, Any]] = {}
    for additions in db.scalars(query.order_by(workers.c.started_at, workers.c.id)):
        for kind, entries in additions.items():
            added.setdefault(kind, {}).update({one["name"]: one for one in entries})
    described = {kind: list(entries.values()) for kind, entries in added.items()}
    catalog.publish_added(described)
    return described


def catalogs(services: Services) -> dict[str, list[dict[str, Any]]]:
    """Every name that requests may write, by kind, with what plug-ins of live workers add."""
    with reading(services.database) as db:
        publish_added(db, services.clock())
    return {kind: one.describe() for kind, one in catalog.CATALOGS.items()}


def published_policies(row: Any, *, onnx: bool) -> dict[str, dict[str, Any]]:
    """What a worker says of itself, by kind of device; nothing where it lacks ONNX Runtime."""
    found: dict[str, dict[str, Any]] = row.details.get("onnx_policies" if onnx else "policies", {})
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
