"""The sandbox with real children that die, lie, hang and hoard."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from checkpoints.store import LocalStore
from models import tensorfile
from models.tensorfile import TensorSource
from service.jobs import sandbox
from service.jobs.sandbox import ForkServer, Limits, SandboxError, SandboxUnavailable

HERE = str(Path(__file__).parent)
MIB = 2**20


def limits(**changes):
    return Limits(
        **{
            "address_space_bytes": 1024 * MIB,
            "cpu_s": 20,
            "file_bytes": MIB,
            "wall_s": 20.0,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def path_of_work():
    sys.path.insert(0, HERE)
    yield
    sys.path.remove(HERE)


@pytest.fixture(scope="module")
def server(path_of_work):
    server = ForkServer(["confined_work"])
    yield server
    server.close()


@pytest.fixture(params=["forked", "fresh"])
def run(request, server):
    """Both ways to run a function."""
    start = server.run if request.param == "forked" else sandbox.run

    def call(name, request=None, descriptors=(), **changes):
        return start(f"confined_work:{name}", request or {}, descriptors, limits(**changes))

    return call


def test_a_function_gets_its_request_and_its_files(run, tmp_path):
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    with (tmp_path / "a").open() as a, (tmp_path / "b").open() as b:
        answer = run("echo", {"name": "ä" * 300_000}, [a.fileno(), b.fileno()])
    assert answer == {"request": {"name": "ä" * 300_000}, "contents": ["one", "two"]}


def test_a_child_writes_to_the_file_that_it_was_given(run, tmp_path):
    with (tmp_path / "out").open("wb") as file:
        assert run("write", {"bytes": 1000}, [file.fileno()]) == {"written": 1000}
    assert (tmp_path / "out").stat().st_size == 1000


def test_a_child_sees_no_environment_and_no_other_files(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HOLDOUT_SECRET", "hunter2")
    with tempfile.TemporaryFile() as inherited, (tmp_path / "given").open("w") as given:
        os.set_inheritable(inherited.fileno(), True)
        seen = run("surroundings", {}, [given.fileno()])
    assert [one for one in seen["environment"] if one] == [
        f"{name}={value}" for name, value in sandbox.ENVIRONMENT.items()
    ]
    assert set(seen["os_environ"]) <= {*sandbox.ENVIRONMENT, "LC_CTYPE"}
    files = [link for number, link in seen["descriptors"] if not link.startswith("/proc/")]
    assert files[:3] == ["/dev/null"] * 3
    assert sorted(link.split(":")[0] for link in files[3:]) == sorted(
        [str(tmp_path / "given"), "socket"]
    )
    assert not seen["torch"]


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM", "SIGABRT"])
def test_a_child_that_a_signal_kills_is_reported_by_the_signals_name(run, name):
    with pytest.raises(SandboxError, match=f"the reader was killed by {name}"):
        run("die", {"signal": name})


def test_a_segmentation_fault_is_reported(run):
    with pytest.raises(SandboxError, match="killed by SIGSEGV"):
        run("segfault")


def test_a_child_that_takes_too_much_memory_is_told_from_one_that_crashed(run):
    with pytest.raises(SandboxError, match=r"ran out of memory \(0\.5 GiB\)"):
        run("hog", address_space_bytes=512 * MIB)


def test_an_endless_loop_ends_at_the_wall_limit(run):
    started = time.monotonic()
    with pytest.raises(SandboxError, match=r"ran past 0\.3 s"):
        run("spin", wall_s=0.3)
    assert time.monotonic() - started < 5


def test_an_endless_loop_ends_at_the_limit_on_processor_time(run):
    with pytest.raises(SandboxError, match="more than 1 s of processor time"):
        run("spin", cpu_s=1)


def test_a_child_that_switches_its_alarm_off_is_killed_all_the_same(run):
    started = time.monotonic()
    with pytest.raises(SandboxError, match=r"ran past 0\.2 s"):
        run("ignore_the_alarm", {"seconds": 60}, wall_s=0.2)
    assert time.monotonic() - started < 10


def test_a_file_cannot_grow_beyond_its_limit(run, tmp_path):
    with (tmp_path / "out").open("wb") as file:
        assert run("write", {"bytes": 2 * MIB}, [file.fileno()]) == {"written": MIB}
        with pytest.raises(SandboxError, match="wrote more than"):
            run("write", {"bytes": 1}, [file.fileno()])
    assert (tmp_path / "out").stat().st_size <= MIB


def test_an_exception_is_named_and_its_trace_kept_for_logs(run):
    with pytest.raises(SandboxError, match="the reader failed: KeyError") as caught:
        run("fail")
    assert "secret" not in caught.value.detail
    assert "a secret detail" in caught.value.trace


def test_no_space_in_the_child_is_no_space_here(run):
    with pytest.raises(OSError, match="No space") as caught:
        run("find_no_space")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("answer_garbage", "not JSON"),
        ("answer_a_list", "not an object"),
        ("answer_what_is_no_json", "failed: ValueError|failed: TypeError"),
        ("exit_politely", "failed: SystemExit"),
    ],
)
def test_an_answer_that_is_no_json_object_is_refused(run, name, words):
    with pytest.raises(SandboxError, match=words):
        run(name)


@pytest.mark.parametrize(("code", "words"), [(0, "without an answer"), (3, "exit code 3")])
def test_a_child_that_leaves_without_an_answer_is_reported(run, code, words):
    with pytest.raises(SandboxError, match=words):
        run("leave", {"code": code})


@pytest.mark.parametrize("letter", ["x", "\N{GRINNING FACE}"])
def test_a_large_answer_is_taken_and_a_huge_one_refused(run, letter):
    size = len(letter.encode())
    request = {"letter": letter, "letters": 30 * MIB // size}
    assert run("answer_hugely", request)["text"] == letter * (30 * MIB // size)
    with pytest.raises(SandboxError, match="answered with more than"):
        run("answer_hugely", {"letter": letter, "letters": 33 * MIB // size})


def test_an_answer_that_holds_half_a_letter_is_refused(run):
    with pytest.raises(SandboxError, match="not JSON"):
        run("answer_hugely", {"letter": "\ud83d", "letters": 1})


def test_many_threads_share_a_server_and_none_gets_anothers_answer(server):
    def ask(number):
        if number % 4 == 3:
            with pytest.raises(SandboxError, match="SIGKILL"):
                server.run("confined_work:die", {"signal": "SIGKILL"}, [], limits())
            return True
        answer = server.run("confined_work:echo", {"number": number}, [], limits())
        return answer["request"]["number"] == number

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(ask, range(96)))


def test_children_run_beside_each_other(server):
    server.run("confined_work:echo", {}, [], limits())
    started = time.monotonic()
    with ThreadPoolExecutor(16) as threads:
        request = {"seconds": 0.5}
        list(
            threads.map(
                lambda _: server.run("confined_work:sleep", request, [], limits()), range(16)
            )
        )
    assert time.monotonic() - started < 4


def test_no_descriptors_are_left_open_by_requests_that_went_well_or_badly(server, tmp_path):
    def ask_all():
        server.run("confined_work:echo", {}, [], limits())
        for name, request in [("fail", {}), ("die", {"signal": "SIGKILL"}), ("leave", {"code": 2})]:
            with pytest.raises(SandboxError):
                server.run(f"confined_work:{name}", request, [], limits())

    def opened(pid):
        return len(os.listdir(f"/proc/{pid}/fd"))

    ask_all()
    pid = server.run("confined_work:surroundings", {}, [], limits())["parent"]
    before = opened(pid), opened("self")
    for _ in range(5):
        ask_all()
    # The server closes its end of a request after the answer: one may be open in `before`, or now.
    deadline = time.monotonic() + 10
    while (now := (opened(pid), opened("self"))) != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert now[0] <= before[0]
    assert now[1] <= before[1]


def test_a_server_that_died_is_started_again_by_the_next_request(path_of_work):
    server = ForkServer(["confined_work"])
    try:
        first = server.run("confined_work:surroundings", {}, [], limits())["parent"]
        os.kill(first, 9)
        while Path(f"/proc/{first}/stat").read_text().split()[2] != "Z":
            time.sleep(0.01)
        second = server.run("confined_work:surroundings", {}, [], limits())["parent"]
        assert second != first
    finally:
        server.close()


def test_requests_in_flight_fail_clearly_when_the_server_is_closed_and_later_ones_go_well(
    path_of_work,
):
    server = ForkServer(["confined_work"])
    try:
        server.run("confined_work:echo", {}, [], limits())
        failures = []

        def ask():
            try:
                server.run("confined_work:sleep", {"seconds": 30}, [], limits())
            except SandboxUnavailable as error:
                failures.append(error.detail)

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.2)
        server.close()
        thread.join(10)
        assert failures == ["the reader could not be started, or its server died"]
        assert server.run("confined_work:echo", {}, [], limits())["contents"] == []
    finally:
        server.close()


def test_a_server_that_cannot_import_what_it_shall_preload_is_an_error(path_of_work, capfd):
    server = ForkServer(["no_such_module_of_ours"])
    with pytest.raises(SandboxUnavailable, match="could not be started"):
        server.run("confined_work:echo", {}, [], limits())
    server.close()
    assert "no_such_module_of_ours" in capfd.readouterr().err


def test_the_server_and_its_children_end_when_their_parent_is_killed(path_of_work):
    code = """
import sys, threading, time
from service.jobs.sandbox import ForkServer, Limits
limits = Limits(address_space_bytes=2**30, cpu_s=20, file_bytes=2**20, wall_s=60)
server = ForkServer(["confined_work"])
seen = server.run("confined_work:surroundings", {}, [], limits)
sleep = ("confined_work:sleep", {"seconds": 50}, [], limits)
threading.Thread(target=server.run, args=sleep, daemon=True).start()
time.sleep(0.3)
print(seen["parent"], flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": HERE},
    )
    with parent:
        server = int(parent.stdout.readline())
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        assert len(children) == 1
        parent.kill()
    deadline = time.monotonic() + 5
    while any(_alive(pid) for pid in (server, *children)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_parent_that_was_forked_starts_a_server_of_its_own(path_of_work):
    code = """
import os
from service.jobs.sandbox import ForkServer, Limits
limits = Limits(address_space_bytes=2**30, cpu_s=20, file_bytes=2**20, wall_s=20)
server = ForkServer(["confined_work"])
parent = lambda: server.run("confined_work:surroundings", {}, [], limits)["parent"]
first = parent()
pid = os.fork()
if pid == 0:
    other = parent()
    server.close()
    os._exit(0 if other != first else 1)
assert os.waitpid(pid, 0)[1] == 0
assert parent() == first
server.close()
"""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": HERE},
    )


def test_a_checkpoint_is_converted_in_a_child_and_published(server, tmp_path):
    store = LocalStore(tmp_path)
    weights = {"layers.0.weight": np.ones((3, 4), "<f4"), "layers.0.bias": np.zeros(3, "<f4")}
    with store.draft() as upload, store.draft() as canonical:
        stream = io.BytesIO()
        sources = {name: TensorSource.of(array) for name, array in weights.items()}
        tensorfile.write(stream, sources, metadata={})
        upload.write(stream.getvalue())
        answer = server.run(
            "checkpoints.reading:convert",
            {"declaration": {"architecture": "mlp"}, "max_bytes": MIB},
            [upload.fileno(), canonical.fileno()],
            limits(),
        )
        blob = canonical.publish()
    assert answer["checkpoint"]["parameters"] == 15
    arrays, _ = tensorfile.open_arrays(store.path(blob.digest))
    assert {name: array.tolist() for name, array in arrays.items()} == {
        name: array.tolist() for name, array in weights.items()
    }


def test_the_server_has_one_thread_and_no_torch(path_of_work):
    server = ForkServer(["checkpoints.reading", "confined_work"])
    try:
        seen = server.run("confined_work:surroundings", {}, [], limits())
        assert not seen["torch"]
        assert len(os.listdir(f"/proc/{seen['parent']}/task")) == 1
    finally:
        server.close()
