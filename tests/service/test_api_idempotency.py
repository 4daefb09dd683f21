import threading

import pytest

from service.operations import idempotency
from service.operations.errors import KeyInUse
from tests.service.conftest import assert_problem, npz, pt


@pytest.fixture(scope="module")
def digest(client):
    client.register()
    return client.store()["digest"]


def key(name):
    return {"Idempotency-Key": name}


def test_the_same_key_and_request_give_the_same_job_in_its_present_state(client, digest):
    request = {"checkpoint": digest, "dataset": "points", "fresh": True}
    first = client.evaluate(wait="", headers=key("a"), **request)
    assert first.status_code == 202
    again = client.evaluate(wait="?wait", headers=key("a"), **request)
    assert again.status_code == 200
    assert again.json["id"] == first.json["id"]
    assert again.json["state"] == "succeeded"
    other = client.evaluate(wait="?wait", headers=key("b"), **request)
    assert other.json["id"] != first.json["id"]


def test_another_request_under_a_key_is_refused(client, digest):
    request = {"checkpoint": digest, "dataset": "points", "fresh": True}
    client.evaluate(headers=key("c"), **request)
    answer = client.evaluate(headers=key("c"), **{**request, "batch_size": 3})
    assert_problem(answer, 422, "another request")


def test_an_upload_is_the_same_request_if_its_bytes_and_fields_are(client):
    def send(content, **fields):
        return client.upload(
            "/v1/datasets?wait", content=content, headers=key("d"), name="keyed", **fields
        )

    first = send(npz(seed=1), split="test")
    again = send(npz(seed=1), split="test")
    assert again.json["id"] == first.json["id"]
    assert_problem(send(npz(seed=2), split="test"), 422, "another request")
    assert_problem(send(npz(seed=1), split="train"), 422, "another request")


def test_a_created_checkpoint_is_created_again_for_the_same_key(client):
    first = client.upload(
        "/v1/checkpoints", content=pt(seed=41), architecture="mlp", headers=key("e")
    )
    again = client.upload(
        "/v1/checkpoints", content=pt(seed=41), architecture="mlp", headers=key("e")
    )
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json == again.json


def test_a_refusal_is_kept_too_and_a_malformed_body_is_not(client):
    answer = client.evaluate(headers=key("f"), checkpoint="f" * 64, dataset="points")
    assert_problem(answer, 422, "there is no checkpoint")
    again = client.evaluate(headers=key("f"), checkpoint="f" * 64, dataset="points")
    assert again.json == answer.json
    other = client.evaluate(headers=key("f"), checkpoint="e" * 64, dataset="points")
    assert_problem(other, 422, "another request")


def test_a_key_is_of_one_path_and_of_sane_form(client, digest):
    request = {"checkpoint": digest, "dataset": "points"}
    client.evaluate(headers=key("g"), **request)
    assert client.http.post("/v1/jobs/none/cancel", headers=key("g")).status_code == 404
    assert_problem(client.evaluate(headers=key("x" * 300), **request), 422, "Idempotency-Key")
    assert_problem(client.evaluate(headers=key(""), **request), 422, "Idempotency-Key")


def test_a_failure_of_the_service_is_not_kept(client, digest, monkeypatch):
    request = {"checkpoint": digest, "dataset": "points", "fresh": True}

    def fail(*_, **__):
        raise RuntimeError

    with monkeypatch.context() as broken:
        broken.setattr("service.operations.evaluations.queue.submit", fail)
        assert_problem(client.evaluate(headers=key("h"), **request), 500)
    assert client.evaluate(headers=key("h"), **request).status_code == 200


def test_while_the_first_is_handled_the_second_is_409_and_a_cut_off_first_is_forgotten(services):
    now = services.clock()
    at = {"now": now}
    import dataclasses

    mine = dataclasses.replace(services, clock=lambda: at["now"])
    assert idempotency.begin(mine, "scope", "k", "print") is None
    with pytest.raises(KeyInUse):
        idempotency.begin(mine, "scope", "k", "print")
    at["now"] += mine.settings.reader_s + idempotency.GRACE_S + 1
    assert idempotency.begin(mine, "scope", "k", "print") is None
    idempotency.conclude(mine, "scope", "k", {"job": "1"})
    assert idempotency.begin(mine, "scope", "k", "print") == {"job": "1"}
    at["now"] += mine.settings.idempotency_s + 1
    assert idempotency.begin(mine, "scope", "k", "other") is None


def test_of_many_equal_requests_at_once_one_makes_a_job(client, app, digest):
    from tests.service.conftest import Client

    request = {"checkpoint": digest, "dataset": "points", "fresh": True, "batch_size": 11}
    answers = []

    def send():
        answers.append(Client(app).evaluate(wait="", headers=key("many"), **request))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {200, 202, 409}
    assert len({answer.json["id"] for answer in answers if answer.status_code != 409}) == 1
