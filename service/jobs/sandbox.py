"""Runs a function on hostile input in a process of its own that can do little harm.

The process has no environment, no files but those it is given, and limits on memory, processor
time, wall time and file size, which it sets itself in its first lines: the parents have threads,
so that nothing of theirs may run between fork and exec. It answers with JSON, never with a pickle.

`run` starts a new interpreter each time. `ForkServer` keeps one that has imported what the function
needs, has a single thread, and forks a child for each request in a few milliseconds:

* over a socket with packets the parent sends what to run, the child's limits and, as descriptors,
  the channel for request and reply, a pipe for the child's end, and the files to work on;
* the child reads its request from the channel and writes its reply to it;
* the server waits for the child, kills it when it outlives its time, and writes how it ended to
  the pipe. Only then does the parent believe the reply: no child is left that could still write.

The server ends with its parent, because its socket then does. What runs in the new processes stands
in `service.jobs.confined`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from models.canonical import strict_json

MAX_REPLY_BYTES = 2**25  # a dataset's names take 4 MiB, and stand in its answer up to six times
KILL_AFTER_S = 1.0  # beyond the wall limit, for a child that switched its own alarm off
GIVE_UP_AFTER_S = 10.0  # beyond the wall limit, for a server that does not answer

# Not the parent's: that may hold secrets. One thread, because the server must fork.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from service.jobs import confined; confined.main(json.loads(sys.argv[2]))"
)
LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a child may use.

    Attributes:
        address_space_bytes: all of its memory, mapped files and the interpreter included.
        cpu_s: seconds of processor time.
        file_bytes: size of a file that it writes.
        wall_s: seconds until it is killed.
        open_files: descriptors at a time.
        processes: whether it may start threads, and processes under the same limits.
    """

    address_space_bytes: int
    cpu_s: int
    file_bytes: int
    wall_s: float
    open_files: int = 64
    processes: bool = False


class SandboxError(Exception):
    """The child died or gave no sane answer.

    Args:
        detail: what happened to it, for people.
        trace: where in the child an exception came from, for logs only.
    """

    def __init__(self, detail: str, *, trace: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.trace = trace


class SandboxUnavailable(SandboxError):
    """There was no child: the server could not start one or died. Not the input's doing."""


def run(
    function: str, request: dict[str, Any], descriptors: Sequence[int], limits: Limits
) -> dict[str, Any]:
    """Call a function in a new interpreter, which takes about 0.1 s to start.

    The child stays in the caller's process group, so that who kills the group takes it along.

    Args:
        function: ``module:name`` of our code, called with the request and the descriptors.
        request: JSON values.
        descriptors: files that the child may use; they stay open here.
        limits: of the child.

    Returns:
        What the function returned, JSON values.

    Raises:
        SandboxError: the child died, ran into a limit, raised, or gave no sane answer.
        OSError: with ENOSPC or EDQUOT, when the child found no space to write to.
    """
    channel, theirs = socket.socketpair()
    with channel:
        with theirs:
            task = {
                "function": function,
                "limits": asdict(limits),
                "channel": theirs.fileno(),
                "descriptors": list(descriptors),
            }
            process = _interpreter(task, [theirs.fileno(), *descriptors], own_session=False)
        try:
            reply = _exchange(channel, request, limits.wall_s + KILL_AFTER_S)
            status = process.wait(limits.wall_s + KILL_AFTER_S)
            timed_out = False
        except (subprocess.TimeoutExpired, TimeoutError):
            timed_out = True
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if timed_out:
        raise SandboxError(f"the reader ran past {limits.wall_s:g} s")
    return _answer(reply, status, limits)


class ForkServer:
    """Forks a child for each request from an interpreter that is ready.

    Thread-safe, any number of requests at a time. The interpreter is started by the first request
    and again by the next one after it died. A process that was forked from one with a server
    starts its own.

    Args:
        preload: modules that it imports once, before it forks.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        self._preload = list(preload)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._owner = 0

    def run(
        self, function: str, request: dict[str, Any], descriptors: Sequence[int], limits: Limits
    ) -> dict[str, Any]:
        """Call a function in a forked child; all else is as in `run` of this module.

        Raises:
            SandboxError: as there; `SandboxUnavailable` if the server is at fault.
            OSError: as there.
        """
        channel, theirs = socket.socketpair()
        end, their_end = os.pipe()
        task = {"function": function, "limits": asdict(limits)}
        with channel, os.fdopen(end, "rb", buffering=0) as ended:
            try:
                with theirs:
                    self._send(task, [theirs.fileno(), their_end, *descriptors])
            finally:
                os.close(their_end)
            try:
                reply = _exchange(channel, request, limits.wall_s + GIVE_UP_AFTER_S)
                status, timed_out = _end(ended.fileno(), limits)
            except TimeoutError:
                self.close()
                raise SandboxUnavailable("the server of readers did not answer") from None
        if timed_out:
            raise SandboxError(f"the reader ran past {limits.wall_s:g} s")
        return _answer(reply, status, limits)

    def close(self) -> None:
        """End the server and all of its children. A later request starts another."""
        with self._lock:
            self._stop()

    def _send(self, task: dict[str, Any], descriptors: list[int]) -> None:
        data = json.dumps(task).encode()
        with self._lock:
            if self._owner != os.getpid():
                self._stop()
            if self._control is not None:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    socket.send_fds(self._control, [data], descriptors)
                    return
                self._stop()
            socket.send_fds(self._start(), [data], descriptors)

    def _start(self) -> socket.socket:
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            task = {"control": theirs.fileno(), "preload": self._preload}
            # Ctrl-C is for the parent, which ends the server in its own time.
            self._process = _interpreter(task, [theirs.fileno()], own_session=True)
        self._control = control
        self._owner = os.getpid()
        return control

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None and self._owner == os.getpid():
            try:
                self._process.wait(KILL_AFTER_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._control = self._process = None


def _interpreter(
    task: dict[str, Any], descriptors: list[int], *, own_session: bool
) -> subprocess.Popen[bytes]:
    """Start Python with nothing of ours but where modules are found and these descriptors."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter and code
        [
            sys.executable,
            "-I",
            "-c",
            _BOOT,
            json.dumps([*filter(None, sys.path)]),
            json.dumps(task),
        ],
        env=ENVIRONMENT,
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd="/",
        start_new_session=own_session,
    )


def _exchange(channel: socket.socket, request: dict[str, Any], timeout_s: float) -> bytes:
    """Send the request and take all of the reply; TimeoutError if it does not end."""
    deadline = time.monotonic() + timeout_s
    body = json.dumps(request).encode()
    reply = bytearray()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end says why
        channel.settimeout(max(0.01, deadline - time.monotonic()))
        channel.sendall(LENGTH.pack(len(body)) + body)
        while True:
            channel.settimeout(max(0.01, deadline - time.monotonic()))
            chunk = channel.recv(2**16)
            if not chunk:
                break
            reply += chunk
            if len(reply) > MAX_REPLY_BYTES:
                raise SandboxError(f"the reader answered with more than {MAX_REPLY_BYTES} bytes")
    return bytes(reply)


def _end(descriptor: int, limits: Limits) -> tuple[int, bool]:
    """From the server: a child's exit code (minus the signal) and whether it was out of time."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    if not waiting.poll((limits.wall_s + GIVE_UP_AFTER_S) * 1000):
        raise TimeoutError
    words = os.read(descriptor, 64).split()
    if len(words) != 2:
        raise SandboxUnavailable("the reader could not be started, or its server died")
    return int(words[0]), words[1] == b"1"


def _answer(reply: bytes, status: int, limits: Limits) -> dict[str, Any]:
    """What the function returned, from the reply and the exit code of the child."""
    if status == -signal.SIGALRM:
        raise SandboxError(f"the reader ran past {limits.wall_s:g} s")
    if status == -signal.SIGXCPU:
        raise SandboxError(f"the reader used more than {limits.cpu_s} s of processor time")
    if status < 0:
        raise SandboxError(f"the reader was killed by {_signal_name(-status)}")
    if status > 0:
        raise SandboxError(f"the reader ended with exit code {status}")
    if not reply:
        raise SandboxError("the reader ended without an answer")
    try:
        value = strict_json(reply)
    except ValueError:
        raise SandboxError("the reader's answer is not JSON") from None
    if isinstance(value, dict) and isinstance(value.get("answer"), dict):
        answer: dict[str, Any] = value["answer"]
        return answer
    if isinstance(value, dict) and isinstance(value.get("failure"), dict):
        raise _failure(value["failure"], limits)
    raise SandboxError("the reader's answer is not an object")


def _failure(failure: dict[str, Any], limits: Limits) -> Exception:
    """The exception here for one in the child."""
    number = failure.get("errno")
    if failure.get("memory") is True:
        gibibytes = limits.address_space_bytes / 2**30
        return SandboxError(f"the reader ran out of memory ({gibibytes:.3g} GiB)")
    if number in (errno.ENOSPC, errno.EDQUOT):
        return OSError(number, os.strerror(number))
    if number == errno.EFBIG:
        return SandboxError(f"the reader wrote more than {limits.file_bytes} bytes")
    return SandboxError(
        f"the reader failed: {failure.get('kind')}", trace=str(failure.get("trace"))
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has a number only
        return f"signal {number}"
