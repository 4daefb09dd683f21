"""ONNX checkpoints through the service: upload, evaluation, evidence, and what is refused."""

import io
import re
import time
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from sqlalchemy import select, update

from models.onnx.session import onnxruntime
from service.app import create_app
from service.db.connection import reading, writing
from service.db.tables import workers
from service.jobs import memory, onnxnetworks
from service.jobs.engines import TaskFailed
from service.operations.workers import policies
from tests.onnx_networks import (
    ConvNet,
    examples,
    export,
    exported,
    greedy,
    made,
    network,
    value,
)
from tests.service.conftest import Client, assert_problem, npz, open_services, pt, working


def arrays(x, seed=0):
    """The bytes of a dataset with labels at random."""
    buffer = io.BytesIO()
    y = np.random.default_rng(seed).integers(0, 3, len(x))
    np.savez(buffer, x=x, y=y)
    return buffer.getvalue(), y


@pytest.fixture(scope="module")
def dataset(client):
    """Six numbers an example, as the mlp takes them."""
    return client.register("numbers")


@pytest.fixture(scope="module")
def pixels(client):
    """Images of bytes."""
    x = np.random.default_rng(2).integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)
    content, y = arrays(x)
    client.register("pixels", content=content)
    return x, y


def evaluate_file(client, content, dataset, wait="?wait", **fields):
    return client.upload(
        f"/v1/evaluations{wait}", part="checkpoint", content=content, dataset=dataset, **fields
    )


@pytest.mark.parametrize("dynamo", [True, False])
def test_an_exported_network_has_the_metrics_that_torch_and_scikit_learn_compute(
    client, pixels, dynamo
):
    x, y = pixels
    answer = evaluate_file(
        client,
        exported("convnet", dynamo=dynamo),
        "pixels",
        transforms='[{"name": "to_float"}]',
        batch_size="16",
    )
    assert answer.status_code == 200, answer.text
    job = answer.json
    assert job["state"] == "succeeded", job["error"]
    with torch.inference_mode():
        logits = network("convnet")(torch.from_numpy(x).float() / 255)
    loss = torch.nn.functional.cross_entropy(logits.double(), torch.from_numpy(y)).item()
    metrics = job["result"]["metrics"]
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(y, logits.argmax(1)))
    expected = f1_score(y, logits.argmax(1), average="macro")
    assert metrics["f1"] == pytest.approx(expected)
    evidence = job["result"]["evidence"]
    (worker,) = client.get("/v1/workers").json["items"]
    policy = worker["onnx_policies"]["cpu"]
    assert policy["onnxruntime"] == onnxruntime.__version__
    assert evidence["policy"] == policy
    assert evidence["environment"].items() >= policy.items()
    assert evidence["transforms_from"] == "checkpoint"
    assert job["result"]["assumed"] == ["classes"]


def test_an_equal_request_is_answered_from_its_result_and_verified_as_identical(client, dataset):
    content = exported("mlp", dynamo=False)
    first = evaluate_file(client, content, "numbers").json
    assert first["state"] == "succeeded", first["error"]
    again = evaluate_file(client, content, "numbers").json
    assert (again["id"], again["cached"]) == (first["id"], True)
    fresh = evaluate_file(client, content, "numbers", fresh="true").json
    assert fresh["cached"] is False
    assert fresh["result"]["evidence"] == first["result"]["evidence"]
    checked = client.http.post(f"{first['links']['self']}/verify?wait").json
    assert checked["result"]["verification"]["outcome"] == "identical"
    assert checked["result"]["verification"]["changed"] == []


def test_what_is_served_can_be_uploaded_again_and_is_the_same_checkpoint(client, dataset):
    stored = client.upload(
        "/v1/checkpoints", content=exported("mlp", dynamo=False, seed=3), classes='["a","b","c"]'
    )
    assert stored.status_code == 201, stored.text
    body = stored.json
    assert (body["architecture"], body["format"]) == ("onnx", "onnx")
    assert body["classes"] == ["a", "b", "c"]
    with client.get(body["links"]["content"]) as answer:
        content = answer.data
    again = client.upload("/v1/checkpoints", content=content)
    assert again.status_code == 200, again.text
    assert again.json["digest"] == body["digest"]
    found = client.get("/v1/checkpoints?architecture=onnx").json["items"]
    assert body["digest"] in [one["digest"] for one in found]


def test_token_ids_have_their_padding_replaced(client):
    x = examples("attention", 30).numpy().astype(np.int32)
    lengths = np.where(np.arange(30) % 2, x.shape[1], 4)
    _, y = arrays(x)
    buffer = io.BytesIO()
    np.savez(buffer, x=x, y=y, lengths=lengths)
    client.register("sentences", content=buffer.getvalue())
    x[::2, 4:] = -1
    job = evaluate_file(
        client,
        exported("attention", dynamo=False),
        "sentences",
        hyperparameters='{"padding_id": 0}',
    ).json
    assert job["state"] == "succeeded", job["error"]
    assert "padding_id" not in job["result"]["assumed"]
    with torch.inference_mode():
        logits = network("attention")(torch.from_numpy(x).long().clamp(min=0))
    loss = torch.nn.functional.cross_entropy(logits.double(), torch.from_numpy(y)).item()
    assert job["result"]["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)
    assumed = evaluate_file(client, exported("attention", dynamo=False), "sentences").json
    assert "padding_id" in assumed["result"]["assumed"]
    other = evaluate_file(
        client,
        exported("attention", dynamo=False),
        "sentences",
        hyperparameters='{"padding_id": 7}',
    ).json
    assert other["result"]["metrics"]["loss"] != job["result"]["metrics"]["loss"]


def test_an_id_without_an_embedding_fails_the_job_with_its_reason(client):
    x = np.full((10, 7), 19, np.int32)
    x[3, 3] = 20
    content, _ = arrays(x)
    client.register("strange", content=content)
    job = evaluate_file(client, exported("bag", dynamo=False), "strange").json
    assert (job["state"], job["reason"]) == ("failed", "network_failed")
    assert "idx=20" in job["error"]["detail"]
    assert not re.search(r"/\w+/|::|Traceback", job["error"]["detail"])


@pytest.mark.parametrize(
    ("name", "dataset_name", "words"),
    [
        ("mlp", "pixels", "expects (6,) float32; dataset pixels@1 gives (3, 8, 8) uint8 after []"),
        ("convnet", "pixels", "expects (3, 8, 8) float32; dataset pixels@1 gives (3, 8, 8) uint8"),
        ("bag", "numbers", "expects (7,) int64; dataset numbers@1 gives (6,) float32 after []"),
    ],
)
def test_a_mismatch_is_refused_with_both_sides(client, dataset, pixels, name, dataset_name, words):
    answer = evaluate_file(client, exported(name, dynamo=False), dataset_name)
    assert_problem(answer, 422, words, pointer="/transforms")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"architecture": "mlp"}, "/architecture"),
        ({"hyperparameters": '{"activation": "relu"}'}, "/hyperparameters/activation"),
        ({"key_map": '{"a": "b"}'}, "/key_map"),
    ],
)
def test_what_only_weights_need_is_refused(client, fields, pointer):
    answer = client.upload("/v1/checkpoints", content=exported("mlp", dynamo=False), **fields)
    assert_problem(
        answer, 422, "an ONNX file holds" if pointer != "/architecture" else "ONNX", pointer=pointer
    )


def test_programs_are_refused_with_the_way_to_onnx(client):
    scripted, program = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = ConvNet().eval()
        torch.jit.save(torch.jit.trace(module, examples("convnet", 2)), scripted)
        torch.export.save(torch.export.export(module, (examples("convnet", 2),)), program)
    older = io.BytesIO()
    with zipfile.ZipFile(older, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    for stream, name in ((scripted, "TorchScript"), (program, "torch.export"), (older, "torch.ex")):
        answer = client.upload("/v1/checkpoints", content=stream.getvalue())
        assert_problem(answer, 415, name, "code", "torch.onnx.export(")


# Bounds


@pytest.fixture(scope="module")
def tight(tmp_path_factory):
    """A service whose ONNX networks may take little memory."""
    services = open_services(tmp_path_factory.mktemp("tight"), onnx_memory_bytes=2**28)
    with working(services):
        app = create_app(services=services)
        client = Client(app)
        client.register("numbers", content=npz(features=3, classes=2))
        yield client
        app.extensions["holdout.watcher"].close()
    services.close()


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("shape", [[25_000_000_000], [100_000_000]])
def test_a_network_that_asks_for_too_much_memory_fails_and_the_next_works(tight, folded, shape):
    began = time.monotonic()
    job = evaluate_file(tight, greedy(shape, folded=folded), "numbers", fresh="true").json
    assert (job["state"], job["reason"]) == ("failed", "out_of_memory")
    assert "HOLDOUT_ONNX_MEMORY_BYTES" in job["error"]["detail"]
    assert "268435456 bytes" in job["error"]["detail"]
    assert time.monotonic() - began < 20
    good = evaluate_file(tight, made(), "numbers", fresh="true").json
    assert good["state"] == "succeeded", good["error"]


def test_the_bound_ends_with_its_block():
    before = memory.resource.getrlimit(memory.resource.RLIMIT_DATA)
    with memory.limited(2**26):
        with pytest.raises(MemoryError):
            np.ones(2**25)
        assert np.ones(2**20).sum() == 2**20
    assert memory.resource.getrlimit(memory.resource.RLIMIT_DATA) == before
    assert np.ones(2**25).sum() == 2**25


# Workers without it


@pytest.fixture
def published(services):
    """Change what the live worker has published, until the test ends."""

    def change(**details):
        with writing(services.database) as db:
            row = db.execute(select(workers)).one()
            kept = {**row.details, **details}
            db.execute(update(workers).values(details=kept).where(workers.c.id == row.id))
            return row.details

    before = change()
    yield change
    change(**before)


def test_no_worker_with_onnx_runtime_is_said_at_the_request(client, dataset, published):
    published(onnx_policies={}, provides={})
    answer = evaluate_file(client, exported("mlp", dynamo=False), "numbers")
    detail = "no live worker has ONNX Runtime: pip install 'holdout[onnx]' where the worker runs"
    assert_problem(answer, 422, detail, pointer="/checkpoint")
    weights = evaluate_file(client, pt(), "numbers", architecture="mlp")
    assert weights.status_code == 200, weights.text


def test_no_worker_with_the_device_is_said_at_the_request(client, dataset):
    answer = evaluate_file(client, exported("mlp", dynamo=False), "numbers", device="cuda")
    words = "ONNX Runtime for the device 'cuda'; there are: cpu"
    assert_problem(answer, 422, words, pointer="/device")


def test_a_worker_on_cards_whose_onnx_runtime_cannot_use_them_answers_auto_on_its_cpu():
    details = {"policies": {"cpu": {}, "cuda": {}}, "onnx_policies": {"cpu": {"a": 1}}}
    details["provides"] = {}
    rows = [SimpleNamespace(device="cuda", details=details)]
    assert policies(rows, "auto", onnx=True) == [{"a": 1}]
    assert policies(rows, "cuda", onnx=True) == []
    assert policies(rows, "cpu", onnx=True) == [{"a": 1}]


def test_a_worker_says_what_it_can_compute_onnx_with(client, services):
    (worker,) = client.get("/v1/workers").json["items"]
    with reading(services.database) as db:
        (row,) = db.execute(select(workers))
    assert worker["onnx_policies"]["cpu"]["provider"] == "CPUExecutionProvider"
    assert row.details["onnx_policies"] == worker["onnx_policies"]


def test_a_child_without_onnx_runtime_fails_the_job_with_what_to_install(monkeypatch):
    monkeypatch.setattr(onnxnetworks, "_session", None)
    assert onnxnetworks.policies("cpu") == {}
    with pytest.raises(TaskFailed, match=r"pip install 'holdout\[onnx\]'"):
        onnxnetworks.device("auto", "cpu")


def test_a_child_that_cannot_use_its_card_for_onnx_computes_on_the_cpu_unless_told_not_to():
    assert onnxnetworks.device("auto", "cuda:0") == "cpu"
    assert onnxnetworks.device("cpu", "cuda:0") == "cpu"
    with pytest.raises(TaskFailed, match="does not compute on cuda"):
        onnxnetworks.device("cuda", "cuda:0")


def test_a_network_that_gives_other_outputs_than_it_says_is_refused(client, dataset):
    content = npz(features=3, classes=3)
    client.register("three", content=content)
    lies = made(outputs=(value("y", ["n", 3]),))
    job = evaluate_file(client, lies, "three").json
    assert job["state"] == "failed"
    assert job["reason"] in ("wrong_logits", "network_failed")


def test_a_network_with_one_output_answers_a_binary_task(client):
    torch.manual_seed(1)
    module = torch.nn.Linear(6, 1).eval()
    x = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    buffer = io.BytesIO()
    y = np.arange(40) % 2
    np.savez(buffer, x=x, y=y)
    client.register("coins", content=buffer.getvalue(), task="binary")
    data = export(module, torch.zeros(2, 6), dynamo=False)
    job = evaluate_file(client, data, "coins").json
    assert job["state"] == "succeeded", job["error"]
    with torch.inference_mode():
        logits = module(torch.from_numpy(x))[:, 0]
    assert job["result"]["metrics"]["accuracy"] == pytest.approx(accuracy_score(y, logits >= 0))
