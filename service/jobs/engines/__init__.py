"""Where jobs run: the protocol of engines, and how one task becomes one outcome.

An engine owns children and knows nothing of the database. The worker gives a task to a free slot,
waits, and writes what comes back; a restart needs nothing that an engine knew. Everything that
crosses to a child and back is JSON. `inline` runs a task where it was given, for tests; `process`
runs each in a child process, the default.

Messages are JSON objects with a ``type``:

* ``hello``: a child is ready. ``slot``, ``device`` (the slot's), ``policies`` (numeric policy by
  kind of device), ``onnx_policies`` (the same for networks that came as ONNX; empty where there is
  no ONNX Runtime), ``environment``, ``catalog``, ``plugins`` (see `models.plugins.Loaded`),
  ``provides`` (versions of the distributions that jobs may need), ``kinds`` (each kind of job it
  can do, and whether that kind is long: see `service.jobs.handlers.Handler`).
* ``progress``: ``id``, ``attempt``, ``done``, ``total``, ``unit``, and ``first`` if so many were
  done before this attempt.
* ``epoch``: of a training, one that is stored. ``id``, ``attempt``, ``row`` (of the history) and
  ``saved`` (see `service.jobs.states.Saved`).
* ``succeeded``: ``id``, ``attempt``, ``result``.
* ``failed``: ``id``, ``attempt``, ``reason``, ``error`` {``detail``, ``pointer``?}, and for a fault
  of ours or of a plug-in ``traceback``, which is for the log and never for a client.
* ``crashed``: the child ended without an answer. ``id``, ``attempt``, ``signal`` (a name, or null
  if it exited by itself), ``detail``.
"""

from __future__ import annotations

import errno
import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from service.jobs.sandbox import Limits

Message = dict[str, Any]
Task = Mapping[str, Any]
"""``{"id", "kind", "attempt", "payload"}``; the payload holds all that the child needs."""


UNDER_WAY = ("progress", "epoch")
"""The types of messages after which a task goes on."""

# What a folder on another machine, or on a failing disk, answers; never a mistake of ours.
_UNREACHABLE = (
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENODEV,
)

DECODED_BYTES = 50 * 10**6


class EngineError(Exception):
    """The engine cannot start; the message is one sentence for whoever started it."""


class TaskFailed(Exception):
    """A handler's way to say that this task cannot succeed, however often it is tried.

    Args:
        reason: a short name that programs can tell apart, such as ``bad_request``.
        detail: what was wrong and what would be right, for the person who sent the request.
        pointer: JSON pointer of the field at fault in the request; empty for the whole.
        trace: for the log, where somebody's code failed that is neither ours nor the client's.
    """

    def __init__(self, reason: str, detail: str, *, pointer: str = "", trace: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.pointer = pointer
        self.trace = trace


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildOptions:
    """What every child is told when it starts.

    Attributes:
        data_dir: root of the content-addressed store.
        threads: torch's threads in one child; part of the numeric policy.
        decoding: the bounds that `models.datasets.ingest` takes.
        decoder_memory_bytes: address space of each process that decodes an upload.
        decoder_s: seconds that decoding a file of `DECODED_BYTES` may take.
        prepared_bytes: what prepared datasets may take together.
        onnx_memory_bytes: what a network that came as ONNX may take while it is evaluated.
        resident_bytes: up to which a dataset is held where it is trained on.
        handlers: the module that does the work; see `Work`.
    """

    data_dir: Path
    threads: int
    decoding: Mapping[str, int]
    decoder_memory_bytes: int = 4 * 2**30
    decoder_s: float = 25.0
    prepared_bytes: int = 2**30
    onnx_memory_bytes: int = 2**33
    resident_bytes: int = 2**33
    handlers: str = "service.jobs.handlers"

    def decoder_limits(self, file_bytes: int) -> Limits:
        """The limits of a process that decodes a file of this size."""
        wall_s = self.decoder_s * max(1.0, file_bytes / DECODED_BYTES)
        return Limits(
            address_space_bytes=self.decoder_memory_bytes,
            cpu_s=int(wall_s * self.decoding["processes"]) + 1,
            # A file that grows past what a dataset may have is stopped by the kernel.
            file_bytes=self.decoding["max_bytes"] + 2**24,
            wall_s=wall_s,
            processes=True,
        )


class Work(Protocol):
    """What the module named by `ChildOptions.handlers` offers; it may import torch."""

    def devices(self, name: str) -> list[str]:
        """The devices that ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` stands for here.

        Raises:
            ValueError: it is not there; the message says what is.
        """
        ...

    def open_context(self, options: ChildOptions, device: str) -> Any:
        """Set up the process for a device of torch's, once, before anything else."""
        ...

    def hello(self, context: Any) -> Message:
        """Warm up and say what this child can do: all of a ``hello`` but slot and device."""
        ...

    def run(self, task: Task, context: Any, report: Callable[[Message], None]) -> Message:
        """Do one task and return its result; TaskFailed if it cannot succeed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One place where one task at a time runs.

    Attributes:
        device: ``cpu`` or ``cuda:N`` as this machine counts its cards.
        ready: its child said hello and has not ended since.
        busy_with: id of the task that runs there.
    """

    index: int
    device: str
    ready: bool
    busy_with: str | None

    @property
    def free(self) -> bool:
        """Whether a task can be given to it now."""
        return self.ready and self.busy_with is None


class HasFileno(Protocol):
    """Anything that can wake a wait by becoming readable."""

    def fileno(self) -> int:
        """The descriptor to watch."""
        ...


class Engine(Protocol):
    """Runs tasks; used from one thread."""

    def start(self) -> None:
        """Find the devices and start the children; a hello of each follows through `wait`.

        Raises:
            EngineError: a device that was asked for is not there, or no child can be made.
        """
        ...

    def slots(self) -> list[Slot]:
        """Every slot as it is now."""
        ...

    def give(self, slot: Slot, task: Task) -> None:
        """Start a task in a free slot; its messages follow through `wait`.

        Raises:
            ValueError: the slot is not free.
        """
        ...

    def wait(self, timeout_s: float, *wake: HasFileno) -> list[Message]:
        """What happened since, in order; returns early when there is something.

        Returns an empty list when the time is up or one of ``wake`` became readable.
        """
        ...

    def kill(self, task_id: str) -> None:
        """End a task at once; no message about it follows. Nothing happens if it is unknown."""
        ...

    def close(self) -> None:
        """End everything at once, running tasks too; a second call does nothing."""
        ...


def outcome(work: Work, task: Task, context: Any, send: Callable[[bytes], Any]) -> bytes:
    """Run one task and return its last message, whatever the handler did.

    Args:
        send: takes each ``progress`` or ``epoch`` message.

    Returns:
        A ``succeeded`` or ``failed`` message as JSON, which is how each leaves a child.
    """
    about = {"id": task["id"], "attempt": task["attempt"]}

    def report(values: Message) -> None:
        send(_json({"type": "progress", **about, **values}))

    try:
        return _json({"type": "succeeded", **about, "result": work.run(task, context, report)})
    except Exception as error:
        return _json({"type": "failed", **about, **_failure(error)})


def _json(message: Message) -> bytes:
    return json.dumps(message, allow_nan=False).encode()


def _failure(error: Exception) -> Message:
    if isinstance(error, TaskFailed):
        pointer = {"pointer": error.pointer} if error.pointer else {}
        failure = {"reason": error.reason, "error": {"detail": error.detail, **pointer}}
        return {**failure, "traceback": error.trace} if error.trace else failure
    if isinstance(error, MemoryError):
        detail = "the host has not enough memory for this job"
        return {"reason": "out_of_memory", "error": {"detail": detail}}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        detail = "no space is left in the service's data folder"
        return {"reason": "no_space", "error": {"detail": detail}}
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        detail = f"the service's data folder cannot be written to: {error.strerror}"
        return {"reason": "not_writable", "error": {"detail": detail}}
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        detail = f"the service's data folder cannot be reached: {error.strerror}"
        return {"reason": "store_unreachable", "error": {"detail": detail}}
    return {
        "reason": "internal",
        "error": {"detail": "an error inside the service; its log says more"},
        "traceback": "".join(traceback.format_exception(error)),
    }
