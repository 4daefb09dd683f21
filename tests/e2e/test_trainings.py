"""A training is killed, stopped, cancelled and locked out, and ends with the same bytes."""

import json
import os
import random
import signal
import sqlite3
import threading
import time

import numpy as np
import pytest

from tests.e2e.test_service import children_of, ticks

SPEC = {
    "architecture": "mlp",
    "dataset": "pictures-train",
    "validation_dataset": "pictures",
    "hyperparameters": {"hidden": [256, 256], "dropout": 0.3, "batch_norm": True},
    "optimizer": {"name": "AdamW", "lr": 0.001},
    "early_stopping": None,
    "augmentations": [{"name": "random_horizontal_flip"}],
    "epochs": 12,
    "batch_size": 32,
}


class Site:
    """A web process, one worker at a time, and two datasets."""

    def __init__(self, commands, folder, wait_until, *, epochs):
        self.commands = commands
        self.wait_until = wait_until
        self.spec = {**SPEC, "epochs": epochs}
        # every kill of a worker costs the lease; a random one may come before any epoch is stored
        self.settings = {
            "data_dir": folder,
            "lease_s": 2,
            "children": 1,
            "threads_per_child": 1,
            "crash_limit": 100,
        }
        self.database = folder / "holdout.db"
        assert commands.run("db", "upgrade", data_dir=folder).returncode == 0
        self.start_worker()
        _, self.client = commands.start_web("web", **self.settings)
        content = np.random.default_rng(0)
        for name, split, count in (
            ("pictures-train", "train", 3000),
            ("pictures", "validation", 200),
        ):
            file = folder / f"{name}.npz"
            x = content.integers(0, 256, (count, 1, 16, 16), dtype=np.uint8)
            np.savez(file, x=x, y=x.reshape(count, -1)[:, :5].argmax(axis=1))
            transforms = json.dumps([{"name": "to_float"}, {"name": "flatten"}])
            answer = self.client.upload(
                "/v1/datasets?wait", {"file": file}, name=name, split=split, transforms=transforms
            )
            assert answer.body["state"] == "succeeded", answer.text

    def start_worker(self):
        self.worker = self.commands.start("worker", **self.settings)

    def begin(self, **changes):
        answer = self.client.post("/v1/trainings", {**self.spec, **changes})
        assert answer.status == 202, answer.text
        return answer.body["id"]

    def job(self, job_id):
        return self.client.get(f"/v1/trainings/{job_id}").body

    def epochs(self, job_id):
        return [row["epoch"] for row in self.history(job_id)]

    def history(self, job_id):
        return self.client.get(f"/v1/trainings/{job_id}/history").body["items"]

    def end(self, job_id):
        def ended():
            job = self.client.get(f"/v1/trainings/{job_id}?wait=5").body
            return job if job["state"] not in ("queued", "running") else None

        return self.wait_until(ended, what="the training ends", within_s=200)

    def is_running(self, job_id):
        return self.job(job_id)["state"] == "running"

    # What is done to a training

    def kill_child(self):
        before = {pid: ticks(pid) for pid in children_of(self.worker.pid)}
        time.sleep(0.05)
        used = {pid: ticks(pid) - was for pid, was in before.items()}
        if used:
            os.kill(max(used, key=used.get), signal.SIGKILL)

    def kill_worker(self):
        self.worker.process.kill()
        self.worker.ended()
        self.start_worker()

    def stop_worker(self):
        assert self.worker.stop()[0] in (0, -signal.SIGTERM)  # which it may not handle yet
        self.start_worker()

    def lock_database(self):
        connection = sqlite3.connect(self.database, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(2)
        connection.execute("ROLLBACK")
        connection.close()


def without_clock(rows):
    return [{name: one for name, one in row.items() if name != "duration_s"} for row in rows]


@pytest.fixture(scope="module")
def site(commands, wait_until, tmp_path_factory):
    return Site(commands, tmp_path_factory.mktemp("trainings"), wait_until, epochs=12)


@pytest.fixture(scope="module")
def undisturbed(site):
    job = site.end(site.begin())
    assert job["state"] == "succeeded", job["error"]
    return job["result"]


def disturbed(site, disturbances, rng, pause_s):
    """A training to which these things are done at random moments."""
    job_id = site.begin()
    for one in disturbances:
        site.wait_until(lambda: site.is_running(job_id), what="it runs")
        time.sleep(rng.uniform(0, pause_s))
        if not site.is_running(job_id):
            break
        getattr(site, one)()
    return site.end(job_id)


def assert_same(job, undisturbed):
    assert job["state"] == "succeeded", job["error"]
    result = job["result"]
    for name in ("checkpoint", "last_checkpoint", "best", "stopped"):
        assert result[name] == undisturbed[name]
    assert without_clock(result["history"]) == without_clock(undisturbed["history"])


def test_a_training_that_is_killed_three_ways_ends_with_the_same_bytes(site, undisturbed):
    rng = random.Random(5)
    ways = ["kill_child", "kill_worker", "stop_worker"]
    rng.shuffle(ways)
    job = disturbed(site, ways, rng, 0.5)
    assert_same(job, undisturbed)
    assert job["attempt"] > 1
    assert list((site.database.parent / "uploads").iterdir()) == []


def test_a_database_that_is_locked_for_seconds_loses_no_epoch(site, undisturbed):
    job_id = site.begin()
    site.wait_until(lambda: site.epochs(job_id), what="an epoch is stored")
    site.lock_database()
    assert_same(site.end(job_id), undisturbed)


def test_a_cancelled_training_keeps_its_best_checkpoint_and_goes_on_under_its_id(site, undisturbed):
    job_id = site.begin()
    site.wait_until(lambda: len(site.epochs(job_id)) >= 2, what="two epochs are stored")
    asked = time.monotonic()
    cancel = site.client.post(f"/v1/jobs/{job_id}/cancel?wait").body
    took_s = time.monotonic() - asked
    assert cancel["state"] == "cancelled"
    assert took_s < 5  # a second on a machine that does nothing else
    result = cancel["result"]
    assert result["stopped"]["reason"] == "cancelled"
    done = len(result["history"])
    assert 2 <= done < len(undisturbed["history"])
    found = site.client.get(f"/v1/checkpoints/{result['checkpoint']}").body
    assert found["lineage"]["epoch"] == result["best"]["epoch"]
    resumed = site.client.post(cancel["links"]["resume"])
    assert (resumed.status, resumed.body["id"]) == (202, job_id)
    assert_same(site.end(job_id), undisturbed)


def test_the_epochs_are_streamed_as_they_come_and_a_broken_stream_goes_on(site):
    job_id = site.begin(seed=1)
    heard, ids = [], []

    def follow(last):
        import urllib.request

        request = urllib.request.Request(f"{site.client.url}/v1/jobs/{job_id}/events")
        if last:
            request.add_header("Last-Event-ID", str(last))
        with urllib.request.urlopen(request, timeout=100) as stream:
            kind = None
            for line in stream:
                name, _, text = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    ids.append(int(text))
                elif name == "event":
                    kind = text
                elif name == "data" and kind == "epoch":
                    heard.append(json.loads(text)["epoch"])
                    if len(heard) == 3:
                        return  # the client goes away in the middle

    follow(None)
    assert site.is_running(job_id)
    while heard[-1] < site.spec["epochs"]:
        follow(ids[-1])
    assert heard == list(range(1, site.spec["epochs"] + 1))
    assert ids == sorted(set(ids))


def test_evaluations_beside_a_training_change_nothing_of_it(
    commands, wait_until, tmp_path_factory, undisturbed
):
    folder = tmp_path_factory.mktemp("beside")
    site = Site(commands, folder, wait_until, epochs=12)
    site.worker.stop()
    site.settings |= {"children": 3}
    site.start_worker()
    first = site.end(site.begin(epochs=1, seed=9))["result"]["checkpoint"]
    job_id = site.begin()
    stop = threading.Event()

    def evaluate():
        while not stop.is_set():
            body = {"checkpoint": first, "dataset": "pictures", "fresh": True}
            site.client.post("/v1/evaluations?wait", body)

    threads = [threading.Thread(target=evaluate) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        job = site.end(job_id)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert_same(job, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_that_is_killed_ten_times_at_random_ends_with_the_same_bytes(
    commands, wait_until, tmp_path_factory
):
    site = Site(commands, tmp_path_factory.mktemp("soak"), wait_until, epochs=60)
    whole = site.end(site.begin())["result"]
    for seed in range(3):
        rng = random.Random(seed)
        ways = rng.choices(["kill_child", "kill_worker", "stop_worker", "lock_database"], k=10)
        assert_same(disturbed(site, ways, rng, 1.5), whole)
