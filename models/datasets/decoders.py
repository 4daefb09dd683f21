"""Work that is shared between forked processes, each of which does a stretch of it.

Forked, because the limited child has a single thread and the survey of an archive in its memory,
which none of them has to make again. Which process fails first is chance, so that the failure of
the first stretch counts: the same file is always refused with the same words.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import itertools
import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from models.datasets.arrays import bad_file
from models.spec import SpecError

Work = Callable[[int, int], Any]

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # before a fork, so that no child has to load it


class DecoderError(Exception):
    """A process failed for a reason that is not the file's; the message is its traceback."""


def shared(
    work: Work, count: int, *, processes: int, place: Callable[[int, int], str]
) -> list[Any]:
    """Do work for every index below ``count``.

    Args:
        work: called with the first index of a stretch and the one after its last; what it gives is
            JSON. In a process of its own it can change nothing here but files.
        count: at least 1.
        processes: into how many the work is divided; 1 is this one. It is also done here where
            no process may be forked.
        place: how a complaint calls a stretch.

    Returns:
        What each stretch gave, in order.

    Raises:
        SpecError, OSError, MemoryError: the first stretch's that failed; SpecError also if its
            process was killed.
        DecoderError: it raised something else.
    """
    processes = min(processes, count)
    bounds = [count * number // processes for number in range(processes + 1)]
    stretches = list(itertools.pairwise(bounds))
    with _frozen(), contextlib.ExitStack() as started:
        if processes == 1:
            return [work(0, count)]
        try:
            running = [started.enter_context(_Process(work, *stretch)) for stretch in stretches]
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOMEM):
                raise
            started.close()
            return [work(0, count)]
        return [
            one.result(place(*stretch)) for one, stretch in zip(running, stretches, strict=True)
        ]


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Keep the garbage collector from what is there already.

    It holds no garbage, may be a million objects, and a process that only touches it copies it.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Process:
    """One forked process; leaving its context ends it, whatever it does."""

    def __init__(self, work: Work, first: int, last: int) -> None:
        self._reader, writer = os.pipe()
        try:
            remaining_s, _ = signal.getitimer(signal.ITIMER_REAL)
            parent = os.getpid()
            self._pid = os.fork()
            if self._pid == 0:
                _be_decoder(work, first, last, writer, parent, remaining_s)
        except OSError:
            os.close(self._reader)
            raise
        finally:
            os.close(writer)

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reader)
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def result(self, place: str) -> Any:
        """Wait for its end; what it gave, or the exception for what it raised."""
        report = bytearray()
        while data := os.read(self._reader, 2**16):
            report += data
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            raise bad_file(f"a decoder was killed {place}: {signal.strsignal(-code)}")
        if code or not report:
            raise DecoderError(f"a decoder ended with exit code {code} {place}")
        answer = json.loads(report)
        if "answer" in answer:
            return answer["answer"]
        raise _failure(answer)


def _be_decoder(
    work: Work, first: int, last: int, writer: int, parent: int, remaining_s: float
) -> NoReturn:
    """Do a stretch, report, end."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, remaining_s)  # a fork inherits limits, but no alarm
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be watched
            os._exit(1)
        try:
            report = {"answer": work(first, last)}
        except SpecError as error:
            report = {"detail": error.detail, "pointer": error.pointer}
        except MemoryError:
            report = {"memory": True}
        except OSError as error:
            report = {"errno": error.errno}
        except BaseException as error:
            report = {"trace": "".join(traceback.format_exception(error))}
        with open(writer, "wb") as out:
            out.write(json.dumps(report).encode())
        os._exit(0)
    finally:
        os._exit(1)


def _failure(report: dict[str, Any]) -> Exception:
    if "detail" in report:
        return SpecError(report["detail"], pointer=report["pointer"])
    if "memory" in report:
        return MemoryError()
    if "errno" in report:
        return OSError(report["errno"], os.strerror(report["errno"] or 0))
    return DecoderError(report["trace"])
