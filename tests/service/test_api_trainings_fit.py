"""Whether the parts of a training fit each other, as clients are told."""

import io

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from tests.onnx_networks import export
from tests.service.conftest import FEATURES, npz
from tests.service.test_api_trainings import TO_FLOAT, refused, trained
from tests.service.test_trainings import data

VOCABULARY, LONGEST = 30, 6
TEXTS = {"dataset": "texts-train", "validation_dataset": "texts", "epochs": 1}
PICTURES = {"dataset": "pictures-train", "validation_dataset": "pictures", "epochs": 1}
MOMENTUM = {"name": "SGD", "lr": 0.01, "momentum": 0.9}
ONE_CYCLE = {"name": "OneCycleLR", "max_lr": 0.1}


def saved(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def texts(*, seed, vocabulary=VOCABULARY, longest=LONGEST):
    x = np.random.default_rng(seed).integers(0, vocabulary, size=(20, longest))
    x[0, 0] = vocabulary - 1
    return saved(x=x, lengths=np.full(20, longest), y=np.arange(20) % 3)


@pytest.fixture(scope="module")
def site(client):
    """With the datasets that the tests name."""
    client.register("points-train", content=npz(examples=100, seed=1), split="train")
    client.register("points", content=npz(examples=40, seed=2))
    client.register("wide-train", content=npz(examples=40, features=9, seed=3), split="train")
    client.register("wide", content=npz(examples=40, features=9, seed=4))
    client.register("texts-train", content=texts(seed=5), split="train")
    client.register("texts", content=texts(seed=6))
    client.register("more-words", content=texts(seed=7, vocabulary=90))
    client.register("longer", content=texts(seed=8, longest=12))
    x, y = data(examples=50)
    fields = {"transforms": TO_FLOAT, "classes": '["0", "1", "2"]'}
    client.register("pictures-train", content=saved(x=x[:40], y=y[:40]), split="train", **fields)
    client.register("pictures", content=saved(x=x[40:], y=y[40:]), **fields)
    return client


# Sequences of token ids


def test_networks_of_tokens_are_trained_on_tokens_and_no_others(site):
    job = trained(site, architecture="text_cnn", hyperparameters={"vocabulary": 50}, **TEXTS)
    assert job["request"]["hyperparameters"]["vocabulary"] == 50
    refused(site, "/dataset", "text_cnn or transformer_encoder would take those", **TEXTS)
    refused(
        site,
        "/dataset",
        "takes sequences of token ids",
        architecture="text_cnn",
        without=["hyperparameters"],
    )


def test_a_vocabulary_or_length_too_small_for_the_training_dataset_is_named(site):
    few = {"architecture": "text_cnn", "hyperparameters": {"vocabulary": VOCABULARY - 1}}
    at = "/hyperparameters/vocabulary"
    refused(site, at, "ids up to 29: vocabulary must be at least 30, got 29", **few, **TEXTS)
    few["hyperparameters"]["vocabulary"] = VOCABULARY
    trained(site, **few, **TEXTS)
    sizes = {"vocabulary": 30, "width": 8, "heads": 2, "depth": 1, "feedforward": 8}
    short = {"architecture": "transformer_encoder", "hyperparameters": {**sizes, "max_length": 5}}
    at = "/hyperparameters/max_length"
    refused(site, at, "holds 6 token ids: max_length must be at least 6, got 5", **short, **TEXTS)
    short["hyperparameters"]["max_length"] = LONGEST
    trained(site, **short, **TEXTS)
    longer = {**TEXTS, "validation_dataset": "longer"}
    refused(site, "/validation_dataset", "6 positions", "12 token ids", **short, **longer)


def test_validation_must_not_hold_ids_that_the_network_lacks(site):
    network = {"architecture": "text_cnn", "hyperparameters": {"vocabulary": VOCABULARY}}
    changes = {**TEXTS, "validation_dataset": "more-words"}
    message = "the checkpoints of this training would not fit more-words@1"
    refused(site, "/validation_dataset", message, "ids up to 89", **network, **changes)


# Classes


def test_validation_may_have_the_classes_in_another_order(site):
    random = np.random.default_rng(9)
    orders = {"named-train": '["a", "b", "c"]', "named": '["c", "a", "b"]'}
    for name, classes in orders.items():
        x = random.normal(size=(60, FEATURES)).astype(np.float32)
        content = saved(x=x, y=np.array(list("abc"))[np.argmax(x[:, :3], axis=1)])
        split = "train" if name.endswith("-train") else "validation"
        site.register(name, content=content, split=split, classes=classes)
    changes = {"dataset": "named-train", "validation_dataset": "named", "epochs": 30}
    fast = {"name": "AdamW", "lr": 0.05}
    job = trained(site, optimizer=fast, early_stopping=None, **changes)
    best = job["result"]["history"][job["result"]["best"]["epoch"] - 1]
    assert best["accuracy"] > 0.7  # a third, were the orders confused
    checkpoint = job["result"]["checkpoint"]
    assert site.get(f"/v1/checkpoints/{checkpoint}").json["classes"] == ["a", "b", "c"]
    metrics = site.evaluate(checkpoint=checkpoint, dataset="named").json["result"]["metrics"]
    assert metrics == {name: best[name] for name in metrics}


# Where weights start


def test_a_checkpoint_for_other_examples_is_refused_with_both_sizes(site):
    narrow = trained(site)["result"]["checkpoint"]
    refused(
        site,
        "/initial_checkpoint",
        "layers.0.weight (5 x 9, in the checkpoint 5 x 6)",
        initial_checkpoint=narrow,
        dataset="wide-train",
        validation_dataset="wide",
        without=["hyperparameters"],
    )
    refused(
        site,
        "/initial_checkpoint",
        "layers.1.bias (5, in the checkpoint 3)",
        initial_checkpoint=narrow,
        hyperparameters={"hidden": [5, 5]},
    )


def test_a_checkpoint_of_another_architecture_is_refused(site):
    checkpoint = trained(site)["result"]["checkpoint"]
    changes = {"architecture": "convnet", "initial_checkpoint": checkpoint, **PICTURES}
    message = "is of the architecture mlp, and the training of convnet"
    refused(site, "/initial_checkpoint", message, without=["hyperparameters"], **changes)


def test_what_came_as_onnx_cannot_be_trained_on(site):
    network = torch.nn.Sequential(torch.nn.Linear(FEATURES, 3))
    content = export(network, torch.zeros(2, FEATURES))
    answer = site.upload("/v1/checkpoints", content=content)
    assert answer.status_code == 201, answer.text
    changes = {"initial_checkpoint": answer.json["digest"]}
    refused(site, "/initial_checkpoint", "can be evaluated and not trained", **changes)


# Rates and steps


def test_one_cycle_that_gives_a_momentum_to_an_optimizer_without_one_says_so(site):
    for optimizer in ({"name": "SGD", "lr": 0.01}, {"name": "RMSprop"}):
        job = trained(site, optimizer=optimizer, scheduler=ONE_CYCLE)
        (warning,) = job["result"]["warnings"]
        assert "cycle_momentum set to false" in warning
        plain = {**ONE_CYCLE, "cycle_momentum": False}
        assert trained(site, optimizer=optimizer, scheduler=plain)["result"]["warnings"] == []
    for optimizer in (MOMENTUM, {"name": "RMSprop", "momentum": 0.5}, {"name": "Adam"}):
        job = trained(site, optimizer=optimizer, scheduler=ONE_CYCLE)
        assert job["result"]["warnings"] == []


@pytest.mark.parametrize(("share", "epochs"), [(0.1, 10), (0.05, 20), (0.2, 5), (0.5, 2)])
def test_a_cycle_that_rises_in_a_single_step_is_refused_which_torch_cannot_build(
    site, share, epochs
):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], momentum=0.9)
    with pytest.raises(ZeroDivisionError):
        OneCycleLR(optimizer, max_lr=0.1, pct_start=share, total_steps=epochs)
    changes = {"optimizer": MOMENTUM, "batch_size": 100}
    scheduler = {**ONE_CYCLE, "pct_start": share}
    refused(
        site,
        "/scheduler/pct_start",
        f"{share} x {epochs} steps",
        scheduler=scheduler,
        epochs=epochs,
        **changes,
    )
    trained(site, scheduler=scheduler, epochs=epochs + 1, **changes)


def test_a_cycle_of_three_phases_has_room_for_each(site):
    cycle = {**ONE_CYCLE, "three_phase": True}
    at = "/scheduler/pct_start"
    refused(site, at, "less than 0.5, got 0.6", scheduler={**cycle, "pct_start": 0.6})
    changes = {"optimizer": MOMENTUM, "batch_size": 100, "early_stopping": None}
    for epochs in (1, 2, 3, 5):
        trained(site, scheduler={**cycle, "pct_start": 0.45}, epochs=epochs, **changes)


def test_a_momentum_of_one_is_refused_where_a_cycle_ends_in_it(site):
    scheduler = {**ONE_CYCLE, "max_momentum": 1.0}
    refused(site, "/scheduler/max_momentum", "less than 1", scheduler=scheduler)


def test_a_batch_that_holds_everything_is_warned_about(site):
    (warning,) = trained(site, batch_size=101)["result"]["warnings"]
    assert "all 100 training examples" in warning
    assert trained(site, batch_size=100)["result"]["warnings"] == []


def test_weights_that_no_number_holds_are_refused(site):
    weights = {"name": "cross_entropy", "class_weights": {"1": 1e30}}
    refused(site, "/loss/class_weights/1", "at most 1000000", loss=weights)


# What would be too large


LARGEST = {
    "mlp": {"hidden": [65536] * 64},
    "convnet": {"widths": [8192] * 16},
    "vit": {"patch_size": 1, "width": 16384, "depth": 256, "heads": 1, "mlp_width": 65536},
    "text_cnn": {
        "vocabulary": 2**31 - 1,
        "width": 65536,
        "kernel_sizes": [1024] * 64,
        "channels": 65536,
    },
    "transformer_encoder": {
        "vocabulary": 2**31 - 1,
        "width": 65536,
        "depth": 256,
        "heads": 1,
        "feedforward": 262144,
        "max_length": 1_000_000,
    },
}


@pytest.mark.parametrize("architecture", LARGEST)
def test_the_largest_network_that_can_be_written_is_refused_by_its_sum(site, architecture):
    described = site.get("/v1/catalog/architectures").json["items"]
    (entry,) = [one for one in described if one["name"] == architecture]
    assert set(LARGEST[architecture]) <= set(entry["parameters"]["properties"])
    changes = {"architecture": architecture, "hyperparameters": LARGEST[architecture]}
    if architecture in ("text_cnn", "transformer_encoder"):
        changes |= TEXTS
    elif architecture != "mlp":
        changes |= PICTURES
    refused(site, "/hyperparameters", "parameters x 4 bytes", **changes)
