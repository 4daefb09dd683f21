"""Tells the threads of a web process what happens to the jobs that they wait for.

One thread a process asks the database for all of them, at each ring of the doorbell and once a
second beside it; any number of waits and event streams cost one query.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import wait as first_ready

import structlog
from sqlalchemy import Engine, select

from service.db.connection import reading
from service.db.tables import jobs
from service.jobs import queue
from service.jobs.doorbell import Doorbell, Listener
from service.jobs.job import Event
from service.jobs.lifecycle import State, ended

log = structlog.get_logger("holdout.watcher")

POLL_S = 1.0


class Watch:
    """One job's events as they come, for one thread.

    Args:
        after: number of the last event that is known; None where only the job's end matters.
    """

    def __init__(self, job_id: str, after: int | None) -> None:
        self.job_id = job_id
        self.seen = after
        self._arrived: list[Event] = []
        self._changed = threading.Condition()
        self._closed = threading.Event()

    def deliver(self, events: list[Event]) -> None:
        """Hand over events that follow the last ones."""
        with self._changed:
            self._arrived += events
            self.seen = events[-1].seq
            self._changed.notify()

    def close(self) -> None:
        """Wake the waiting thread for good."""
        with self._changed:
            self._closed.set()
            self._changed.notify()

    def wait(self, timeout_s: float) -> None:
        """Return once nothing will come any more, or when the time is up."""
        self._closed.wait(timeout_s)

    def next(self, timeout_s: float) -> list[Event] | None:
        """Events that arrived; empty if none did in time, None once nothing will come any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._closed.is_set(), timeout_s)
            arrived, self._arrived = self._arrived, []
            return arrived if arrived or not self._closed.is_set() else None


class Watcher:
    """The one poller of a web process.

    Args:
        places: how many threads may hold a request open at once, so that others stay free.
    """

    def __init__(self, database: Engine, doorbell: Doorbell, *, places: int) -> None:
        self._database = database
        self._doorbell = doorbell
        self._places = threading.BoundedSemaphore(places)
        self._watches: set[Watch] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._closed = threading.Event()

    @contextmanager
    def watch(self, job_id: str, *, after: int | None) -> Iterator[Watch | None]:
        """Follow a job; None where every place is taken. For ``after`` see `Watch`."""
        if self._closed.is_set() or not self._places.acquire(blocking=False):
            yield None
            return
        watch = Watch(job_id, after)
        try:
            with self._lock:
                self._watches.add(watch)
                if self._closed.is_set():
                    watch.close()
                if self._thread is None:
                    # Started here and not with the object: a thread does not survive a fork.
                    thread = threading.Thread(target=self._run, daemon=True, name="watcher")
                    thread.start()
                    self._thread = thread
            self._wake()
            yield watch
        finally:
            with self._lock:
                self._watches.discard(watch)
            self._places.release()

    def wait(self, job_id: str, timeout_s: float) -> None:
        """Return when the job ended, the time is up, the process stops, or no place is free."""
        with self.watch(job_id, after=None) as watch:
            if watch is not None:
                watch.wait(timeout_s)

    def close(self) -> None:
        """Answer every open wait and stream now; later ones are not held."""
        self._closed.set()
        with self._lock:
            watches = list(self._watches)
        for watch in watches:
            watch.close()
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._wake_write, b"x")

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                with closing(self._doorbell.listen("news")) as listener:
                    while not self._closed.is_set():
                        self._deliver()
                        self._pause(listener)
            except Exception:  # whatever it is, a watcher that ended would leave every wait alone
                log.warning("cannot look after the jobs waited for; trying again", exc_info=True)
                self._closed.wait(POLL_S)

    def _pause(self, listener: Listener) -> None:
        """Sleep until a ring, a new watch or the next poll."""
        with self._lock:
            timeout_s = POLL_S if self._watches else None
        # Not `select`, which takes no descriptor above 1023.
        first_ready([listener.fileno(), self._wake_read], timeout_s)
        listener.drain()
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 65536)

    def _deliver(self) -> None:
        """Give each watch what is new."""
        with self._lock:
            watches = list(self._watches)
        if not watches:
            return
        wanted = {watch.job_id for watch in watches}
        with reading(self._database) as db:
            query = select(jobs.c.id, jobs.c.events, jobs.c.state).where(jobs.c.id.in_(wanted))
            found = {row.id: row for row in db.execute(query)}
            for watch in watches:
                row = found.get(watch.job_id)
                if row is None:
                    continue
                if watch.seen is not None and row.events > watch.seen:
                    watch.deliver(queue.events_after(db, watch.job_id, watch.seen))
                if ended(State(row.state)) and (watch.seen is None or watch.seen >= row.events):
                    watch.close()
