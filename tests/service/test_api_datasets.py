"""Datasets over HTTP: examples, seals, overlap, division, uses, and verification on them."""

import io
import json

import numpy as np
import pytest

from tests.service.conftest import assert_problem, npz, pt, state_dict


def arrays(**named):
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    return buffer.getvalue()


def test_a_dataset_says_how_it_is_kept_and_how_often_it_was_used(client):
    content = npz(seed=21)
    client.register("plain", content=content)
    found = client.get("/v1/datasets/plain").json
    assert (found["sealed"], found["duplicates"], found["uses"]) == (False, 0, 0)
    digest = client.store(pt(seed=22))["digest"]
    client.evaluate(checkpoint=digest, dataset="plain")
    client.evaluate(checkpoint=digest, dataset="plain")  # answered from the result
    client.evaluate(checkpoint=digest, dataset="plain", fresh=True)
    assert client.get("/v1/datasets/plain").json["uses"] == 2
    client.register("final", content=content, split="test")
    assert client.get("/v1/datasets/final").json["sealed"] is True
    client.register("open", content=content, split="test", sealed="false")
    assert client.get("/v1/datasets/open").json["sealed"] is False
    listed = client.get("/v1/datasets?name=plain").json["items"]
    assert listed[0]["uses"] == 2


def test_an_example_shows_its_values_class_and_groups(client):
    x = np.arange(12, dtype=np.int16).reshape(4, 3)
    content = arrays(x=x, y=np.array(["b", "a", "b", "a"]), groups=np.array([7, 8, 7, 8]))
    client.register("small", content=content)
    assert client.get("/v1/datasets/small/examples/2").json == {
        "dataset": "small@1",
        "index": 2,
        "target": "b",
        "groups": {"groups": "7"},
        "shape": [3],
        "dtype": "int16",
        "values": [6, 7, 8],
    }
    for index in ("4", "-1", "abc", "1.0", "9" * 30, "%D9%A1"):
        answer = client.get(f"/v1/datasets/small/examples/{index}")
        assert_problem(answer, 404, "4 examples: the index must be 0 to 3")
    picture = client.get("/v1/datasets/small/examples/0?format=png")
    assert_problem(picture, 422, "no images", pointer="/format")
    assert_problem(client.get("/v1/datasets/none/examples/0"), 404)


def test_the_versions_of_a_name_are_listed_and_those_of_anything_else_are_not_there(client):
    client.register("twice", content=npz(seed=41))
    client.register("twice", content=npz(seed=42))
    items = client.get("/v1/datasets/twice/versions").json["items"]
    assert [one["version"] for one in items] == [2, 1]
    answer = client.get("/v1/datasets/twice/versions?cursor=x")
    assert_problem(answer, 422, pointer="/cursor")
    assert_problem(client.get("/v1/datasets/twice@1/versions"), 404, "'twice@1'", "without '@'")
    assert_problem(client.get("/v1/datasets/never/versions"), 404, "no dataset 'never'")


def test_datasets_are_filtered_by_what_they_say_of_themselves(client):
    client.register("sealed", content=npz(seed=43), split="test")
    client.register("table", content=b"a,label\n1,0\n2,1\n", split="train")
    found = client.get("/v1/datasets/table").json

    def names(query):
        return {one["name"] for one in client.get(f"/v1/datasets?{query}").json["items"]}

    assert "sealed" in names("sealed=true")
    assert "table" not in names("sealed=true")
    assert "sealed" not in names("sealed=false")
    assert "table" in names("sealed=false")
    assert names("format=csv") == {"table"}
    assert names(f"digest={found['digest']}") == {"table"}
    assert names(f"digest={'0' * 64}") == set()
    assert "table" in names(f"created_by={found['created_by']}&limit=200")
    assert names("created_by=nobody-else") == set()
    assert_problem(client.get("/v1/datasets?sealed=yes"), 422, "true or false", pointer="/sealed")
    assert_problem(client.get("/v1/datasets?digest=abc"), 422, "64", pointer="/digest")


def test_pixels_are_shown_as_a_picture_too(client):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8)
    client.register("pixels", content=arrays(x=pixels, y=np.arange(2)))
    answer = client.get("/v1/datasets/pixels/examples/1?format=png")
    assert answer.content_type == "image/png"
    shown = np.asarray(Image.open(io.BytesIO(answer.data)))
    np.testing.assert_array_equal(shown, np.moveaxis(pixels[1], 0, -1))
    assert client.get("/v1/datasets/pixels/examples/1").json["values"] == pixels[1].tolist()


def test_labels_that_hold_are_the_target_of_a_multilabel_example(client):
    y = np.array([[1, 0, 1], [0, 0, 0]])
    content = arrays(x=np.zeros((2, 2), np.float32), y=y)
    client.register("tags", content=content, task="multilabel", classes='["a", "b", "c"]')
    assert client.get("/v1/datasets/tags/examples/0").json["target"] == ["a", "c"]
    assert client.get("/v1/datasets/tags/examples/1").json["target"] == []


def test_single_examples_of_a_sealed_dataset_are_for_admins(guarded):
    guarded["trainer"].register("secret", split="test")
    guarded["trainer"].register("shown", content=npz(seed=0), split="validation")
    for role in ("viewer", "evaluator", "trainer"):
        assert_problem(guarded[role].get("/v1/datasets/secret/examples/0"), 403, "sealed")
        shared = guarded[role].get("/v1/datasets/shown/overlap?with=secret").json
        assert (shared["examples"], shared["indices"]) == (40, None)
    assert guarded["admin"].get("/v1/datasets/secret/examples/0").json["index"] == 0
    shared = guarded["admin"].get("/v1/datasets/shown/overlap?with=secret").json
    assert shared["indices"] == list(range(40))
    digest = guarded["evaluator"].store()["digest"]
    judged = guarded["evaluator"].evaluate(checkpoint=digest, dataset="secret").json
    assert judged["result"]["metrics"]["accuracy"] >= 0  # the aggregates are for everyone
    answer = guarded["trainer"].http.post(
        "/v1/datasets/secret/split", json={"train": "a", "validation": "b"}
    )
    assert_problem(answer, 422, "sealed")


def test_what_two_datasets_share_is_counted_whatever_the_labels(client):
    x = np.random.default_rng(5).normal(size=(100, 4)).astype(np.float32)
    client.register("left", content=arrays(x=x[:60], y=np.arange(60) % 2))
    client.register("right", content=arrays(x=x[50:], y=np.arange(50) % 3))
    assert client.get("/v1/datasets/left/overlap?with=right").json == {
        "dataset": "left@1",
        "with": "right@1",
        "examples": 10,
        "of": 60,
        "fraction": 10 / 60,
        "indices": list(range(50, 60)),
    }
    assert_problem(client.get("/v1/datasets/left/overlap?with=none"), 422, pointer="/with")
    assert_problem(client.get("/v1/datasets/left/overlap"), 422, "is required", pointer="/with")


def test_a_dataset_is_divided_into_two_that_share_nothing(client):
    client.register("whole", content=npz(seed=6, examples=300), split="train")
    request = {"train": "part-train", "validation": "part-val", "fraction": 0.3, "seed": 1}
    answer = client.http.post("/v1/datasets/whole/split?wait", json=request)
    assert answer.status_code == 200
    job = answer.json
    assert job["kind"] == "ingestion"
    assert job["result"] == {"datasets": ["part-train@1", "part-val@1"], "known": False}
    assert job["request"] == {"dataset": "whole@1", **request, "stratify": True}
    train, validation = (
        client.get(f"/v1/datasets/{job_}").json for job_ in job["result"]["datasets"]
    )
    assert (train["split"], validation["split"]) == ("train", "validation")
    assert train["examples"] + validation["examples"] == 300
    assert validation["examples"] == pytest.approx(90, abs=2)
    assert client.get("/v1/datasets/part-train/overlap?with=part-val").json["examples"] == 0
    assert (
        client.get("/v1/datasets/part-train/overlap?with=whole").json["examples"]
        == train["examples"]
    )
    again = client.http.post("/v1/datasets/whole/split?wait", json=request).json
    assert again["result"] == {"datasets": ["part-train@1", "part-val@1"], "known": True}


@pytest.mark.parametrize(
    ("change", "pointer", "part"),
    [
        ({"train": "same", "validation": "same"}, "/validation", "two names"),
        ({"fraction": 1}, "/fraction", "less than 1"),
        ({"fraction": 0.0}, "/fraction", "greater than 0"),
        ({"seed": -1}, "/seed", "0"),
        ({"stratify": "yes"}, "/stratify", "true or false"),
        ({"train": "a b"}, "/train", "letters"),
    ],
)
def test_a_division_that_makes_no_sense_is_refused(client, change, pointer, part):
    client.register("whole", content=npz(seed=6, examples=300), split="train")
    request = {"train": "a", "validation": "b", **change}
    answer = client.http.post("/v1/datasets/whole/split", json=request)
    assert_problem(answer, 422, part, pointer=pointer)


def test_a_division_with_an_empty_part_fails_and_says_why(client):
    client.register("few", content=npz(examples=5, seed=8), split="train", classes='["0","1","2"]')
    request = {"train": "a", "validation": "b", "fraction": 0.01, "stratify": False}
    job = client.http.post("/v1/datasets/few/split?wait", json=request).json
    assert (job["state"], job["error"]["status"]) == ("failed", 422)
    assert job["error"]["errors"][0]["pointer"] == "/fraction"


def test_an_evaluation_is_verified_by_another_that_computes_it_again(client):
    client.register("again", content=npz(seed=31))
    digest = client.store(pt(seed=32))["digest"]
    first = client.evaluate(checkpoint=digest, dataset="again", batch_size=7).json
    answer = client.http.post(f"/v1/evaluations/{first['id']}/verify?wait")
    assert answer.status_code == 200
    second = answer.json
    assert second["id"] != first["id"]
    assert second["verifies"] == first["id"]
    assert second["request"] == {**first["request"], "verifies": first["id"]}
    verification = second["result"]["verification"]
    assert verification == {
        "evaluation": first["id"],
        "outcome": "identical",
        "changed": [],
        "largest_difference": 0.0,
        "predictions_changed": 0,
        "metrics_equal": True,
    }
    assert first["verifies"] is None
    known = client.evaluate(checkpoint=digest, dataset="again", batch_size=7).json
    assert known["id"] == first["id"]  # a verification answers no other request
    third = client.http.post(f"/v1/evaluations/{second['id']}/verify?wait").json
    assert third["verifies"] == second["id"]


def test_a_post_that_takes_no_fields_refuses_those_of_a_body(client):
    client.register("bare", content=npz(seed=44))
    digest = client.store(pt(seed=45))["digest"]
    job = client.evaluate(checkpoint=digest, dataset="bare").json
    for path in (f"/v1/evaluations/{job['id']}/verify", f"/v1/jobs/{job['id']}/cancel"):
        answer = client.http.post(path, json={"tolerance": 0.1})
        assert_problem(answer, 422, "is unknown here", pointer="/tolerance")
        answer = client.http.post(path, data={"tolerance": "0.1"})
        assert_problem(answer, 415, "must be JSON")
        answer = client.http.post(path, data=b"[]", content_type="application/json")
        assert_problem(answer, 400, "must be a JSON object")
    path = f"/v1/evaluations/{job['id']}/verify?wait"
    assert client.http.post(path, json={}).json["state"] == "succeeded"
    empty = client.http.post(path, data=b"", content_type="application/x-www-form-urlencoded")
    assert empty.json["state"] == "succeeded"


def test_what_cannot_be_verified_says_why(client):
    assert_problem(client.http.post("/v1/evaluations/none/verify"), 404)
    client.register("gone", content=npz(seed=33))
    digest = client.store(pt(seed=34))["digest"]
    job = client.evaluate(checkpoint=digest, dataset="gone").json
    client.http.delete(f"/v1/checkpoints/{digest}")
    answer = client.http.post(f"/v1/evaluations/{job['id']}/verify")
    assert_problem(answer, 409, "checkpoint", "not in the store")
    weights = state_dict(seed=35)
    weights["layers.1.bias"][0] = float("inf")
    broken = client.upload(
        "/v1/evaluations?wait",
        part="checkpoint",
        content=_saved(weights),
        architecture="mlp",
        dataset="gone",
    ).json
    assert broken["state"] == "failed"
    answer = client.http.post(f"/v1/evaluations/{broken['id']}/verify")
    assert_problem(answer, 409, "failed", "no result")


def _saved(weights):
    import torch

    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


def test_an_augmentation_is_refused_where_numbers_must_repeat(client):
    transforms = [{"name": "random_horizontal_flip"}]
    answer = client.upload(
        "/v1/datasets", content=npz(), name="a", split="test", transforms=json.dumps(transforms)
    )
    assert_problem(answer, 422, "random", "training", pointer="/transforms/0/name")
    client.register("fixed", content=npz(seed=36))
    digest = client.store(pt(seed=37))["digest"]
    answer = client.evaluate(checkpoint=digest, dataset="fixed", transforms=transforms)
    assert_problem(answer, 422, "random", pointer="/transforms/0/name")
