"""The other side of `service.jobs.sandbox`: what its servers and children run.

A child confines itself before it looks at its request, calls the function and ends.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from service.jobs.sandbox import KILL_AFTER_S, LENGTH, Limits

MAX_TASK_BYTES = 2**16
MAX_DESCRIPTORS = 16


def main(task: dict[str, Any]) -> None:
    """What an interpreter does that the sandbox started: serve, or be the one child."""
    if "control" in task:
        _serve(task["control"], task["preload"])
    else:
        _be_child(task["function"], Limits(**task["limits"]), task["channel"], task["descriptors"])


def _serve(control: int, preload: Sequence[str]) -> None:
    """Fork a child for each packet until the parent closes the socket."""
    for module in preload:
        importlib.import_module(module)
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # only its byte in the pipe matters
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page
    children: dict[int, _Child] = {}
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    waiting.register(woken, select.POLLIN)
    with socket.socket(fileno=control) as packets:
        while True:
            now = time.monotonic()
            next_kill_s = min((one.deadline for one in children.values()), default=now + 60) - now
            ready = {descriptor for descriptor, _ in waiting.poll(max(0, next_kill_s) * 1000 + 1)}
            if woken in ready:
                os.read(woken, 2**12)
            if control in ready and not _fork(packets, children):
                break
            _kill_overdue(children, time.monotonic())
            _reap(children)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


@dataclass(slots=True)
class _Child:
    """A child of the server: where its end is written, and when (monotonic) it is killed."""

    end: int
    deadline: float
    overdue: bool = False


def _fork(packets: socket.socket, children: dict[int, _Child]) -> bool:
    """Fork for one packet; False if there will be no more."""
    data, descriptors, _, _ = socket.recv_fds(packets, MAX_TASK_BYTES, MAX_DESCRIPTORS)
    if not data:
        return False
    task = json.loads(data)
    limits = Limits(**task["limits"])
    channel, end, *rest = descriptors
    try:
        pid = os.fork()
    except OSError:  # no process to be had: the parent sees both of its ends closed
        _close([end])
    else:
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _be_child(task["function"], limits, channel, rest)
        children[pid] = _Child(end, time.monotonic() + limits.wall_s + KILL_AFTER_S)
    _close([channel, *rest])
    return True


def _kill_overdue(children: dict[int, _Child], now: float) -> None:
    for pid, child in children.items():
        if child.deadline <= now and not child.overdue:
            child.overdue = True
            child.deadline = now + 3600  # it is dead; only its end is waited for
            os.kill(pid, signal.SIGKILL)


def _reap(children: dict[int, _Child]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        child = children.pop(pid)
        words = f"{os.waitstatus_to_exitcode(status)} {int(child.overdue)}"
        with contextlib.suppress(BrokenPipeError):  # the parent no longer wants to know
            os.write(child.end, words.encode())
        _close([child.end])


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _be_child(function: str, limits: Limits, channel: int, descriptors: list[int]) -> NoReturn:
    """Set the limits, call the function, answer, end."""
    code = 1
    try:
        _confine(limits, [channel, *descriptors])
        with socket.socket(fileno=channel) as stream:
            try:
                request = json.loads(_received(stream))
                module, _, name = function.partition(":")
                answer = getattr(importlib.import_module(module), name)(request, descriptors)
                # As UTF-8: escapes take three times the space, and there is a limit.
                reply = json.dumps({"answer": answer}, allow_nan=False, ensure_ascii=False)
            except BaseException as error:  # also an exit: there is nobody above to see it
                reply = json.dumps({"failure": _described(error)})
            stream.sendall(reply.encode(errors="backslashreplace"))  # JSON's escape of a surrogate
        code = 0
    finally:
        os._exit(code)


def _confine(limits: Limits, keep: list[int]) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.wall_s)
    no_other = () if limits.processes else ((resource.RLIMIT_NPROC, 0, 0),)
    for kind, soft, hard in (
        (resource.RLIMIT_AS, limits.address_space_bytes, limits.address_space_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s, limits.cpu_s + 1),
        (resource.RLIMIT_FSIZE, limits.file_bytes, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files, limits.open_files),
        (resource.RLIMIT_CORE, 0, 0),
        *no_other,
    ):
        _, ceiling = resource.getrlimit(kind)
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(kind, (soft, hard))
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    first = 3
    for descriptor in sorted(keep):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, 2**31 - 1)


def _received(stream: socket.socket) -> bytes:
    """One message: its length, then as many bytes."""
    head = stream.recv(LENGTH.size, socket.MSG_WAITALL)
    (length,) = LENGTH.unpack(head)
    return stream.recv(length, socket.MSG_WAITALL)


def _described(error: BaseException) -> dict[str, Any]:
    number = error.errno if isinstance(error, OSError) else None
    return {
        "kind": type(error).__name__,
        "errno": number,
        "memory": isinstance(error, MemoryError) or number == errno.ENOMEM,
        "trace": "".join(traceback.format_exception(error))[-4000:],
    }
