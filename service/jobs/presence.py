"""Workers in the database: who works now, on what, and with which catalog.

The web process goes by these rows when it checks requests and when it says whether it is ready.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from sqlalchemy import Connection, delete, insert, update

from service.db.tables import workers

# What of a hello the web process goes by.
_PUBLISHED = ("policies", "onnx_policies", "environment", "catalog", "provides")


def show(
    db: Connection,
    worker: str,
    *,
    device: str,
    children: int,
    hello: Mapping[str, Any],
    started_at: float,
    now: float,
) -> None:
    """Say that a worker of this process lives.

    Args:
        worker: its id.
        device: ``cpu``, ``cuda``, or ``cuda:N`` where it has but one card.
        children: how many jobs it does at a time.
        hello: of one of its children; see `service.jobs.engines`.
    """
    seen = update(workers).where(workers.c.id == worker).values(last_seen_at=now)
    if db.execute(seen).rowcount:
        return
    plugins = [{k: v for k, v in one.items() if k != "trace"} for one in hello["plugins"]]
    details = {
        "children": children,
        "threads": hello["policies"]["cpu"]["threads"],
        **{name: hello[name] for name in _PUBLISHED},
        "plugins": plugins,
    }
    additions = {
        kind: added
        for kind, entries in hello["catalog"].items()
        if (added := [one for one in entries if "provider" in one])
    }
    db.execute(
        insert(workers).values(
            id=worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=started_at,
            last_seen_at=now,
            version=version("holdout"),
            device=device,
            details=details,
            additions=additions or None,
        )
    )


def remove(db: Connection, worker: str) -> None:
    """Sign a worker off."""
    db.execute(delete(workers).where(workers.c.id == worker))


def forget(db: Connection, *, before: float) -> None:
    """Remove workers that were last seen before that time and never signed off."""
    db.execute(delete(workers).where(workers.c.last_seen_at < before))
