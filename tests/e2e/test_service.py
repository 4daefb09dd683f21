"""`holdout serve`, `web` and `worker` as real processes: working, stopping, dying."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def service(commands, data_dir):
    """`holdout serve`, with one thread a child, so that the long evaluation is long anywhere."""
    return commands.start_web("serve", data_dir=data_dir, threads_per_child=1)


@pytest.fixture(scope="module")
def requests(service, material, register):
    """Bodies of a quick evaluation and of one that takes a second or more."""
    return register(service[1], material)


def stat(pid):
    """Parent and command line of a process; None once it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return None
    return None if fields[0] == "Z" else (int(fields[1]), command)


def descendants(pid):
    """Command lines by pid of everything below a process."""
    every = {int(one): stat(one) for one in os.listdir("/proc") if one.isdigit()}
    every = {one: found for one, found in every.items() if found}
    below, found = {pid}, {}
    while new := {one for one, (parent, _) in every.items() if parent in below} - below:
        below |= new
        found |= {one: every[one][1] for one in new}
    return found


def children_of(worker):
    """The children that a worker's fork server made."""
    server = next(pid for pid, command in descendants(worker).items() if "forkserver" in command)
    return list(descendants(server))


def ticks(pid):
    """Processor time that a process has used, in hundredths of a second."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def kill_busy_child(worker):
    """Kill the child that computes, and only it; whether there was one."""
    before = {pid: ticks(pid) for pid in children_of(worker)}
    time.sleep(0.1)
    used, pid = max(((ticks(pid) - was, pid) for pid, was in before.items()), default=(0, 0))
    if used < 3:
        return False
    os.kill(pid, signal.SIGKILL)
    return True


def job_of(answer):
    assert answer.status in (200, 202), answer.text
    return answer.body


def state_of(client, job):
    return client.get(f"/v1/jobs/{job}").body["state"]


def history(client, job):
    """The states that a job went through, with the attempt and the reason of each."""
    text = client.get(f"/v1/jobs/{job}/events").text
    data = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    kinds = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
    return [
        (one["state"], one["attempt"], one.get("reason"))
        for kind, one in zip(kinds, data, strict=True)
        if kind == "state"
    ]


def test_a_service_gets_ready_and_says_what_it_runs_with(service, data_dir):
    running, client = service
    assert client.get("/readyz").body["checks"] == {
        "database": "ok",
        "store": "ok",
        "worker": "ok",
    }
    started = {line["command"]: line["settings"] for line in running.events() if "command" in line}
    assert set(started) == {"serve", "worker", "web"}
    for settings in started.values():
        assert settings["HOLDOUT_DATA_DIR"] == str(data_dir)
        assert f":{settings['HOLDOUT_PORT']}" in client.url


def test_the_web_process_imports_no_torch(service, requests):
    running, client = service
    worker = client.get("/v1/workers").body["items"][0]["pid"]
    web = descendants(running.pid).keys() - descendants(worker).keys() - {worker}
    assert len(web) >= 3  # gunicorn, its worker process, and the server of checkpoint readers
    loaded = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in web}
    for library in (
        "/torch/",
        "/onnxruntime/",
        "/scipy/",
        "/sklearn/",
        "/pyarrow/",
        "/safetensors/",
    ):
        assert not [pid for pid, maps in loaded.items() if library in maps]
    children = [
        pid for pid in descendants(worker) if "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    ]
    assert children  # the look at the maps does find what is there
    assert "libtorch" not in Path(f"/proc/{worker}/maps").read_text()


def test_importing_the_application_imports_no_torch():
    check = (
        "import sys, service.app, service.web, service.cli\n"
        "heavy = {'torch', 'onnxruntime', 'scipy', 'sklearn', 'pyarrow', 'safetensors', 'pandas'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_an_evaluation_whose_child_is_killed_is_tried_again_and_the_worker_lives(
    service, requests, wait_until
):
    _, client = service
    worker = client.get("/v1/workers").body["items"][0]
    job = job_of(client.post("/v1/evaluations", requests[1]))["id"]
    wait_until(lambda: state_of(client, job) == "running", what="the evaluation runs")
    wait_until(lambda: kill_busy_child(worker["pid"]), what="a child computes")
    ended = client.get(f"/v1/jobs/{job}?wait").body
    assert (ended["state"], ended["attempt"]) == ("succeeded", 2)
    assert history(client, job) == [
        ("queued", 0, None),
        ("running", 1, None),
        ("queued", 1, "crashed"),
        ("running", 2, None),
        ("succeeded", 2, "completed"),
    ]
    assert client.get("/v1/workers").body["items"][0]["id"] == worker["id"]


def test_an_evaluation_whose_child_dies_each_time_fails_with_the_signals_name(
    service, requests, wait_until
):
    _, client = service
    worker = client.get("/v1/workers").body["items"][0]["pid"]
    job = job_of(client.post("/v1/evaluations", requests[1]))["id"]

    def killed():
        if state_of(client, job) == "running":
            kill_busy_child(worker)
        return state_of(client, job) == "failed"

    wait_until(killed, what="the evaluation fails")
    ended = client.get(f"/v1/jobs/{job}").body
    assert ended["reason"] == "crashed"
    assert "SIGKILL" in ended["error"]["detail"]
    assert client.post("/v1/evaluations?wait", requests[0]).body["state"] == "succeeded"


def test_a_running_evaluation_is_cancelled(service, requests, wait_until):
    _, client = service
    job = job_of(client.post("/v1/evaluations", requests[1]))["id"]
    wait_until(lambda: state_of(client, job) == "running", what="the evaluation runs")
    cancelled = client.post(f"/v1/jobs/{job}/cancel?wait")
    assert (cancelled.status, cancelled.body["state"]) == (202, "cancelled")
    assert client.post(f"/v1/jobs/{job}/cancel").status == 409


@pytest.fixture(scope="module")
def restarted(commands, material, register, wait_until, tmp_path_factory):
    """A service that is stopped at work and started again with more children."""
    folder = tmp_path_factory.mktemp("restarted")
    settings = {"data_dir": folder, "threads_per_child": 1}
    running, client = commands.start_web("serve", "--children", "2", **settings)
    quick, long = register(client, material)
    facts = {"results": []}

    def evaluate(*bodies):
        posted = [job_of(client.post("/v1/evaluations", body))["id"] for body in bodies]
        return [client.get(f"/v1/jobs/{job}?wait").body for job in posted]

    facts["results"] += evaluate(quick, quick)
    other = {**quick, "batch_size": 7}
    facts["other"] = evaluate(other)[0]
    facts["results"] += evaluate(quick)

    waits = threading.Thread(
        target=lambda: facts.update(held=client.post("/v1/evaluations?wait", long))
    )
    waits.start()
    wait_until(
        lambda: client.get("/v1/jobs?state=running").body["items"], what="the evaluation runs"
    )
    facts["status"], facts["stop_s"] = running.stop()
    facts["log"] = running.log
    waits.join()

    running, client = commands.start_web("serve", "--children", "4", **settings)
    facts["job"] = client.get(f"/v1/jobs/{facts['held'].body['id']}?wait").body
    facts["history"] = history(client, facts["job"]["id"])
    facts["results"] += evaluate(quick, quick, quick, quick, quick, quick)
    facts["children"] = client.get("/v1/workers").body["items"][0]["children"]
    running.stop()
    return facts


def test_sigterm_ends_the_service_quickly_and_without_error(restarted):
    assert restarted["status"] == 0, restarted["log"]
    assert restarted["stop_s"] < 10
    assert "Traceback" not in restarted["log"]


def test_sigterm_answers_an_open_wait(restarted):
    assert restarted["held"].status == 202
    assert restarted["held"].body["state"] in ("queued", "running")


def test_an_evaluation_that_a_stop_interrupted_is_done_after_the_restart(restarted):
    assert restarted["job"]["state"] == "succeeded"
    assert restarted["history"] == [
        ("queued", 0, None),
        ("running", 1, None),
        ("queued", 1, "released"),
        ("running", 2, None),
        ("succeeded", 2, "completed"),
    ]


def test_equal_requests_give_the_same_bytes_across_a_restart_and_with_more_children(restarted):
    results = [job["result"] for job in restarted["results"]]
    assert restarted["children"] == 4
    assert len({job["id"] for job in restarted["results"]}) == len(results) == 9
    assert len({one["evidence"]["logits_sha256"] for one in results}) == 1
    assert len({one["evidence"]["key"] for one in results}) == 1
    assert all(one["metrics"] == results[0]["metrics"] for one in results)
    assert restarted["other"]["result"]["evidence"]["key"] != results[0]["evidence"]["key"]


def test_a_job_of_a_killed_worker_is_finished_by_another(
    commands, material, register, wait_until, tmp_path_factory
):
    settings = {
        "data_dir": tmp_path_factory.mktemp("two"),
        "lease_s": 2,
        "children": 1,
        "threads_per_child": 1,
    }
    assert commands.run("db", "upgrade", data_dir=settings["data_dir"]).returncode == 0
    workers = [commands.start("worker", **settings) for _ in range(2)]
    _, client = commands.start_web("web", **settings)
    _, long = register(client, material)
    wait_until(
        lambda: len(client.get("/v1/workers").body["items"]) == 2, what="two workers are alive"
    )
    job = job_of(client.post("/v1/evaluations", long))["id"]

    def holder():
        for one in workers:
            if any(e.get("id") == job and e.get("state") == "running" for e in one.events()):
                return one
        return None

    first = wait_until(holder, what="a worker has the job")
    children = descendants(first.pid)
    first.process.kill()
    ended = client.get(f"/v1/jobs/{job}?wait").body
    assert (ended["state"], ended["attempt"]) == ("succeeded", 2)
    (second,) = [one for one in workers if one is not first]
    assert any(e.get("id") == job and e.get("state") == "succeeded" for e in second.events())
    wait_until(
        lambda: not any(stat(pid) for pid in children), what="the killed worker's children are gone"
    )
    assert second.stop()[0] == 0
