"""What a sealed dataset does not show to those who are no admins, whichever way they ask."""

import csv
import io
import json

import numpy as np
import pytest

from models.sections import merged_groups
from tests.service.conftest import assert_problem, pt

SECRET = "HID-"


def table(rows):
    text = io.StringIO()
    csv.writer(text).writerows([("id", "size", "label"), *rows])
    return text.getvalue().encode()


ROWS = [(f"{SECRET}{index}", index / 4, ("no", "yes")[index % 2]) for index in range(12)]
ENCODED = '[{"name": "one_hot", "categories": {"id": ["x"]}, "unknown": "zeros"}]'
OPEN = [(f"known-{index}", index / 3, ("no", "yes")[index % 2]) for index in range(9)]


def test_the_cells_of_a_sealed_table_are_not_among_its_columns(guarded):
    for name, rows, sealed in (("open-table", OPEN, "false"), ("sealed-table", ROWS, "true")):
        guarded["trainer"].register(
            name, content=table(rows), sealed=sealed, split="train", transforms=ENCODED
        )
    for role in ("viewer", "trainer"):
        shown = guarded[role].get("/v1/datasets/sealed-table")
        assert [set(one) for one in shown.json["columns"]] == [{"name", "kind", "missing"}] * 2
        assert SECRET not in shown.text
    assert SECRET in guarded["admin"].get("/v1/datasets/sealed-table").text
    assert "known-3" in guarded["viewer"].get("/v1/datasets/open-table").text


def test_constants_do_not_come_from_a_sealed_table(guarded):
    guarded["trainer"].register(
        "closed", content=table(ROWS), sealed="true", split="train", transforms=ENCODED
    )
    transforms = [{"name": "one_hot", "dataset": "closed"}, {"name": "flatten"}]
    digest = guarded["evaluator"].store()["digest"]
    answer = guarded["evaluator"].evaluate(
        checkpoint=digest, dataset="closed", transforms=transforms
    )
    assert_problem(answer, 422, "closed@1 is sealed", pointer="/transforms/0/dataset")
    own = (
        guarded["trainer"]
        .upload(
            "/v1/datasets?wait",
            content=table(ROWS),
            name="own",
            split="train",
            sealed="true",
            transforms='[{"name": "one_hot"}]',
        )
        .json
    )
    assert (own["state"], own["error"]["errors"][0]["pointer"]) == ("failed", "/transforms/0")


def test_why_a_sealed_file_was_refused_is_for_its_sender_and_admins(guarded):
    content = table(ROWS)
    job = (
        guarded["trainer"]
        .upload(
            "/v1/datasets?wait",
            content=content,
            name="refused",
            split="test",
            classes='["no", "yes"]',
            transforms='[{"name": "one_hot", "categories": {"id": ["x"]}}]',
        )
        .json
    )
    assert job["state"] == "failed"
    assert SECRET in job["error"]["detail"]
    for role in ("viewer", "evaluator"):
        for path in (f"/v1/jobs/{job['id']}", f"/v1/ingestions/{job['id']}", "/v1/ingestions"):
            answer = guarded[role].get(path)
            assert job["error"]["detail"] not in answer.text
            assert "what was wrong is for admins and for trainer" in answer.text
        assert SECRET not in guarded[role].get(f"/v1/jobs/{job['id']}/events").text
    assert guarded["admin"].get(f"/v1/jobs/{job['id']}").json["error"] == job["error"]


def test_slices_of_few_examples_are_not_judged_by_themselves(guarded):
    names = np.array([f"p{index}" for index in range(25)] + ["crowd"] * 15)
    buffer = io.BytesIO()
    random = np.random.default_rng(3)
    x, y = random.normal(size=(40, 6)).astype(np.float32), np.arange(40) % 3
    np.savez(buffer, x=x, y=y, groups=names)
    digest = guarded["evaluator"].store(pt())["digest"]
    for name, sealed in (("many", "true"), ("plain", "false")):
        guarded["trainer"].register(name, content=buffer.getvalue(), sealed=sealed)
        result = guarded["evaluator"].evaluate(checkpoint=digest, dataset=name).json["result"]
        sizes = [one["examples"] for one in result["per_group"]]
        if name == "plain":
            assert len(sizes) == 26
            total = sum(one["accuracy"] * one["examples"] for one in result["per_group"])
            continue
        assert sizes == [15, 25]
        assert "p7" not in json.dumps(result)
        assert result["per_group"][1]["value"] == "25 values, such as have fewer than 10 examples"
        sealed_total = sum(one["accuracy"] * one["examples"] for one in result["per_group"])
    assert sealed_total == pytest.approx(total)


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ([12, 15], {"0": 12, "1": 15}),
        ([3, 15, 20], {"2": 20}),  # three alone would follow by subtraction
        ([4, 4, 4, 30], {"3": 30}),
        ([9], {}),
        ([2, 3], {}),
    ],
)
def test_the_rest_of_a_group_is_never_small(sizes, kept):
    codes = np.repeat(np.arange(len(sizes)), sizes)
    (new, values) = merged_groups({"g": (codes, [str(i) for i in range(len(sizes))])}, least=10)[
        "g"
    ]
    counted = dict(zip(values, np.bincount(new, minlength=len(values)).tolist(), strict=True))
    rest = {name: size for name, size in counted.items() if name not in kept}
    assert {name: counted[name] for name in kept} == kept
    assert sum(counted.values()) == sum(sizes)
    assert all(size >= min(10, sum(sizes)) for size in rest.values())


def test_a_test_set_cannot_become_a_training_set(client):
    client.register("final", split="test", sealed="false")
    answer = client.http.post(
        "/v1/datasets/final/split", json={"train": "a", "validation": "b", "fraction": 0.2}
    )
    assert_problem(answer, 422, "final@1 is for testing")
