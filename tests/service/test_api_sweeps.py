"""``/v1/sweeps`` as clients see it, with a worker inline."""

import pytest

from tests.service.conftest import assert_problem, npz
from tests.service.test_api_trainings import SMALL

DROPOUTS = {"/hyperparameters/dropout": [0.0, 0.2, 0.5]}


@pytest.fixture(scope="module")
def site(client):
    client.register("points-train", content=npz(examples=100, seed=1), split="train")
    client.register("points", content=npz(examples=40, seed=2))
    return client


def post(client, grid, *, headers=None, marks=None, **base):
    body = {"base": {**SMALL, **base}, "grid": grid}
    if marks is not None:
        body["labels"] = marks
    return client.http.post("/v1/sweeps", json=body, headers=headers)


def made(client, grid, **base):
    """A sweep whose trainings have all ended."""
    answer = post(client, grid, **base)
    assert answer.status_code == 201, answer.text
    for one in answer.json["trainings"]:
        ended = client.get(f"{one['links']['self']}?wait").json
        assert ended["state"] == "succeeded", ended["error"]
    assert answer.headers["Location"] == answer.json["links"]["self"]
    return client.get(answer.headers["Location"]).json


def test_a_sweep_trains_once_for_each_value_and_compares_them(site):
    found = made(site, DROPOUTS, labels={"part": "one"})
    assert found["states"] == {
        "queued": 0,
        "running": 0,
        "succeeded": 3,
        "failed": 0,
        "cancelled": 0,
    }
    assert found["metric"] == "loss"
    assert [one["point"] for one in found["trainings"]] == [
        {"/hyperparameters/dropout": value} for value in (0.0, 0.2, 0.5)
    ]
    for one in found["trainings"]:
        job = site.get(one["links"]["self"]).json
        assert job["labels"] == {"part": "one"}
        dropout = job["request"]["hyperparameters"]["dropout"]
        assert dropout == one["point"]["/hyperparameters/dropout"]
        assert one["curve"] == [row["loss"] for row in job["result"]["history"]]
        assert one["epochs"] == 3
        best = job["result"]["best"]
        assert one["best"] == {"epoch": best["epoch"], "value": best["value"]}
        assert one["checkpoint"] == job["result"]["checkpoint"]
    lowest = min(found["trainings"], key=lambda one: one["best"]["value"])
    assert found["best"]["training"] == lowest["id"]
    assert found["best"]["value"] == lowest["best"]["value"]


def test_every_combination_of_a_grid_is_trained_also_of_what_the_base_leaves_out(site):
    grid = {
        "/optimizer/lr": [0.1, 0.01],
        "/early_stopping/patience": [1, 2],
        "/monitor": ["accuracy"],
    }
    found = made(site, grid)
    points = [tuple(one["point"].values()) for one in found["trainings"]]
    assert points == [
        (0.1, 1, "accuracy"),
        (0.1, 2, "accuracy"),
        (0.01, 1, "accuracy"),
        (0.01, 2, "accuracy"),
    ]
    job = site.get(found["trainings"][1]["links"]["self"]).json["request"]
    assert (job["optimizer"]["name"], job["optimizer"]["lr"]) == ("AdamW", 0.1)
    assert job["early_stopping"] == {"patience": 2, "min_delta": 0.0}
    highest = max(one["best"]["value"] for one in found["trainings"])
    assert found["best"]["value"] == highest


def test_trainings_of_different_metrics_have_no_best_among_them(site):
    found = made(site, {"/monitor": ["loss", "f1"]})
    assert (found["metric"], found["best"]) == (None, None)
    assert [one["metric"] for one in found["trainings"]] == ["loss", "f1"]
    site.register("other-points", content=npz(examples=40, seed=3))
    found = made(site, {"/validation_dataset": ["points", "other-points"]})
    assert (found["metric"], found["best"]) == (None, None)


def test_a_sweep_as_markdown_has_a_row_a_training_and_a_column_a_curve(site):
    found = made(site, DROPOUTS)
    answer = site.get(f"{found['links']['self']}?format=markdown")
    assert answer.content_type.startswith("text/markdown")
    tables = answer.text.split("\n\n")
    rows = tables[1].split("\n")
    assert rows[0].startswith("|  | /hyperparameters/dropout | state | epochs |")
    assert len(rows) == 5
    (bold,) = [row for row in rows if "**" in row]
    assert f"**{found['best']['value']:.4f}**" in bold
    curves = tables[3].strip().split("\n")
    assert curves[0] == "| epoch | 1 | 2 | 3 |"
    assert len(curves) == 2 + 3
    assert_problem(site.get(f"{found['links']['self']}?format=html"), 422, pointer="/format")


def test_sweeps_are_listed_and_made_once_a_key(site):
    headers = {"Idempotency-Key": "sweep once"}
    first, again = (
        post(site, {"/seed": [1, 2]}, headers=headers, marks={"mine": "yes"}).json for _ in range(2)
    )
    assert first["id"] == again["id"]
    items = site.get("/v1/sweeps?limit=1").json["items"]
    assert items[0]["id"] == first["id"]
    assert items[0]["labels"] == {"mine": "yes"}
    assert sum(items[0]["states"].values()) == 2
    assert "trainings" not in items[0]
    assert_problem(site.get("/v1/sweeps/nothing"), 404, "no sweep")


REFUSED = {
    "no grid": ({}, "/grid"),
    "no values": ({"/seed": []}, "/grid/~1seed"),
    "no pointer": ({"seed": [1]}, "/grid/seed"),
    "an escape that there is not": ({"/labels/~2": ["a"]}, "/grid/~1labels~1~02"),
    "an index with a zero before it": (
        {"/hyperparameters/hidden/0": [5], "/hyperparameters/hidden/00": [6]},
        "/grid/~1hyperparameters~1hidden~100",
    ),
    "an index in other digits": (
        {"/hyperparameters/hidden/\u0660": [5]},
        "/grid/~1hyperparameters~1hidden~1\u0660",
    ),
    "nothing there": ({"/epochs/deep": [1]}, "/grid/~1epochs~1deep"),
    "no such entry": ({"/augmentations/0/p": [1]}, None),
    "twice the same": ({"/seed": [1, 1]}, "/grid/~1seed"),
    "one inside the other": (
        {"/optimizer": [{"name": "SGD"}], "/optimizer/lr": [1]},
        "/grid/~1optimizer~1lr",
    ),
    "too many": ({"/seed": list(range(20)), "/epochs": list(range(1, 20))}, "/grid"),
    "an unknown field": ({"/sed": [1]}, "/base/sed"),
    "a wrong value": ({"/hyperparameters/dropout": [0.1, 1.5]}, "/base/hyperparameters/dropout"),
    "a wrong type": ({"/epochs": [1, "2"]}, "/base/epochs"),
    "values that exclude each other": ({"/warmup_epochs": [0, 9]}, "/base/warmup_epochs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_sweep_that_cannot_be_run_whole_is_refused_whole(site, case):
    grid, pointer = REFUSED[case]
    before = site.get("/v1/trainings?limit=1").json["items"][0]["id"]
    answer = post(site, grid)
    problem = assert_problem(answer, 422)
    if pointer is not None:
        assert pointer in [one["pointer"] for one in problem["errors"]], problem
    if pointer is not None and pointer.startswith("/base"):
        assert "(at " in problem["detail"]
    assert site.get("/v1/trainings?limit=1").json["items"][0]["id"] == before


def test_a_base_that_is_wrong_is_refused_with_its_field(site):
    grid = {"/seed": [1]}
    problem = assert_problem(post(site, grid, architecture="mpl"), 422, "known: mlp")
    assert problem["errors"][0]["pointer"] == "/base/architecture"
    answer = site.http.post("/v1/sweeps", json={"grid": grid})
    assert_problem(answer, 422, pointer="/base")


def test_a_sweep_takes_no_query(site):
    body = {"base": SMALL, "grid": {"/seed": [1]}}
    assert_problem(site.http.post("/v1/sweeps?wait", json=body), 422, pointer="/wait")
