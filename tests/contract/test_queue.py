"""The queue's promises, on both databases."""

import threading

import pytest

from service.db.connection import writing
from service.jobs import queue
from service.jobs.lifecycle import State

NOW = 1_795_000_000.0
DETAIL = "the child was killed by SIGKILL"


# Submitting and claiming


def test_a_submitted_job_is_queued_as_it_was_asked_for(jobs_queue):
    job = jobs_queue.submit(labels={"branch": "main"}, timeout_s=30.0, device="cuda:1")
    assert jobs_queue.get(job.id) == job
    assert (job.state, job.attempt, job.crashes, job.events) == (State.QUEUED, 0, 0, 1)
    assert (job.reason, job.started_at, job.finished_at, job.worker) == (None,) * 4
    assert job.request == {"checkpoint": "c"}
    assert job.payload == {"checkpoint": "c", "secret": 1}
    assert (job.created_at, job.created_by, job.labels) == (NOW, "ann", {"branch": "main"})
    assert (job.timeout_s, job.device, job.cancel_requested) == (30.0, "cuda:1", False)


def test_an_unknown_kind_of_job_is_refused(jobs_queue):
    with pytest.raises(ValueError, match="known: evaluation"):
        jobs_queue.submit("evaluatoin")


def test_there_is_no_job_that_nobody_submitted(jobs_queue):
    job = jobs_queue.submit()
    assert jobs_queue.get("no such job") is None
    assert jobs_queue.get(job.id) == job


def test_a_claim_starts_the_first_attempt_under_a_lease(jobs_queue):
    submitted = jobs_queue.submit()
    job = jobs_queue.claim("w7", now=NOW + 5, lease_s=60.0)
    assert job.id == submitted.id
    assert (job.state, job.attempt, job.worker) == (State.RUNNING, 1, "w7")
    assert (job.started_at, job.lease_expires_at) == (NOW + 5, NOW + 65)
    assert jobs_queue.get(job.id) == job


def test_an_empty_queue_has_nothing_to_claim(jobs_queue):
    assert jobs_queue.claim() is None
    jobs_queue.submit()
    assert jobs_queue.claim() is not None
    assert jobs_queue.claim() is None


def test_a_job_goes_to_a_worker_that_has_all_that_it_needs(jobs_queue):
    both = jobs_queue.submit(needs={"one", "other"})
    single = jobs_queue.submit(needs={"other"}, now=NOW + 1)
    free = jobs_queue.submit(now=NOW + 2)
    assert jobs_queue.claim(provides=["one"]).id == free.id
    assert jobs_queue.claim(provides=["one"]) is None
    assert jobs_queue.claim() is None
    assert jobs_queue.claim(provides=["other", "third"]).id == single.id
    assert jobs_queue.claim(provides=["third", "other", "one"]).id == both.id


def test_evaluations_go_first_then_ingestions_then_trainings_each_in_order_of_arrival(jobs_queue):
    kinds = ["training", "evaluation", "ingestion", "evaluation", "training", "ingestion"]
    ids = [jobs_queue.submit(kind, now=NOW + i).id for i, kind in enumerate(kinds)]
    claimed = [jobs_queue.claim(now=NOW + 100).id for _ in kinds]
    assert claimed == [ids[i] for i in (1, 3, 2, 5, 0, 4)]


def test_a_worker_takes_only_jobs_for_its_devices_and_kinds(jobs_queue):
    on_gpu = jobs_queue.submit(device="cuda")
    training = jobs_queue.submit("training", now=NOW + 1)
    anywhere = jobs_queue.submit(now=NOW + 2)
    assert jobs_queue.claim(devices=["cpu"], kinds=["ingestion"]) is None
    assert jobs_queue.claim(devices=["cpu"], kinds=["evaluation"]).id == anywhere.id
    assert jobs_queue.claim(devices=["cpu"]).id == training.id
    assert jobs_queue.claim(devices=["cpu"]) is None
    assert jobs_queue.claim(devices=["cuda", "cuda:0"]).id == on_gpu.id


@pytest.mark.parametrize("threads", [8])
def test_no_job_is_given_to_two_of_many_claimers(jobs_queue, threads):
    submitted = {jobs_queue.submit(now=NOW + i).id for i in range(120)}
    claimed, failures = [], []
    start = threading.Barrier(threads)

    def work(name):
        try:
            start.wait()
            while (job := jobs_queue.claim(name)) is not None:
                claimed.append(job.id)
                assert jobs_queue.succeed(job)
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # On PostgreSQL a claimer that finds the first job being taken takes another, so it can see an
    # empty queue only when every job is being taken.
    assert not failures
    assert len(claimed) == 120
    assert set(claimed) == submitted
    assert jobs_queue.totals()["evaluation", "succeeded"][0] == 120


@pytest.mark.postgres  # SQLite's writers are serial
@pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
def test_a_claim_does_not_wait_for_another_that_has_not_committed(database, jobs_queue):
    first, second = jobs_queue.submit(), jobs_queue.submit(now=NOW + 1)
    with writing(database) as db:
        taken = queue.claim(db, worker="w1", devices=["cpu"], kinds=None, lease_s=60.0, now=NOW + 2)
        assert taken.id == first.id
        assert jobs_queue.claim("w2").id == second.id
        assert jobs_queue.claim("w3") is None


# Ending


def test_a_job_that_succeeds_keeps_its_result_and_key(jobs_queue):
    jobs_queue.submit()
    job = jobs_queue.claim(now=NOW + 1)
    assert jobs_queue.succeed(job, result={"metrics": {"loss": 0.25}}, key="k", now=NOW + 3)
    ended = jobs_queue.get(job.id)
    assert (ended.state, ended.reason, ended.key) == (State.SUCCEEDED, "completed", "k")
    assert ended.result == {"metrics": {"loss": 0.25}}
    assert (ended.finished_at, ended.lease_expires_at, ended.error) == (NOW + 3, None, None)
    assert ended.worker == "w1"


def test_a_job_that_fails_says_why(jobs_queue):
    jobs_queue.submit()
    job = jobs_queue.claim()
    assert jobs_queue.fail(job, reason="non_finite_logits", detail="sample 3 has a NaN")
    ended = jobs_queue.get(job.id)
    assert (ended.state, ended.reason) == (State.FAILED, "non_finite_logits")
    assert ended.error == {"detail": "sample 3 has a NaN"}
    assert ended.result is None
    assert jobs_queue.claim() is None


MOVES_OF_A_WORKER = ["succeed", "fail", "cancelled", "crash", "release"]


@pytest.mark.parametrize("move", MOVES_OF_A_WORKER)
def test_a_worker_that_lost_its_lease_cannot_finish_the_job(jobs_queue, move):
    jobs_queue.submit()
    lost = jobs_queue.claim("w1", lease_s=60.0)
    jobs_queue.reap(now=NOW + 61)
    held = jobs_queue.claim("w2", now=NOW + 62)
    before = jobs_queue.get(held.id)
    assert not getattr(jobs_queue, move)(lost)
    assert not jobs_queue.progress(lost, 1)
    assert jobs_queue.renew(lost) == {}
    assert jobs_queue.get(held.id) == before
    assert held.attempt == lost.attempt + 1
    assert jobs_queue.succeed(held)


@pytest.mark.parametrize("first", MOVES_OF_A_WORKER)
@pytest.mark.parametrize("second", MOVES_OF_A_WORKER)
def test_an_attempt_ends_once(jobs_queue, first, second):
    jobs_queue.submit()
    job = jobs_queue.claim()
    assert getattr(jobs_queue, first)(job)
    before = jobs_queue.get(job.id)
    assert not getattr(jobs_queue, second)(job)
    assert jobs_queue.get(job.id) == before


# Crashes and releases


def test_a_job_that_crashes_is_retried_until_the_limit_and_then_fails_with_the_last_words(
    jobs_queue,
):
    jobs_queue.submit()
    for crashes in (1, 2):
        again = jobs_queue.crash(jobs_queue.claim(), limit=3)
        assert (again.state, again.crashes, again.attempt) == (State.QUEUED, crashes, crashes)
        assert (again.reason, again.error, again.worker, again.started_at) == (None,) * 4
    failed = jobs_queue.crash(jobs_queue.claim(), limit=3, now=NOW + 9)
    assert (failed.state, failed.reason, failed.crashes) == (State.FAILED, "crashed", 3)
    assert failed.error == {"detail": f"3 attempts crashed; the last: {DETAIL}"}
    assert failed.finished_at == NOW + 9
    assert jobs_queue.claim() is None


def test_a_limit_of_one_crash_fails_at_once(jobs_queue):
    jobs_queue.submit()
    failed = jobs_queue.crash(jobs_queue.claim(), limit=1)
    assert (failed.state, failed.error) == (State.FAILED, {"detail": DETAIL})


def test_a_release_is_no_crash_and_the_attempt_still_rises(jobs_queue):
    first = jobs_queue.submit()
    jobs_queue.submit(now=NOW + 1)
    for attempt in (1, 2, 3, 4):
        job = jobs_queue.claim()
        assert (job.id, job.attempt, job.crashes) == (first.id, attempt, 0)
        assert jobs_queue.release(job)  # it goes back to its place, before the second job
    assert jobs_queue.get(first.id).state == State.QUEUED


def test_a_release_keeps_the_crashes_counted(jobs_queue):
    jobs_queue.submit()
    jobs_queue.crash(jobs_queue.claim())
    jobs_queue.release(jobs_queue.claim())
    assert jobs_queue.claim().crashes == 1


def test_progress_belongs_to_an_attempt(jobs_queue):
    jobs_queue.submit()
    job = jobs_queue.claim()
    assert jobs_queue.progress(job, 3)
    assert jobs_queue.get(job.id).progress == {"done": 3, "total": 10, "unit": "examples"}
    jobs_queue.release(job)
    assert jobs_queue.get(job.id).progress is None


# Leases


def test_a_lease_that_is_renewed_is_not_reaped(jobs_queue):
    jobs_queue.submit()
    job = jobs_queue.claim(lease_s=60.0)
    assert jobs_queue.renew(job, lease_s=60.0, now=NOW + 50) == {job.id: False}
    assert jobs_queue.reap(now=NOW + 109) == []
    assert jobs_queue.get(job.id).lease_expires_at == NOW + 110


def test_a_lease_that_expired_is_a_crash(jobs_queue):
    jobs_queue.submit()
    job = jobs_queue.claim("w9", lease_s=60.0)
    (reaped,) = jobs_queue.reap(now=NOW + 61)
    assert (reaped.id, reaped.state, reaped.crashes) == (job.id, State.QUEUED, 1)
    assert jobs_queue.events(job.id)[-1].data["detail"] == "worker w9 stopped renewing its lease"
    assert jobs_queue.reap(now=NOW + 61) == []


def test_leases_that_keep_expiring_fail_the_job(jobs_queue):
    jobs_queue.submit()
    for attempt in range(3):
        job = jobs_queue.claim(now=NOW + 100 * attempt)
        (reaped,) = jobs_queue.reap(limit=3, now=NOW + 100 * attempt + 61)
    assert reaped == jobs_queue.get(job.id)
    assert (reaped.state, reaped.reason) == (State.FAILED, "crashed")


def test_many_leases_are_renewed_together_and_the_lost_ones_are_missing(jobs_queue):
    for i in range(3):
        jobs_queue.submit(now=NOW + i)
    a, b, c = (jobs_queue.claim() for _ in range(3))
    jobs_queue.succeed(b)
    jobs_queue.cancel(c.id)
    assert jobs_queue.renew(a, b, c) == {a.id: False, c.id: True}
    assert jobs_queue.renew() == {}


# Cancelling


def test_a_queued_job_is_cancelled_at_once(jobs_queue):
    job = jobs_queue.submit()
    cancelled = jobs_queue.cancel(job.id, now=NOW + 1)
    assert (cancelled.state, cancelled.reason) == (State.CANCELLED, "cancelled")
    assert (cancelled.started_at, cancelled.finished_at) == (None, NOW + 1)
    assert jobs_queue.claim() is None


def test_a_running_job_is_asked_to_stop(jobs_queue):
    jobs_queue.submit()
    job = jobs_queue.claim()
    for _ in range(2):  # asking twice is asking once
        asked = jobs_queue.cancel(job.id)
        assert (asked.state, asked.cancel_requested) == (State.RUNNING, True)
    assert jobs_queue.renew(job) == {job.id: True}
    assert jobs_queue.cancelled(job, now=NOW + 2)
    ended = jobs_queue.get(job.id)
    assert (ended.state, ended.reason) == (State.CANCELLED, "cancelled")
    assert ended.finished_at == NOW + 2


@pytest.mark.parametrize("move", ["succeed", "fail", "cancelled"])
def test_a_job_that_ended_cannot_be_cancelled(jobs_queue, move):
    jobs_queue.submit()
    job = jobs_queue.claim()
    getattr(jobs_queue, move)(job)
    with pytest.raises(queue.JobEnded) as caught:
        jobs_queue.cancel(job.id)
    assert caught.value.job == jobs_queue.get(job.id)


def test_a_job_that_is_not_there_cannot_be_cancelled(jobs_queue):
    with pytest.raises(queue.JobMissing, match="no job nothing"):
        jobs_queue.cancel("nothing")


def test_work_that_was_done_before_the_cancel_arrived_counts(jobs_queue):
    jobs_queue.submit()
    job = jobs_queue.claim()
    jobs_queue.cancel(job.id)
    assert jobs_queue.succeed(job, result={"a": 1})
    assert jobs_queue.get(job.id).state == State.SUCCEEDED


@pytest.mark.parametrize("ending", ["crash", "release", "reap"])
def test_a_job_asked_to_stop_is_never_queued_again(jobs_queue, ending):
    jobs_queue.submit()
    job = jobs_queue.claim()
    jobs_queue.cancel(job.id)
    if ending == "reap":
        jobs_queue.reap(now=NOW + 61)
    else:
        getattr(jobs_queue, ending)(job)
    ended = jobs_queue.get(job.id)
    assert (ended.state, ended.reason, ended.error) == (State.CANCELLED, "cancelled", None)


@pytest.mark.parametrize("round_", range(5))
def test_a_cancel_and_a_claim_at_once_leave_a_job_that_ran_or_did_not(jobs_queue, round_):
    job = jobs_queue.submit()
    start = threading.Barrier(2)
    outcome = {}

    def run(name, function, *arguments):
        start.wait()
        outcome[name] = function(*arguments)

    threads = [
        threading.Thread(target=run, args=("claim", jobs_queue.claim)),
        threading.Thread(target=run, args=("cancel", jobs_queue.cancel, job.id)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    now = jobs_queue.get(job.id)
    if outcome["claim"] is None:
        assert (now.state, outcome["cancel"].state) == (State.CANCELLED, State.CANCELLED)
    else:
        assert (now.state, now.cancel_requested) == (State.RUNNING, True)
    assert [event.seq for event in jobs_queue.events(job.id)] == list(range(1, now.events + 1))
