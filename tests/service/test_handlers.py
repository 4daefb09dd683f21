"""What evaluations and ingestions do in a child, on a store of their own and without a database."""

import copy
import io
import itertools
import json
import os
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss

from checkpoints.errors import counted
from checkpoints.manifest import Manifest
from checkpoints.store import LocalStore
from models import runtime, tensorfile
from models.catalog import ARCHITECTURES
from models.datasets import Dataset
from models.evaluation_key import evaluation_key
from models.plugins import Loaded
from models.tensorfile import TensorSource
from service.jobs import handlers, networks, progress
from service.jobs.engines import ChildOptions, TaskFailed

CLASSES = ("ant", "bee", "cat")
FLATTEN = [{"name": "to_float", "scale": None}, {"name": "flatten"}]


BOUNDS = {
    "max_examples": 1000,
    "max_bytes": 2**24,
    "max_columns": 100,
    "max_pixels": 10**6,
    "processes": 2,
}


def options_of(folder, **changes):
    return ChildOptions(**{"data_dir": folder, "threads": 1, "decoding": BOUNDS, **changes})


@pytest.fixture
def context(tmp_path):
    return handlers.open_context(options_of(tmp_path), "cpu")


def publish(store, write):
    with store.draft() as draft:
        with os.fdopen(draft.fileno(), "wb", closefd=False) as stream:
            write(stream)
        return draft.publish().digest


def put_dataset(store, x, y, classes=CLASSES):
    """As an ingestion keeps it, with a group of every second example."""
    context = handlers.Context(
        options=options_of(None),
        store=store,
        materials=None,
        device="cpu",
        plugins=Loaded(plugins=[], provides={}),
    )
    halves = np.array(["even", "odd"])[np.arange(len(x)) % 2]
    upload = keep(store, npz(x=x, y=y, half=halves))
    return ingest(context, upload, classes=list(classes), groups=["half"])["digest"]


def put_mlp(store, weights, *, features, outputs, classes=None, hidden=(16,), **changes):
    manifest = Manifest(
        **{
            "architecture": "mlp",
            "hyperparameters": {
                "hidden": list(hidden),
                "activation": "relu",
                "dropout": 0.5,
                "batch_norm": False,
            },
            "input_shape": (features,),
            "outputs": outputs,
            "classes": classes,
            "transforms": None,
            "assumed": ("activation",),
            **changes,
        }
    )
    tensors = {name: TensorSource.of(array) for name, array in weights.items()}
    return publish(
        store,
        lambda stream: tensorfile.write(stream, tensors, metadata=manifest.to_metadata()),
    )


def mlp_weights(*widths, seed=0):
    random = np.random.default_rng(seed)
    found = {}
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        weight = random.normal(size=(after, before)) / np.sqrt(before)
        found[f"layers.{index}.weight"] = weight.astype(np.float32)
        found[f"layers.{index}.bias"] = random.normal(size=after).astype(np.float32)
    return found


def logits_by_numpy(weights, x):
    hidden = np.maximum(x @ weights["layers.0.weight"].T + weights["layers.0.bias"], 0)
    return hidden @ weights["layers.1.weight"].T + weights["layers.1.bias"]


@pytest.fixture
def examples():
    random = np.random.default_rng(5)
    x = random.integers(0, 256, (70, 3, 4), dtype=np.uint8)
    return x, random.integers(0, 3, 70)


@pytest.fixture
def payload(context, examples):
    dataset = put_dataset(context.store, *examples)
    checkpoint = put_mlp(context.store, mlp_weights(12, 16, 3), features=12, outputs=3)
    return {
        "checkpoint": checkpoint,
        "dataset": "insects@1",
        "dataset_digest": dataset,
        "task": "multiclass",
        "positive_class": None,
        "transforms": FLATTEN,
        "transforms_from": "request",
        "batch_size": 32,
        "threshold": None,
        "device": "auto",
        "assumed": ["activation"],
    }


def evaluate(context, payload, **changes):
    task = {"id": "one", "kind": "evaluation", "attempt": 1, "payload": {**payload, **changes}}
    return handlers.run(task, context, lambda _: None)


def refusal(context, payload, **changes):
    with pytest.raises(TaskFailed) as refused:
        evaluate(context, payload, **changes)
    return refused.value


# Evaluations


def test_an_evaluation_agrees_with_numpy_and_scikit_learn(context, payload, examples):
    result = evaluate(context, payload)
    x, y = examples
    logits = logits_by_numpy(mlp_weights(12, 16, 3), x.reshape(70, 12).astype(np.float64) / 255)
    guessed = logits.argmax(axis=1)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    loss = log_loss(y, p / p.sum(axis=1, keepdims=True), labels=range(3))
    assert result["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert result["metrics"]["accuracy"] == pytest.approx(accuracy_score(y, guessed))
    assert result["metrics"]["f1"] == pytest.approx(f1_score(y, guessed, average="macro"))
    even = slice(0, None, 2)
    first = result["per_group"][0]
    assert (first["group"], first["value"], first["examples"]) == ("half", "even", 35)
    assert first["accuracy"] == pytest.approx(accuracy_score(y[even], guessed[even]))


def test_the_stored_predictions_are_those_of_the_result(context, payload, examples):
    result = evaluate(context, payload)
    arrays, _ = tensorfile.open_arrays(context.store.path(result["predictions"]))
    x, y = examples
    logits = logits_by_numpy(mlp_weights(12, 16, 3), x.reshape(70, 12).astype(np.float64) / 255)
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "logits": "float32",
        "predicted": "int64",
        "confidence": "float32",
    }
    np.testing.assert_allclose(arrays["logits"], logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(arrays["predicted"], logits.argmax(axis=1))
    assert result["metrics"]["accuracy"] == np.mean(arrays["predicted"] == y)


def test_the_evidence_names_everything_the_numbers_depend_on(context, payload):
    result = evaluate(context, payload)
    evidence = result["evidence"]
    policy = runtime.policy("cpu")
    assert evidence["policy"] == policy
    assert evidence["environment"] == runtime.environment("cpu")
    for name in ("checkpoint", "dataset", "dataset_digest", "transforms", "batch_size"):
        assert evidence[name] == payload[name]
    named = ("checkpoint", "dataset_digest", "task", "positive_class", "threshold", "transforms")
    values = {name: payload[name] for name in (*named, "batch_size")}
    assert evidence["key"] == evaluation_key(**values, policy=policy)
    assert result["assumed"] == ["activation"]
    assert set(result["timings"]) == {"prepare_s", "load_s", "forward_s", "metrics_s"}


def test_equal_keys_give_equal_bytes_also_after_something_else_and_in_another_child(
    context, payload, examples, tmp_path
):
    first = evaluate(context, payload)
    other = put_mlp(context.store, mlp_weights(12, 16, 3, seed=9), features=12, outputs=3)
    different = evaluate(context, payload, checkpoint=other, batch_size=7)
    again = evaluate(context, payload)
    elsewhere = evaluate(handlers.open_context(options_of(tmp_path), "cpu"), payload)
    assert different["evidence"]["logits_sha256"] != first["evidence"]["logits_sha256"]
    for same in (again, elsewhere):
        assert same["evidence"] == first["evidence"]
        assert same["predictions"] == first["predictions"]


def test_a_network_and_its_batches_lie_in_memory_of_their_own(context, payload):
    manifest, arrays = context.materials.checkpoint(payload["checkpoint"])
    model = networks.build(
        manifest, arrays, shape=(4, 3), classes=3, task="multiclass", device="cpu"
    )
    for name, weight in model.state_dict().items():
        assert weight.data_ptr() % 64 == 0, name
        assert not np.shares_memory(weight.numpy(), arrays[name])
    assert not any(module.training for module in model.modules())
    x = Dataset(context.store.path(payload["dataset_digest"])).x
    for offset in range(3):  # examples of 12 bytes, so that slices of the mapping lie anywhere
        for batch in networks.Batches(x[offset:], [], 7, "cpu"):
            assert batch.data_ptr() % 64 == 0
            assert not np.shares_memory(batch.numpy(), x)


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_a_binary_network_with_one_output_is_judged_by_its_threshold(context, threshold):
    random = np.random.default_rng(1)
    x, y = random.normal(size=(50, 4)).astype(np.float32), random.integers(0, 2, 50)
    weights = mlp_weights(4, 16, 1)
    result = evaluate(
        context,
        {
            "checkpoint": put_mlp(context.store, weights, features=4, outputs=1),
            "dataset": "coins@1",
            "dataset_digest": put_dataset(context.store, x, y, classes=("tail", "head")),
            "task": "binary",
            "positive_class": "head",
            "transforms": [],
            "transforms_from": "dataset",
            "batch_size": 8,
            "threshold": threshold,
            "device": "cpu",
            "assumed": [],
        },
    )
    probability = 1 / (1 + np.exp(-logits_by_numpy(weights, x.astype(np.float64))[:, 0]))
    expected = accuracy_score(y, probability >= threshold)
    assert result["metrics"]["accuracy"] == pytest.approx(expected)
    assert result["evidence"]["threshold"] == threshold


def test_a_convnet_agrees_with_plain_torch(context):
    random = np.random.default_rng(2)
    x, y = random.normal(size=(9, 1, 6, 5)).astype(np.float32), random.integers(0, 3, 9)
    weights = {
        "convs.0.weight": random.normal(size=(4, 1, 3, 3)).astype(np.float32),
        "norms.0.weight": random.normal(size=4).astype(np.float32),
        "norms.0.bias": random.normal(size=4).astype(np.float32),
        "norms.0.running_mean": random.normal(size=4).astype(np.float32),
        "norms.0.running_var": random.uniform(0.5, 2, size=4).astype(np.float32),
        "norms.0.num_batches_tracked": np.array(7, np.int64),
        "head.weight": random.normal(size=(3, 4)).astype(np.float32),
        "head.bias": random.normal(size=3).astype(np.float32),
    }
    checkpoint = put_mlp(
        context.store,
        weights,
        features=1,
        outputs=3,
        architecture="convnet",
        hyperparameters={"widths": [4], "dropout": 0.0},
        input_shape=(1, None, None),
    )
    result = evaluate(
        context,
        {
            "checkpoint": checkpoint,
            "dataset": "images@1",
            "dataset_digest": put_dataset(context.store, x, y),
            "task": "multiclass",
            "positive_class": None,
            "transforms": [],
            "transforms_from": "dataset",
            "batch_size": 4,
            "threshold": None,
            "device": "auto",
            "assumed": [],
        },
    )
    w = {name: torch.from_numpy(array).double() for name, array in weights.items()}
    z = torch.nn.functional.conv2d(torch.from_numpy(x).double(), w["convs.0.weight"], padding=1)
    mean, var = (w[f"norms.0.running_{name}"][:, None, None] for name in ("mean", "var"))
    scale, shift = (w[f"norms.0.{name}"][:, None, None] for name in ("weight", "bias"))
    z = torch.relu((z - mean) / torch.sqrt(var + 1e-5) * scale + shift)
    z = torch.nn.functional.max_pool2d(z, 2, ceil_mode=True).mean(dim=(2, 3))
    expected = z @ w["head.weight"].T + w["head.bias"]
    arrays, _ = tensorfile.open_arrays(context.store.path(result["predictions"]))
    np.testing.assert_allclose(arrays["logits"], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_progress_is_reported_at_most_twice_a_second(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    reports = []
    tell = progress.Progress(reports.append, 100, "examples")
    for done in range(1, 101):
        now[0] += 0.03125
        tell(done)
    assert [one["done"] for one in reports] == [16, 32, 48, 64, 80, 96]
    assert reports[0] == {"done": 16, "total": 100, "unit": "examples"}


def test_few_datasets_stay_mapped(context, payload, examples):
    x, y = examples
    for index in range(6):
        rolled = put_dataset(context.store, np.roll(x, index, axis=0), y)
        evaluate(context, payload, dataset_digest=rolled)
    assert len(context.materials.datasets) == 4
    assert next(reversed(context.materials.datasets)) == rolled


CHILDREN = """
import json, sys
from pathlib import Path
from service.jobs.engines import ChildOptions
from service.jobs.engines.process import ProcessEngine

options = ChildOptions(data_dir=Path(sys.argv[1]), threads=1, decoding={})
found = []
for children in (2, 4):
    engine = ProcessEngine(options, device="cpu", children=children)
    engine.start()
    while not all(slot.ready for slot in engine.slots()):
        engine.wait(1.0)
    for slot in engine.slots():
        task = {"id": str(slot.index), "kind": "evaluation", "attempt": 1}
        engine.give(slot, {**task, "payload": json.loads(sys.argv[2])})
    while any(slot.busy_with for slot in engine.slots()):
        found += [one["result"]["evidence"] for one in engine.wait(1.0)]
    engine.close()
print(json.dumps(found))
"""


def test_equal_keys_give_equal_bytes_in_every_child_of_two_and_of_four(context, payload, tmp_path):
    here = evaluate(context, payload)["evidence"]
    command = [sys.executable, "-c", CHILDREN, str(tmp_path), json.dumps(payload)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert json.loads(ended.stdout) == [here] * 6, ended.stderr


# Refusals


def test_other_classes_than_the_datasets_are_refused(context, payload):
    weights = mlp_weights(12, 16, 3)
    named = put_mlp(context.store, weights, features=12, outputs=3, classes=("ant", "bee", "dog"))
    refused = refusal(context, payload, checkpoint=named)
    assert (refused.reason, refused.pointer) == ("bad_request", "/checkpoint")
    assert "missing (1): 'cat'; extra (1): 'dog'" in refused.detail


def test_classes_that_are_the_datasets_are_taken(context, payload):
    weights = mlp_weights(12, 16, 3)
    named = put_mlp(context.store, weights, features=12, outputs=3, classes=CLASSES)
    assert evaluate(context, payload, checkpoint=named)["metrics"]


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_another_number_of_outputs_than_classes_is_refused(context, payload, outputs):
    weights = mlp_weights(12, 16, outputs)
    wrong = put_mlp(context.store, weights, features=12, outputs=outputs)
    refused = refusal(context, payload, checkpoint=wrong)
    assert refused.reason == "bad_request"
    assert f"{counted(outputs, 'output')}, but the dataset has 3 classes" in refused.detail


@pytest.mark.parametrize(
    ("transforms", "words"),
    [
        (
            FLATTEN[:1],
            "expects (12,) float32; dataset insects@1 gives (3, 4) float32 after [to_float]",
        ),
        (FLATTEN[1:], "gives (12,) uint8 after [flatten]"),
        ([{"name": "normalize", "mean": [0.0], "std": [1.0]}], "put to_float before it"),
    ],
)
def test_examples_that_the_network_does_not_take_are_refused_with_both_sides(
    context, payload, transforms, words
):
    refused = refusal(context, payload, transforms=transforms)
    assert refused.reason == "bad_request"
    assert refused.pointer.startswith("/transforms")
    assert words in refused.detail


def test_logits_that_are_not_finite_fail_with_the_first_example(context, payload):
    weights = mlp_weights(12, 16, 3)
    weights["layers.1.bias"][1] = np.inf
    broken = put_mlp(context.store, weights, features=12, outputs=3)
    refused = refusal(context, payload, checkpoint=broken)
    assert refused.reason == "non_finite_logits"
    assert "example 0" in refused.detail


@pytest.mark.parametrize(
    ("name", "what"), [("checkpoint", "checkpoint"), ("dataset_digest", "data")]
)
def test_a_missing_blob_fails_the_job_and_nothing_else(context, payload, name, what):
    refused = refusal(context, payload, **{name: "0" * 64})
    assert refused.reason == "missing_blob"
    assert what in refused.detail
    assert evaluate(context, payload)["metrics"]


@pytest.mark.parametrize("name", ["checkpoint", "dataset_digest"])
@pytest.mark.parametrize("damage", ["cut", "one bit"])
def test_a_damaged_blob_fails_the_job_and_is_never_computed_with(context, payload, name, damage):
    path = context.store.path(payload[name])
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-4:]
    else:
        content[-50] ^= 1
    path.write_bytes(content)
    refused = refusal(context, payload)
    assert refused.reason == "damaged_blob"
    assert not path.exists()  # so that the same file can be sent again


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 4 TB"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
    ids=["python", "host", "card", "cublas"],
)
def test_memory_that_runs_out_names_the_batch_size_tried(context, payload, monkeypatch, error):
    def fail(self, x):
        raise error

    monkeypatch.setattr("models.architectures.mlp.MLP.forward", fail)
    refused = refusal(context, payload, batch_size=48)
    assert (refused.reason, refused.pointer) == ("out_of_memory", "/batch_size")
    assert "batch_size 48" in refused.detail


def test_a_device_of_a_job_is_used_and_recorded(context, payload):
    other = copy.copy(context)
    other.device = "cuda:31"  # a card that no machine has
    assert evaluate(other, payload, device="cpu")["evidence"]["policy"]["device"] == "cpu"
    with pytest.raises((AssertionError, RuntimeError), match="CUDA"):
        evaluate(other, payload, device="auto")


# Hello


def test_a_hello_says_policies_environment_catalog_and_kinds(context):
    hello = handlers.hello(context)
    assert hello["policies"] == {"cpu": runtime.policy("cpu")}
    assert hello["policies"]["cpu"]["threads"] == 1
    assert hello["environment"]["torch"] == torch.__version__
    names = [one["name"] for one in hello["catalog"]["architectures"]]
    assert names == list(ARCHITECTURES)
    assert hello["plugins"] == []
    assert hello["provides"] == {"onnxruntime": version("onnxruntime")}
    assert hello["kinds"] == {"evaluation": False, "ingestion": False, "training": True}


# Ingestions


def ingest(context, upload, **spec):
    spec = {"name": "insects", "split": "test", "task": "multiclass", "transforms": [], **spec}
    payload = {"upload": upload, "spec": spec}
    task = {"id": "one", "kind": "ingestion", "attempt": 1, "payload": payload}
    (found,) = handlers.run(task, context, lambda _: None)["datasets"]
    assert found["spec"] == spec
    return found


def keep(store, content):
    with store.draft() as draft:
        draft.write(content)
        return draft.keep()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_an_ingestion_publishes_the_dataset_that_was_sent(context, examples):
    x, y = examples
    found = ingest(context, keep(context.store, npz(x=x, y=np.array(CLASSES)[y])))
    assert (found["format"], found["examples"], found["classes"]) == ("npz", 70, list(CLASSES))
    stored = Dataset(context.store.path(found["digest"]))
    np.testing.assert_array_equal(stored.x, x)
    np.testing.assert_array_equal(stored.y, y)
    assert found["size_bytes"] == context.store.size_bytes(found["digest"])


def test_a_bad_file_is_refused_and_leaves_no_draft(context, tmp_path):
    upload = keep(context.store, npz(x=np.zeros((3, 2)), y=np.zeros(4, int)))
    with pytest.raises(TaskFailed) as refused:
        ingest(context, upload)
    assert (refused.value.reason, refused.value.pointer) == ("bad_request", "/file")
    assert list((tmp_path / "tmp").iterdir()) == []
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def test_a_decoder_that_runs_past_its_limits_is_a_bad_request(tmp_path):
    tight = options_of(tmp_path, decoder_s=0.02)
    context = handlers.open_context(tight, "cpu")
    random = np.random.default_rng(0)
    upload = keep(context.store, npz(x=random.normal(size=(500, 50)), y=np.arange(500) % 2))
    with pytest.raises(TaskFailed) as refused:
        ingest(context, upload)
    assert refused.value.reason == "bad_request"
    assert "the file could not be read: the reader ran past 0.02 s" in refused.value.detail
    assert "0.02 s and 4 GiB, from HOLDOUT_DECODER_S and HOLDOUT_READER" in refused.value.detail


def test_a_dataset_that_is_not_hashed_in_time_is_a_bad_request(context, tmp_path, monkeypatch):
    monkeypatch.setattr("service.jobs.ingestion._HASHING", -1)
    upload = keep(context.store, npz(x=np.zeros((3, 2)), y=np.arange(3)))
    with pytest.raises(TaskFailed, match=r"its \d+ bytes decoded take too long") as refused:
        ingest(context, upload)
    assert (refused.value.reason, refused.value.pointer) == ("bad_request", "/file")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_upload_that_is_gone_fails_the_job(tmp_path):
    context = handlers.open_context(options_of(tmp_path), "cpu")
    assert isinstance(context.store, LocalStore)
    with pytest.raises(TaskFailed) as refused:
        ingest(context, "0" * 32)
    assert refused.value.reason == "missing_blob"
