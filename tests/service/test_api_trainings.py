"""``/v1/trainings`` as clients see it, with a worker inline."""

import csv
import io
import json
import time

import numpy as np
import pytest

from service.db.connection import writing
from service.db.tables import jobs
from service.jobs.lifecycle import State
from service.operations import trainings
from tests.service.conftest import (
    FEATURES,
    Client,
    assert_problem,
    npz,
    open_services,
    pt,
    working,
)
from tests.service.test_trainings import data

SMALL = {
    "architecture": "mlp",
    "dataset": "points-train",
    "validation_dataset": "points",
    "hyperparameters": {"hidden": [5]},
    "epochs": 3,
    "batch_size": 16,
}
TO_FLOAT = '[{"name": "to_float"}]'


@pytest.fixture(scope="module")
def site(client):
    """With the datasets that the tests name."""
    client.register("points-train", content=npz(examples=100, seed=1), split="train")
    client.register("points", content=npz(examples=40, seed=2))
    client.register("points-test", content=npz(examples=40, seed=3), split="test")
    client.register("sealed-train", content=npz(examples=40, seed=4), split="train", sealed="true")
    client.register("wide", content=npz(examples=40, features=9, seed=5))
    client.register("four", content=npz(examples=40, classes=4, seed=6))
    client.register("known", content=npz(examples=100, seed=1))
    x, y = data(examples=50)
    for name, split in (("pictures-train", "train"), ("pictures", "validation")):
        content = io.BytesIO()
        np.savez(
            content,
            x=x[:40] if split == "train" else x[40:],
            y=y[:40] if split == "train" else y[40:],
        )
        fields = {"transforms": TO_FLOAT, "classes": '["0", "1", "2"]'}
        client.register(name, content=content.getvalue(), split=split, **fields)
    marks = io.BytesIO()
    x = np.random.default_rng(0).normal(size=(30, FEATURES)).astype(np.float32)
    np.savez(marks, x=x, y=(x[:, :3] > 0).astype(np.uint8))
    for name, split in (("marks-train", "train"), ("marks", "validation")):
        fields = {"task": "multilabel", "classes": '["a", "b", "c"]'}
        client.register(name, content=marks.getvalue(), split=split, **fields)
    return client


def post(client, *, wait="?wait", headers=None, without=(), **changes):
    body = {name: value for name, value in {**SMALL, **changes}.items() if name not in without}
    return client.http.post(f"/v1/trainings{wait}", json=body, headers=headers)


def trained(client, **changes):
    answer = post(client, **changes)
    assert answer.status_code == 200, answer.text
    assert answer.json["state"] == "succeeded", answer.json["error"]
    return answer.json


def test_the_smallest_request_names_an_architecture_and_two_datasets(site):
    body = {name: SMALL[name] for name in ("architecture", "dataset", "validation_dataset")}
    answer = site.http.post("/v1/trainings?wait", json=body)
    job = answer.json
    assert (answer.status_code, job["kind"], job["state"]) == (200, "training", "succeeded")
    assert answer.headers["Location"] == job["links"]["self"] == f"/v1/trainings/{job['id']}"
    request = job["request"]
    assert request["dataset"] == "points-train@1"
    assert request["validation_dataset"] == "points@1"
    assert (request["epochs"], request["batch_size"], request["seed"]) == (50, 64, 0)
    assert request["optimizer"]["name"] == "AdamW"
    assert (request["optimizer"]["lr"], request["optimizer"]["weight_decay"]) == (3e-4, 1e-4)
    assert request["loss"] == {
        "name": "cross_entropy",
        "label_smoothing": 0.0,
        "class_weights": None,
    }
    scheduler = request["scheduler"]
    assert scheduler["name"] == "ReduceLROnPlateau"
    assert (scheduler["factor"], scheduler["patience"]) == (0.5, 2)
    assert request["early_stopping"] == {"patience": 5, "min_delta": 0.0}
    assert request["monitor"] == "loss"
    result = job["result"]
    assert result["stopped"]["reason"] in ("completed", "early_stopping")
    assert result["stopped"]["epoch"] == len(result["history"])
    losses = [row["loss"] for row in result["history"]]
    assert result["best"] == {
        "epoch": losses.index(min(losses)) + 1,
        "metric": "loss",
        "value": min(losses),
    }
    assert result["overlap"] == {"examples": 0, "of": 40, "fraction": 0.0}


def test_a_row_of_the_history_says_what_the_contract_names(site):
    job = trained(site)
    assert set(job["result"]["history"][0]) == {
        "epoch",
        "train_loss",
        "loss",
        "accuracy",
        "precision",
        "recall",
        "f1",
        "lr",
        "gradient_norm",
        "duration_s",
    }
    assert [row["epoch"] for row in job["result"]["history"]] == [1, 2, 3]
    history = site.get(job["links"]["history"])
    assert history.json == {"items": job["result"]["history"]}
    table = site.get(f"{job['links']['history']}?format=csv")
    assert table.content_type.startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in job["result"]["history"]]
    assert_problem(site.get(f"{job['links']['history']}?format=xml"), 422, pointer="/format")
    clean = trained(site, train_metrics=True)
    table = site.get(f"{clean['links']['history']}?format=csv").text
    (row, *_) = csv.DictReader(io.StringIO(table))
    told = clean["result"]["history"][0]["train_metrics"]
    assert {name: float(row[f"train_metrics_{name}"]) for name in told} == told


def test_the_metrics_of_the_best_epoch_are_those_of_an_evaluation_of_its_checkpoint(site):
    job = trained(site, hyperparameters={"hidden": [5], "dropout": 0.4}, train_metrics=True)
    best = job["result"]["best"]
    row = job["result"]["history"][best["epoch"] - 1]
    answer = site.evaluate(checkpoint=job["result"]["checkpoint"], dataset="points")
    assert answer.json["result"]["metrics"] == {
        name: row[name] for name in ("loss", "accuracy", "precision", "recall", "f1")
    }
    assert answer.json["result"]["assumed"] == []
    on_training = site.evaluate(checkpoint=job["result"]["last_checkpoint"], dataset="points-train")
    assert on_training.json["result"]["metrics"] == job["result"]["history"][-1]["train_metrics"]


def test_a_checkpoint_leads_to_its_trainings_and_their_datasets(site):
    first, second = trained(site, seed=5), trained(site, seed=5, labels={"try": "two"})
    assert first["result"]["checkpoint"] == second["result"]["checkpoint"]
    found = site.get(f"/v1/checkpoints/{first['result']['checkpoint']}").json
    assert found["lineage"]["trainings"] == [first["id"], second["id"]]
    assert found["lineage"]["dataset"] == "points-train@1"
    assert found["lineage"]["validation_dataset"] == "points@1"
    assert found["lineage"]["epoch"] == first["result"]["best"]["epoch"]
    assert len(found["lineage"]["spec_digest"]) == 64
    assert found["transforms"] == []
    assert found["classes"] == ["0", "1", "2"]
    listed = site.get("/v1/checkpoints?limit=200").json["items"]
    assert found["lineage"] in [item["lineage"] for item in listed]
    with site.get(found["links"]["content"]) as content:
        again = site.store(content.data)
    assert again["digest"] == found["digest"]
    elsewhere = site.store(pt(seed=77))
    assert elsewhere["lineage"] is None


def test_spec_digests_are_equal_where_the_bytes_must_be(site):
    def spec_digest(**changes):
        job = trained(site, **changes)
        found = site.get(f"/v1/checkpoints/{job['result']['checkpoint']}").json
        return found["lineage"]["spec_digest"]

    plain = spec_digest(seed=6)
    assert spec_digest(seed=6, labels={"a": "b"}, device="cpu", allow_overlap=True) == plain
    assert spec_digest(seed=7) != plain


def test_a_list_shows_trainings_without_their_histories(site):
    job = trained(site, seed=8, labels={"mark": "listed"})
    items = site.get("/v1/trainings?limit=200").json["items"]
    (item,) = [one for one in items if one["id"] == job["id"]]
    names = ("best", "stopped", "checkpoint", "last_checkpoint")
    assert item["result"] == {name: job["result"][name] for name in names}
    assert site.get("/v1/trainings?architecture=convnet").json["items"] == []
    assert site.get("/v1/trainings?dataset=points-train&limit=1").json["items"]
    assert site.get("/v1/trainings?dataset=pictures").json["items"] == []
    assert site.get(f"/v1/jobs/{job['id']}").json["result"] == job["result"]
    assert site.get("/v1/jobs?kind=training&limit=1").json["items"][0]["kind"] == "training"


def test_the_events_of_a_training_are_its_states_and_epochs_once_each(site):
    job = trained(site, seed=9)
    text = site.get(job["links"]["events"]).text
    blocks = [block for block in text.split("\n\n") if block.startswith("id:")]
    parsed = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    assert [int(one["id"]) for one in parsed] == list(range(1, len(parsed) + 1))
    epochs = [json.loads(one["data"]) for one in parsed if one["event"] == "epoch"]
    assert [{k: v for k, v in one.items() if k != "at"} for one in epochs] == job["result"][
        "history"
    ]
    assert parsed[-1]["event"] == "end"
    after = next(int(one["id"]) for one in parsed if one["event"] == "epoch")
    rest = site.get(job["links"]["events"], headers={"Last-Event-ID": str(after)}).text
    assert f"id: {after}\n" not in rest
    assert f"id: {after + 1}\n" in rest


def test_the_same_key_gives_the_same_training(site):
    headers = {"Idempotency-Key": "train once"}
    first, again = (post(site, seed=10, headers=headers).json for _ in range(2))
    assert first["id"] == again["id"]
    assert_problem(post(site, seed=11, headers=headers), 422)


def test_a_multilabel_dataset_is_trained_with_the_loss_of_its_task(site):
    changes = {"dataset": "marks-train", "validation_dataset": "marks", "allow_overlap": True}
    job = trained(site, **changes)
    assert job["request"]["loss"]["name"] == "binary_cross_entropy_with_logits"
    assert job["result"]["overlap"]["fraction"] == 1.0


def test_a_fine_tuning_takes_the_hyperparameters_of_its_checkpoint_and_reports_a_new_head(site):
    before = site.store(pt(seed=2, outputs=7))["digest"]
    job = trained(site, initial_checkpoint=before[:12], without=["hyperparameters"])
    assert job["request"]["initial_checkpoint"] == before
    assert job["request"]["hyperparameters"]["hidden"] == [5]
    (adjustment,) = job["result"]["adjustments"]
    assert adjustment.startswith("replaced layers.1.bias, layers.1.weight")


def test_a_plateau_that_cannot_end_before_early_stopping_is_warned_about(site):
    scheduler = {"name": "ReduceLROnPlateau", "patience": 5}
    (warning,) = trained(site, scheduler=scheduler)["result"]["warnings"]
    assert "the rate will never drop" in warning
    scheduler["patience"] = 4
    assert trained(site, scheduler=scheduler)["result"]["warnings"] == []
    late = {"scheduler": {**scheduler, "patience": 9}, "early_stopping": None}
    assert trained(site, **late)["result"]["warnings"] == []


def test_what_a_scheduler_counts_towards_is_fixed_in_the_request(site):
    changes = {"scheduler": {"name": "CosineAnnealingLR"}, "warmup_epochs": 1}
    job = trained(site, **changes)
    assert job["request"]["scheduler"]["T_max"] == 2


# Leakage


def leakage(client, digest, dataset, **changes):
    answer = client.evaluate(checkpoint=digest, dataset=dataset, **changes)
    assert answer.status_code == 200, answer.text
    return answer.json["result"]


def mixture(first, second):
    """A dataset that holds the examples of two."""
    parts = [np.load(io.BytesIO(content)) for content in (first, second)]
    content = io.BytesIO()
    joined = {name: np.concatenate([part[name] for part in parts]) for name in ("x", "y")}
    np.savez(content, **joined)
    return content.getvalue()


def test_an_evaluation_says_how_many_examples_were_trained_on_and_what_is_without_them(site):
    digest = trained(site, seed=20)["result"]["checkpoint"]
    new = npz(examples=40, seed=30)
    site.register("new", content=new)
    site.register("mixed", content=mixture(npz(examples=100, seed=1), new))
    result = leakage(site, digest, "new")
    assert result["leakage"] == {
        "status": "none",
        "examples": 0,
        "metrics_without": None,
        "trained_on": ["points-train@1"],
        "selected_on": ["points@1"],
    }
    found = leakage(site, digest, "mixed")["leakage"]
    assert (found["status"], found["examples"]) == ("found", 100)
    assert found["metrics_without"] == result["metrics"]
    whole = leakage(site, digest, "points-train")["leakage"]
    assert (whole["status"], whole["examples"]) == ("found", 100)
    assert whole["metrics_without"] is None
    chosen = leakage(site, digest, "points")
    assert any("was chosen by points@1" in warning for warning in chosen["warnings"])
    site.register("points-again", content=npz(examples=40, seed=2))
    renamed = leakage(site, digest, "points-again")
    assert any("was chosen by points@1" in warning for warning in renamed["warnings"])
    assert not any("was chosen" in warning for warning in result["warnings"])


def test_weights_from_elsewhere_and_what_starts_from_them_are_unknown(site):
    elsewhere = site.store(pt(seed=40))["digest"]
    assert leakage(site, elsewhere, "points")["leakage"] == {
        "status": "unknown",
        "examples": None,
        "metrics_without": None,
        "trained_on": [],
        "selected_on": [],
    }
    job = trained(site, initial_checkpoint=elsewhere, seed=21)
    digest = job["result"]["checkpoint"]
    assert leakage(site, digest, "points")["leakage"]["status"] == "unknown"
    assert leakage(site, digest, "points-train")["leakage"]["status"] == "found"


def test_a_fine_tuned_checkpoint_was_trained_on_all_that_came_before(site):
    other = npz(examples=60, seed=50)
    site.register("other-train", content=other, split="train")
    first = trained(site, dataset="other-train", seed=22)["result"]["checkpoint"]
    digest = trained(site, initial_checkpoint=first, seed=23)["result"]["checkpoint"]
    site.register("other", content=other)
    found = leakage(site, digest, "other")["leakage"]
    assert (found["status"], found["examples"]) == ("found", 60)
    assert found["trained_on"] == ["points-train@1", "other-train@1"]
    assert leakage(site, digest, "points")["leakage"]["status"] == "none"


def test_of_a_sealed_dataset_few_examples_are_not_told_apart(site):
    digest = trained(site, seed=24)["result"]["checkpoint"]
    few = npz(examples=100, seed=1)
    parts = np.load(io.BytesIO(few))
    content = io.BytesIO()
    np.savez(content, x=parts["x"][:5], y=parts["y"][:5])
    mixed = mixture(content.getvalue(), npz(examples=40, seed=31))
    site.register("sealed-mixed", content=mixed, split="test", sealed="true")
    found = leakage(site, digest, "sealed-mixed")["leakage"]
    assert (found["status"], found["examples"], found["metrics_without"]) == ("found", 5, None)


def test_a_training_dataset_that_is_gone_leaves_it_unknown(site):
    site.register("gone-train", content=npz(examples=70, seed=60), split="train")
    digest = trained(site, dataset="gone-train", seed=25)["result"]["checkpoint"]
    assert site.http.delete("/v1/datasets/gone-train").status_code == 204
    result = leakage(site, digest, "points", fresh=True)
    assert result["leakage"]["status"] == "unknown"
    assert any("gone-train@1" in warning for warning in result["warnings"])


def test_a_result_is_not_given_again_once_more_is_known_of_the_past(idle, site):
    job = trained(site, seed=26)
    with site.get(f"/v1/checkpoints/{job['result']['checkpoint']}/content") as content:
        data = content.data
    with working(idle.services):
        digest = idle.store(data)["digest"]
        assert leakage(idle, digest, "points")["leakage"]["status"] == "unknown"
        assert idle.evaluate(checkpoint=digest, dataset="points").json["cached"]
        assert trained(idle, seed=26)["result"]["checkpoint"] == digest
        again = idle.evaluate(checkpoint=digest, dataset="points").json
    assert not again["cached"]
    assert again["result"]["leakage"]["status"] == "none"


# Refusals


def refused(client, pointer, *parts, **changes):
    before = len(client.get("/v1/trainings?limit=200").json["items"])
    assert_problem(post(client, wait="", **changes), 422, *parts, pointer=pointer)
    assert len(client.get("/v1/trainings?limit=200").json["items"]) == before


REFUSED = {
    "an unknown dataset": ("/dataset", "there is no dataset 'nothing'", {"dataset": "nothing"}),
    "a validation dataset to learn from": ("/dataset", "of the split train", {"dataset": "points"}),
    "a test dataset to learn from": ("/dataset", "for testing", {"dataset": "points-test"}),
    "a sealed dataset": ("/dataset", "is sealed", {"dataset": "sealed-train"}),
    "a test dataset to select on": (
        "/validation_dataset",
        "of the split validation",
        {"validation_dataset": "points-test"},
    ),
    "another task": (
        "/validation_dataset",
        "both must be of one task",
        {"validation_dataset": "marks"},
    ),
    "another width": ("/validation_dataset", "(6,)", {"validation_dataset": "wide"}),
    "other classes": ("/validation_dataset", "classes", {"validation_dataset": "four"}),
    "shared examples": (
        "/validation_dataset",
        "100 of the 100 examples",
        {"validation_dataset": "known"},
    ),
    "an unknown architecture": ("/architecture", "known: mlp", {"architecture": "mpl"}),
    "onnx": ("/architecture", "known: mlp", {"architecture": "onnx"}),
    "an architecture for images": (
        "/dataset",
        "convnet",
        {"architecture": "convnet", "without": ["hyperparameters"]},
    ),
    "an unknown hyperparameter": (
        "/hyperparameters/drop",
        "known: hidden",
        {"hyperparameters": {"drop": 0.5}},
    ),
    "too much dropout": (
        "/hyperparameters/dropout",
        "less than 1",
        {"hyperparameters": {"dropout": 1.0}},
    ),
    "an unknown optimizer": ("/optimizer/name", "known: SGD", {"optimizer": {"name": "Adamw"}}),
    "a nameless optimizer": ("/optimizer/name", "a name of the catalog", {"optimizer": {"lr": 1}}),
    "a negative rate": (
        "/optimizer/lr",
        "greater than 0",
        {"optimizer": {"name": "SGD", "lr": -1}},
    ),
    "an unknown scheduler": ("/scheduler/name", "known: StepLR", {"scheduler": {"name": "Step"}}),
    "a step without a size": (
        "/scheduler/step_size",
        "is required",
        {"scheduler": {"name": "StepLR"}},
    ),
    "one cycle after a warm-up": (
        "/warmup_epochs",
        "pct_start",
        {"scheduler": {"name": "OneCycleLR", "max_lr": 0.1}, "warmup_epochs": 1},
    ),
    "an unknown loss": ("/loss/name", "known: cross_entropy", {"loss": {"name": "mse"}}),
    "a loss of another task": (
        "/loss/name",
        "cross_entropy or focal would fit",
        {"loss": {"name": "binary_cross_entropy_with_logits"}},
    ),
    "weights of an unknown class": (
        "/loss/class_weights",
        "known: 0, 1, 2",
        {"loss": {"name": "cross_entropy", "class_weights": {"9": 1.0}}},
    ),
    "a transform as augmentation": (
        "/augmentations/0/name",
        "deterministic transform",
        {"augmentations": [{"name": "to_float"}]},
    ),
    "an augmentation of no image": (
        "/augmentations/0",
        "images",
        {"augmentations": [{"name": "random_horizontal_flip"}]},
    ),
    "no epoch": ("/epochs", "1", {"epochs": 0}),
    "a warm-up as long as the training": (
        "/warmup_epochs",
        "between 0 and 2",
        {"warmup_epochs": 3},
    ),
    "a batch of nothing": ("/batch_size", "1", {"batch_size": 0}),
    "an unknown metric": ("/monitor", "loss", {"monitor": "auc"}),
    "no patience": ("/early_stopping/patience", "1", {"early_stopping": {"patience": 0}}),
    "an unknown field of early stopping": (
        "/early_stopping/mode",
        "unknown",
        {"early_stopping": {"mode": "max"}},
    ),
    "half precision": ("/precision", "bfloat16", {"precision": "float16"}),
    "an unknown field": ("/learning_rate", "is unknown", {"learning_rate": 0.1}),
    "an unknown checkpoint": (
        "/initial_checkpoint",
        "there is no checkpoint",
        {"initial_checkpoint": "0" * 64},
    ),
    "a device that nobody has": ("/device", "there are: cpu", {"device": "cuda"}),
    "a text for a number": ("/epochs", "must be an integer", {"epochs": "3"}),
    "a network too large": (
        "/hyperparameters",
        "parameters x 4 bytes",
        {"hyperparameters": {"hidden": [65536, 65536]}},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_is_refused_by_the_name_of_its_field(site, case):
    pointer, part, changes = REFUSED[case]
    refused(site, pointer, part, **changes)


def test_a_required_field_is_named(site):
    for name in ("architecture", "dataset", "validation_dataset"):
        refused(site, f"/{name}", "is required", without=[name])


def test_a_checkpoint_of_other_layers_cannot_be_started_from(site):
    other = site.store(pt(seed=3, hidden=(8,)))["digest"]
    refused(site, "/initial_checkpoint", "layers.0.weight", initial_checkpoint=other)


def test_augmentations_must_keep_the_shape_that_validation_has(site):
    pictures = {
        "architecture": "convnet",
        "dataset": "pictures-train",
        "validation_dataset": "pictures",
        "hyperparameters": {"widths": [4]},
        "epochs": 1,
    }
    crop = {"name": "random_crop", "size": 4}
    trained(site, augmentations=[{**crop, "size": 6, "padding": 1}], **pictures)
    trained(site, augmentations=[crop], **pictures)  # any size will do for a convnet
    vit = {**pictures, "architecture": "vit"}
    vit["hyperparameters"] = {"patch_size": 2, "width": 8, "depth": 1, "heads": 2, "mlp_width": 8}
    refused(site, "/augmentations", "other tensors", augmentations=[crop], **vit)
    refused(
        site,
        "/augmentations/0/size",
        "smaller size",
        augmentations=[{**crop, "size": 9}],
        **pictures,
    )


def test_the_budget_counts_what_augmentations_make(site):
    pictures = {
        "architecture": "convnet",
        "dataset": "pictures-train",
        "validation_dataset": "pictures",
        "hyperparameters": {"widths": [4]},
        "augmentations": [{"name": "random_resized_crop", "size": 8192}],
    }
    # back to a small one at the end: what lies between is made all the same
    back = [*pictures["augmentations"], {"name": "random_crop", "size": 6}]
    part = f"a batch of 64 examples of {8192 * 8192 * 4} bytes"
    for augmentations in (pictures["augmentations"], back):
        changes = {**pictures, "augmentations": augmentations, "batch_size": 64}
        refused(site, "/batch_size", part, **changes)


def test_budgets_show_their_sums(tmp_path_factory):
    services = open_services(
        tmp_path_factory.mktemp("budget"), training_memory_bytes=2**20, training_examples=250
    )
    from service.app import create_app

    client = Client(create_app(services=services))
    with working(services):
        client.register("points-train", content=npz(examples=100, seed=1), split="train")
        client.register("points", content=npz(examples=40, seed=2))
        refused(client, "/epochs", "3 epochs x 100 examples are 300; at most 250", epochs=3)
        big = {"hyperparameters": {"hidden": [9000]}, "epochs": 1}
        # 6 x 9000 + 9000 + 9000 x 3 + 3 parameters; AdamW keeps 2 numbers of each
        refused(client, "/hyperparameters", "90003 parameters x 4 bytes x 8", **big)
        refused(
            client,
            "/batch_size",
            "a batch of 60000 examples of 24 bytes",
            batch_size=60000,
            epochs=1,
        )
        trained(client, epochs=2)
    services.close()


# Cancel and resume


@pytest.fixture
def idle(tmp_path):
    """A service without a worker."""
    from service.app import create_app

    services = open_services(tmp_path)
    client = Client(create_app(services=services))
    client.services = services
    with working(services):
        client.register("points-train", content=npz(examples=100, seed=1), split="train")
        client.register("points", content=npz(examples=40, seed=2))
    yield client
    services.close()


def test_a_training_cancelled_in_the_queue_is_resumed_under_its_id(idle):
    job = post(idle, wait="").json
    assert job["state"] == "queued"
    assert "resume" not in job["links"]
    assert idle.http.post(job["links"]["cancel"]).json["state"] == "cancelled"
    cancelled = idle.get(job["links"]["self"]).json
    assert (cancelled["result"], cancelled["reason"]) == (None, "cancelled")
    empty = idle.get(f"{cancelled['links']['history']}?format=csv").text
    assert empty.startswith("epoch,train_loss,loss,accuracy,")
    answer = idle.http.post(cancelled["links"]["resume"])
    assert answer.status_code == 202
    assert (answer.json["id"], answer.json["state"]) == (job["id"], "queued")
    assert_problem(idle.http.post(cancelled["links"]["resume"]), 409, "is queued")
    with working(idle.services):
        done = idle.get(f"{job['links']['self']}?wait").json
    assert done["state"] == "succeeded"
    assert_problem(idle.http.post(cancelled["links"]["resume"]), 409, "is succeeded")


def test_a_training_whose_state_was_let_go_is_not_resumed(idle):
    job = post(idle, wait="").json
    with writing(idle.services.database) as db:
        db.execute(
            jobs.update()
            .where(jobs.c.id == job["id"])
            .values(
                state=State.FAILED,
                reason="crashed",
                result={"checkpoint": None},
                finished_at=time.time(),
            )
        )
    path = f"/v1/trainings/{job['id']}/resume"
    assert_problem(idle.http.post(path), 409, "initial_checkpoint")


def test_only_trainings_are_resumed(site):
    answer = site.evaluate(checkpoint=site.store()["digest"], dataset="points")
    assert_problem(site.http.post(f"/v1/trainings/{answer.json['id']}/resume"), 404, "no training")
    assert_problem(site.get("/v1/trainings/x/history"), 404, "no training")


def test_a_training_that_diverges_fails_with_what_it_has_as_the_requests_fault(site):
    mad = {"name": "SGD", "lr": 1000.0, "momentum": 0.99}
    hyperparameters = {"hidden": [64, 64, 64]}
    answer = post(site, optimizer=mad, hyperparameters=hyperparameters, epochs=50)
    job = answer.json
    assert (job["state"], job["reason"]) == ("failed", "diverged")
    assert job["error"]["status"] == 422
    assert job["error"]["errors"][0]["pointer"] == "/optimizer/lr"
    assert "step" in job["error"]["detail"]
    assert "resume" in job["links"]


def test_prepared_overlaps_are_looked_up_once(site, monkeypatch):
    calls = []
    original = trainings.examples.shared

    def shared(*arguments):
        calls.append(None)
        return original(*arguments)

    monkeypatch.setattr(trainings.examples, "shared", shared)
    grid = {"/seed": [1, 2, 3]}
    answer = site.http.post("/v1/sweeps", json={"base": SMALL, "grid": grid})
    assert answer.status_code == 201
    assert len(calls) == 1
