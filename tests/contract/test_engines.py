"""What every engine promises, and what the process engine promises beside it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from checkpoints.store import LocalStore
from service.jobs.engines import ChildOptions, EngineError
from service.jobs.engines.inline import InlineEngine
from service.jobs.engines.process import ProcessEngine

PATIENCE_S = 30.0


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return ChildOptions(data_dir=tmp_path, threads=1, decoding={}, handlers="odd_work")


@pytest.fixture(params=["inline", "process"])
def unstarted(request, options, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if request.param == "inline":
        return lambda device: InlineEngine(options, device=device)
    return lambda device: ProcessEngine(options, device=device, children=1)


@pytest.fixture
def engine(unstarted):
    engine = unstarted("auto")
    engine.start()
    yield engine
    engine.close()


@pytest.fixture
def processes(options):
    engines = []

    def start(children=1, device="cpu"):
        engines.append(ProcessEngine(options, device=device, children=children))
        engines[-1].start()
        until(engines[-1], lambda found: all(slot.ready for slot in engines[-1].slots()))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


def until(engine, satisfied):
    """Wait for messages until ``satisfied`` by all that came."""
    found = []
    end = time.monotonic() + PATIENCE_S
    while not satisfied(found):
        assert time.monotonic() < end, f"only this came: {found}"
        found += engine.wait(0.5)
    return found


def free_slot(engine):
    until(engine, lambda _: any(slot.free for slot in engine.slots()))
    return next(slot for slot in engine.slots() if slot.free)


def do(engine, kind, payload=None, task_id="one", attempt=1):
    """All messages of one task."""
    task = {"id": task_id, "kind": kind, "attempt": attempt, "payload": payload or {}}
    engine.give(free_slot(engine), task)
    last = ("succeeded", "failed", "crashed")
    found = until(engine, lambda found: any(one["type"] in last for one in found))
    return [one for one in found if one["type"] != "hello"]


def pid_of_the_child(engine):
    return do(engine, "echo")[-1]["result"]["pid"]


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def eventually(satisfied):
    deadline = time.monotonic() + PATIENCE_S
    while not satisfied():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Both engines


def test_a_slot_is_ready_once_its_hello_came(engine):
    (hello,) = until(engine, bool)
    assert hello["type"] == "hello"
    assert (hello["slot"], hello["device"]) == (0, "cpu")
    assert hello["policies"] == {"cpu": {"threads": 1, "device": "cpu"}}
    assert hello["kinds"]["echo"] is False
    (slot,) = engine.slots()
    assert slot.free
    assert slot.device == "cpu"


def test_a_task_ends_in_its_result_with_its_id_and_attempt(engine):
    (done,) = do(engine, "echo", {"text": "ä", "number": 0.1}, task_id="some", attempt=4)
    assert done["type"] == "succeeded"
    assert (done["id"], done["attempt"]) == ("some", 4)
    assert done["result"]["payload"] == {"text": "ä", "number": 0.1}


def test_progress_comes_before_the_result_and_in_order(engine):
    *progress, done = do(engine, "count", attempt=2)
    assert progress == [
        {"type": "progress", "id": "one", "attempt": 2, "done": n, "total": 3, "unit": "examples"}
        for n in (1, 2, 3)
    ]
    assert done["type"] == "succeeded"


def test_a_refused_task_says_why_and_where(engine):
    (done,) = do(engine, "refuse")
    assert done == {
        "type": "failed",
        "id": "one",
        "attempt": 1,
        "reason": "bad_request",
        "error": {"detail": "batch_size must be smaller", "pointer": "/batch_size"},
    }


def test_an_unforeseen_error_tells_the_log_and_not_the_client(engine):
    (done,) = do(engine, "stumble")
    assert done["reason"] == "internal"
    assert "secret" not in done["error"]["detail"]
    assert "KeyError: 'secret'" in done["traceback"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("exhaust", "out_of_memory"), ("fill", "no_space"), ("misspell", "internal")],
)
def test_an_error_of_the_host_has_its_own_reason(engine, kind, reason):
    (done,) = do(engine, kind)
    assert (done["type"], done["reason"]) == ("failed", reason)


def test_a_slot_that_is_not_free_takes_no_second_task(engine):
    slot = free_slot(engine)
    engine.give(slot, {"id": "one", "kind": "echo", "attempt": 1, "payload": {}})
    assert engine.slots()[0].busy_with == "one"
    with pytest.raises(ValueError, match="not free"):
        engine.give(slot, {"id": "two", "kind": "echo", "attempt": 1, "payload": {}})


def test_nothing_is_heard_of_a_killed_task_and_the_slot_works_again(engine):
    slot = free_slot(engine)
    task = {"id": "one", "kind": "sleep", "attempt": 1, "payload": {"seconds": 0.1}}
    engine.give(slot, task)
    engine.kill("one")
    engine.kill("unknown")
    found = do(engine, "echo", task_id="two")
    assert [one["id"] for one in found] == ["two"]


def test_a_wait_ends_when_something_else_can_be_read(engine):
    until(engine, bool)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"!")
        began = time.monotonic()
        assert engine.wait(PATIENCE_S, ours) == []
        assert time.monotonic() - began < PATIENCE_S / 2


def test_a_wait_ends_when_the_time_is_up(engine):
    until(engine, bool)
    assert engine.wait(0.01) == []


def test_a_device_that_is_not_there_is_refused_at_the_start(unstarted):
    engine = unstarted("cuda:7")
    with pytest.raises(EngineError, match=r"'cuda:7' is not here; here are: cpu"):
        engine.start()


def test_an_engine_can_be_closed_twice_and_unstarted(unstarted):
    engine = unstarted("cpu")
    engine.close()
    engine.start()
    engine.close()
    engine.close()


# The process engine


def test_a_child_stays_after_a_success_and_is_replaced_after_a_failure(processes):
    engine = processes()
    first = pid_of_the_child(engine)
    assert pid_of_the_child(engine) == first
    do(engine, "refuse")
    second = pid_of_the_child(engine)
    assert second != first
    assert is_gone(first)


def test_a_child_is_replaced_after_a_long_task(processes):
    engine = processes()
    (done,) = do(engine, "long")
    assert done["type"] == "succeeded"
    assert pid_of_the_child(engine) != done["result"]["pid"]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_a_child_killed_by_a_signal_is_a_crash_with_its_name(processes, name):
    engine = processes()
    (done,) = do(engine, "signal", {"name": name}, attempt=2)
    assert done == {
        "type": "crashed",
        "id": "one",
        "attempt": 2,
        "signal": name,
        "detail": f"the child process was killed by {name}",
    }
    assert do(engine, "echo")[-1]["type"] == "succeeded"


def test_a_child_that_leaves_by_itself_is_a_crash(processes):
    (done,) = do(processes(), "exit")
    assert done["signal"] is None
    assert done["detail"] == "the child process exited with code 3"


def test_a_child_killed_while_idle_is_replaced_in_silence(processes):
    engine = processes()
    pid = pid_of_the_child(engine)
    os.kill(pid, signal.SIGKILL)
    (hello,) = until(engine, bool)
    assert hello["type"] == "hello"
    assert pid_of_the_child(engine) != pid


def test_an_engine_whose_fork_server_died_crashes_its_task_and_starts_anew(processes):
    engine = processes()
    child = pid_of_the_child(engine)
    payload = {"seconds": PATIENCE_S}
    engine.give(free_slot(engine), {"id": "one", "kind": "sleep", "attempt": 1, "payload": payload})
    until(engine, bool)
    fork_server = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(fork_server, signal.SIGKILL)
    (crashed,) = until(engine, bool)
    assert (crashed["type"], crashed["id"]) == ("crashed", "one")
    assert do(engine, "echo")[-1]["type"] == "succeeded"
    assert is_gone(child)


def test_children_work_side_by_side(processes):
    engine = processes(children=2)
    for slot, task_id in zip(engine.slots(), ("one", "two"), strict=True):
        payload = {"seconds": 0.3}
        engine.give(slot, {"id": task_id, "kind": "sleep", "attempt": 1, "payload": payload})
    found = until(engine, lambda found: len(found) == 4)
    assert [one["type"] for one in found] == ["progress"] * 2 + ["succeeded"] * 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_child_does_not_heed_a_signal_meant_for_the_group(processes, number):
    engine = processes()
    pid = pid_of_the_child(engine)
    os.kill(pid, number)
    assert pid_of_the_child(engine) == pid
    assert os.getpgid(pid) == pid


@pytest.mark.parametrize("end", ["kill", "crash", "close"])
def test_what_a_child_started_ends_with_it(processes, end):
    engine = processes()
    child = pid_of_the_child(engine)
    engine.give(free_slot(engine), {"id": "one", "kind": "breed", "attempt": 1, "payload": {}})
    (progress,) = until(engine, bool)
    if end == "kill":
        engine.kill("one")
    elif end == "crash":
        os.kill(child, signal.SIGKILL)
        until(engine, bool)
    else:
        engine.close()
    deadline = time.monotonic() + PATIENCE_S
    while not is_gone(progress["done"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("end", ["kill", "crash"])
def test_a_decoder_ends_with_its_child_and_its_draft_can_be_swept(processes, tmp_path, end):
    engine, store = processes(), LocalStore(tmp_path / "data")
    child, payload = pid_of_the_child(engine), {"folder": str(tmp_path / "data")}
    task = {"id": "one", "kind": "decode", "attempt": 1, "payload": payload}
    engine.give(free_slot(engine), task)
    drafts = tmp_path / "data" / "tmp"
    eventually(lambda: any(path.read_text().endswith("\n") for path in drafts.iterdir()))
    (draft,) = drafts.iterdir()
    decoder = int(draft.read_text())
    assert store.sweep(60.0, time.time() + 1000) == 0
    assert not is_gone(decoder)
    if end == "kill":
        engine.kill("one")
    else:
        os.kill(child, signal.SIGKILL)
        until(engine, bool)
    eventually(lambda: is_gone(decoder) and is_gone(child))
    assert store.sweep(60.0, time.time() + 1000) == 1
    assert not draft.exists()


def test_each_child_sees_its_own_card_and_no_other(processes):
    engine = processes(children=3, device="pair")
    assert [slot.device for slot in engine.slots()] == ["cpu", "cuda:1", "cpu"]
    seen = []
    for slot in engine.slots():
        engine.give(slot, {"id": "one", "kind": "echo", "attempt": 1, "payload": {}})
        seen.append(until(engine, bool)[-1]["result"]["visible"])
    assert seen == ["", "1", ""]


def test_a_child_that_cannot_start_is_tried_again_ever_more_slowly(options):
    (options.data_dir / "no-start").touch()
    engine = ProcessEngine(options, device="cpu", children=1)
    engine.start()
    try:
        began = time.monotonic()
        while time.monotonic() - began < 1.0:
            assert engine.wait(0.1) == []
        assert 2 <= (options.data_dir / "starts").stat().st_size <= 5
        (options.data_dir / "no-start").unlink()
        (hello,) = until(engine, bool)
        assert hello["type"] == "hello"
    finally:
        engine.close()


def test_a_child_that_never_starts_is_still_tried_after_thousands_of_times(options):
    (options.data_dir / "no-start").touch()
    engine = ProcessEngine(options, device="cpu", children=1)
    engine.start()
    try:
        (place,) = engine._places
        place.failed_starts = 5000
        deadline = time.monotonic() + PATIENCE_S
        while place.failed_starts == 5000:
            assert time.monotonic() < deadline
            assert engine.wait(0.1) == []
        assert 0 < place.start_at - time.monotonic() <= 30.0
    finally:
        engine.close()


def test_a_child_that_sends_nonsense_loses_no_message_of_another(processes):
    engine = processes(children=2)
    for slot, (task_id, kind) in zip(
        engine.slots(), (("one", "count"), ("two", "babble")), strict=True
    ):
        engine.give(slot, {"id": task_id, "kind": kind, "attempt": 1, "payload": {}})
    time.sleep(0.5)  # so that one wait finds the messages of both
    with pytest.raises(KeyError):
        engine.wait(PATIENCE_S)
    found = until(engine, lambda found: len(found) == 5)
    of_one = [message["type"] for message in found if message["id"] == "one"]
    assert of_one == ["progress"] * 3 + ["succeeded"]


SUPERVISOR = """
import os, sys
from pathlib import Path
import service.jobs.worker
from service.jobs.engines import ChildOptions
from service.jobs.engines.process import ProcessEngine

options = ChildOptions(data_dir=Path(sys.argv[1]), threads=1, decoding={}, handlers="odd_work")
engine = ProcessEngine(options, device="cpu", children=1)
engine.start()
while not engine.slots()[0].ready:
    engine.wait(1.0)
payload = {"seconds": 60}
engine.give(engine.slots()[0], {"id": "one", "kind": "breed", "attempt": 1, "payload": payload})
(progress,) = engine.wait(20.0)
print("torch" in sys.modules, progress["done"], flush=True)
os.kill(os.getpid(), int(sys.argv[2])) if len(sys.argv) > 2 else None
"""


@pytest.mark.parametrize("arguments", [[], ["9"], ["15"]], ids=["end", "SIGKILL", "SIGTERM"])
def test_children_end_with_their_supervisor_which_has_no_torch(options, arguments):
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", SUPERVISOR, str(options.data_dir), *arguments]
    ended = subprocess.run(command, env=path, capture_output=True, text=True, timeout=60)
    torch, pid = ended.stdout.split()
    assert torch == "False"
    deadline = time.monotonic() + PATIENCE_S
    while not is_gone(int(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
