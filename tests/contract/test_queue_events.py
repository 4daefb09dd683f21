"""What the queue writes down besides the jobs: their events and the totals."""

import threading

import pytest
from sqlalchemy import func, select

from service.db.connection import writing
from service.db.tables import job_events, jobs
from service.jobs import queue

NOW = 1_795_000_000.0
DETAIL = "the child was killed by SIGKILL"


# Events


def test_every_move_and_all_progress_are_events_numbered_without_gaps(jobs_queue):
    jobs_queue.submit()
    job = jobs_queue.claim(now=NOW + 1)
    jobs_queue.progress(job, 5, now=NOW + 2)
    jobs_queue.crash(job, now=NOW + 3)
    job = jobs_queue.claim(now=NOW + 4)
    jobs_queue.release(job, now=NOW + 5)
    job = jobs_queue.claim(now=NOW + 6)
    jobs_queue.succeed(job, now=NOW + 7)
    events = jobs_queue.events(job.id)
    assert [event.seq for event in events] == list(range(1, 10))
    assert [event.created_at - NOW for event in events] == [0, 1, 2, 3, 4, 5, 6, 7, 7]
    assert [(event.type, event.data) for event in events] == [
        ("state", {"state": "queued", "attempt": 0}),
        ("state", {"state": "running", "attempt": 1}),
        ("progress", {"done": 5, "total": 10, "unit": "examples"}),
        ("state", {"state": "queued", "attempt": 1, "reason": "crashed", "detail": DETAIL}),
        ("state", {"state": "running", "attempt": 2}),
        ("state", {"state": "queued", "attempt": 2, "reason": "released"}),
        ("state", {"state": "running", "attempt": 3}),
        ("state", {"state": "succeeded", "attempt": 3, "reason": "completed"}),
        ("end", {"state": "succeeded", "attempt": 3, "reason": "completed"}),
    ]
    assert jobs_queue.get(job.id).events == 9


def test_events_resume_after_a_number(jobs_queue):
    job = jobs_queue.submit()
    jobs_queue.cancel(job.id)
    assert [event.seq for event in jobs_queue.events(job.id, after=1)] == [2, 3]
    assert jobs_queue.events(job.id, after=3) == []


def test_events_of_many_writers_have_no_gaps_and_rise_with_what_they_say(jobs_queue):
    jobs_queue.submit()
    job = jobs_queue.claim()

    def report():
        for _ in range(10):
            jobs_queue.progress(job, 1)

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.seq for event in jobs_queue.events(job.id)] == list(range(1, 43))


def test_a_transition_that_is_rolled_back_leaves_no_event(jobs_queue):
    job = jobs_queue.submit()

    def claim_and_stumble():
        with writing(jobs_queue.engine) as db:
            queue.claim(db, worker="w", devices=[], kinds=None, lease_s=1.0, now=NOW)
            raise KeyError

    with pytest.raises(KeyError):
        claim_and_stumble()
    assert jobs_queue.get(job.id) == job
    assert len(jobs_queue.events(job.id)) == 1


def test_events_go_with_their_job(jobs_queue):
    job = jobs_queue.submit()
    with writing(jobs_queue.engine) as db:
        db.execute(jobs.delete().where(jobs.c.id == job.id))
        assert db.execute(select(func.count()).select_from(job_events)).scalar_one() == 0


# Totals


def test_totals_count_what_ended_and_how_long_it_ran(jobs_queue):
    for i in range(5):
        jobs_queue.submit(now=NOW + i)
    jobs_queue.submit("ingestion")
    jobs_queue.succeed(jobs_queue.claim(now=NOW), forward_s=0.5, now=NOW + 2)
    jobs_queue.succeed(jobs_queue.claim(now=NOW), forward_s=0.25, now=NOW + 4)
    jobs_queue.fail(jobs_queue.claim(now=NOW), now=NOW + 1)
    jobs_queue.crash(jobs_queue.claim(now=NOW), limit=1, now=NOW + 8)
    jobs_queue.cancel(jobs_queue.claim(now=NOW).id)
    jobs_queue.reap(now=NOW + 64)
    jobs_queue.release(jobs_queue.claim(now=NOW))
    assert jobs_queue.totals() == {
        ("evaluation", "succeeded"): (2, 6.0, 0.75),
        ("evaluation", "failed"): (2, 9.0, 0.0),
        ("evaluation", "cancelled"): (1, 64.0, 0.0),
    }


def test_a_job_cancelled_before_it_ran_took_no_time(jobs_queue):
    jobs_queue.cancel(jobs_queue.submit().id, now=NOW + 50)
    assert jobs_queue.totals() == {("evaluation", "cancelled"): (1, 0.0, 0.0)}


def test_reapers_and_finishers_at_once_wait_for_nobody_in_a_circle(jobs_queue):
    kinds = ["evaluation", "ingestion", "training"]
    for i in range(30):
        jobs_queue.submit(kinds[i % 3], now=NOW + i)
    held = [jobs_queue.claim(lease_s=60.0 if i % 2 else 1.0) for i in range(30)]
    for job in held[::4]:
        jobs_queue.cancel(job.id)
    failures = []

    def run(function, *arguments, **named):
        try:
            function(*arguments, **named)
        except Exception as error:
            failures.append(error)

    def finish(mine):
        for job in mine:
            jobs_queue.fail(job, now=NOW + 5)

    threads = [
        threading.Thread(target=run, args=(jobs_queue.reap,), kwargs={"limit": 1, "now": NOW + 5})
        for _ in range(3)
    ]
    threads += [threading.Thread(target=run, args=(finish, held[i::3])) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sum(count for count, _, _ in jobs_queue.totals().values()) == 30
