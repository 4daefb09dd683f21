"""A ring is heard at once, in every process, and losing one harms nobody."""

import os
import select
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import create_engine, text

from service.db.connection import parse_url
from service.jobs.doorbell import open_doorbell

SOON_S = 0.05
LONG_S = 10.0


def url_of(engine):
    return engine.url.render_as_string(hide_password=False)


@pytest.fixture
def place(database, tmp_path):
    """What a process needs to know to open the doorbell."""
    return url_of(database), tmp_path


@pytest.fixture
def opened(place):
    """Opens doorbells, each as another process would."""
    bells = []

    def open_another():
        bells.append(open_doorbell(*place))
        return bells[-1]

    yield open_another
    for bell in bells:
        bell.close()


@pytest.fixture
def listening():
    """Listens on a bell until the test ends."""
    listeners = []

    def listen(bell, topic="work"):
        listeners.append(bell.listen(topic))
        return listeners[-1]

    yield listen
    for listener in listeners:
        listener.close()


def rung(listener, timeout_s=LONG_S):
    return bool(select.select([listener], [], [], timeout_s)[0])


def quiet(listener):
    return not rung(listener, timeout_s=0.1)


def settle(listener):
    """Drain until it stays quiet."""
    for _ in range(20):
        listener.drain()
        if quiet(listener):
            return
    raise AssertionError("the listener never became quiet")


def test_a_ring_is_heard_within_50_ms_and_drained(opened, listening):
    listener, ringer = listening(opened()), opened()
    ringer.ring("work")  # makes the connection, where there is one
    assert rung(listener)
    listener.drain()
    waits_s = []
    for _ in range(5):
        started = time.monotonic()
        ringer.ring("work")
        assert rung(listener)
        waits_s.append(time.monotonic() - started)
        listener.drain()
        assert quiet(listener)
    assert min(waits_s) < SOON_S


def test_a_topic_is_heard_by_all_its_listeners_and_by_no_others(opened, listening):
    first, second = opened(), opened()
    work = [listening(first), listening(first), listening(second)]
    news = [listening(first, "news"), listening(second, "news")]
    first.ring("work")
    assert all(rung(listener) for listener in work)
    assert all(quiet(listener) for listener in news)
    for listener in work:
        listener.drain()
    second.ring("news")
    assert all(rung(listener) for listener in news)
    assert all(quiet(listener) for listener in work)


def test_ringing_when_nobody_listens_is_no_error_and_is_not_heard_later(opened, listening):
    bell = opened()
    bell.ring("work")
    assert quiet(listening(bell))


def test_a_thousand_rings_that_nobody_answers_block_nobody_and_drain_at_once(opened, listening):
    bell = opened()
    listener = listening(bell)
    for _ in range(1000):
        bell.ring("work")
    assert rung(listener)
    settle(listener)  # on PostgreSQL the last of them may still be on their way
    bell.ring("work")
    assert rung(listener)


def test_threads_may_ring_at_once(opened, listening):
    bell = opened()
    listener = listening(bell)
    failures = []

    def ring():
        try:
            for _ in range(50):
                bell.ring("work")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ring) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert rung(listener)


def test_a_listener_that_closed_is_not_missed(opened, listening):
    bell = opened()
    gone, stays = bell.listen("work"), listening(bell)
    gone.close()
    bell.ring("work")
    assert rung(stays)


LISTEN = """
import select, sys, time
from pathlib import Path
from service.jobs.doorbell import open_doorbell
listener = open_doorbell(sys.argv[1], Path(sys.argv[2])).listen("work")
print("listening", flush=True)
while select.select([listener], [], [], 30)[0]:
    print(time.monotonic(), flush=True)  # one clock for the whole machine
    listener.drain()
"""


@pytest.fixture
def listening_processes(place):
    url, data_dir = place
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LISTEN, url, str(data_dir)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=data_dir,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "listening\n"
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_other_processes_hear_a_ring_within_50_ms(opened, listening_processes):
    bell = opened()
    bell.ring("work")
    for process in listening_processes:
        process.stdout.readline()
    waits_s = []
    for _ in range(5):
        time.sleep(0.02)
        started = time.monotonic()
        bell.ring("work")
        heard = [float(process.stdout.readline()) for process in listening_processes]
        waits_s.append(max(heard) - started)
    assert min(waits_s) < SOON_S


def test_a_listener_whose_process_was_killed_is_forgotten(
    place, opened, listening, listening_processes
):
    bell = opened()
    stays = listening(bell)
    for process in listening_processes:
        process.kill()
        process.wait()
    bell.ring("work")
    assert rung(stays)
    bells = place[1] / "bells"
    assert len(list(bells.glob("*"))) == (1 if bells.exists() else 0)


# Sockets


@pytest.fixture
def beside_sqlite(tmp_path):
    def bell(data_dir):
        return open_doorbell(f"sqlite:///{tmp_path}/unused.db", data_dir)

    return bell


def test_what_a_process_left_that_died_while_binding_is_removed(beside_sqlite, tmp_path):
    bell = beside_sqlite(tmp_path)
    old, young = tmp_path / "bells" / ".work-1-old.sock", tmp_path / "bells" / ".work-1-new.sock"
    for path in (old, young):
        path.touch()
    os.utime(old, (time.time() - 100, time.time() - 100))
    bell.ring("work")
    bell.close()
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize("length", [60, 100, 110, 1000])
def test_the_path_of_the_data_folder_may_be_long(beside_sqlite, tmp_path, listening, length):
    data_dir = tmp_path
    while len(str(data_dir)) < length:
        data_dir /= "d" * min(200, max(1, length - len(str(data_dir)) - 1))
    bell, other = beside_sqlite(data_dir), beside_sqlite(data_dir)
    listener = listening(bell)
    other.ring("work")
    assert rung(listener)
    bell.close()
    other.close()


def test_listeners_leave_no_files_behind_and_others_cannot_reach_the_folder(
    beside_sqlite, tmp_path
):
    bell = beside_sqlite(tmp_path)
    listener = bell.listen("work")
    (name,) = [path.name for path in (tmp_path / "bells").iterdir()]
    assert name.startswith("work-")
    assert (tmp_path / "bells").stat().st_mode & 0o777 == 0o700
    listener.close()
    bell.close()
    assert list((tmp_path / "bells").iterdir()) == []


# Notifications


@pytest.fixture
def broken_off(database):
    """Ends all connections to the database but those of the test itself."""

    def end():
        admin = create_engine(database.url.set(database="postgres"))
        with admin.connect() as db:
            db.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
                ),
                {"name": parse_url(url_of(database)).database},
            )
        admin.dispose()

    return end


@pytest.mark.postgres
@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
def test_a_lost_connection_is_made_again_at_the_next_wait_and_the_next_ring(
    opened, listening, broken_off
):
    bell = opened()
    listener = listening(bell)
    bell.ring("work")
    assert rung(listener)
    listener.drain()
    broken_off()
    assert rung(listener)  # who waits is woken by the loss, once for the farewell, once for the end
    settle(listener)
    bell.ring("work")
    assert rung(listener)
    listener.drain()
    assert quiet(listener)


@pytest.mark.postgres
def test_a_server_that_is_not_there_neither_fails_nor_rings(tmp_path):
    pytest.importorskip("psycopg", reason="psycopg, the driver for PostgreSQL, is missing")
    bell = open_doorbell(f"postgresql:///none?host={tmp_path}", tmp_path)
    listener = bell.listen("work")
    bell.ring("work")
    assert quiet(listener)
    listener.drain()
    listener.close()
    bell.close()
