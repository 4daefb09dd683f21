"""What stops a start: one sentence and status 2. And a start on any free port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time

import numpy as np
import pytest


@pytest.mark.parametrize("command", ["serve", "web", "worker"])
def test_a_misspelt_variable_stops_the_start_and_names_the_nearest(commands, tmp_path, command):
    sentence = commands.refusal(command, data_dir=tmp_path, lease_sec=5)
    assert sentence == (
        "holdout: unknown variable HOLDOUT_LEASE_SEC; the nearest known one is HOLDOUT_LEASE_S"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["serve", "web"])
def test_a_taken_port_is_said_in_one_sentence(commands, tmp_path, command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = commands.refusal(command, "--port", str(port), data_dir=tmp_path)
    assert sentence == (
        f"holdout: port {port} of 127.0.0.1 is taken: stop what uses it, or choose another with "
        "--port or HOLDOUT_PORT"
    )
    assert not list(tmp_path.iterdir())


def test_a_device_that_is_not_there_is_refused_at_the_start(commands, tmp_path):
    sentence = commands.refusal("serve", "--port", "0", "--device", "cuda:99", data_dir=tmp_path)
    assert sentence.startswith("holdout: device 'cuda:99' is not here; here are: cpu")


def test_a_database_without_tables_is_refused(commands, tmp_path):
    for command in ("web", "worker"):
        assert "holdout db upgrade" in commands.refusal(command, data_dir=tmp_path, port=0)


def test_a_data_folder_of_another_database_is_refused(commands, tmp_path):
    for name in ("one", "other"):
        assert commands.run("db", "upgrade", data_dir=tmp_path / name).returncode == 0
    mixed = {"data_dir": tmp_path / "one", "database_url": f"sqlite:///{tmp_path}/other/holdout.db"}
    for command in ("serve", "web", "worker"):
        sentence = commands.refusal(command, **mixed, port=0)
        assert "HOLDOUT_DATABASE_URL and HOLDOUT_DATA_DIR must name parts of one store" in sentence


def test_port_0_settles_on_a_free_one_and_says_which(commands, client_of, wait_until, tmp_path):
    assert commands.run("db", "upgrade", data_dir=tmp_path).returncode == 0
    running = commands.start("web", "--port", "0", data_dir=tmp_path)
    started = wait_until(running.events, what="the first line of the log")[0]
    client = client_of(f"http://127.0.0.1:{started['settings']['HOLDOUT_PORT']}")
    wait_until(lambda: client.reaches("/healthz", 200), what="the service answers there")
    status, took_s = running.stop()
    assert status == 0
    assert took_s < 10


def children_of(parent):
    """The processes that a process started itself."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    rows = (line.split() for line in listed.stdout.splitlines())
    return [int(pid) for pid, of in rows if int(of) == parent]


def group_of(pid):
    """What a terminal sends Ctrl-C to, if a shell started this process."""
    listed = subprocess.run(["ps", "-eo", "pid=,pgid="], capture_output=True, text=True, check=True)
    groups = {int(one): int(of) for one, of in (row.split() for row in listed.stdout.splitlines())}
    return groups[pid]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_a_queued_job(client, commands):
    """Wait in a thread for a job that no worker takes; the list gets the answer."""
    np.savez(commands.folder / "x.npz", x=np.zeros((4, 2), np.float32), y=np.arange(4) % 2)
    file = {"file": commands.folder / "x.npz"}
    job = client.upload("/v1/datasets", file, name="x", split="test").body
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(client.get(f"/v1/jobs/{job['id']}?wait=30"))
    )
    thread.start()
    time.sleep(0.5)
    return thread, answers


def test_ctrl_c_answers_what_waits_at_the_web_process(commands, tmp_path):
    assert commands.run("db", "upgrade", data_dir=tmp_path).returncode == 0
    running, client = commands.start_web("web", ready="/healthz", data_dir=tmp_path)
    thread, answers = wait_for_a_queued_job(client, commands)
    for pid in (*children_of(running.pid), running.pid):  # as a terminal does
        os.kill(pid, signal.SIGINT)
    thread.join(20)
    assert [(answer.status, answer.body["state"]) for answer in answers] == [(200, "queued")]
    assert running.ended() == 0


def test_ctrl_c_reaches_the_supervisor_alone(commands, tmp_path):
    running, _ = commands.start_web("serve", "--device", "cpu", data_dir=tmp_path)
    children = children_of(running.pid)
    assert len(children) == 2
    assert group_of(running.pid) not in map(group_of, children)
    running.process.send_signal(signal.SIGINT)
    assert running.ended() == 0
    assert not any(map(is_alive, children))


def test_web_and_worker_go_when_their_supervisor_is_killed(commands, wait_until, tmp_path):
    running, _ = commands.start_web("serve", "--device", "cpu", data_dir=tmp_path)
    children = children_of(running.pid)
    assert len(children) == 2
    running.process.kill()
    wait_until(lambda: not any(map(is_alive, children)), what="no process is left")


def test_an_orphan_of_gunicorn_answers_what_waits_and_gives_up_the_port(
    commands, wait_until, tmp_path
):
    assert commands.run("db", "upgrade", data_dir=tmp_path).returncode == 0
    running, client = commands.start_web("web", ready="/healthz", data_dir=tmp_path)
    thread, answers = wait_for_a_queued_job(client, commands)
    (orphan,) = children_of(running.pid)
    running.process.kill()
    thread.join(10)
    assert [(answer.status, answer.body["state"]) for answer in answers] == [(200, "queued")]
    wait_until(lambda: not is_alive(orphan), what="the orphan is gone")
    port = client.url.rsplit(":", 1)[1]
    commands.start("web", port=port, data_dir=tmp_path)
    wait_until(lambda: client.reaches("/healthz", 200), what="the port is served again")


def test_a_data_folder_that_cannot_be_used_is_said_in_one_sentence(commands, tmp_path):
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    for command in ("web", "worker", "serve"):
        done = commands.run(command, data_dir="/proc/nothing", database_url=url, port=0)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
