"""Long random walks over the queue's operations, beside a model that needs no database."""

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest

from service.jobs.lifecycle import MOVES, State, ended
from service.jobs.queue import JobEnded, JobNotResumable

START = 1_795_000_000.0
LEASE_S = 10.0
LIMIT = 3
RANKS = {"evaluation": 0, "ingestion": 1, "training": 2}


@dataclass
class ModelJob:
    kind: str
    created_at: float
    state: str = "queued"
    attempt: int = 0
    crashes: int = 0
    cancel_requested: bool = False
    expires_at: float = 0.0
    events: int = 1
    epoch: int = 0
    ends: int = 0

    def end(self, state):
        self.state = state
        self.events += 2
        self.ends += 1

    def crash(self):
        self.crashes += 1
        if self.cancel_requested:
            self.end("cancelled")
        elif self.crashes == LIMIT:
            self.end("failed")
        else:
            self.requeue()

    def requeue(self):
        self.state = "queued"
        self.events += 1


class Walk:
    """One walk: each step does one operation on both sides and compares what they answer."""

    def __init__(self, queue, seed):
        self.queue = queue
        self.random = random.Random(seed)
        self.now = START
        self.jobs = {}
        self.claims = []  # every claim ever made: most of them stale

    def step(self):
        self.now += self.random.choice([0.001, 0.5, 3.0])
        moves = [self.claim] * 2 + [self.move] * 3
        operation = self.random.choice(
            [
                self.submit,
                self.cancel,
                self.renew,
                self.progress,
                self.record,
                self.resume,
                self.reap,
                *moves,
            ]
        )
        operation()

    def submit(self):
        kind = self.random.choice(list(RANKS))
        job = self.queue.submit(kind, now=self.now)
        self.jobs[job.id] = ModelJob(kind, self.now)

    def claim(self):
        queued = [(i, job) for i, job in self.jobs.items() if job.state == "queued"]
        job = self.queue.claim(now=self.now, lease_s=LEASE_S)
        if not queued:
            assert job is None
            return
        first, expected = min(queued, key=lambda one: (RANKS[one[1].kind], one[1].created_at))
        expected.state = "running"
        expected.attempt += 1
        expected.expires_at = self.now + LEASE_S
        expected.events += 1
        assert (job.id, job.attempt) == (first, expected.attempt)
        self.claims.append(job)

    def picked(self):
        """A claim, sometimes a stale one, and its job if the claim still holds."""
        claim = self.random.choice(self.claims[-8:])
        job = self.jobs[claim.id]
        return claim, job if (job.state, job.attempt) == ("running", claim.attempt) else None

    def move(self):
        if not self.claims:
            return
        name = self.random.choice(["succeed", "fail", "cancelled", "crash", "release"])
        claim, job = self.picked()
        answer = getattr(self.queue, name)(claim, now=self.now)
        assert bool(answer) == (job is not None)
        if job is None:
            return
        if name == "crash":
            job.crash()
        elif name == "release":
            job.end("cancelled") if job.cancel_requested else job.requeue()
        else:
            job.end({"succeed": "succeeded", "fail": "failed"}.get(name, name))

    def renew(self):
        if not self.claims:
            return
        claim, job = self.picked()
        answer = self.queue.renew(claim, lease_s=LEASE_S, now=self.now)
        assert answer == ({} if job is None else {claim.id: job.cancel_requested})
        if job is not None:
            job.expires_at = self.now + LEASE_S

    def progress(self):
        if not self.claims:
            return
        claim, job = self.picked()
        assert self.queue.progress(claim, 1, now=self.now) == (job is not None)
        if job is not None:
            job.events += 1

    def record(self):
        """One or two epochs, of which the first may be known already."""
        if not self.claims:
            return
        claim, job = self.picked()
        first = self.jobs[claim.id].epoch + self.random.choice([0, 1])
        epochs = [max(1, first), max(1, first) + 1]
        assert self.queue.record(claim, *epochs, now=self.now) == (job is not None)
        if job is not None:
            job.events += epochs[1] - job.epoch
            job.epoch, job.crashes = epochs[1], 0

    def resume(self):
        if not self.jobs:
            return
        job_id, job = self.random.choice(list(self.jobs.items()))
        if job.state not in ("failed", "cancelled"):
            with pytest.raises(JobNotResumable, match=job.state):
                self.queue.resume(job_id, now=self.now)
            return
        resumed = self.queue.resume(job_id, now=self.now)
        assert (resumed.state, resumed.error, resumed.result) == ("queued", None, None)
        job.requeue()
        job.crashes, job.cancel_requested = 0, False

    def cancel(self):
        if not self.jobs:
            return
        job_id, job = self.random.choice(list(self.jobs.items()))
        if job.state in ("succeeded", "failed", "cancelled"):
            with pytest.raises(JobEnded):
                self.queue.cancel(job_id, now=self.now)
            return
        self.queue.cancel(job_id, now=self.now)
        if job.state == "queued":
            job.end("cancelled")
        else:
            job.cancel_requested = True

    def reap(self):
        expired = [
            job_id
            for job_id, job in self.jobs.items()
            if job.state == "running" and job.expires_at < self.now
        ]
        reaped = self.queue.reap(limit=LIMIT, now=self.now)
        assert sorted(job.id for job in reaped) == sorted(expired)
        for job_id in expired:
            self.jobs[job_id].crash()

    def compare(self):
        """Every job is where the model has it, and came there by legal moves."""
        for job_id, expected in self.jobs.items():
            job = self.queue.get(job_id)
            found = (job.state, job.attempt, job.crashes, job.cancel_requested, job.events)
            assert found == (
                expected.state,
                expected.attempt,
                expected.crashes,
                expected.cancel_requested,
                expected.events,
            )
            assert (job.reason is not None) == ended(job.state)
            assert (job.finished_at is not None) == ended(job.state)
            assert (job.lease_expires_at is not None) == (job.state == State.RUNNING)
            events = self.queue.events(job_id)
            assert [event.seq for event in events] == list(range(1, job.events + 1))
            states = [State(event.data["state"]) for event in events if event.type == "state"]
            assert states[0] == State.QUEUED
            assert states[-1] == job.state
            assert all(after in MOVES[before] for before, after in pairwise(states))
            assert (events[-1].type == "end") == ended(job.state)
            epochs = [event.data["epoch"] for event in events if event.type == "epoch"]
            assert epochs == list(range(1, expected.epoch + 1))


@pytest.mark.parametrize("seed", range(8))
def test_a_random_walk_ends_where_the_model_does(jobs_queue, seed):
    walk = Walk(jobs_queue, seed)
    for _ in range(150):
        walk.step()
    walk.compare()
    ends = sum(job.ends for job in walk.jobs.values())
    assert sum(count for count, _, _ in jobs_queue.totals().values()) == ends
