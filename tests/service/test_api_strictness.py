import io
import json
import time

import pytest
import torch
from sqlalchemy.exc import TimeoutError

from service.app import create_app
from tests.service.conftest import Client, assert_problem, npz, open_services, pt


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"dataset": "a"} trailing', "not JSON"),
        (b'{"dataset": "a", "dataset": "b"}', "stands twice"),
        (b'{"threshold": NaN}', "NaN"),
        (b'{"threshold": Infinity}', "Infinity"),
        (b'{"threshold": 1e999}', "too large"),
        (b'{"batch_size": 99999999999999999999}', "too large"),
        (b'{"dataset": "\\u0000"}', "u0000"),
        (b'{"dataset": "\\ud800"}', "surrogate"),
        (b'{"dataset": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_json_that_leaves_something_open_is_malformed(client, body, part):
    answer = client.http.post("/v1/evaluations", data=body, content_type="application/json")
    assert_problem(answer, 400, part)


@pytest.mark.parametrize("media", ["text/plain", "application/xml", None])
def test_another_content_type_is_not_supported(client, media):
    answer = client.http.post("/v1/evaluations", data=b"{}", content_type=media)
    assert_problem(answer, 415, "multipart/form-data")


def test_an_address_that_does_not_exist_is_a_problem(client):
    for path in ("/v2/nothing", "/v1/datasets/a/nothing"):
        assert_problem(client.get(path), 404, "no such path; GET /openapi.json lists all")
    assert_problem(client.get("/v1/evaluations/none"), 404, "no evaluation")
    assert_problem(client.get("/v1/jobs/none/events"), 404)
    assert_problem(client.get("/v1/catalog/pets"), 404, "known: architectures")
    assert_problem(client.get("/v1/datasets/" + "x" * 5000), 404)


def test_a_method_that_does_not_exist_says_which_do(client):
    answer = client.http.put("/v1/evaluations", json={})
    problem = assert_problem(answer, 405)
    assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))
    assert "POST" in problem["detail"]


def test_a_json_body_over_1_mib_is_too_large(client):
    body = json.dumps({"labels": {"a": "x" * 2**20}})
    answer = client.http.post("/v1/evaluations", data=body, content_type="application/json")
    assert_problem(answer, 413, "1 MiB")


def test_unknown_query_parameters_and_repeated_ones_are_errors(client):
    assert_problem(client.get("/v1/jobs?colour=red"), 422, pointer="/colour")
    assert_problem(client.get("/v1/jobs?limit=1&limit=2"), 422, pointer="/limit")
    assert_problem(client.get("/v1/jobs?limit=ten"), 422, pointer="/limit")
    assert_problem(client.get("/v1/jobs?wait"), 422, pointer="/wait")


def test_a_text_that_is_no_json_is_answered_with_json_that_would_be_right(client):
    for field, text, example in (
        ("classes", "p,q", '["p", "q"]'),
        ("transforms", "to_float", '[{"name": "to_float"}]'),
        ("labels", "team=a", '{"p": "q"}'),
    ):
        fields = {"name": "a", "split": "train", field: text}
        answer = client.upload("/v1/datasets", content=npz(), **fields)
        assert_problem(answer, 422, f"such as {example}", f"got {text!r}", pointer=f"/{field}")


def test_an_unknown_parameter_lists_the_names_that_are_written(client):
    client.register("known")
    answer = client.get("/v1/datasets/known/overlap?with=known&x=1")
    assert_problem(answer, 422, "is unknown; known: with", pointer="/x")


@pytest.mark.parametrize("wait", ["soon", "-1", "1e3", "nan", "inf", "٣"])
def test_a_wait_that_is_no_number_of_seconds_is_an_error(client, wait):
    answer = client.upload(f"/v1/datasets?wait={wait}", content=npz(), name="a", split="test")
    assert_problem(answer, 422, pointer="/wait")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": "a"}, "/split"),
        ({"name": "a/b", "split": "test"}, "/name"),
        ({"name": "a", "split": "exam"}, "/split"),
        ({"name": "a", "split": "test", "task": "regression"}, "/task"),
        ({"name": "a", "split": "test", "classes": "cat,dog"}, "/classes"),
        ({"name": "a", "split": "test", "classes": '["cat", "cat"]'}, "/classes"),
        ({"name": "a", "split": "test", "classes": '["cat", 1]'}, "/classes/1"),
        ({"name": "a", "split": "test", "positive_class": "1"}, "/positive_class"),
        ({"name": "a", "split": "test", "format": "hdf5"}, "/format"),
        ({"name": "a", "split": "test", "format": "safetensors"}, "/format"),
        (
            {"name": "a", "split": "test", "transforms": '[{"name": "jitter"}]'},
            "/transforms/0/name",
        ),
        (
            {"name": "a", "split": "test", "transforms": '[{"name": "color_jitter"}]'},
            "/transforms/0/name",
        ),
        ({"name": "a", "split": "test", "transforms": "{}"}, "/transforms"),
        ({"name": "a", "split": "test", "colour": "red"}, "/colour"),
        ({"name": "a", "split": "test", "labels": '{"a": []}'}, "/labels/a"),
        ({"name": "a", "split": "test", "timeout_s": "soon"}, "/timeout_s"),
    ],
)
def test_a_wrong_field_of_a_form_is_named(client, fields, pointer):
    answer = client.upload("/v1/datasets", content=npz(), **fields)
    assert_problem(answer, 422, pointer=pointer)


@pytest.mark.parametrize(
    ("fields", "pointer", "part"),
    [
        ({}, "/architecture", "known: mlp, convnet"),
        ({"architecture": "mpl"}, "/architecture", "mlp"),
        (
            {"architecture": "mlp", "hyperparameters": '{"hidden": [7]}'},
            "/hyperparameters/hidden",
            "[5]",
        ),
        (
            {"architecture": "mlp", "hyperparameters": '{"activation": "sin"}'},
            "/hyperparameters/activation",
            "relu",
        ),
        ({"architecture": "mlp", "classes": '["a", "b"]'}, "/classes", "3"),
        ({"architecture": "mlp", "key_map": '{"net": "layers"}'}, "/key_map/net", "layers.0"),
        ({"architecture": "convnet"}, "/file", "convs.0.weight"),
    ],
)
def test_what_is_said_of_a_checkpoint_must_fit_its_file(client, fields, pointer, part):
    answer = client.upload("/v1/checkpoints", content=pt(), **fields)
    assert_problem(answer, 422, part, pointer=pointer)


@pytest.mark.parametrize("content", [b"", b"\x00", b"PK\x03\x04", b"MZ" * 500, b"{}" * 20])
def test_a_file_of_another_kind_is_refused(client, services, content):
    answer = client.upload("/v1/checkpoints", content=content, architecture="mlp")
    assert answer.status_code in (415, 422)
    assert_problem(answer, answer.status_code)
    assert list((services.settings.data_dir / "tmp").iterdir()) == []


def test_a_file_sent_as_text_a_missing_one_and_two_of_them_are_errors(client):
    form = {"file": "text", "architecture": "mlp"}
    answer = client.http.post("/v1/checkpoints", data=form, content_type="multipart/form-data")
    assert_problem(answer, 422, "curl -F file=@", pointer="/file")
    form = {"architecture": "mlp"}
    answer = client.http.post("/v1/checkpoints", data=form, content_type="multipart/form-data")
    assert_problem(answer, 422, pointer="/file")
    form = {"file": [(io.BytesIO(pt()), "a"), (io.BytesIO(pt()), "b")], "architecture": "mlp"}
    answer = client.http.post("/v1/checkpoints", data=form, content_type="multipart/form-data")
    assert_problem(answer, 422, pointer="/file")
    form = {"other": (io.BytesIO(pt()), "a"), "architecture": "mlp"}
    answer = client.http.post("/v1/checkpoints", data=form, content_type="multipart/form-data")
    assert_problem(answer, 422, pointer="/other")


def test_a_form_that_breaks_off_is_malformed(client):
    answer = client.http.post(
        "/v1/checkpoints",
        data=b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc',
        content_type="multipart/form-data; boundary=x",
    )
    assert answer.status_code in (400, 422)
    assert_problem(answer, answer.status_code)


def test_an_upload_over_the_limit_is_refused_and_leaves_nothing(tmp_path):
    services = open_services(tmp_path, max_upload_bytes=2000)
    small = Client(create_app(services=services))
    answer = small.upload("/v1/checkpoints", content=b"x" * 3000, architecture="mlp")
    assert_problem(answer, 413, "2000 bytes")
    assert answer.headers["Connection"] == "close"
    for size in (2001, 2**21):
        answer = small.http.post(
            "/v1/checkpoints?architecture=mlp",
            data=b"x" * size,
            content_type="application/octet-stream",
        )
        assert_problem(answer, 413)
    assert list((tmp_path / "tmp").iterdir()) == []
    services.close()


def test_an_upload_of_exactly_the_limit_is_taken(tmp_path):
    content = pt()
    services = open_services(tmp_path, max_upload_bytes=len(content))
    exact = Client(create_app(services=services))
    raw = {"content_type": "application/octet-stream"}
    answer = exact.http.post("/v1/checkpoints?architecture=mlp", data=content, **raw)
    assert answer.status_code == 201
    services.close()


def test_text_that_is_not_utf8_is_refused_and_never_stored_otherwise(client):
    body = (
        b'--x\r\nContent-Disposition: form-data; name="labels"\r\n\r\n{"a": "caf\xe9"}\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + pt()
        + b"\r\n--x--\r\n"
    )
    answer = client.http.post(
        "/v1/checkpoints", data=body, content_type="multipart/form-data; boundary=x"
    )
    assert_problem(answer, 400, "'labels' is not UTF-8")
    answer = client.http.post(
        '/v1/checkpoints?architecture=mlp&labels={"a":"caf%E9"}',
        data=pt(),
        content_type="application/octet-stream",
    )
    assert_problem(answer, 400, "query string is not UTF-8")


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("limit=abc", "/limit: must be an integer, got 'abc'"),
        ("bogus=1", "/bogus: is unknown; known: limit, cursor, sort, kind, state, created_by"),
    ],
)
def test_a_query_parameter_that_cannot_be_read_says_what_would_be(client, query, detail):
    assert_problem(client.get(f"/v1/jobs?{query}"), 422, detail)


@pytest.mark.parametrize(
    ("field", "text", "detail"),
    [
        ("fresh", "yes", "/fresh: must be true or false, got 'yes'"),
        ("batch_size", "many", "/batch_size: must be an integer, got 'many'"),
        ("threshold", "half", "/threshold: must be a number, got 'half'"),
        ("labels", '{"a": "1", "a": "2"}', "key 'a' stands twice"),
        ("hyperparameters", "{", "/hyperparameters: must be JSON such as {"),
    ],
)
def test_a_form_field_that_cannot_be_read_says_what_would_be(client, field, text, detail):
    form = {"architecture": "mlp", "dataset": "points", field: text}
    answer = client.upload("/v1/evaluations", part="checkpoint", content=pt(), **form)
    assert_problem(answer, 422, detail, pointer=f"/{field}")


def test_labels_may_be_called_key_and_value_and_keep_their_pointers(client):
    request = {"checkpoint": "a" * 64, "dataset": "points", "labels": {"value": 3, "key": 4}}
    problem = assert_problem(client.http.post("/v1/evaluations", json=request), 422)
    assert {one["pointer"] for one in problem["errors"]} == {"/labels/value", "/labels/key"}


def test_the_request_id_is_echoed_when_it_is_sane(client):
    assert (
        client.get("/healthz", headers={"X-Request-Id": "ci-42"}).headers["X-Request-Id"] == "ci-42"
    )
    for odd in ("a b", "x" * 200, "é"):
        made = client.get("/healthz", headers={"X-Request-Id": odd}).headers["X-Request-Id"]
        assert made
        assert made != odd


def test_an_unexpected_failure_says_nothing_internal(client, app, monkeypatch):
    def fail(*_):
        raise RuntimeError("secret path /root/x")

    monkeypatch.setattr("service.api.system.workers.describe", fail)
    answer = client.get("/v1/workers")
    assert_problem(answer, 500)
    assert "secret" not in answer.text
    assert client.get("/healthz").status_code == 200


def test_no_query_parameter_is_ignored_wherever_it_stands(client):
    answer = client.upload("/v1/checkpoints?architecture=convnet", content=pt(), architecture="mlp")
    assert_problem(answer, 422, pointer="/architecture")
    answer = client.get("/v1/jobs?bogus=1", content_type="application/octet-stream")
    assert_problem(answer, 422, pointer="/bogus")
    assert_problem(client.get("/v1/workers?bogus=1"), 422, pointer="/bogus")
    answer = client.http.post(
        "/v1/checkpoints?architecture=mlp&bogus=1",
        data=pt(),
        content_type="application/octet-stream",
    )
    assert_problem(answer, 422, pointer="/bogus")


def test_a_form_of_very_many_parts_is_refused(client):
    form = {f"field-{number}": "x" for number in range(100)}
    answer = client.http.post("/v1/checkpoints", data=form, content_type="multipart/form-data")
    assert_problem(answer, 413, "64 parts")


def test_very_many_class_names_are_checked_in_one_pass(client):
    names = [f"class {number}" for number in range(20_000)]
    began = time.monotonic()
    answer = client.upload(
        "/v1/datasets",
        content=npz(),
        name="many",
        split="test",
        classes=json.dumps([*names, names[-1]]),
    )
    assert_problem(answer, 422, "stands twice", pointer="/classes")
    assert time.monotonic() - began < 3


def test_a_registration_that_fails_at_the_database_leaves_no_upload(client, services, monkeypatch):
    def fail(*_, **__):
        raise TimeoutError("waited for others to write")

    monkeypatch.setattr("service.operations.datasets.queue.submit", fail)
    answer = client.upload("/v1/datasets", content=npz(), name="a", split="test")
    problem = assert_problem(answer, 503, "database")
    assert answer.headers["Retry-After"]
    assert "waited" not in problem["detail"]
    assert list((services.settings.data_dir / "uploads").iterdir()) == []


def test_made_up_methods_make_no_new_series(client):
    for number in range(20):
        client.http.open("/v1/jobs", method=f"MADEUP{number}")
    text = client.get("/metrics").text
    assert "MADEUP" not in text
    assert 'method="other"' in text


def test_a_view_that_repeats_one_number_cannot_fill_the_disk(client):
    buffer = io.BytesIO()
    wide = torch.zeros(1).expand(20_000, 20_000)
    torch.save({"layers.0.weight": wide, "layers.0.bias": torch.zeros(20_000)}, buffer)
    answer = client.upload("/v1/checkpoints", content=buffer.getvalue(), architecture="mlp")
    assert_problem(answer, 413)


def test_a_full_disk_is_507_and_leaves_nothing(client, services, monkeypatch):
    import errno

    from checkpoints.store import LocalDraft

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalDraft, "write", full)
    assert_problem(client.upload("/v1/checkpoints", content=pt(), architecture="mlp"), 507)
    assert list((services.settings.data_dir / "tmp").iterdir()) == []
