"""Removes from the store what dead processes left there; the worker calls it now and then."""

from __future__ import annotations

from sqlalchemy import Engine as Database
from sqlalchemy import select

from checkpoints.store import Store
from service.db.connection import reading
from service.db.tables import jobs
from service.jobs.lifecycle import State

# A draft that nobody holds was left for good; only one that is just being made has no lock yet.
_DRAFT_S = 10.0
# Time after which what was just left behind can be told from what is just being made.
SETTLED_S = _DRAFT_S + 1
# A job is queued right after its upload was kept; nobody would still do so a day later.
_UPLOAD_S = 86400.0


def sweep(database: Database, store: Store, *, now: float) -> int:
    """Remove abandoned drafts, and old uploads that no unfinished ingestion needs.

    Args:
        now: POSIX seconds.

    Returns:
        How many files were removed.

    Raises:
        OSError: the store cannot be read or written.
    """
    removed = store.sweep(_DRAFT_S, now)
    uploads = store.stale_uploads(_UPLOAD_S, now)
    if not uploads:
        return removed
    unfinished = select(jobs.c.payload).where(
        jobs.c.kind == "ingestion", jobs.c.state.in_((State.QUEUED, State.RUNNING))
    )
    with reading(database) as db:
        needed = {payload.get("upload") for payload in db.scalars(unfinished)}
    unneeded = [name for name in uploads if name not in needed]
    for name in unneeded:
        store.drop_upload(name)
    return removed + len(unneeded)
