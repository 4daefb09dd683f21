import os
import resource
import threading
import time

import pytest

from service.db.connection import writing
from service.jobs import queue
from service.jobs.watcher import Watcher
from tests.service.conftest import Client, assert_problem, open_services, working


@pytest.fixture(scope="module")
def digest(client):
    client.register()
    return client.store()["digest"]


@pytest.fixture
def idle(tmp_path):
    """A service whose worker has left, with a dataset and a checkpoint."""
    from service.app import create_app

    services = open_services(tmp_path)
    app = create_app(services=services)
    client = Client(app)
    with working(services):
        client.register()
        client.digest = client.store()["digest"]
    client.services = services
    yield client
    app.extensions["holdout.watcher"].close()
    services.close()


def parse(text):
    """The events of a stream."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if "event" in fields:
            events.append((int(fields["id"]), fields["event"], fields["data"]))
    return events


def test_the_events_of_a_job_are_numbered_and_end_with_it(client, digest):
    job = client.evaluate(checkpoint=digest, dataset="points", fresh=True).json
    answer = client.get(job["links"]["events"])
    assert answer.mimetype == "text/event-stream"
    events = parse(answer.text)
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    assert next(kind for _, kind, _ in events) == "state"
    assert events[-1][1] == "end"
    assert '"state":"succeeded"' in events[-1][2]
    resumed = client.get(job["links"]["events"], headers={"Last-Event-ID": "2"})
    assert parse(resumed.text) == events[2:]
    for last in (events[-1][0], events[-1][0] + 5):
        nothing = client.get(job["links"]["events"], headers={"Last-Event-ID": str(last)})
        assert (nothing.status_code, nothing.data) == (204, b"")
    bad = client.get(job["links"]["events"], headers={"Last-Event-ID": "-1"})
    assert_problem(bad, 422, "Last-Event-ID")


def test_a_stream_that_is_open_hears_of_what_happens(idle):
    job = idle.evaluate(wait="", checkpoint=idle.digest, dataset="points", fresh=True).json
    heard = []

    def follow():
        heard.append(parse(Client(idle.app).get(job["links"]["events"]).text))

    thread = threading.Thread(target=follow)
    thread.start()
    time.sleep(0.2)
    with working(idle.services):
        thread.join(20)
    assert [kind for _, kind, _ in heard[0]][-1] == "end"


def test_a_queued_job_is_cancelled_at_once_and_only_once(idle):
    job = idle.evaluate(wait="", checkpoint=idle.digest, dataset="points", fresh=True).json
    assert job["state"] == "queued"
    answer = idle.http.post(job["links"]["cancel"])
    assert answer.status_code == 202
    assert (answer.json["state"], answer.json["reason"]) == ("cancelled", "cancelled")
    assert "cancel" not in answer.json["links"]
    assert_problem(idle.http.post(job["links"]["cancel"]), 409, "ended already")
    assert_problem(idle.http.post("/v1/jobs/none/cancel"), 404)


def test_cancelling_a_queued_ingestion_drops_its_upload(idle):
    from tests.service.conftest import npz

    job = idle.upload("/v1/datasets", content=npz(seed=9), name="later", split="test").json
    uploads = idle.services.settings.data_dir / "uploads"
    assert len(list(uploads.iterdir())) == 1
    idle.http.post(job["links"]["cancel"])
    assert list(uploads.iterdir()) == []


def test_a_wait_ends_with_the_job_or_with_its_time(idle):
    began = time.monotonic()
    answer = idle.evaluate(wait="?wait=0.3", checkpoint=idle.digest, dataset="points", fresh=True)
    assert answer.status_code == 202
    assert 0.25 < time.monotonic() - began < 5
    held = []

    def wait():
        held.append(Client(idle.app).get(f"{answer.headers['Location']}?wait=20").json)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.2)
    with working(idle.services):
        thread.join(20)
    assert held[0]["state"] == "succeeded"


def test_a_stream_from_beyond_the_last_event_ends_with_the_job(idle):
    job = idle.evaluate(wait="", checkpoint=idle.digest, dataset="points", fresh=True).json
    heard = []

    def follow():
        headers = {"Last-Event-ID": "99"}
        heard.append(parse(Client(idle.app).get(job["links"]["events"], headers=headers).text))

    thread = threading.Thread(target=follow)
    thread.start()
    time.sleep(0.2)
    idle.http.post(job["links"]["cancel"])
    thread.join(20)
    assert heard == [[]]


def test_a_wait_hears_of_its_job_also_where_descriptors_have_high_numbers(idle):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("this machine allows too few descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert hears(idle)
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("broken", ["listen", "drain"])
def test_a_wait_hears_of_its_job_after_a_failure_of_any_kind(idle, monkeypatch, broken):
    listen = idle.services.doorbell.listen
    failures = [RuntimeError("once"), OSError("twice")]

    class Listener:
        def __init__(self, topic):
            self.inner = listen(topic)
            self.fileno, self.close = self.inner.fileno, self.inner.close

        def drain(self):
            if broken == "drain" and failures:
                raise failures.pop()
            self.inner.drain()

    def listening(topic):
        if broken == "listen" and failures:
            raise failures.pop()
        return Listener(topic)

    monkeypatch.setattr(idle.services.doorbell, "listen", listening)
    assert hears(idle, failures)
    assert not failures


def hears(idle, failures=()):
    """Whether a new watcher's wait ends with its job, cancelled meanwhile, not with its time.

    ``failures`` is what the watcher has yet to go through before the job is cancelled.
    """
    job = idle.evaluate(wait="", checkpoint=idle.digest, dataset="points", fresh=True).json
    watcher = Watcher(idle.services.database, idle.services.doorbell, places=1)
    thread = threading.Thread(target=watcher.wait, args=(job["id"], 30))
    began = time.monotonic()
    thread.start()
    time.sleep(0.3)
    while failures and time.monotonic() - began < 10:
        time.sleep(0.01)
    idle.http.post(job["links"]["cancel"])
    thread.join(40)
    watcher.close()
    return time.monotonic() - began < 15


def test_a_stopping_process_answers_open_waits_at_once(idle):
    answers = []

    def wait():
        answers.append(
            Client(idle.app).evaluate(
                wait="?wait=20", checkpoint=idle.digest, dataset="points", fresh=True
            )
        )

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    idle.app.extensions["holdout.watcher"].close()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - began < 2
    assert [answer.status_code for answer in answers] == [202, 202, 202]


def test_a_job_shows_its_progress_and_how_long_the_rest_takes(idle):
    job_id = idle.evaluate(wait="", checkpoint=idle.digest, dataset="points", fresh=True).json["id"]
    now = idle.services.clock()
    with writing(idle.services.database) as db:
        job = queue.claim(db, worker="w", devices=["cpu"], kinds=None, lease_s=60, now=now - 10)
        queue.progress(db, job, done=10, total=40, unit="examples", now=now)
    progress = idle.get(f"/v1/jobs/{job_id}").json["progress"]
    assert (progress["done"], progress["total"], progress["unit"]) == (10, 40, "examples")
    assert progress["eta_s"] == pytest.approx(30, abs=3)
    answer = idle.http.post(f"/v1/jobs/{job_id}/cancel")
    assert answer.json["state"] == "running"


def test_a_job_that_crashed_too_often_says_so(idle):
    job_id = idle.evaluate(wait="", checkpoint=idle.digest, dataset="points", fresh=True).json["id"]
    for _ in range(3):
        now = idle.services.clock()
        with writing(idle.services.database) as db:
            job = queue.claim(db, worker="w", devices=["cpu"], kinds=None, lease_s=60, now=now)
            queue.crash(db, job, detail="the child was killed by SIGKILL", limit=3, now=now)
    job = idle.get(f"/v1/jobs/{job_id}").json
    assert (job["state"], job["reason"], job["attempt"]) == ("failed", "crashed", 3)
    assert "SIGKILL" in job["error"]["detail"]
    assert job["error"]["status"] == 500


def test_without_a_worker_the_service_is_not_ready_and_says_what_is_missing(idle):
    answer = idle.get("/readyz")
    assert answer.status_code == 503
    assert answer.json["checks"]["database"] == "ok"
    assert "holdout worker" in answer.json["checks"]["worker"]
    assert idle.get("/healthz").json == {"status": "ok"}


def test_workers_say_their_device_policy_and_catalog(client):
    (worker,) = client.get("/v1/workers").json["items"]
    assert worker["device"] == "cpu"
    assert worker["policies"]["cpu"]["dtype"] == "float32"
    assert "mlp" in str(worker["catalog"])
    assert client.get("/readyz").json["status"] == "ready"


def test_the_catalog_says_what_each_name_takes(client):
    items = client.get("/v1/catalog/architectures").json["items"]
    mlp = next(item for item in items if item["name"] == "mlp")
    assert mlp["parameters"]["properties"]["activation"]["enum"] == ["relu", "gelu", "tanh"]
    whole = client.get("/v1/catalog").json
    kinds = {"architectures", "transforms", "augmentations", "formats", "metrics"}
    assert set(whole) == kinds | {"optimizers", "schedulers", "losses"}
    items = client.get("/v1/catalog/augmentations").json["items"]
    crop = next(item for item in items if item["name"] == "random_crop")
    assert crop["parameters"]["required"] == ["size"]


def test_prometheus_counts_requests_and_jobs(client, digest):
    client.evaluate(checkpoint=digest, dataset="points", fresh=True)
    text = client.get("/metrics").text
    assert 'holdout_jobs_ended_total{kind="evaluation",state="succeeded"}' in text
    assert "holdout_forward_seconds_total" in text
    assert "holdout_queue_age_seconds 0.0" in text
    assert "holdout_workers 1.0" in text
    assert 'endpoint="evaluations.post_evaluation"' in text
