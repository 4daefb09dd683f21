"""A worker: claims jobs, has an engine do them, and alone writes down what comes of it.

It is a supervisor of one thread that never blocks for long: it renews leases by the clock, kills
what was cancelled or ran past its time, and lives through crashed children, poisoned jobs and a
database that is away. What children said is kept in memory until it is written, so a stall of the
database loses nothing; after a death of the worker the leases run out, and others take over.
It imports no torch: children say in their hello what it publishes.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait

import structlog
from sqlalchemy import Engine as Database
from sqlalchemy.exc import InterfaceError, OperationalError

from checkpoints.store import Store
from service.db.connection import reading, writing
from service.jobs import endings, presence, queue, saving
from service.jobs.doorbell import Doorbell, Listener
from service.jobs.engines import Engine, Message, Slot
from service.jobs.held import Held
from service.jobs.job import Job
from service.jobs.lifecycle import State, uuid7
from service.jobs.sweeping import Janitor

_log = structlog.get_logger("service.jobs.worker")

_LONGEST_PAUSE_S = 5.0
_FORGOTTEN_AFTER_LEASES = 10
_LEASE_EXPIRED: Message = {"type": "crashed", "detail": "its worker stopped renewing its lease"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker behaves; how it computes is the engine's.

    Attributes:
        lease_s: silence after which another worker may take a job of this one.
        heartbeat_s: time between two renewals, well below ``lease_s`` and below what the web
            process takes for a sign of life.
        poll_s: longest time between two looks at the queue, if no doorbell rings.
        crash_limit: crashes after which a job fails for good.
        sweep_s: time between two removals of what dead processes left in the store.
    """

    lease_s: float = 60.0
    heartbeat_s: float = 5.0
    poll_s: float = 1.0
    crash_limit: int = 3
    sweep_s: float = 600.0


class Worker:
    """Runs jobs until it is stopped.

    Args:
        database: with all migrations applied.
        engine: not started yet; the worker starts and closes it.
        conclude: writes down what else changes with a job's success; see `endings.Conclude`.
        clock: POSIX seconds.
    """

    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        doorbell: Doorbell,
        engine: Engine,
        options: WorkerOptions,
        conclude: endings.Conclude,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.id = uuid7(clock())
        self._database = database
        self._store = store
        self._doorbell = doorbell
        self._engine = engine
        self._options = options
        self._conclude = conclude
        self._clock = clock
        self._started_at = clock()
        self._janitor = Janitor(database, store, sweep_s=options.sweep_s)
        self._held: dict[str, Held] = {}
        self._hello: Message | None = None
        self._heartbeat_at = 0.0  # this and what follows: monotonic
        self._look_at = 0.0
        self._pause_s = 0.0
        self._resume_at = 0.0
        self._stopping = False
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)

    def stop(self) -> None:
        """End `run` soon; callable from any thread and from a signal handler."""
        self._stopping = True
        with suppress(BlockingIOError):
            self._waker.send(b"!")

    def run(self) -> None:
        """Work until `stop`; then give running jobs back to the queue and end all children.

        Raises:
            EngineError: the engine cannot start.
        """
        try:
            self._engine.start()
            listener = self._doorbell.listen("work")
            try:
                while not self._stopping:
                    self._turn(listener)
            finally:
                listener.close()
        finally:
            self._leave()

    def _turn(self, listener: Listener) -> None:
        try:
            for message in self._engine.wait(self._idle_s(), listener, self._wake):
                self._hear(message)
            if wait([listener.fileno()], 0.0):
                self._look_at = 0.0
            listener.drain()
            if time.monotonic() >= self._resume_at:
                self._write()
                self._pause_s = 0.0
        except Exception as error:
            self._back_off(error)

    def _hear(self, message: Message) -> None:
        if message["type"] == "hello":
            if self._hello is None:
                _log.info("worker", id=self.id, state="ready", device=self._device())
                for one in message["plugins"]:
                    if "error" in one:
                        _log.warning("plugin_failed", **one)
            self._hello = message
            self._look_at = 0.0  # a slot has become free
            return
        held = self._held.get(message["id"])
        if held is None or held.job.attempt != message["attempt"]:
            return
        if message["type"] == "progress":
            held.progress = message
        elif message["type"] == "epoch":
            held.stored.append(message)
        else:
            held.ending = message
        if message["type"] == "crashed":
            self._janitor.soon()

    def _end(self, held: Held, ending: Message) -> None:
        self._kill(held)
        held.ending = ending
        self._settle(held)

    def _lose(self, held: Held) -> None:
        """Stop an attempt that is not ours any more."""
        self._kill(held)
        del self._held[held.job.id]
        held.log("lost")

    def _kill(self, held: Held) -> None:
        """Stop an attempt, and soon remove the files that it was writing."""
        self._engine.kill(held.job.id)
        self._janitor.soon()

    def _idle_s(self) -> float:
        """How long to wait if nothing happens."""
        now = time.monotonic()
        if self._resume_at > now:
            return self._resume_at - now
        due = [held.deadline for held in self._held.values()]
        if self._hello is not None:
            due.append(self._heartbeat_at)
            if any(slot.free for slot in self._engine.slots()):
                due.append(self._look_at)
        return max(0.0, min([self._options.poll_s, *(one - now for one in due)]))

    def _back_off(self, error: Exception) -> None:
        self._pause_s = min(_LONGEST_PAUSE_S, max(0.05, self._pause_s * 2))
        self._resume_at = time.monotonic() + self._pause_s
        if isinstance(error, (OperationalError, InterfaceError)):
            _log.warning("database_away", detail=str(error.orig), again_in_s=self._pause_s)
        else:
            _log.error("worker_error", again_in_s=self._pause_s, exc_info=error)
            wait([self._wake], self._pause_s)  # an error in the wait itself would spin

    # What the database is told and asked; each step can be repeated after it failed half way

    def _write(self) -> None:
        for held in list(self._held.values()):
            self._settle(held)
        if self._hello is None:
            return
        if time.monotonic() >= self._look_at:
            self._fill(self._hello["kinds"], self._hello["provides"])
        self._watch()
        if time.monotonic() >= self._heartbeat_at:
            self._beat(self._hello)
            self._janitor.sweep(self._clock())

    def _settle(self, held: Held) -> None:
        """Write what an attempt came to, or how far it is."""
        if held.stored and not self._save(held):
            return
        if held.ending is None:
            if held.progress is not None:
                self._progress(held, held.progress)
            return
        try:
            with writing(self._database) as db:
                state = endings.write(
                    db,
                    self._store,
                    held.job,
                    held.ending,
                    conclude=self._conclude,
                    crash_limit=self._options.crash_limit,
                    now=self._clock(),
                )
        except endings.LeaseLost:
            self._lose(held)
            return
        except (OperationalError, InterfaceError):
            raise  # the database is away or full: again later
        except Exception as error:
            if held.ending["type"] != "succeeded":
                self._lose(held)
                raise
            _log.error("job_error", id=held.job.id, exc_info=error)
            held.ending = endings.failed("internal", "the result cannot be stored; see the log")
            self._settle(held)
            return
        del self._held[held.job.id]
        held.log(state)
        self._doorbell.ring("news")
        if state == State.QUEUED:
            self._doorbell.ring("work")
        self._janitor.clean_up(held.job, state)

    def _save(self, held: Held) -> bool:
        """Write epochs of a training that its child has stored; whether it is still ours."""
        stored, job = held.stored, held.job
        saved = stored[-1]["saved"]
        with writing(self._database) as db:
            rows = [one["row"] for one in stored]
            ours = saving.record(db, job, rows, saved, now=self._clock())
        if not ours:
            self._lose(held)
            return False
        held.job, held.stored = replace(job, saved=saved), []
        self._doorbell.ring("news")
        self._janitor.drop(saving.superseded(job.saved, stored), job)
        return True

    def _progress(self, held: Held, message: Message) -> None:
        names = ("done", "total", "unit", "first")
        values = {name: message[name] for name in names if name in message}
        with writing(self._database) as db:
            ours = queue.progress(db, held.job, **values, now=self._clock())
        held.progress = None
        if ours:
            self._doorbell.ring("news")
        else:
            self._lose(held)

    def _watch(self) -> None:
        """Stop attempts that ran past their time, were cancelled or lost."""
        working = [held for held in self._held.values() if held.ending is None]
        if not working:
            return
        with reading(self._database) as db:
            found = {held.job.id: queue.get(db, held.job.id) for held in working}
        for held in working:
            job = found[held.job.id]
            if job is None or (job.state, job.attempt) != (State.RUNNING, held.job.attempt):
                self._lose(held)
            elif job.cancel_requested:
                self._end(held, {"type": "cancelled"})
            elif time.monotonic() >= held.deadline:
                self._end(held, endings.failed("timed_out", f"it ran past {job.timeout_s:g} s"))

    def _beat(self, hello: Message) -> None:
        """Renew leases, show that this worker lives, and take jobs from workers that do not."""
        now, lease_s = self._clock(), self._options.lease_s
        leases = [(held.job.id, held.job.attempt) for held in self._held.values()]
        with writing(self._database) as db:
            renewed = queue.renew(db, leases, lease_s=lease_s, now=now)
            presence.show(
                db,
                self.id,
                device=self._device(),
                children=len(self._engine.slots()),
                hello=hello,
                started_at=self._started_at,
                now=now,
            )
            presence.forget(db, before=now - lease_s * _FORGOTTEN_AFTER_LEASES)
        for job_id, _ in leases:
            if job_id not in renewed:
                self._lose(self._held[job_id])
        with writing(self._database) as db:
            taken = queue.reap(db, limit=self._options.crash_limit, now=now)
            for job in taken:
                saving.keep_partial(db, self._store, job, now)
        for job in taken:
            Held(job, ending=_LEASE_EXPIRED).log(job.state)
            self._janitor.clean_up(job, job.state)
        if taken:
            self._doorbell.ring("news")
            self._doorbell.ring("work")
        self._heartbeat_at = time.monotonic() + self._options.heartbeat_s

    def _device(self) -> str:
        """``cpu``, ``cuda``, or ``cuda:N`` where there is but one card."""
        names = {slot.device for slot in self._engine.slots()}
        return names.pop() if len(names) == 1 else "cuda"

    def _fill(self, kinds: Mapping[str, bool], provides: Collection[str]) -> None:
        """Give each free slot the first job that it can take.

        A queue that was seen empty is looked at again when the doorbell rings or the poll is due,
        not after each job.

        Args:
            kinds: what children can do, and whether it is long.
            provides: the distributions that they have of those that jobs may need.
        """
        nothing_for: set[tuple[str, tuple[str, ...]]] = set()
        for slot in self._engine.slots():
            wanted = (slot.device, self._claimable(kinds))
            if not slot.free or wanted in nothing_for:
                continue
            with writing(self._database) as db:
                job = queue.claim(
                    db,
                    worker=self.id,
                    devices=_names(slot.device),
                    kinds=wanted[1],
                    provides=provides,
                    lease_s=self._options.lease_s,
                    now=self._clock(),
                )
            if job is None:
                nothing_for.add(wanted)
            else:
                self._begin(slot, job)
        self._look_at = time.monotonic() + self._options.poll_s if nothing_for else 0.0

    def _claimable(self, kinds: Mapping[str, bool]) -> tuple[str, ...]:
        """Long jobs never take the last free slot of several."""
        slots = self._engine.slots()
        spare = len(slots) == 1 or sum(slot.free for slot in slots) > 1
        return tuple(kind for kind, long in kinds.items() if spare or not long)

    def _begin(self, slot: Slot, job: Job) -> None:
        if job.id in self._held:  # lost in a stall, and back here before that was noticed
            self._lose(self._held[job.id])
        held = self._held[job.id] = Held(job)
        payload = job.payload
        if job.kind == saving.KIND:
            payload = {**payload, "saved": job.saved}
        task = {"id": job.id, "kind": job.kind, "attempt": job.attempt, "payload": payload}
        self._engine.give(slot, task)
        held.log(State.RUNNING)
        self._doorbell.ring("news")

    def _leave(self) -> None:
        """Write what has arrived, give the rest back, end the children, sign off."""
        with suppress(Exception):
            for message in self._engine.wait(0.0):
                self._hear(message)
        self._engine.close()
        for held in list(self._held.values()):
            held.ending = held.ending or {"type": "released"}
            try:
                self._settle(held)
            except Exception as error:  # its lease will run out
                _log.warning("job_not_released", id=held.job.id, detail=str(error))
        try:
            with writing(self._database) as db:
                presence.remove(db, self.id)
        except Exception as error:  # the row is forgotten after a while
            _log.warning("worker_not_removed", id=self.id, detail=str(error))
        self._wake.close()
        self._waker.close()
        _log.info("worker", id=self.id, state="stopped")


def _names(device: str) -> Sequence[str]:
    """What a job may ask for that a child on this device can give; any child has a CPU."""
    return tuple(dict.fromkeys(("cpu", device.partition(":")[0], device)))
