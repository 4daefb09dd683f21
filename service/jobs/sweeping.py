"""Removes from the store what dead processes left there; the worker calls it now and then."""

from __future__ import annotations

import time
from collections.abc import Collection

import structlog
from sqlalchemy import Engine as Database
from sqlalchemy import null, select, update

from checkpoints.store import Store
from service.db.connection import reading, writing
from service.db.tables import jobs
from service.jobs import saving
from service.jobs.job import Job
from service.jobs.lifecycle import State, ended

_log = structlog.get_logger("service.jobs.worker")

# A draft that nobody holds was left for good; only one that is just being made has no lock yet.
_DRAFT_S = 10.0
# Time after which what was just left behind can be told from what is just being made.
SETTLED_S = _DRAFT_S + 1
# An upload is named in the database right after it was kept; an hour later nobody would do so.
_UPLOAD_S = 3600.0
# How long a training that failed or was cancelled can be resumed.
RESUMABLE_S = 30 * 86400.0


class Janitor:
    """Sweeps for one worker, and drops the files of its jobs as they end.

    Args:
        sweep_s: time between two sweeps, if nothing was left behind.
    """

    def __init__(self, database: Database, store: Store, *, sweep_s: float) -> None:
        self._database = database
        self._store = store
        self._sweep_s = sweep_s
        self._sweep_at = 0.0  # monotonic

    def soon(self) -> None:
        """Sweep once the files of a process that was just killed can be told from new ones."""
        self._sweep_at = min(self._sweep_at, time.monotonic() + SETTLED_S)

    def sweep(self, now: float) -> None:
        """Sweep if it is time to."""
        if time.monotonic() < self._sweep_at:
            return
        self._sweep_at = time.monotonic() + self._sweep_s
        try:
            removed = sweep(self._database, self._store, now=now)
        except OSError as error:
            _log.warning("store_not_swept", detail=str(error))
        else:
            if removed:
                _log.info("store_swept", removed=removed)

    def clean_up(self, job: Job, state: State) -> None:
        """Drop the files of a job that will not be tried again, nor resumed."""
        if state == State.SUCCEEDED:
            self.drop(saving.files(job.saved), job)
        if "upload" in job.payload and ended(state):
            self.drop({job.payload["upload"]}, job)

    def drop(self, uploads: Collection[str], job: Job) -> None:
        """Remove uploads that a job needs no more."""
        for name in uploads:
            try:
                self._store.drop_upload(name)
            except OSError as error:
                _log.warning("upload_not_dropped", id=job.id, detail=str(error))


def sweep(database: Database, store: Store, *, now: float) -> int:
    """Remove abandoned drafts, and old uploads that no ingestion needs, nor a training.

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
    _forget(database, now)
    unfinished = select(jobs.c.payload).where(
        jobs.c.kind == "ingestion", jobs.c.state.in_((State.QUEUED, State.RUNNING))
    )
    resumable = select(jobs.c.saved).where(
        jobs.c.kind == saving.KIND, jobs.c.state != State.SUCCEEDED, jobs.c.saved.is_not(None)
    )
    with reading(database) as db:
        needed = {payload.get("upload") for payload in db.scalars(unfinished)}
        needed.update(*(saving.files(saved) for saved in db.scalars(resumable)))
    unneeded = [name for name in uploads if name not in needed]
    for name in unneeded:
        store.drop_upload(name)
    return removed + len(unneeded)


def _forget(database: Database, now: float) -> None:
    """Let go what was stored of trainings that ended long ago."""
    old = (jobs.c.kind == saving.KIND, jobs.c.finished_at < now - RESUMABLE_S)
    stored = jobs.c.saved.is_not(None)
    with reading(database) as db:
        if not db.scalar(select(jobs.c.id).where(*old, stored).limit(1)):
            return
    with writing(database) as db:
        ended = jobs.c.state.in_((State.FAILED, State.CANCELLED))
        db.execute(update(jobs).where(*old, stored, ended).values(saved=null()))
