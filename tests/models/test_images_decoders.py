"""Processes that share work: equal answers from any number, the first failure, no survivor."""

import contextlib
import errno
import faulthandler
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.datasets import pixels
from models.datasets.arrays import bad_file
from models.datasets.decoders import DecoderError, shared
from models.spec import SpecError
from tests.models.conftest import accepted, refused
from tests.models.image_files import encoded, noise, zipped


def spread(work, count=10, processes=3):
    return shared(work, count, processes=processes, place=lambda a, b: f"between {a} and {b}")


def children():
    """The processes that this one has started, also those that ended and were not waited for."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


OTHERS = set()


@pytest.fixture(autouse=True)
def others():
    """What other tests in this process left running is not ours."""
    OTHERS.clear()
    OTHERS.update(children())


def no_children():
    return children() <= OTHERS


@pytest.mark.parametrize("processes", [1, 2, 3, 10, 50])
def test_every_index_is_worked_on_once_and_answers_come_in_order(processes):
    found = spread(lambda first, last: list(range(first, last)), processes=processes)
    assert len(found) == min(processes, 10)
    assert [index for part in found for index in part] == list(range(10))
    assert no_children()


def test_each_stretch_but_that_of_a_single_process_has_a_process_of_its_own():
    assert len(set(spread(lambda first, last: os.getpid()))) == 3
    assert os.getpid() not in spread(lambda first, last: os.getpid())
    assert spread(lambda first, last: os.getpid(), processes=1) == [os.getpid()]


def test_an_answer_may_be_longer_than_a_pipe_is():
    assert [len(one) for one in spread(lambda first, last: "x" * 10**6)] == [10**6] * 3


@pytest.mark.parametrize("slow", [0, 5])
def test_the_failure_of_the_first_stretch_counts_whichever_came_first(slow):
    def work(first, last):
        if first == slow:
            time.sleep(0.3)
        raise bad_file(f"from {first}")

    with pytest.raises(SpecError, match="from 0") as caught:
        spread(work, processes=2)
    assert caught.value.pointer == "/file"
    assert no_children()


def test_a_failure_ends_those_that_are_still_at_work():
    def work(first, last):
        if first:
            time.sleep(60)
        raise SpecError("no", pointer="/x")

    began = time.monotonic()
    with pytest.raises(SpecError) as caught:
        spread(work)
    assert caught.value.pointer == "/x"
    assert time.monotonic() - began < 10
    assert no_children()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGXCPU])
def test_a_process_that_is_killed_is_a_refusal_that_says_where(number):
    def work(first, last):
        if first:
            faulthandler.disable()  # or pytest's would print where a SIGSEGV came from
            os.kill(os.getpid(), number)
        return first

    with pytest.raises(SpecError, match="a decoder was killed between 3 and 6") as caught:
        spread(work)
    assert signal.strsignal(number) in caught.value.detail
    assert no_children()


def test_what_is_not_the_fault_of_a_file_stays_what_it_was():
    def raising(error):
        def work(first, last):
            raise error

        return lambda: spread(work)

    with pytest.raises(OSError, match="No space") as caught:
        raising(OSError(errno.ENOSPC, "full"))()
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(MemoryError):
        raising(MemoryError())()
    with pytest.raises(DecoderError, match="ValueError: odd"):
        raising(ValueError("odd"))()
    with pytest.raises(DecoderError, match="SystemExit"):
        raising(SystemExit(3))()

    def silent(first, last):
        os._exit(7)

    with pytest.raises(DecoderError, match="exit code 7"):
        spread(silent)
    assert no_children()


def test_where_no_process_may_be_forked_the_work_is_done_all_the_same(monkeypatch):
    forked = []

    def fork():
        if forked:
            raise BlockingIOError(errno.EAGAIN, "no")
        forked.append(real())
        return forked[0]

    real = os.fork
    monkeypatch.setattr(os, "fork", fork)
    assert spread(lambda first, last: [first, last, os.getpid()]) == [[0, 10, os.getpid()]]
    assert no_children()


def test_the_alarm_of_the_caller_holds_in_every_process():
    before = signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        found = spread(lambda first, last: signal.getitimer(signal.ITIMER_REAL)[0])
        assert all(90 < one <= 100 for one in found)
        ignored = spread(lambda first, last: signal.getsignal(signal.SIGALRM) is signal.SIG_DFL)
        assert all(ignored)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)


ORPHANS = """
import os, sys, time
sys.path.insert(0, {root!r})
from models.datasets.decoders import shared
def work(first, last):
    os.write(1, b"%d\\n" % os.getpid())  # at once, or lines of several processes mix
    time.sleep(60)
shared(work, 10, processes=3, place=lambda *_: "")
"""


def test_no_process_outlives_the_one_that_forked_it():
    code = ORPHANS.format(root=str(Path(__file__).parents[2]))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as main:
        pids = [int(main.stdout.readline()) for _ in range(3)]
        main.kill()
    deadline = time.monotonic() + 10
    while any(map(running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- the ingestion of images


FILES = {f"{'ab'[i // 10]}/{i:02}.png": encoded(noise(4, 4, seed=i)) for i in range(20)}


def test_a_decoder_that_is_killed_ends_the_ingestion_with_the_images_it_had(take, monkeypatch):
    real = pixels.decode

    def decode(data, mode):
        if data == FILES["b/15.png"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(data, mode)

    monkeypatch.setattr(pixels, "decode", decode)
    detail = refused(take(zipped(FILES)))
    assert detail == "a decoder was killed between the images 'b/10.png' and 'b/19.png': Killed"
    assert no_children()


@pytest.mark.parametrize("processes", [1, 2, 7])
def test_of_several_bad_images_the_first_is_named(take, processes):
    bad = {**FILES, "b/18.png": b"x", "a/07.png": FILES["a/07.png"][:60], "b/11.png": b""}
    answer = take(zipped(bad), processes=processes)
    assert refused(answer) == "the image 'a/07.png' is damaged or cut off"


def test_a_full_disk_is_no_refusal(take, monkeypatch):
    def put(self, name, start, data):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("models.tensorfile.Placer.put", put)
    for processes in (1, 2):
        with pytest.raises(OSError, match=r"full|No space") as caught:
            take(zipped(FILES), processes=processes)
        assert caught.value.errno == errno.ENOSPC


def test_without_permission_to_fork_images_are_decoded_by_one_process(take, monkeypatch):
    accepted(take(zipped(FILES), processes=1))
    expected = take.path.read_bytes()

    def fork():
        raise BlockingIOError(errno.EAGAIN, "no")

    monkeypatch.setattr(os, "fork", fork)
    accepted(take(zipped(FILES), processes=2))
    assert take.path.read_bytes() == expected
