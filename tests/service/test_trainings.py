"""What a training does in a child, on a store of its own and without a database."""

import errno
import io
import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from checkpoints.manifest import Manifest
from models import parameters as declared
from models import tensorfile
from models.catalog import ARCHITECTURES
from models.recipes import AUGMENTATIONS, LOSSES, OPTIMIZERS, SCHEDULERS
from models.training import batch_sizes, order_of
from service.jobs import handlers, networks
from service.jobs.engines import TaskFailed, outcome
from tests.service.test_handlers import (
    FLATTEN,
    evaluate,
    ingest,
    keep,
    mlp_weights,
    npz,
    options_of,
    put_mlp,
)

CLASSES = ["ant", "bee", "cat"]
TO_FLOAT = [{"name": "to_float", "scale": None}]
KINDS = {
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "scheduler": SCHEDULERS,
    "augmentations": AUGMENTATIONS,
}


def component(kind, name, **parameters):
    return {"name": name, **declared.to_json(KINDS[kind][name].build(parameters))}


def data(*, seed=0, examples=60, shape=(1, 6, 6), classes=3):
    """Images whose class is which of their first pixels is brightest."""
    random = np.random.default_rng(seed)
    x = random.integers(0, 256, (examples, *shape), dtype=np.uint8)
    return x, x.reshape(examples, -1)[:, :classes].argmax(axis=1)


def put(context, x, y, *, split="train", classes=CLASSES, **spec):
    upload = keep(context.store, npz(x=x, y=y))
    return ingest(context, upload, split=split, classes=list(classes), **spec)["digest"]


def payload_for(architecture, training, validation, *, hyperparameters=None, **changes):
    entry = ARCHITECTURES[architecture]
    return {
        "architecture": architecture,
        "hyperparameters": declared.to_json(entry.build(hyperparameters or {})),
        "dataset": "pictures-train@1",
        "dataset_digest": training,
        "validation_dataset": "pictures@1",
        "validation_digest": validation,
        "task": "multiclass",
        "positive_class": None,
        "transforms": FLATTEN,
        "epochs": 4,
        "batch_size": 16,
        "seed": 7,
        "loss": component("loss", "cross_entropy"),
        "optimizer": component("optimizer", "AdamW", lr=0.01),
        "scheduler": component("scheduler", "ReduceLROnPlateau"),
        "warmup_epochs": 0,
        "early_stopping": None,
        "monitor": "loss",
        "augmentations": [],
        "gradient_clip_norm": None,
        "precision": "float32",
        "initial_checkpoint": None,
        "train_metrics": False,
        "device": "auto",
        "overlap": None,
        "warnings": [],
        "saved": None,
        **changes,
    }


@pytest.fixture
def context(tmp_path):
    return handlers.open_context(options_of(tmp_path), "cpu")


@pytest.fixture
def payload(context):
    training = put(context, *data())
    validation = put(context, *data(seed=1, examples=30), split="validation")
    hyperparameters = {"hidden": [12], "dropout": 0.3, "batch_norm": True}
    return payload_for("mlp", training, validation, hyperparameters=hyperparameters)


def train(context, payload, **changes):
    """The result and the messages of every epoch."""
    messages = []
    task = {"id": "one", "kind": "training", "attempt": 1, "payload": {**payload, **changes}}
    result = handlers.run(task, context, lambda one: messages.append(json.loads(json.dumps(one))))
    return result, [one for one in messages if one.get("type") == "epoch"]


def refusal(context, payload, **changes):
    with pytest.raises(TaskFailed) as refused:
        train(context, payload, **changes)
    return refused.value


def stored(context, part):
    return tensorfile.open_arrays(context.store.upload_path(part["file"]))


def digests(epochs):
    return [(one["saved"]["last"]["digest"], one["saved"]["state"]["digest"]) for one in epochs]


def rows(epochs):
    """Of the history, less what the clock says."""
    return [{k: v for k, v in one["row"].items() if k != "duration_s"} for one in epochs]


RECIPES = {
    "a plateau": {},
    "one cycle": {
        "scheduler": component("scheduler", "OneCycleLR", max_lr=0.05),
        "optimizer": component("optimizer", "SGD", lr=0.01, momentum=0.9, nesterov=True),
    },
    "restarts after a warm-up": {
        "scheduler": component("scheduler", "CosineAnnealingWarmRestarts", T_0=2),
        "optimizer": component("optimizer", "RMSprop", momentum=0.5),
        "warmup_epochs": 1,
    },
    "clipped, focal, stopping early": {
        "gradient_clip_norm": 0.1,
        "loss": component("loss", "focal", class_weights="balanced"),
        "early_stopping": {"patience": 3, "min_delta": 0.0},
        "monitor": "f1",
    },
    "bfloat16": {"precision": "bfloat16", "train_metrics": True},
    "a constant rate": {"scheduler": None, "optimizer": component("optimizer", "Adam")},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_training_that_goes_on_after_any_epoch_ends_with_the_same_bytes(
    context,
    payload,
    recipe,
):
    payload = {**payload, **RECIPES[recipe]}
    result, whole = train(context, payload)
    assert len(whole) == 4
    for epoch in (1, 3, 4):
        again, rest = train(context, payload, saved=whole[epoch - 1]["saved"])
        assert again == result
        assert digests(rest) == digests(whole[epoch:])
        assert rows(rest) == rows(whole[epoch:])
        if rest:
            ends = [one[-1]["saved"]["best"] for one in (whole, rest)]
            assert ends[0]["digest"] == ends[1]["digest"]
            assert ends[0]["epoch"] == ends[1]["epoch"]


def test_the_same_spec_gives_the_same_bytes_in_another_child_and_another_seed_others(
    context,
    payload,
    tmp_path,
):
    _, first = train(context, payload)
    other = handlers.open_context(options_of(tmp_path), "cpu")
    torch.rand(5)
    _, second = train(other, payload)
    assert digests(second) == digests(first)
    _, third = train(context, payload, seed=8)
    assert not set(digests(third)) & set(digests(first))


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_evaluation_of_the_best_checkpoint_gives_the_metrics_of_its_epoch(
    context,
    payload,
    recipe,
):
    payload = {**payload, **RECIPES[recipe]}
    _, epochs = train(context, payload)
    best = epochs[-1]["saved"]["best"]
    context.store.publish_upload(best["file"], best["digest"])
    names = ("task", "positive_class", "transforms", "device")
    found = evaluate(
        context,
        {name: payload[name] for name in names},
        checkpoint=best["digest"],
        dataset=payload["validation_dataset"],
        dataset_digest=payload["validation_digest"],
        transforms_from="checkpoint",
        batch_size=256,
        threshold=None,
        assumed=[],
    )
    row = epochs[best["epoch"] - 1]["row"]
    assert found["metrics"] == {name: row[name] for name in found["metrics"]}
    values = [one["row"][payload["monitor"]] for one in epochs]
    assert best["value"] == (min if payload["monitor"] == "loss" else max)(values)


def test_a_training_is_a_plain_loop_of_torch(context, payload):
    """Without anything random but the order, which is asked for."""
    hyperparameters = declared.to_json(ARCHITECTURES["mlp"].build({"hidden": [12]}))
    recipe = {
        "optimizer": component("optimizer", "SGD", lr=0.1, momentum=0.9, weight_decay=0.01),
        "scheduler": component("scheduler", "StepLR", step_size=2, gamma=0.5),
        "loss": component("loss", "cross_entropy", label_smoothing=0.1),
        "gradient_clip_norm": 0.5,
        "hyperparameters": hyperparameters,
    }
    payload = {**payload, **recipe}
    _, epochs = train(context, payload)
    start = _first_weights(context, payload)
    x, y = data()
    x, y = torch.from_numpy(x).flatten(1) / 255, torch.from_numpy(y)
    layers = torch.nn.Sequential(torch.nn.Linear(36, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))
    names = {"0.weight": "layers.0.weight", "0.bias": "layers.0.bias"}
    names |= {"2.weight": "layers.1.weight", "2.bias": "layers.1.bias"}
    layers.load_state_dict({ours: start[theirs] for ours, theirs in names.items()})
    weights = [one for key, one in layers.named_parameters() if key.endswith("weight")]
    biases = [one for key, one in layers.named_parameters() if key.endswith("bias")]
    groups = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    for epoch in range(1, 5):
        losses, norms = [], []
        for indices in order_of(60, seed=7, epoch=epoch).split(batch_sizes(60, 16)):
            optimizer.zero_grad()
            loss = functional.cross_entropy(layers(x[indices]), y[indices], label_smoothing=0.1)
            loss.backward()
            norms.append(torch.nn.utils.clip_grad_norm_(layers.parameters(), 0.5).item())
            optimizer.step()
            losses.append(loss.item() * len(indices))
        scheduler.step()
        row = epochs[epoch - 1]["row"]
        assert row["train_loss"] == pytest.approx(sum(losses) / 60, rel=1e-5)
        assert row["gradient_norm"] == pytest.approx(sum(norms) / 4, rel=1e-4)
        arrays, _ = stored(context, epochs[-1]["saved"]["last"])
    for ours, theirs in names.items():
        np.testing.assert_allclose(
            layers.state_dict()[ours].numpy(), arrays[theirs], rtol=1e-4, atol=1e-6
        )


def _first_weights(context, payload):
    """Those of a training whose steps are too small to change anything."""
    tiny = component("optimizer", "SGD", lr=1e-30)
    _, epochs = train(context, payload, optimizer=tiny, scheduler=None, epochs=1)
    arrays, _ = stored(context, epochs[0]["saved"]["last"])
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def test_the_checkpoint_of_a_training_is_the_canonical_one(context, payload, tmp_path):
    """Whoever uploads it gets the same digest."""
    from checkpoints.reading import convert

    _, epochs = train(context, payload)
    best = epochs[-1]["saved"]["best"]
    path = context.store.upload_path(best["file"])
    with open(path, "rb") as source, open(tmp_path / "again", "w+b") as output:
        request = {"declaration": {}, "max_bytes": 2**24}
        answer = convert(request, [source.fileno(), output.fileno()])
    found = answer["checkpoint"]
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    saved = epochs[-1]["saved"]
    assert {name: found[name] for name in saved["manifest"]} == saved["manifest"]
    for name in ("parameters", "tensors", "warnings"):
        assert found[name] == saved["details"][name]


AUGMENTED = [
    component("augmentations", "random_crop", size=6, padding=1),
    component("augmentations", "random_horizontal_flip"),
    component("augmentations", "gaussian_noise", std=0.02),
]
MIXED = [component("augmentations", "mixup", alpha=0.4)]


@pytest.mark.parametrize("augmentations", [AUGMENTED, MIXED])
def test_augmentation_changes_training_and_never_validation(
    context,
    payload,
    augmentations,
):
    training = {"transforms": TO_FLOAT, "architecture": "convnet", "epochs": 2}
    entry = ARCHITECTURES["convnet"]
    training["hyperparameters"] = declared.to_json(entry.build({"widths": [4]}))
    _, plain = train(context, payload, **training)
    _, augmented = train(context, payload, augmentations=augmentations, **training)
    assert digests(plain) != digests(augmented)
    tiny = component("optimizer", "SGD", lr=1e-30)
    frozen = {**training, "optimizer": tiny, "scheduler": None, "epochs": 1}
    (clean,), (changed,) = (
        train(context, payload, augmentations=one, **frozen)[1] for one in ([], augmentations)
    )
    assert clean["row"]["train_loss"] != changed["row"]["train_loss"]


@pytest.mark.parametrize("augmentations", [[], AUGMENTED])
@pytest.mark.parametrize("resident_bytes", [0, 3000, 2**20])
def test_how_much_fits_changes_no_byte(
    context,
    payload,
    tmp_path,
    resident_bytes,
    augmentations,
):
    changes = {"augmentations": augmentations, "epochs": 2}
    _, expected = train(context, payload, **changes)
    options = options_of(tmp_path, resident_bytes=resident_bytes)
    other = handlers.open_context(options, "cpu")
    _, found = train(other, payload, **changes)
    assert digests(found) == digests(expected)


@pytest.mark.parametrize(
    ("loss", "outputs"), [("cross_entropy", 2), ("binary_cross_entropy_with_logits", 1)]
)
def test_a_binary_task_is_judged_by_its_positive_class(context, loss, outputs):
    classes = ["tail", "head"]
    training = put(context, *data(classes=2), classes=classes, task="binary")
    validation = put(
        context,
        *data(seed=1, examples=40, classes=2),
        classes=classes,
        task="binary",
        split="validation",
    )
    changes = {"task": "binary", "positive_class": "tail", "loss": component("loss", loss)}
    payload = payload_for("mlp", training, validation, epochs=3, **changes)
    _, epochs = train(context, payload)
    arrays, metadata = stored(context, epochs[-1]["saved"]["last"])
    assert Manifest.from_metadata(metadata).outputs == outputs
    x, y = data(seed=1, examples=40, classes=2)
    inner = np.maximum(
        x.reshape(40, -1) / 255 @ arrays["layers.0.weight"].T + arrays["layers.0.bias"], 0
    )
    logits = inner @ arrays["layers.1.weight"].T + arrays["layers.1.bias"]
    guessed = logits[:, 0] > 0 if outputs == 1 else logits.argmax(axis=1)
    row = epochs[-1]["row"]
    assert row["accuracy"] == np.mean(guessed == y)
    assert row["recall"] == np.mean(guessed[y == 0] == 0)


def test_a_multilabel_task_is_trained_with_a_sigmoid_a_label(context):
    x, _ = data()
    y = (x.reshape(60, -1)[:, :3] > 127).astype(np.uint8)
    training = put(context, x, y, task="multilabel")
    validation = put(context, x[:20], y[:20], task="multilabel", split="validation")
    loss = component("loss", "binary_cross_entropy_with_logits", pos_weight="balanced")
    payload = payload_for("mlp", training, validation, task="multilabel", loss=loss, epochs=30)
    _, epochs = train(context, payload)
    assert epochs[-1]["row"]["loss"] < epochs[0]["row"]["loss"] < 1.0


def test_sequences_of_token_ids_are_trained_on(context):
    random = np.random.default_rng(0)
    x = random.integers(0, 9, (60, 5)).astype(np.int32)
    lengths = random.integers(1, 6, 60)
    y = x[:, 0] % 3
    hyperparameters = {"vocabulary": 9, "width": 8, "filters": 4, "kernels": [1, 2]}
    known = ARCHITECTURES["text_cnn"].parameters.__dataclass_fields__
    hyperparameters = {name: v for name, v in hyperparameters.items() if name in known}
    found = []
    for part, split in ((slice(None), "train"), (slice(20), "validation")):
        content = npz(x=x[part], y=y[part], lengths=lengths[part])
        upload = keep(context.store, content)
        found.append(ingest(context, upload, split=split, classes=CLASSES)["digest"])
    payload = payload_for(
        "text_cnn", *found, hyperparameters=hyperparameters, transforms=[], epochs=2
    )
    _, epochs = train(context, payload)
    assert [one["row"]["epoch"] for one in epochs] == [1, 2]


def test_classes_in_another_order_are_judged_by_name(context):
    x, y = data()
    training = put(context, x, y)
    same = put(context, x, y, split="validation")
    other = put(context, x, 2 - y, split="validation", classes=CLASSES[::-1])
    found = [
        train(context, payload_for("mlp", training, one, epochs=2))[1] for one in (same, other)
    ]
    for one, other in zip(rows(found[0]), rows(found[1]), strict=True):
        assert one == pytest.approx(other, rel=1e-12)


def test_the_metrics_of_the_training_set_are_those_without_dropout(context, payload):
    payload = {**payload, "train_metrics": True, "epochs": 2}
    same = {"validation_digest": payload["dataset_digest"]}
    _, epochs = train(context, payload, **same)
    for one in epochs:
        row = one["row"]
        assert row["train_metrics"] == {name: row[name] for name in row["train_metrics"]}
        assert row["train_loss"] != row["loss"]


def test_early_stopping_ends_it_and_says_so(context, payload):
    early = {"patience": 2, "min_delta": 10.0}
    result, epochs = train(context, payload, early_stopping=early, epochs=9)
    assert result["stopped"] == {"reason": "early_stopping", "epoch": 3}
    assert [one["row"]["epoch"] for one in epochs] == [1, 2, 3]
    again, rest = train(context, payload, early_stopping=early, epochs=9, saved=epochs[-1]["saved"])
    assert (again, rest) == (result, [])


def test_a_loss_that_is_not_finite_fails_with_epoch_and_step(context, payload):
    mad = {"optimizer": component("optimizer", "SGD", lr=1000, momentum=0.99), "epochs": 50}
    plain = declared.to_json(ARCHITECTURES["mlp"].build({"hidden": [64, 64, 64]}))
    messages = []
    task = {"id": "one", "kind": "training", "attempt": 1}
    task["payload"] = {**payload, **mad, "hyperparameters": plain}
    with pytest.raises(TaskFailed, match=r"at epoch \d+, step \d+") as failed:
        handlers.run(task, context, messages.append)
    assert (failed.value.reason, failed.value.pointer) == ("diverged", "/optimizer/lr")


def test_a_single_left_over_example_joins_the_batch_before(context, payload):
    assert batch_sizes(33, 16) == [16, 17]
    assert batch_sizes(34, 16) == [16, 16, 2]
    assert batch_sizes(32, 16) == [16, 16]
    assert batch_sizes(1, 16) == [1]
    _, epochs = train(context, payload, batch_size=59, epochs=1)
    assert epochs[0]["row"]["epoch"] == 1


def test_batches_too_small_for_batch_normalization_are_refused(context, payload):
    refused = refusal(context, payload, batch_size=1)
    assert (refused.reason, refused.pointer) == ("bad_request", "/batch_size")
    assert "batch_size of at least 2" in refused.detail


# Fine-tuning


def initial(context, **options):
    given = {"features": 36, "outputs": 3, "hidden": (12,), "classes": tuple(CLASSES), **options}
    weights = mlp_weights(36, *given["hidden"], given["outputs"])
    hyperparameters = {"hidden": [*given["hidden"]], "activation": "relu", "dropout": 0.0}
    hyperparameters["batch_norm"] = False
    return weights, put_mlp(context.store, weights, hyperparameters=hyperparameters, **given)


def frozen(context, payload, digest):
    """The weights that a training starts from, and what it says of them."""
    tiny = component("optimizer", "SGD", lr=1e-30)
    hyperparameters = declared.to_json(ARCHITECTURES["mlp"].build({"hidden": [12]}))
    changes = {"optimizer": tiny, "scheduler": None, "epochs": 1, "initial_checkpoint": digest}
    _, (epoch,) = train(context, payload, hyperparameters=hyperparameters, **changes)
    return stored(context, epoch["saved"]["last"])[0], epoch["saved"]["adjustments"]


def test_a_training_starts_from_a_checkpoint(context, payload):
    weights, digest = initial(context)
    found, adjustments = frozen(context, payload, digest)
    assert adjustments == []
    for name, array in weights.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("outputs", "classes"), [(5, None), (3, ("dog", "eel", "fly")), (5, tuple("abcde"))]
)
def test_a_head_for_other_classes_is_replaced_and_reported(
    context,
    payload,
    outputs,
    classes,
):
    weights, digest = initial(context, outputs=outputs, classes=classes)
    found, (adjustment,) = frozen(context, payload, digest)
    assert "replaced layers.1.bias, layers.1.weight" in adjustment
    np.testing.assert_array_equal(found["layers.0.weight"], weights["layers.0.weight"])
    assert found["layers.1.weight"].shape == (3, 12)
    assert not np.isin(found["layers.1.weight"], weights["layers.1.weight"]).any()


def test_a_head_for_the_same_classes_in_another_order_is_put_into_ours(
    context,
    payload,
):
    weights, digest = initial(context, classes=("cat", "ant", "bee"))
    found, (adjustment,) = frozen(context, payload, digest)
    assert "into the order of classes" in adjustment
    np.testing.assert_array_equal(found["layers.1.weight"], weights["layers.1.weight"][[1, 2, 0]])
    np.testing.assert_array_equal(found["layers.1.bias"], weights["layers.1.bias"][[1, 2, 0]])


def test_weights_of_another_network_cannot_be_started_from(context, payload):
    _, digest = initial(context, hidden=(20,))
    with pytest.raises(TaskFailed, match="misshapen") as refused:
        frozen(context, payload, digest)
    assert refused.value.pointer == "/initial_checkpoint"


# Stored states


def test_a_state_that_is_gone_or_damaged_is_said_to_be(context, payload):
    _, epochs = train(context, payload, epochs=2)
    saved = epochs[0]["saved"]
    for part in ("last", "state"):
        path = context.store.upload_path(saved[part]["file"])
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert refusal(context, payload, saved=saved).reason == "damaged_blob"
        path.unlink()
        assert refusal(context, payload, saved=saved).reason == "missing_blob"
        path.write_bytes(content)
    assert train(context, payload, epochs=2, saved=saved)[0]["stopped"]["reason"] == "completed"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no_space"),
        (OSError(errno.EROFS, "Read-only file system"), "not_writable"),
        (OSError(errno.EIO, "Input/output error"), "store_unreachable"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "store_unreachable"),
    ],
)
def test_a_state_that_cannot_be_stored_ends_the_training_with_the_reason_and_loses_nothing(
    context, payload, monkeypatch, error, reason
):
    drafts = []

    def draft():
        drafts.append(None)
        if len(drafts) > 4:
            raise error
        return original()

    original = context.store.draft
    monkeypatch.setattr(context.store, "draft", draft)
    sent = []
    task = {"id": "one", "kind": "training", "attempt": 1, "payload": payload}
    last = json.loads(outcome(handlers, task, context, sent.append))
    assert (last["type"], last["reason"]) == ("failed", reason)
    told = [json.loads(one) for one in sent]
    epochs = [one for one in told if one["type"] == "epoch"]
    assert [one["row"]["epoch"] for one in epochs] == [1, 2]
    monkeypatch.undo()
    result, rest = train(context, payload, saved=epochs[-1]["saved"])
    assert result["stopped"] == {"reason": "completed", "epoch": 4}
    assert digests(rest) == digests(train(context, payload)[1])[2:]


def test_another_numeric_policy_on_the_way_is_reported(context, payload):
    _, epochs = train(context, payload)
    saved = epochs[1]["saved"]
    saved = {**saved, "environment": {**saved["environment"], "torch": "1.0"}}
    _, rest = train(context, payload, saved=saved)
    (warning,) = rest[-1]["saved"]["warnings"]
    assert "after epoch 2 where torch differ" in warning


def test_a_network_keeps_its_weights_while_it_is_judged(context, payload):
    manifest, arrays = context.materials.checkpoint(initial(context)[1])
    model = networks.build(
        manifest, arrays, shape=(36,), classes=3, task="multiclass", device="cpu"
    )
    assert set(networks.tensors_of(model)) == set(arrays)


def test_what_is_random_in_an_epoch_follows_from_seed_and_epoch():
    assert torch.equal(order_of(50, seed=1, epoch=2), order_of(50, seed=1, epoch=2))
    for other in ({"seed": 1, "epoch": 3}, {"seed": 2, "epoch": 2}):
        assert not torch.equal(order_of(50, seed=1, epoch=2), order_of(50, **other))
    assert sorted(order_of(50, seed=1, epoch=2).tolist()) == list(range(50))


def test_a_file_of_a_training_is_read_by_safetensors(context, payload):
    from safetensors import safe_open

    _, epochs = train(context, payload, epochs=1)
    path = context.store.upload_path(epochs[0]["saved"]["last"]["file"])
    with safe_open(path, "pt") as file:
        assert "layers.0.weight" in file.keys()  # noqa: SIM118 - it is no mapping
    assert io.BytesIO(path.read_bytes()).read(8)
