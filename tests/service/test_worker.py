"""Workers on a real queue: what becomes of jobs, leases, children and rows, whatever happens."""

import json
import os
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import OperationalError

from checkpoints.store import LocalStore
from service.db.connection import open_database, reading, writing
from service.db.migrations import upgrade
from service.db.tables import jobs, lineages, meta, workers
from service.jobs import queue, saving
from service.jobs import worker as worker_module
from service.jobs.doorbell import open_doorbell
from service.jobs.engines import ChildOptions, EngineError
from service.jobs.engines.inline import InlineEngine
from service.jobs.engines.process import ProcessEngine
from service.jobs.lifecycle import State, ended
from service.jobs.worker import Worker, WorkerOptions

PATIENCE_S = 30.0


def found_or_result(db, job, result, now):
    """What is written of a success where a test says nothing else."""
    return {"found": result["dataset"]} if job.kind == "ingestion" else result


class Site:
    """One database, store and doorbell, and the workers on them."""

    def __init__(self, folder, upgraded):
        url = f"sqlite:///{folder / 'holdout.db'}"
        shutil.copy(upgraded, folder / "holdout.db")
        self.folder = folder
        self.database = open_database(url)
        self.store = LocalStore(folder)
        self.doorbell = open_doorbell(url, folder)

    def close(self):
        self.doorbell.close()
        self.database.dispose()

    def engine(self, children):
        options = ChildOptions(data_dir=self.folder, threads=3, decoding={}, handlers="worker_work")
        if children == 0:
            return InlineEngine(options)
        return ProcessEngine(options, device="cpu", children=children)

    @contextmanager
    def worker(self, children=1, *, conclude=None, ready=True, **options):
        """A worker that runs beside; no children means the inline engine."""
        # Nothing but the doorbell and the heartbeat may be what makes a test end in time.
        settings = {"poll_s": 20.0, "heartbeat_s": 0.2, "lease_s": 5.0, **options}
        worker = Worker(
            database=self.database,
            store=self.store,
            doorbell=self.doorbell,
            engine=self.engine(children),
            options=WorkerOptions(**settings),
            conclude=conclude or found_or_result,
        )
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            while ready and worker.id not in self.workers():
                time.sleep(0.01)
            yield worker
        finally:
            worker.stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def workers(self):
        with reading(self.database) as db:
            return {row.id: row for row in db.execute(select(workers))}

    def submit(self, kind="evaluation", *, timeout_s=None, device="auto", **payload):
        with writing(self.database) as db:
            job = queue.submit(
                db,
                kind=kind,
                request={},
                payload=payload,
                device=device,
                created_by="test",
                labels={},
                timeout_s=timeout_s,
                now=time.time(),
            )
        self.doorbell.ring("work")
        return job.id

    def submit_training(self, name="it", *, epochs=1, **payload):
        given = {"name": name, "epochs": epochs, "monitor": "loss", "overlap": None}
        return self.submit("training", **{**given, **payload})

    def resume(self, job_id):
        with writing(self.database) as db:
            queue.resume(db, job_id, now=time.time())
        self.doorbell.ring("work")

    def lineage(self, job_id):
        with reading(self.database) as db:
            query = select(lineages.c.digest, lineages.c.epoch).where(lineages.c.job_id == job_id)
            return dict(db.execute(query).all())

    def job(self, job_id):
        with reading(self.database) as db:
            return queue.get(db, job_id)

    def until(self, job_id, satisfied=lambda job: ended(job.state)):
        end = time.monotonic() + PATIENCE_S
        while not satisfied(job := self.job(job_id)):
            assert time.monotonic() < end, job
            time.sleep(0.005)
        return job

    def until_running(self, job_id):
        return self.until(job_id, lambda job: job.progress is not None)

    def cancel(self, job_id):
        with writing(self.database) as db:
            queue.cancel(db, job_id, now=time.time())
        self.doorbell.ring("work")

    def change(self, job_id, **values):
        with writing(self.database) as db:
            db.execute(update(jobs).where(jobs.c.id == job_id).values(**values))

    def upload(self):
        with self.store.draft() as draft:
            draft.write(b"anything")
            return draft.keep()

    def uploads(self):
        return [path.name for path in (self.folder / "uploads").iterdir()]

    def until_uploads(self, names):
        end = time.monotonic() + PATIENCE_S
        while set(self.uploads()) != names:
            assert time.monotonic() < end, self.uploads()
            time.sleep(0.01)


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory):
    """A database file with this release's tables."""
    path = tmp_path_factory.mktemp("upgraded") / "holdout.db"
    database = open_database(f"sqlite:///{path}")
    upgrade(database)
    database.dispose()  # the last connection to close empties the WAL into the file
    return path


@pytest.fixture
def site(tmp_path, upgraded, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    site = Site(tmp_path, upgraded)
    yield site
    site.close()


# What becomes of a job


@pytest.mark.parametrize("children", [0, 1], ids=["inline", "process"])
def test_a_job_is_done_and_its_key_times_and_events_are_written(site, children):
    with site.worker(children):
        job = site.until(site.submit(key="some key"))
    assert (job.state, job.reason, job.attempt) == (State.SUCCEEDED, "completed", 1)
    assert job.key == "some key"
    timings = job.result["timings"]
    assert timings["forward_s"] == 0.25
    assert timings["queued_s"] == job.started_at - job.created_at
    assert timings["total_s"] == job.finished_at - job.created_at
    with reading(site.database) as db:
        events = queue.events_after(db, job.id, 0)
    states = [event.data["state"] for event in events]
    assert states == ["queued", "running", "succeeded", "succeeded"]
    assert [event.seq for event in events] == [1, 2, 3, 4]


def test_a_job_that_was_queued_before_the_worker_started_is_done(site):
    job_id = site.submit()
    with site.worker():
        assert site.until(job_id).state == State.SUCCEEDED


def test_a_doorbell_and_not_a_poll_starts_a_job(site):
    with site.worker(poll_s=PATIENCE_S, heartbeat_s=PATIENCE_S):
        site.until(site.submit())
        began = time.monotonic()
        for _ in range(5):
            site.until(site.submit())
        assert time.monotonic() - began < 2.0


def test_a_lost_ring_is_made_up_for_by_the_poll(site, monkeypatch):
    with site.worker(poll_s=0.05, heartbeat_s=PATIENCE_S):
        monkeypatch.setattr(site.doorbell, "ring", lambda topic: None)
        assert site.until(site.submit()).state == State.SUCCEEDED


def test_a_bad_request_fails_once_with_its_reason_and_the_next_job_is_done(site):
    with site.worker():
        job = site.until(site.submit(end="refuse"))
        assert site.until(site.submit()).state == State.SUCCEEDED
    assert (job.state, job.reason, job.attempt) == (State.FAILED, "bad_request", 1)
    assert job.error == {"detail": "that cannot be", "pointer": "/dataset"}


def test_a_poisoned_payload_fails_its_job_and_no_other(site):
    with site.worker():
        job = site.until(site.submit(end="stumble"))
        assert site.until(site.submit()).state == State.SUCCEEDED
    assert (job.state, job.reason, job.attempt) == (State.FAILED, "internal", 1)
    assert "KeyError" not in json.dumps(job.error)


def test_a_crash_is_retried(site):
    with site.worker():
        job = site.until(site.submit(end="crash once"))
    assert (job.state, job.attempt, job.crashes) == (State.SUCCEEDED, 2, 1)


def test_a_job_that_always_crashes_fails_with_the_signal_and_the_worker_lives(site):
    with site.worker(crash_limit=3):
        job = site.until(site.submit(end="crash"))
        assert site.until(site.submit()).state == State.SUCCEEDED
    assert (job.state, job.reason, job.attempt, job.crashes) == (State.FAILED, "crashed", 3, 3)
    assert "SIGKILL" in job.error["detail"]


def test_a_running_job_is_cancelled_at_once(site):
    with site.worker(heartbeat_s=PATIENCE_S):
        job_id = site.submit(end="sleep", seconds=PATIENCE_S)
        site.until_running(job_id)
        began = time.monotonic()
        site.cancel(job_id)
        assert site.until(job_id).state == State.CANCELLED
        assert time.monotonic() - began < 2.0
        assert site.until(site.submit()).state == State.SUCCEEDED


def test_a_job_that_runs_past_its_time_is_killed(site):
    with site.worker(heartbeat_s=PATIENCE_S):
        job = site.until(site.submit(end="sleep", seconds=PATIENCE_S, timeout_s=0.3))
        assert site.until(site.submit()).state == State.SUCCEEDED
    assert (job.state, job.reason, job.attempt) == (State.FAILED, "timed_out", 1)
    assert "0.3 s" in job.error["detail"]
    assert 0.3 <= job.finished_at - job.started_at < 3.0


def test_a_job_for_a_device_that_the_worker_lacks_waits(site):
    with site.worker():
        job_id = site.submit(device="cuda")
        site.until(site.submit(device="cpu"))
        assert site.job(job_id).state == State.QUEUED


def test_trainings_never_take_the_last_free_child_of_several(site):
    with site.worker(children=2):
        trainings = [site.submit_training(name, epochs=5, pause_s=0.2) for name in "ab"]
        site.until(trainings[0], lambda job: job.saved is not None)
        assert site.until(site.submit()).state == State.SUCCEEDED
        assert site.job(trainings[1]).state == State.QUEUED
        assert site.until(trainings[1]).state == State.SUCCEEDED
        assert site.job(trainings[1]).started_at >= site.job(trainings[0]).finished_at


def test_an_only_child_takes_trainings(site):
    with site.worker(children=1):
        assert site.until(site.submit_training()).state == State.SUCCEEDED


# Trainings


def test_a_training_ends_with_its_history_and_two_checkpoints_and_leaves_no_file(site):
    with site.worker():
        job = site.until(site.submit_training(epochs=4, best=2))
    result = job.result
    assert [row["epoch"] for row in result["history"]] == [1, 2, 3, 4]
    assert result["best"] == {"epoch": 2, "metric": "loss", "value": 0.5}
    assert result["stopped"] == {"reason": "completed", "epoch": 4}
    for name, epoch in (("checkpoint", 2), ("last_checkpoint", 4)):
        assert site.store.path(result[name]).read_text() == f"epoch {epoch} of it"
    assert site.lineage(job.id) == {result["checkpoint"]: 2, result["last_checkpoint"]: 4}
    assert site.uploads() == []


def test_a_training_lives_through_more_crashes_than_the_limit_if_it_gets_on(site):
    with site.worker(crash_limit=2):
        job = site.until(site.submit_training(epochs=6, crash_after=[1, 2, 3, 4, 5]))
    assert (job.state, job.attempt) == (State.SUCCEEDED, 6)
    assert [row["epoch"] for row in job.result["history"]] == [1, 2, 3, 4, 5, 6]
    assert site.uploads() == []


def test_a_training_that_crashes_without_getting_on_fails_and_keeps_what_it_has(site):
    with site.worker(crash_limit=2):
        job = site.until(site.submit_training(epochs=6, crash_after=[2], end="crash later"))
    assert (job.state, job.reason, job.crashes) == (State.FAILED, "crashed", 2)
    assert [row["epoch"] for row in job.result["history"]] == [1, 2]
    assert job.result["stopped"] == {"reason": "crashed", "epoch": 2}
    assert site.store.path(job.result["checkpoint"]).read_text() == "epoch 2 of it"


def test_a_cancelled_training_keeps_its_best_checkpoint_and_can_be_resumed(site):
    with site.worker():
        job_id = site.submit_training(epochs=50, best=1, pause_s=0.1)
        site.until(job_id, lambda job: job.saved and job.saved["epoch"] >= 2)
        asked = time.monotonic()
        site.cancel(job_id)
        job = site.until(job_id)
        assert time.monotonic() - asked < 5
        assert job.state == State.CANCELLED
        assert job.result["stopped"] == {"reason": "cancelled", "epoch": job.saved["epoch"]}
        assert site.store.path(job.result["checkpoint"]).read_text() == "epoch 1 of it"
        site.until_uploads(saving.files(job.saved))
        done = job.saved["epoch"]
        site.change(job_id, payload={**job.payload, "pause_s": 0.0, "epochs": done + 2})
        site.resume(job_id)
        job = site.until(job_id)
    assert job.state == State.SUCCEEDED
    assert [row["epoch"] for row in job.result["history"]] == list(range(1, done + 3))
    assert site.uploads() == []


def test_a_training_that_diverged_fails_with_what_came_before(site):
    with site.worker():
        job = site.until(site.submit_training(epochs=9, diverge_after=3))
    assert (job.state, job.reason) == (State.FAILED, "diverged")
    assert job.error == {"detail": "the loss was not finite", "pointer": "/optimizer/lr"}
    assert job.result["stopped"] == {"reason": "diverged", "epoch": 3}
    assert job.result["best"]["epoch"] == 3


def test_a_training_whose_checkpoint_cannot_be_published_fails_and_can_be_resumed(
    site, monkeypatch
):
    def fail(name, digest):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(site.store, "publish_upload", fail)
        with site.worker():
            job_id = site.submit_training(epochs=2)
            job = site.until(job_id)
    assert (job.state, job.reason) == (State.FAILED, "internal")
    assert (job.result["checkpoint"], len(job.result["history"])) == (None, 2)
    with site.worker():
        site.resume(job_id)
        job = site.until(job_id)
    assert job.state == State.SUCCEEDED
    assert site.store.path(job.result["checkpoint"]).read_text() == "epoch 2 of it"


def test_a_training_without_a_stored_epoch_fails_without_a_result(site):
    with site.worker(crash_limit=1):
        job = site.until(site.submit_training(end="crash"))
    assert (job.state, job.reason, job.result) == (State.FAILED, "crashed", None)


def test_a_training_that_its_worker_gives_up_goes_on_where_it_was(site):
    with site.worker():
        job_id = site.submit_training(epochs=8, pause_s=0.1)
        site.until(job_id, lambda job: job.saved and job.saved["epoch"] >= 2)
    job = site.job(job_id)
    assert (job.state, job.crashes) == (State.QUEUED, 0)
    with site.worker():
        job = site.until(job_id)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 2)
    assert [row["epoch"] for row in job.result["history"]] == list(range(1, 9))


def test_epochs_that_the_database_could_not_take_are_written_once_it_can(site, monkeypatch):
    failures = []
    original = saving.record

    def record(*arguments, **named):
        if len(failures) < 3:
            failures.append(None)
            raise OperationalError("UPDATE", {}, Exception("database is locked"))
        return original(*arguments, **named)

    monkeypatch.setattr(saving, "record", record)
    with site.worker():
        job = site.until(site.submit_training(epochs=5, crash_after=[2]))
    assert len(failures) == 3
    assert job.state == State.SUCCEEDED
    assert [row["epoch"] for row in job.result["history"]] == [1, 2, 3, 4, 5]
    assert site.uploads() == []


def test_a_dead_workers_training_is_taken_over_where_it_was(site):
    with site.worker():
        job_id = site.submit_training(epochs=6, crash_after=[3])
        job = site.until(job_id)
    before = job.saved
    site.change(
        job_id,
        state="running",
        attempt=job.attempt + 1,
        saved={**before, "epoch": 3},
        lease_expires_at=time.time() - 1,
        crashes=2,
    )
    with site.worker(crash_limit=3):
        job = site.until(job_id)
    assert (job.state, job.reason) == (State.FAILED, "crashed")
    assert job.result["stopped"]["reason"] == "crashed"
    assert job.result["checkpoint"] is None  # its files went when it had succeeded before


# Ingestions


def test_what_an_ingestion_found_is_written_in_the_transaction_that_ends_it(site):
    def conclude(db, job, result, now):
        db.execute(insert(meta).values(key=job.id, value=result["dataset"]["digest"]))
        return {"datasets": ["some@1"]}

    upload = site.upload()
    with site.worker(conclude=conclude):
        job = site.until(site.submit("ingestion", upload=upload))
    assert job.result == {"datasets": ["some@1"]}
    with reading(site.database) as db:
        assert db.scalar(select(meta.c.value).where(meta.c.key == job.id)) == upload


def test_nothing_is_written_for_an_ingestion_whose_lease_was_lost(site):
    lost = threading.Event()

    def conclude(db, job, result, now):
        if job.kind == "evaluation":
            return result
        db.execute(insert(meta).values(key=job.id, value="found"))
        db.execute(update(jobs).where(jobs.c.id == job.id).values(attempt=job.attempt + 1))
        lost.set()
        return {}

    with site.worker(conclude=conclude):
        job_id = site.submit("ingestion", upload=site.upload())
        assert lost.wait(PATIENCE_S)
        assert site.until(site.submit()).state == State.SUCCEEDED
    job = site.job(job_id)
    assert (job.state, job.attempt) == (State.RUNNING, 1)
    with reading(site.database) as db:
        assert db.scalar(select(meta.c.value).where(meta.c.key == job_id)) is None


def test_an_ingestion_that_cannot_be_concluded_fails_and_the_worker_lives(site):
    def conclude(db, job, result, now):
        if job.kind == "evaluation":
            return result
        db.execute(insert(meta).values(key=job.id, value="found"))
        raise RuntimeError("secret")

    with site.worker(conclude=conclude):
        job = site.until(site.submit("ingestion", upload=site.upload()))
        assert site.until(site.submit()).state == State.SUCCEEDED
    assert (job.state, job.reason) == (State.FAILED, "internal")
    assert "secret" not in job.error["detail"]
    with reading(site.database) as db:
        assert db.scalar(select(meta.c.value).where(meta.c.key == job.id)) is None


@pytest.mark.parametrize("end", ["succeed", "refuse", "crash", "cancel"])
def test_an_upload_is_dropped_however_its_ingestion_ends(site, end):
    with site.worker(crash_limit=1):
        upload = site.upload()
        ending = {"end": "sleep", "seconds": PATIENCE_S} if end == "cancel" else {"end": end}
        job_id = site.submit("ingestion", upload=upload, **ending)
        if end == "cancel":
            site.until_running(job_id)
            assert site.uploads() == [upload]
            site.cancel(job_id)
        site.until(job_id)
    assert site.uploads() == []


def test_an_upload_stays_while_its_ingestion_will_be_tried_again(site):
    seen = []

    def conclude(db, job, result, now):
        seen.append(site.store.upload_path(job.payload["upload"]).read_bytes())
        return {}

    with site.worker(conclude=conclude):
        job = site.until(site.submit("ingestion", upload=site.upload(), end="crash once"))
    assert (job.state, job.attempt) == (State.SUCCEEDED, 2)
    assert seen == [b"anything"]


def test_a_worker_sweeps_old_uploads_that_no_unfinished_ingestion_needs(site):
    young, needed, unnamed, finished = (site.upload() for _ in range(4))
    site.submit("ingestion", upload=needed, device="cuda")  # which the worker does not have
    site.change(
        site.submit("ingestion", upload=finished), state=State.CANCELLED, finished_at=time.time()
    )
    yesterday = time.time() - 90_000
    for name in (needed, unnamed, finished):
        os.utime(site.store.upload_path(name), (yesterday, yesterday))
    with site.worker():
        site.until_uploads({young, needed})


def test_the_files_of_a_training_stay_as_long_as_it_can_be_resumed(site):
    with site.worker():
        job = site.until(site.submit_training(epochs=9, best=2, diverge_after=3))
    kept = saving.files(job.saved)
    assert len(kept) == 3
    for name in kept:
        os.utime(site.folder / "uploads" / name, (1e9, 1e9))
    with site.worker(sweep_s=0.05, heartbeat_s=0.05):
        site.until(site.submit())
        time.sleep(0.3)
        assert set(site.uploads()) == kept
        site.change(job.id, finished_at=time.time() - 31 * 86400)
        site.until_uploads(set())
        assert site.job(job.id).saved is None
    with pytest.raises(queue.JobNotResumable, match="initial_checkpoint"):
        site.resume(job.id)


def test_a_worker_sweeps_again_while_it_works(site):
    with site.worker(sweep_s=0.05, heartbeat_s=0.05):
        site.until(site.submit())
        draft = site.folder / "tmp" / "left"
        draft.write_bytes(b"by a process that was killed")
        os.utime(draft, (time.time() - 90, time.time() - 90))
        end = time.monotonic() + PATIENCE_S
        while draft.exists():
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_store_that_cannot_be_swept_stops_no_worker(site):
    (site.folder / "tmp").rmdir()
    with structlog.testing.capture_logs() as lines, site.worker():
        assert site.until(site.submit()).state == State.SUCCEEDED
    assert [line["event"] for line in lines].count("store_not_swept") == 1


# Leases


def test_leases_are_renewed_while_a_job_runs(site):
    with site.worker(lease_s=0.6, heartbeat_s=0.1):
        job = site.until(site.submit(end="sleep", seconds=1.5))
    assert (job.state, job.attempt, job.crashes) == (State.SUCCEEDED, 1, 0)


def test_a_worker_that_lost_its_lease_stops_the_attempt_and_writes_nothing(site):
    with site.worker():
        job_id = site.submit(end="sleep", seconds=PATIENCE_S)
        site.until_running(job_id)
        site.change(job_id, attempt=7, worker="another", lease_expires_at=time.time() + 60)
        assert site.until(site.submit()).state == State.SUCCEEDED
    job = site.job(job_id)
    assert (job.state, job.attempt, job.worker) == (State.RUNNING, 7, "another")


def test_a_job_of_a_dead_worker_is_taken_over(site):
    job_id = site.submit()
    with writing(site.database) as db:
        now = time.time() - 100
        queue.claim(db, worker="dead", devices=["cpu"], kinds=None, lease_s=1, now=now)
    with site.worker():
        job = site.until(job_id)
    assert (job.state, job.attempt, job.crashes) == (State.SUCCEEDED, 2, 1)


def test_a_stop_returns_running_jobs_to_the_queue_without_a_crash(site):
    with site.worker():
        job_id = site.submit(end="sleep", seconds=PATIENCE_S)
        site.until_running(job_id)
        began = time.monotonic()
    assert time.monotonic() - began < 3.0
    job = site.job(job_id)
    assert (job.state, job.crashes, job.worker) == (State.QUEUED, 0, None)
    assert site.workers() == {}


def test_two_workers_share_the_jobs_of_one_database(site):
    with site.worker(0) as one, site.worker(0) as other:
        submitted = [site.submit(end="sleep", seconds=0.01) for _ in range(40)]
        found = [site.until(job_id) for job_id in submitted]
    assert {job.state for job in found} == {State.SUCCEEDED}
    assert {job.attempt for job in found} == {1}
    assert {job.worker for job in found} == {one.id, other.id}


# A database that is away, and a disk that is full


@pytest.mark.parametrize("detail", ["database is locked", "database or disk is full"])
def test_a_result_outlives_a_stall_of_the_database(site, monkeypatch, detail):
    away, tried = threading.Event(), threading.Event()

    @contextmanager
    def stalling(engine):
        if away.is_set():
            tried.set()
            raise OperationalError("COMMIT", {}, Exception(detail))
        with writing(engine) as db:
            yield db

    monkeypatch.setattr(worker_module, "writing", stalling)
    with site.worker():
        job_id = site.submit(end="sleep", seconds=0.3)
        site.until_running(job_id)
        away.set()
        time.sleep(0.6)
        assert tried.is_set()
        away.clear()
        job = site.until(job_id)
    assert (job.state, job.attempt, job.crashes) == (State.SUCCEEDED, 1, 0)


def test_an_error_nobody_foresaw_does_not_end_the_worker(site, monkeypatch):
    claim, failures = queue.claim, iter([RuntimeError("odd"), ValueError("odd")])

    def failing(*arguments, **options):
        if (failure := next(failures, None)) is not None:
            raise failure
        return claim(*arguments, **options)

    monkeypatch.setattr(queue, "claim", failing)
    with site.worker(ready=False):
        assert site.until(site.submit()).state == State.SUCCEEDED


# Its own row and its log


def test_a_worker_publishes_what_its_children_say_and_signs_off(site):
    with site.worker(children=2) as worker:
        row = site.workers()[worker.id]
        first = row.last_seen_at
        end = time.monotonic() + PATIENCE_S
        while site.workers()[worker.id].last_seen_at == first:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert row.device == "cpu"
    assert row.details == {
        "children": 2,
        "threads": 3,
        "policies": {"cpu": {"device": "cpu", "threads": 3}},
        "environment": {"os": "any"},
        "onnx_policies": {},
        "catalog": {},
        "plugins": [],
        "provides": {},
    }
    assert row.additions is None
    assert site.workers() == {}


def test_workers_that_never_signed_off_are_forgotten(site):
    with site.worker() as worker:
        row = site.workers()[worker.id]._asdict()
        with writing(site.database) as db:
            old = {**row, "id": "old", "last_seen_at": time.time() - 51}
            db.execute(insert(workers), [old, {**row, "id": "young"}])
        end = time.monotonic() + PATIENCE_S
        while "old" in site.workers():
            assert time.monotonic() < end
            time.sleep(0.02)
        assert "young" in site.workers()


def test_a_row_that_somebody_deleted_comes_back(site):
    with site.worker() as worker:
        with writing(site.database) as db:
            db.execute(delete(workers))
        end = time.monotonic() + PATIENCE_S
        while worker.id not in site.workers():
            assert time.monotonic() < end
            time.sleep(0.02)


def test_the_log_gives_the_reason_that_is_stored(site):
    with structlog.testing.capture_logs() as lines, site.worker():
        ends = [site.submit(), site.submit(end="refuse"), site.submit(end="sleep", seconds=60)]
        site.until_running(ends[2])
        site.cancel(ends[2])
        found = {job_id: site.until(job_id) for job_id in ends}
    logged = {line["id"]: line["reason"] for line in lines if "reason" in line}
    assert logged == {job_id: job.reason for job_id, job in found.items()}
    assert list(logged.values()) == ["completed", "bad_request", "cancelled"]


def test_each_state_of_a_job_is_one_line_of_the_log(site):
    with structlog.testing.capture_logs() as lines, site.worker():
        done, refused = site.submit(), site.submit(end="refuse")
        site.until(done)
        site.until(refused)
    said = [line for line in lines if line["event"] == "job"]
    assert [(line["id"], line["state"]) for line in said if line["id"] == done] == [
        (done, "running"),
        (done, "succeeded"),
    ]
    last = [line for line in said if line["id"] == refused][-1]
    assert (last["state"], last["reason"], last["attempt"]) == ("failed", "bad_request", 1)
    assert last["duration_s"] >= 0
    json.dumps(lines)


def test_a_worker_whose_engine_cannot_start_says_so(site):
    engine = ProcessEngine(site.engine(1)._options, device="cpu", children=1)
    engine.start = lambda: (_ for _ in ()).throw(EngineError("device 'cuda' is not here"))
    worker = Worker(
        database=site.database,
        store=site.store,
        doorbell=site.doorbell,
        engine=engine,
        options=WorkerOptions(),
        conclude=lambda db, job, result, now: result,
    )
    with pytest.raises(EngineError, match="'cuda' is not here"):
        worker.run()
