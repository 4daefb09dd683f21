import hashlib
import io
import json
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_safetensors
from sklearn.metrics import accuracy_score, f1_score
from sqlalchemy import event

from service.operations import datasets
from tests.service.conftest import (
    CLASSES,
    Client,
    assert_problem,
    npz,
    pt,
    state_dict,
    working,
)


@pytest.fixture(scope="module")
def dataset(client):
    return client.register()


@pytest.fixture(scope="module")
def checkpoint(client):
    return client.store()


def expected_logits(seed=0):
    weights = state_dict(seed=seed)
    x = torch.from_numpy(np.load(io.BytesIO(npz()))["x"])
    hidden = torch.relu(x @ weights["layers.0.weight"].T + weights["layers.0.bias"])
    return hidden @ weights["layers.1.weight"].T + weights["layers.1.bias"]


def test_one_multipart_request_answers_the_metrics_that_torch_and_scikit_learn_compute(
    client, dataset
):
    answer = client.upload(
        "/v1/evaluations?wait",
        part="checkpoint",
        content=pt(seed=3),
        architecture="mlp",
        dataset="points",
    )
    assert answer.status_code == 200
    job = answer.json
    assert (job["kind"], job["state"], job["reason"]) == ("evaluation", "succeeded", "completed")
    assert job["cached"] is False
    assert answer.headers["Location"] == job["links"]["self"]
    assert job["request"]["dataset"] == "points@1"
    y = np.load(io.BytesIO(npz()))["y"]
    logits = expected_logits(seed=3)
    loss = torch.nn.functional.cross_entropy(logits.double(), torch.from_numpy(y)).item()
    metrics = job["result"]["metrics"]
    assert metrics["loss"] == pytest.approx(loss, rel=1e-6)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(y, logits.argmax(1)))
    assert metrics["f1"] == pytest.approx(f1_score(y, logits.argmax(1), average="macro"))
    assert job["result"]["averaging"] == "macro"
    assert sum(map(sum, job["result"]["confusion_matrix"])) == len(y)
    assert set(job["result"]["assumed"]) == {"activation", "classes", "transforms"}
    assert job["result"]["evidence"]["transforms_from"] == "dataset"
    timings = job["result"]["timings"]
    names = ("queued_s", "prepare_s", "load_s", "forward_s", "metrics_s", "total_s")
    assert set(timings) == set(names)
    assert all(timings[name] >= 0 for name in names)


def test_a_stored_checkpoint_is_evaluated_by_a_prefix_of_its_digest(client, dataset, checkpoint):
    answer = client.evaluate(checkpoint=checkpoint["digest"][:12], dataset="points@1", fresh=True)
    assert answer.status_code == 200
    assert answer.json["request"]["checkpoint"] == checkpoint["digest"]
    assert answer.json["result"]["evidence"]["checkpoint"] == checkpoint["digest"]


def test_an_equal_request_is_answered_from_the_results_and_a_fresh_one_computes_the_same(
    client, dataset, checkpoint
):
    request = {"checkpoint": checkpoint["digest"], "dataset": "points", "batch_size": 7}
    first = client.evaluate(**request).json
    again = client.evaluate(**request)
    assert again.status_code == 200
    assert again.json["cached"] is True
    assert again.json["id"] == first["id"]
    fresh = client.evaluate(**request, fresh=True).json
    assert fresh["cached"] is False
    assert fresh["id"] != first["id"]
    evidence, before = fresh["result"]["evidence"], first["result"]["evidence"]
    assert evidence["logits_sha256"] == before["logits_sha256"]
    assert evidence["key"] == before["key"]
    other = client.evaluate(**{**request, "batch_size": 8}).json
    assert other["cached"] is False
    assert other["result"]["evidence"]["key"] != before["key"]


def test_a_known_result_answers_only_who_asks_for_just_that(client, checkpoint):
    content = npz(seed=5)
    doubled = [{"name": "to_float", "scale": 2.0}]
    client.register("one", content=content, transforms=json.dumps(doubled))
    client.register("two", content=content)
    digest = checkpoint["digest"]
    first = client.evaluate(checkpoint=digest, dataset="one", labels={"run": "a"}).json
    other = client.evaluate(checkpoint=digest, dataset="two", transforms=doubled).json
    assert other["result"]["evidence"]["key"] == first["result"]["evidence"]["key"]
    assert other["cached"] is False
    assert other["request"]["dataset"] == "two@1"
    assert other["result"]["evidence"]["transforms_from"] == "request"
    assert client.evaluate(checkpoint=digest, dataset="one").json["id"] == first["id"]
    labelled = client.evaluate(checkpoint=digest, dataset="one", labels={"run": "a"}).json
    assert labelled["id"] == first["id"]
    again = client.evaluate(checkpoint=digest, dataset="one", labels={"run": "b"}).json
    assert (again["cached"], again["labels"]) == (False, {"run": "b"})


@pytest.mark.parametrize(
    ("content", "change", "pointer"),
    [
        ({"outputs": 4}, {}, "/checkpoint"),
        ({"features": 9}, {}, "/transforms"),
        ({}, {"classes": '["x", "y", "z"]'}, "/checkpoint"),
        ({}, {"threshold": "0.5"}, "/threshold"),
        ({}, {"device": "cuda"}, "/device"),
    ],
)
def test_an_upload_that_cannot_be_evaluated_as_asked_is_not_kept(
    client, services, dataset, content, change, pointer
):
    blobs = services.settings.data_dir / "blobs"
    before = {path.name for path in blobs.rglob("*")}
    file = pt(seed=77, **content)
    form = {"architecture": "mlp", "dataset": "points", **change}
    answer = client.upload("/v1/evaluations", part="checkpoint", content=file, **form)
    assert_problem(answer, 422, pointer=pointer)
    sha256 = hashlib.sha256(file).hexdigest()
    assert client.get(f"/v1/checkpoints?source_sha256={sha256}").json["items"] == []
    assert {path.name for path in blobs.rglob("*")} == before


def test_a_damaged_file_is_called_what_the_request_calls_it(client, dataset):
    cut = pt()[:-100]
    answer = client.upload("/v1/checkpoints", content=cut, architecture="mlp")
    assert_problem(answer, 422, pointer="/file")
    form = {"architecture": "mlp", "dataset": "points"}
    answer = client.upload("/v1/evaluations", part="checkpoint", content=cut, **form)
    assert_problem(answer, 422, pointer="/checkpoint")


def test_without_wait_the_answer_is_202_and_says_where_the_job_is(client, dataset, checkpoint):
    answer = client.evaluate(wait="", checkpoint=checkpoint["digest"], dataset="points", fresh=True)
    assert answer.status_code == 202
    assert int(answer.headers["Retry-After"]) >= 1
    held = client.get(f"{answer.headers['Location']}?wait=20")
    assert held.status_code == 200
    assert held.json["state"] == "succeeded"
    assert client.get(held.json["links"]["job"]).json == held.json


def test_transforms_of_the_request_replace_those_of_the_checkpoint_and_of_the_dataset(client):
    client.register("scaled", transforms=json.dumps([{"name": "to_float", "scale": 2.0}]))
    stated = client.store(transforms=json.dumps([{"name": "to_float", "scale": 4.0}]))
    bare = client.store()
    for digest, given, whose, scale in (
        (bare["digest"], {}, "dataset", 2.0),
        (stated["digest"], {}, "checkpoint", 4.0),
        (stated["digest"], {"transforms": [{"name": "to_float"}]}, "request", None),
    ):
        answer = client.evaluate(checkpoint=digest, dataset="scaled", **given).json
        evidence = answer["result"]["evidence"]
        assert evidence["transforms_from"] == whose
        assert evidence["transforms"] == [{"name": "to_float", "scale": scale}]
    assert "transforms" not in answer["result"]["assumed"]


def test_groups_are_judged_apart(client):
    site = np.array(["north", "south"] * 20)
    client.register("sites", content=npz(groups=site))
    digest = client.store()["digest"]
    result = client.evaluate(checkpoint=digest, dataset="sites").json["result"]
    rows = {row["value"]: row for row in result["per_group"]}
    assert set(rows) == {"north", "south"}
    y = np.load(io.BytesIO(npz()))["y"]
    for value, row in rows.items():
        mine = site == value
        predicted = expected_logits().argmax(1).numpy()[mine]
        assert row["examples"] == 20
        assert row["accuracy"] == pytest.approx(accuracy_score(y[mine], predicted))


def test_a_binary_task_takes_one_output_and_a_threshold(client):
    client.register("two", content=npz(classes=2), task="binary", positive_class="0")
    digest = client.store(pt(outputs=1))["digest"]
    answer = client.evaluate(checkpoint=digest, dataset="two", threshold=0.3)
    assert answer.json["result"]["averaging"] == "binary"
    assert answer.json["request"]["threshold"] == 0.3
    assert_problem(client.evaluate(checkpoint=digest, dataset="points"), 422, "1 output,")


@pytest.mark.parametrize(
    ("change", "pointer", "part"),
    [
        ({"dataset": "nowhere"}, "/dataset", "there is no dataset 'nowhere'"),
        ({"dataset": "points@99"}, "/dataset", "there is no dataset"),
        ({"checkpoint": "ffffffffffff"}, "/checkpoint", "there is no checkpoint"),
        ({"checkpoint": "best"}, "/checkpoint", "names no checkpoint"),
        ({"threshold": 0.5}, "/threshold", "binary"),
        ({"batch_size": 0}, "/batch_size", ""),
        ({"batch_size": "64"}, "/batch_size", "must be an integer"),
        ({"device": "tpu"}, "/device", "auto, cpu, cuda"),
        ({"device": "cuda"}, "/device", "no live worker has the device 'cuda'"),
        ({"transforms": [{"name": "flip"}]}, "/transforms/0/name", "known: to_float"),
        ({"transforms": [{"name": "mixup"}]}, "/transforms/0/name", "only a training can name it"),
        ({"transforms": [{"scale": 1}]}, "/transforms/0/name", "string"),
        ({"transforms": [{"name": "normalize"}]}, "/transforms/0/mean", "required"),
        (
            {"transforms": [{"name": "normalize", "mean": [0.0, 1.0], "std": [1.0, 1.0]}]},
            "/transforms/0/mean",
            "6 entries",
        ),
        ({"colour": "red"}, "/colour", "is unknown; known: architecture"),
        ({"architecture": "mlp"}, "/architecture", "stored"),
        ({"fresh": "yes"}, "/fresh", "true or false"),
        ({"labels": {"a": 1}}, "/labels/a", ""),
        ({"timeout_s": 0}, "/timeout_s", ""),
    ],
)
def test_a_wrong_field_is_named(client, dataset, checkpoint, change, pointer, part):
    request = {"checkpoint": checkpoint["digest"], "dataset": "points", **change}
    assert_problem(client.evaluate(**request), 422, part, pointer=pointer)


def test_parts_that_do_not_fit_each_other_are_refused_before_a_job_exists(client, dataset):
    before = len(client.get("/v1/jobs?limit=200").json["items"])
    wide = client.store(pt(features=9))["digest"]
    problem = assert_problem(client.evaluate(checkpoint=wide, dataset="points"), 422)
    assert "expects (9,) float32; dataset points@1 gives (6,) float32" in problem["detail"]
    four = client.store(pt(outputs=4))["digest"]
    assert_problem(
        client.evaluate(checkpoint=four, dataset="points"), 422, "4 outputs", "3 classes"
    )
    named = client.store(classes=json.dumps(["2", "1", "x"]))["digest"]
    assert_problem(client.evaluate(checkpoint=named, dataset="points"), 422, "extra (1): 'x'")
    integers = np.arange(80, dtype=np.uint8).reshape(40, 2)
    buffer = io.BytesIO()
    np.savez(buffer, x=integers, y=np.arange(40) % CLASSES)
    client.register("bytes", content=buffer.getvalue())
    small = client.store(pt(features=2))["digest"]
    assert_problem(
        client.evaluate(checkpoint=small, dataset="bytes"), 422, "add the transform to_float"
    )
    assert len(client.get("/v1/jobs?limit=200").json["items"]) == before + 1


def test_logits_that_are_not_finite_fail_the_job_and_name_the_first_sample(client, dataset):
    weights = state_dict()
    weights["layers.1.bias"][0] = float("inf")
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    stored = client.store(buffer.getvalue())
    assert "layers.1.bias" in stored["warnings"][0]
    job = client.evaluate(checkpoint=stored["digest"], dataset="points").json
    assert (job["state"], job["reason"]) == ("failed", "non_finite_logits")
    assert job["result"] is None
    assert "0" in job["error"]["detail"]
    assert job["error"]["status"] == 422


def test_the_list_of_evaluations_pages_sorts_and_filters(client, dataset):
    for seed in range(5):
        stored = client.store(pt(seed=100 + seed))
        client.evaluate(checkpoint=stored["digest"], dataset="points")
    seen, cursor = [], ""
    while cursor is not None:
        page = client.get(f"/v1/evaluations?limit=2{cursor}").json
        seen += [item["id"] for item in page["items"]]
        cursor = f"&cursor={page['next']}" if page["next"] else None
    assert seen == sorted(set(seen), reverse=True)
    whole = client.get("/v1/evaluations?limit=200").json["items"]
    assert [item["id"] for item in whole] == seen
    best = client.get("/v1/evaluations?sort=-f1&state=succeeded&limit=200").json["items"]
    scores = [item["result"]["metrics"]["f1"] for item in best]
    assert scores == sorted(scores, reverse=True)
    pages, cursor = [], ""
    while cursor is not None:
        page = client.get(f"/v1/evaluations?sort=loss&limit=3{cursor}").json
        pages += [item["id"] for item in page["items"]]
        cursor = f"&cursor={page['next']}" if page["next"] else None
    assert sorted(pages) == sorted(seen)
    mine = client.get(f"/v1/evaluations?checkpoint={stored['digest'][:10]}").json["items"]
    assert [item["request"]["checkpoint"] for item in mine] == [stored["digest"]]
    assert client.get("/v1/evaluations?dataset=points@1&limit=1").json["items"]
    assert_problem(client.get("/v1/evaluations?sort=beauty"), 422, "-loss", pointer="/sort")
    assert_problem(client.get("/v1/evaluations?cursor=abc"), 422, pointer="/cursor")
    other = client.get("/v1/evaluations?limit=1").json["next"]
    assert_problem(client.get(f"/v1/evaluations?sort=loss&cursor={other}"), 422, pointer="/cursor")
    assert_problem(client.get("/v1/evaluations?limit=0"), 422, pointer="/limit")
    assert_problem(client.get("/v1/evaluations?state=done"), 422, pointer="/state")


@pytest.fixture
def statements(services):
    """The SQL that this thread runs, and with what, but for the settings of a connection."""
    run, thread = [], threading.get_ident()

    def keep(_connection, _cursor, statement, parameters, *_):
        if statement.startswith("SELECT") and threading.get_ident() == thread:
            run.append((statement, parameters))

    event.listen(services.database, "before_cursor_execute", keep)
    yield run
    event.remove(services.database, "before_cursor_execute", keep)


def test_a_list_shows_jobs_as_they_are_but_for_the_bulk_of_a_result(
    client, dataset, checkpoint, statements
):
    client.evaluate(checkpoint=checkpoint["digest"], dataset="points")
    statements.clear()
    items = client.get("/v1/jobs?limit=200").json["items"]
    assert sum("FROM jobs" in statement for statement, _ in statements) == 1
    assert {item["kind"] for item in items} == {"evaluation", "ingestion"}
    for item in items:
        whole = client.get(item["links"]["job"]).json
        if whole["kind"] == "evaluation" and whole["result"]:
            result = whole["result"]
            whole["result"] = {name: result[name] for name in ("metrics", "averaging")}
        assert item == whole


def test_the_newest_evaluations_are_read_off_an_index(
    client, dataset, checkpoint, services, statements
):
    for size in (8, 9):
        client.evaluate(checkpoint=checkpoint["digest"], dataset="points", batch_size=size)
    statements.clear()
    first = client.get("/v1/evaluations?limit=1").json
    client.get(f"/v1/evaluations?limit=1&cursor={first['next']}")
    lists = [one for one in statements if "ORDER BY" in one[0]]
    assert len(lists) == 2
    with services.database.connect() as db:
        for statement, parameters in lists:
            plan = db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            assert "USING INDEX ix_jobs_list" in str(plan)
            assert "TEMP B-TREE" not in str(plan)


def test_a_client_that_has_the_resource_is_told_so(client, dataset, checkpoint):
    job = client.evaluate(checkpoint=checkpoint["digest"], dataset="points").json
    answer = client.get(job["links"]["self"])
    tag = answer.headers["ETag"]
    again = client.get(job["links"]["self"], headers={"If-None-Match": tag})
    assert again.status_code == 304
    assert not again.data


def test_the_content_of_a_checkpoint_is_what_its_digest_names_also_in_parts(client, checkpoint):
    answer = client.get(checkpoint["links"]["content"])
    assert hashlib.sha256(answer.data).hexdigest() == checkpoint["digest"]
    for name, value in load_safetensors(answer.data).items():
        np.testing.assert_array_equal(value, state_dict()[name].numpy())
    part = client.get(checkpoint["links"]["content"], headers={"Range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.data == answer.data[10:20]
    part.close()
    answer.close()
    beyond = client.get(checkpoint["links"]["content"], headers={"Range": "bytes=99999999-"})
    assert_problem(beyond, 416, f"{len(answer.data)} bytes")
    for odd in ("items=0-3", "bytes=0-0,5-6"):
        whole = client.get(checkpoint["links"]["content"], headers={"Range": odd})
        assert (whole.status_code, whole.data) == (200, answer.data)
        whole.close()
    again = client.store(answer.data)
    assert again["digest"] == checkpoint["digest"]
    assert again["format"] == "safetensors"


def test_the_same_bytes_are_one_checkpoint_and_declared_otherwise_another(client):
    first = client.upload("/v1/checkpoints", content=pt(seed=77), architecture="mlp")
    again = client.upload("/v1/checkpoints", content=pt(seed=77), architecture="mlp")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json == again.json
    assert first.json["source_sha256"] == hashlib.sha256(pt(seed=77)).hexdigest()
    stated = client.store(pt(seed=77), hyperparameters='{"activation": "tanh"}')
    assert stated["digest"] != first.json["digest"]
    assert stated["assumed"] == ["classes", "transforms"]
    known = client.get(f"/v1/checkpoints?source_sha256={first.json['source_sha256']}").json
    assert {item["digest"] for item in known["items"]} == {first.json["digest"], stated["digest"]}


def test_a_raw_body_is_an_upload_with_its_fields_in_the_query(client, dataset):
    answer = client.http.post(
        "/v1/evaluations?wait&architecture=mlp&dataset=points&batch_size=16",
        data=pt(seed=9),
        content_type="application/octet-stream",
    )
    assert answer.status_code == 200
    assert answer.json["request"]["batch_size"] == 16


def test_a_dataset_is_a_new_version_only_if_something_differs(client):
    first = client.register("versions")
    again = client.register("versions")
    other = client.register("versions", content=npz(seed=5))
    spec = client.register("versions", transforms='[{"name": "to_float"}]')
    assert [first, again, other, spec] == ["versions@1", "versions@1", "versions@2", "versions@3"]
    listed = client.get("/v1/datasets/versions/versions").json["items"]
    assert [item["version"] for item in listed] == [3, 2, 1]
    latest = client.get("/v1/datasets/versions").json
    assert latest["version"] == 3
    assert latest["examples"] == 40
    assert latest["classes"] == ["0", "1", "2"]
    assert latest["input"] == {"kind": "array", "shape": [6], "dtype": "float32"}
    assert sum(latest["class_counts"].values()) == 40
    assert client.http.delete("/v1/datasets/versions@2").status_code == 204
    assert_problem(client.get("/v1/datasets/versions@2"), 404)
    assert client.register("versions", content=npz(seed=6)) == "versions@4"


def test_a_deleted_versions_number_is_never_given_again(client):
    assert client.register("once") == "once@1"
    assert client.http.delete("/v1/datasets/once@1").status_code == 204
    assert_problem(client.get("/v1/datasets/once"), 404)
    assert client.get("/v1/datasets?name=once").json["items"] == []
    assert client.register("once") == "once@2"
    assert_problem(client.http.delete("/v1/datasets/once@1"), 404)


def test_content_that_two_versions_share_is_deleted_with_the_second(client):
    client.register("left", content=npz(seed=31))
    client.register("right", content=npz(seed=31))
    digest = client.store(pt(seed=31))["digest"]
    client.http.delete("/v1/datasets/left")
    answer = client.evaluate(checkpoint=digest, dataset="right").json
    assert answer["state"] == "succeeded"
    client.http.delete("/v1/datasets/right")
    assert_problem(client.evaluate(checkpoint=digest, dataset="right"), 422, pointer="/dataset")


def test_content_that_was_deleted_while_it_was_ingested_again_fails_the_ingestion(
    client, services, monkeypatch
):
    client.register("gone", content=npz(seed=32))
    digest = client.get("/v1/datasets/gone").json["digest"]
    client.http.delete("/v1/datasets/gone")
    conclude = datasets.conclude

    def late(store, *arguments):
        store.delete(digest)
        return conclude(store, *arguments)

    with working(services, conclude=late):
        deadline = time.monotonic() + 30
        job = {"state": "succeeded"}
        while job["state"] == "succeeded" and time.monotonic() < deadline:
            job = client.upload(
                "/v1/datasets?wait", content=npz(seed=32), name="gone", split="test"
            ).json
            if job["state"] == "succeeded":  # the other worker of this module was quicker
                client.http.delete("/v1/datasets/gone")
    assert job["state"] == "failed"
    assert_problem(client.get("/v1/datasets/gone"), 404)


def test_a_misspelt_dataset_keeps_nothing_of_the_upload(client):
    content = pt(seed=91)
    answer = client.upload(
        "/v1/evaluations", part="checkpoint", content=content, architecture="mlp", dataset="pionts"
    )
    assert_problem(answer, 422, pointer="/dataset")
    sha256 = hashlib.sha256(content).hexdigest()
    assert client.get(f"/v1/checkpoints?source_sha256={sha256}").json["items"] == []


def test_a_file_that_is_no_dataset_is_refused_at_once_and_a_bad_one_by_its_job(client, services):
    uploads = services.settings.data_dir / "uploads"
    assert_problem(
        client.upload("/v1/datasets?wait", content=b"hello\n", name="bad", split="test"),
        422,
        "npz",
        pointer="/file",
    )
    job = client.upload(
        "/v1/datasets?wait", content=npz()[:-40], name="bad", split="validation"
    ).json
    assert (job["state"], job["reason"]) == ("failed", "bad_request")
    assert job["error"]["errors"][0]["pointer"] == "/file"
    assert_problem(client.get("/v1/datasets/bad"), 404)
    deadline = time.monotonic() + 10
    while list(uploads.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)  # the worker removes the upload just after it wrote the job's end
    assert list(uploads.iterdir()) == []
    assert list((services.settings.data_dir / "tmp").iterdir()) == []


def test_an_upload_brings_back_a_checkpoint_whose_bytes_were_lost(client, services):
    digest = client.store(pt(seed=41))["digest"]
    services.store.path(digest).unlink()
    assert_problem(client.get(f"/v1/checkpoints/{digest}/content"), 404)
    assert client.store(pt(seed=41))["digest"] == digest
    content = client.get(f"/v1/checkpoints/{digest}/content")
    assert hashlib.sha256(content.data).hexdigest() == digest
    content.close()


def test_a_deleted_checkpoint_is_gone_and_its_results_stay(client, dataset):
    stored = client.store(pt(seed=55))
    job = client.evaluate(checkpoint=stored["digest"], dataset="points").json
    assert client.http.delete(f"/v1/checkpoints/{stored['digest'][:9]}").status_code == 204
    assert_problem(client.get(f"/v1/checkpoints/{stored['digest']}"), 404)
    assert_problem(client.get(f"/v1/checkpoints/{stored['digest']}/content"), 404)
    kept = client.get(job["links"]["self"]).json
    assert kept["request"]["checkpoint"] == stored["digest"]


def test_two_applications_in_one_process_share_nothing(tmp_path):
    from service.app import create_app
    from tests.service.conftest import open_services

    services = open_services(tmp_path)
    alone = Client(create_app(services=services))
    assert alone.get("/v1/datasets").json == {"items": [], "next": None}
    services.close()
