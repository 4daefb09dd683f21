"""The default engine: each task runs in a warm child process, one at a time.

Children are forked from multiprocessing's fork server, which has imported torch and computed
nothing, so a child is ready in a few hundredths of a second and no CUDA context is ever forked.
A child is replaced after a failed task, a long one, a crash or a kill, and not after a success.

This side imports no torch. It finds out which devices there are by asking a short-lived child, and
reads nothing but JSON from any child. Every child leads a process group, so that whatever it
started ends with it, and signals meant for the supervisor's group do not reach it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, cast

import structlog

from service.jobs.engines import (
    UNDER_WAY,
    ChildOptions,
    EngineError,
    HasFileno,
    Message,
    Slot,
    Task,
    Work,
    outcome,
)

_MAX_MESSAGE_BYTES = 2**29
_FIRST_ANSWER_S = 300.0  # importing torch from a cold network disk takes that order
_LONGEST_PAUSE_S = 30.0  # between attempts to start a child that dies before it says hello
_END_S = 5.0

_forkserver = multiprocessing.get_context("forkserver")
_log = structlog.get_logger("service.jobs.engines.process")


@dataclass(slots=True)
class _Child:
    process: ForkServerProcess
    connection: Connection
    pid: int
    kinds: dict[str, bool] | None = None  # of its hello
    task: Task | None = None
    dismissed: bool = False

    @property
    def ready(self) -> bool:
        return self.kinds is not None and not self.dismissed

    def dismiss(self) -> None:
        """End it with all that it started; `wait` then sees it go and replaces it."""
        self.task, self.dismissed = None, True
        _kill(self.pid)


@dataclass(slots=True)
class _Place:
    """A slot, whose child may be starting, at work, or gone."""

    index: int
    device: str
    child: _Child | None = None
    failed_starts: int = 0
    start_at: float = field(default=0.0)  # monotonic

    def as_slot(self) -> Slot:
        child = self.child
        return Slot(
            index=self.index,
            device=self.device,
            ready=child is not None and child.ready,
            busy_with=child.task["id"] if child and child.task else None,
        )


class ProcessEngine:
    """Runs tasks in ``children`` processes, spread over the devices.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` (every visible card) or ``cuda:N``.
    """

    def __init__(self, options: ChildOptions, *, device: str, children: int) -> None:
        self._options = options
        self._device = device
        self._children = children
        self._places: list[_Place] = []
        self._heard: list[Message] = []  # until `wait` returns it: reading may fail half way

    def start(self) -> None:
        """See `Engine.start`."""
        # __main__ too: a child imports the parent's main module, and here that happens once.
        _forkserver.set_forkserver_preload(["__main__", self._options.handlers])
        devices = self._found_devices()
        # Children do not heed SIGTERM, which is all that multiprocessing sends at exit.
        atexit.register(self.close)
        self._places = [
            _Place(index=index, device=devices[index % len(devices)])
            for index in range(self._children)
        ]
        self._start_missing()

    def slots(self) -> list[Slot]:
        """See `Engine.slots`."""
        return [place.as_slot() for place in self._places]

    def give(self, slot: Slot, task: Task) -> None:
        """See `Engine.give`."""
        child = self._places[slot.index].child
        if child is None or not child.ready or child.task is not None:
            raise ValueError(f"slot {slot.index} is not free")
        child.task = task
        # A child that has just died cannot take it; `wait` is about to see that and reports it.
        with contextlib.suppress(OSError):
            child.connection.send_bytes(json.dumps(dict(task)).encode())

    def wait(self, timeout_s: float, *wake: HasFileno) -> list[Message]:
        """See `Engine.wait`; it may also return early with nothing, when a child was replaced."""
        self._start_missing()
        sources: dict[Any, _Place] = {}
        for place in self._places:
            if place.child is not None:
                sources[place.child.process.sentinel] = place
                if not place.child.connection.closed:
                    sources[place.child.connection] = place
            else:
                timeout_s = min(timeout_s, max(0.0, place.start_at - time.monotonic()))
        watched: list[Any] = [*sources, *wake]
        ready = wait(watched, 0.0 if self._heard else timeout_s)
        for place in {sources[one].index: sources[one] for one in ready if one in sources}.values():
            self._read(place)
        found, self._heard = self._heard, []
        return found

    def kill(self, task_id: str) -> None:
        """See `Engine.kill`."""
        self._heard = [one for one in self._heard if one.get("id") != task_id]
        for place in self._places:
            child = place.child
            if child is not None and child.task is not None and child.task["id"] == task_id:
                child.dismiss()

    def close(self) -> None:
        """See `Engine.close`."""
        atexit.unregister(self.close)
        children = [place.child for place in self._places if place.child is not None]
        self._places, self._heard = [], []
        for child in children:
            _kill(child.pid)
        for child in children:
            child.process.join(_END_S)
            child.connection.close()

    def _found_devices(self) -> list[str]:
        ours, theirs = _forkserver.Pipe()
        with ours, theirs:
            try:
                process = _started(_tell_devices, theirs, self._options.handlers, self._device)
                theirs.close()  # so that its end is seen here
                if not ours.poll(_FIRST_ANSWER_S):
                    process.kill()
                    raise EngineError(f"no child answered within {_FIRST_ANSWER_S:.0f} s")
                answer = json.loads(ours.recv_bytes(_MAX_MESSAGE_BYTES))
            except (OSError, EOFError) as error:
                raise EngineError("a child could not start; its error stands above") from error
        process.join()
        if "refused" in answer:
            raise EngineError(answer["refused"])
        return list(answer["devices"])

    def _start_missing(self) -> None:
        for place in self._places:
            if place.child is None and time.monotonic() >= place.start_at:
                ours, theirs = _forkserver.Pipe()
                try:
                    process = _started(_serve, theirs, self._options, place.device)
                except (OSError, EOFError) as error:
                    ours.close()
                    self._put_off(place, repr(error))
                else:
                    place.child = _Child(process=process, connection=ours, pid=process.pid or 0)
                finally:
                    theirs.close()

    def _read(self, place: _Place) -> None:
        """Take what a child sent and, if it ended, clear its place."""
        child = cast(_Child, place.child)
        ended = child.process.exitcode is not None  # asked first: it can send nothing after that
        try:
            while not child.connection.closed and child.connection.poll():
                message = json.loads(child.connection.recv_bytes(_MAX_MESSAGE_BYTES))
                if self._is_current(place, child, message):
                    self._heard.append(message)
        except (OSError, EOFError, ValueError):
            child.connection.close()
            _kill(child.pid)  # mostly dead already, and of no use without a connection
        if ended:
            self._heard += self._cleared(place, child)

    def _is_current(self, place: _Place, child: _Child, message: Message) -> bool:
        """Follow a message of a child; False for what it says of a task that was killed."""
        if message["type"] == "hello":
            child.kinds = message["kinds"]
            place.failed_starts = 0
            message |= {"slot": place.index, "device": place.device}
            return True
        if child.task is None or child.task["id"] != message["id"]:
            return False
        if message["type"] not in UNDER_WAY:
            long = (child.kinds or {}).get(child.task["kind"], True)
            child.task = None
            if long or message["type"] == "failed":
                child.dismiss()  # nobody knows what it keeps in memory
        return True

    def _cleared(self, place: _Place, child: _Child) -> list[Message]:
        exitcode = child.process.exitcode or 0
        _kill(child.pid)  # what it started and left behind
        child.connection.close()
        child.process.close()
        place.child = None
        place.start_at = time.monotonic()
        name = _signal_name(-exitcode) if exitcode < 0 else None
        detail = f"was killed by {name}" if name else f"exited with code {exitcode}"
        if child.task is not None:
            about = {"id": child.task["id"], "attempt": child.task["attempt"]}
            detail = f"the child process {detail}"
            return [{"type": "crashed", **about, "signal": name, "detail": detail}]
        if child.kinds is None and not child.dismissed:
            self._put_off(place, f"the child process {detail}")
        return []

    def _put_off(self, place: _Place, detail: str) -> None:
        """Wait longer each time before the next attempt to start a child here."""
        pause_s = min(_LONGEST_PAUSE_S, 0.1 * 2 ** min(place.failed_starts, 10))
        place.failed_starts += 1
        place.start_at = time.monotonic() + pause_s
        _log.error("child_not_started", slot=place.index, detail=detail, again_in_s=pause_s)


def _started(target: Any, *arguments: Any) -> ForkServerProcess:
    process = _forkserver.Process(target=target, args=arguments, daemon=True)
    with _deaf():
        process.start()
    return process


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Have the fork server and its children inherit a mask without SIGINT and SIGTERM.

    A Ctrl-C, or a service manager that signals a whole group, then reaches the supervisor alone,
    which decides; it ends children by SIGKILL.
    """
    resource_tracker.ensure_running()  # its start would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _kill(pid: int) -> None:
    """Kill a child with all that it started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # it has no group before its first line has run


# What follows runs in children.


def _tell_devices(connection: Connection, handlers: str, name: str) -> None:
    try:
        work = cast(Work, importlib.import_module(handlers))
        answer: Message = {"devices": work.devices(name)}
    except ValueError as error:
        answer = {"refused": str(error)}
    connection.send_bytes(json.dumps(answer).encode())


def _serve(connection: Connection, options: ChildOptions, device: str) -> None:
    os.setsid()
    device = _restrict_to(device)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work = cast(Work, importlib.import_module(options.handlers))
    context = work.open_context(options, device)
    hello = {"type": "hello", **work.hello(context)}

    connection.send_bytes(json.dumps(hello).encode())
    while True:
        try:
            task = json.loads(connection.recv_bytes(_MAX_MESSAGE_BYTES))
        except EOFError:  # the supervisor has gone
            return
        connection.send_bytes(outcome(work, task, context, connection.send_bytes))


def _restrict_to(device: str) -> str:
    """Show this process its own card and no other; returns torch's name for it here."""
    kind, _, index = device.partition(":")
    if kind == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return device
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(index)] if visible else index
    return f"{kind}:0"


def _end_with_parent() -> None:
    """Do not outlive the supervisor, whatever ended it.

    The kernel's parent-death signal would follow the fork server instead.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)
