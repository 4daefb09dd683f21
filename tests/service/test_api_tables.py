"""Tables over HTTP: constants from the training table, and what a network then sees."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.service.conftest import assert_problem, pt, state_dict

HEAD = ("age", "colour", "income", "label", "site")
TRAINING = [
    ("20", "red", "1.5", "no", "north"),
    ("30", "blue", "", "yes", "south"),
    ("", "red", "2.5", "no", "north"),
    ("50", "green", "4.0", "yes", "south"),
    ("60", "red", "5.5", "yes", "north"),
]
HELD_OUT = [
    ("25", "blue", "", "yes", "north"),
    ("", "green", "3.5", "no", "south"),
    ("41.5", "red", "-1", "no", "south"),
]
CHAIN = ("impute", "one_hot", "standardize")


def as_csv(rows, head=HEAD):
    text = io.StringIO()
    csv.writer(text).writerows([head, *rows])
    return text.getvalue().encode()


def numbers(rows, column):
    return np.array([[float(row[column] or "nan")] for row in rows])


def by_scikit_learn(rows):
    """Impute and scale the numbers, encode the colours, each fitted on the training rows."""

    def scaled(column):
        training = numbers(TRAINING, column)
        filled = SimpleImputer().fit(training).transform(numbers(rows, column))
        return StandardScaler().fit(training).transform(filled)  # which leaves gaps out

    encoder = OneHotEncoder(sparse_output=False).fit([[row[1]] for row in TRAINING])
    colours = encoder.transform([[row[1]] for row in rows])
    return np.concatenate([scaled(0), colours, scaled(2)], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def registered(client):
    """A training table whose constants come from itself, and one that takes them from it."""
    own = [{"name": name} for name in CHAIN]
    fields = {"task": "binary", "groups": '["site"]'}
    client.register(
        "people-train",
        content=as_csv(TRAINING),
        split="train",
        transforms=json.dumps(own),
        **fields,
    )
    named = [{"name": name, "dataset": "people-train"} for name in CHAIN]
    client.register("people", content=as_csv(HELD_OUT), transforms=json.dumps(named), **fields)
    return client.get("/v1/datasets/people-train").json, client.get("/v1/datasets/people").json


def test_a_table_shows_its_columns_classes_and_groups(registered):
    train, _ = registered
    assert train["format"] == "csv"
    assert train["input"] == {"kind": "table", "shape": [3], "dtype": "float64"}
    assert [one["name"] for one in train["columns"]] == ["age", "colour", "income"]
    assert train["classes"] == ["no", "yes"]
    assert train["class_counts"] == {"no": 2, "yes": 3}
    assert train["groups"] == {"site": {"north": 3, "south": 2}}


def test_constants_are_numbers_of_the_training_table_in_both(registered):
    train, held_out = registered
    assert train["transforms"] == held_out["transforms"]
    impute, one_hot, standardize = train["transforms"]
    assert impute["values"]["age"] == pytest.approx(40.0)
    assert one_hot["categories"] == {"colour": ["blue", "green", "red"]}
    assert standardize["mean"]["income"] == pytest.approx(np.mean([1.5, 2.5, 4.0, 5.5]))
    assert standardize["std"]["income"] == pytest.approx(np.std([1.5, 2.5, 4.0, 5.5]))


def test_a_network_sees_what_scikit_learn_makes_of_the_table(client, registered):
    job = client.upload(
        "/v1/evaluations?wait",
        part="checkpoint",
        content=pt(seed=51, features=5, outputs=2),
        architecture="mlp",
        dataset="people",
    ).json
    assert job["state"] == "succeeded", job["error"]
    weights = state_dict(seed=51, features=5, outputs=2)
    x = torch.from_numpy(by_scikit_learn(HELD_OUT))
    hidden = torch.relu(x @ weights["layers.0.weight"].T + weights["layers.0.bias"])
    logits = hidden @ weights["layers.1.weight"].T + weights["layers.1.bias"]
    target = torch.tensor([1, 0, 0])
    loss = torch.nn.functional.cross_entropy(logits.double(), target).item()
    assert job["result"]["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert {one["value"] for one in job["result"]["per_group"]} == {"north", "south"}


def test_an_example_is_shown_by_column(client, registered):
    shown = client.get("/v1/datasets/people/examples/1").json
    assert shown["values"] == {"age": None, "colour": "green", "income": 3.5}
    assert (shown["target"], shown["groups"]) == ("no", {"site": "south"})


@pytest.mark.parametrize(
    ("transforms", "parts"),
    [
        ([], ["income", "impute"]),
        ([{"name": "impute", "dataset": "people-train"}], ["colour", "'blue'", "one_hot"]),
    ],
)
def test_texts_and_gaps_that_nothing_handles_fail_the_ingestion_with_their_row(
    client, registered, transforms, parts
):
    answer = client.upload(
        "/v1/datasets?wait",
        content=as_csv(HELD_OUT),
        name="rough",
        split="validation",
        features='["income", "colour"]',
        transforms=json.dumps(transforms),
    )
    assert answer.json["state"] == "failed"
    detail = answer.json["error"]["detail"]
    for part in ("row 1", *parts):
        assert part in detail
    assert_problem(client.get("/v1/datasets/rough"), 404)


@pytest.mark.parametrize(
    ("dataset", "part"),
    [("nobody", "no dataset 'nobody'"), ("people", "for validation"), ("points", "no table")],
)
def test_constants_come_from_a_training_table_and_nothing_else(client, registered, dataset, part):
    client.register("points", split="train")
    transforms = [{"name": "standardize", "dataset": dataset}]
    answer = client.upload(
        "/v1/datasets",
        content=as_csv(HELD_OUT),
        name="x",
        split="test",
        transforms=json.dumps(transforms),
    )
    assert_problem(answer, 422, part, pointer="/transforms/0/dataset")


def test_a_division_of_a_table_keeps_columns_and_constants(client, registered):
    request = {"train": "people-a", "validation": "people-b", "fraction": 0.4}
    job = client.http.post("/v1/datasets/people-train/split?wait", json=request).json
    assert job["state"] == "succeeded", job["error"]
    part = client.get("/v1/datasets/people-b").json
    assert part["transforms"] == registered[0]["transforms"]
    assert [one["name"] for one in part["columns"]] == ["age", "colour", "income"]
    shared = client.get("/v1/datasets/people-b/overlap?with=people-train").json
    assert shared["fraction"] == 1.0


def test_equal_rows_are_shared_in_whatever_order_the_columns_stand(client):
    rows = [(str(i), str(i * 2 + 1), "ab"[i % 2]) for i in range(20)]
    client.register("straight", content=as_csv(rows, ("m", "n", "label")))
    turned = [(b, a, label) for a, b, label in rows[5:]]
    client.register("turned", content=as_csv(turned, ("n", "m", "label")))
    shared = client.get("/v1/datasets/straight/overlap?with=turned").json
    assert (shared["examples"], shared["indices"]) == (15, list(range(5, 20)))
    client.register("others", content=as_csv(rows, ("m", "k", "label")))
    answer = client.get("/v1/datasets/straight/overlap?with=others")
    assert_problem(answer, 409, "straight@1 holds rows of m, n, others@1 rows of k, m")
    client.register("arrays")
    answer = client.get("/v1/datasets/straight/overlap?with=arrays")
    assert_problem(answer, 409, "arrays of shape [6] float32")


def test_columns_in_another_order_than_the_training_tables_are_refused(client):
    rows = [(str(i), str(i * 2 + 1), "ab"[i % 2]) for i in range(20)]
    client.register("in-order", content=as_csv(rows, ("m", "n", "label")), split="train")
    named = json.dumps([{"name": "standardize", "dataset": "in-order"}])
    file = {"content": as_csv(rows, ("n", "m", "label")), "name": "swapped", "transforms": named}
    job = client.upload("/v1/datasets?wait", split="validation", **file).json
    assert job["state"] == "failed"
    assert "another order than those of in-order@1" in job["error"]["detail"]
    assert '["m", "n"]' in job["error"]["detail"]
    assert job["error"]["errors"][0]["pointer"] == "/features"
    client.register(**file, features='["m", "n"]')


def test_a_checkpoint_takes_its_constants_from_a_training_table(client, registered):
    named = json.dumps([{"name": name, "dataset": "people-train"} for name in CHAIN])
    stored = client.store(pt(features=5, outputs=2, seed=9), transforms=named)
    assert stored["transforms"][1]["categories"] == {"colour": ["blue", "green", "red"]}
    assert all(one["dataset"] is None for one in stored["transforms"])
    judged = client.evaluate(checkpoint=stored["digest"], dataset="people").json
    assert judged["state"] == "succeeded"
    assert judged["result"]["evidence"]["transforms_from"] == "checkpoint"
    for transforms, part in (
        ('[{"name": "one_hot", "dataset": "nobody"}]', "there is no dataset 'nobody'"),
        ('[{"name": "one_hot", "dataset": "people"}]', "people@1 is for validation"),
        ('[{"name": "standardize"}]', "name a training dataset"),
    ):
        answer = client.upload(
            "/v1/checkpoints", content=pt(), architecture="mlp", transforms=transforms
        )
        problem = assert_problem(answer, 422, part)
        assert problem["errors"][0]["pointer"].startswith("/transforms/0")


@pytest.mark.parametrize(
    ("fields", "pointer", "part"),
    [
        ({"mode": "grey"}, "/mode", "this file holds a table"),
        ({"transforms": '[{"name": "resize", "size": 8}]'}, "/transforms/0/name", "images"),
        ({"features": '["age", "label"]'}, "/features/1", "stands in label already"),
        (
            {"groups": '["site"]', "features": '["site"]'},
            "/features/0",
            "stands in groups already",
        ),
    ],
)
def test_what_cannot_be_done_with_a_table_is_refused_at_once(client, fields, pointer, part):
    answer = client.upload(
        "/v1/datasets", content=as_csv(HELD_OUT), name="x", split="test", **fields
    )
    assert_problem(answer, 422, part, pointer=pointer)


def test_an_excel_file_is_refused_at_once_whatever_format_is_said(client):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    for said in ({}, {"format": "images"}, {"format": "csv", "label": "y"}):
        fields = {"name": "x", "split": "train", **said}
        answer = client.upload("/v1/datasets", content=stream.getvalue(), **fields)
        assert_problem(answer, 422, "Excel", "save the table as CSV", pointer="/file")


def test_a_training_table_without_a_column_has_no_value_to_impute(client, registered):
    rows = [(*row, "") for row in HELD_OUT]
    answer = client.upload(
        "/v1/datasets?wait",
        content=as_csv(rows, (*HEAD, "m")),
        name="more",
        split="validation",
        groups='["site"]',
        transforms='[{"name": "impute", "dataset": "people-train"}, '
        '{"name": "one_hot", "dataset": "people-train"}]',
    ).json
    assert answer["state"] == "failed"
    assert "column 'm' is empty, and impute has no value" in answer["error"]["detail"]
