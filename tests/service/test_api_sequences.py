"""Sequences of token ids over HTTP, from the upload of two formats to metrics."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_score, recall_score
from torch import nn
from torch.nn import functional

from checkpoints.manifest import Manifest
from models import tensorfile
from models.tensorfile import TensorSource
from service.jobs import handlers
from service.jobs.engines import TaskFailed
from tests.service.conftest import assert_problem, pt
from tests.service.test_handlers import keep, options_of, publish

VOCABULARY, CLASSES = 40, ("angry", "calm", "glad")
RANDOM = np.random.default_rng(8)
TEXTS = [RANDOM.integers(0, VOCABULARY, length).tolist() for length in RANDOM.integers(1, 16, 90)]
TEXTS[0][0] = VOCABULARY - 1
LONGEST = max(map(len, TEXTS))
TARGETS = np.array([sum(text) % 3 for text in TEXTS])
LABELS = np.array(CLASSES)[TARGETS]
SITES = np.array(["east", "west"])[np.arange(90) % 2]


def as_npz(texts=TEXTS, labels=LABELS, sites=SITES):
    x = np.zeros((len(texts), LONGEST + 2), np.int64)
    for row, text in zip(x, texts, strict=True):
        row[: len(text)] = text
    stream = io.BytesIO()
    np.savez(stream, x=x, y=labels, lengths=list(map(len, texts)), groups=sites)
    return stream.getvalue()


def as_parquet():
    table = {"text": pa.array(TEXTS), "label": LABELS, "groups": SITES, "row": np.arange(90)}
    stream = io.BytesIO()
    pq.write_table(pa.table(table), stream)
    return stream.getvalue()


class TextCNN(nn.Module):
    """As a user writes one: for one sequence at a time, without padding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 9)
        self.convs = nn.ModuleList(nn.Conv1d(9, 7, size) for size in (1, 3))
        self.head = nn.Linear(14, 3)

    def forward(self, text):
        vectors = self.embedding(text).T[None]
        found = []
        for conv in self.convs:
            missing = max(0, conv.kernel_size[0] - len(text))
            found.append(conv(functional.pad(vectors, (0, missing))).relu().amax(dim=2)[0])
        return self.head(torch.cat(found))


class Encoder(nn.Module):
    """The same of PyTorch's own layers, under names of the user's choice."""

    def __init__(self):
        super().__init__()
        self.tok = nn.Embedding(VOCABULARY, 8)
        self.pos = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True)
        self.encoder = nn.TransformerEncoder(
            layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False
        )
        self.out = nn.Linear(8, 3)

    def forward(self, text):
        vectors = self.tok(text) + self.pos(torch.arange(len(text)))
        return self.out(self.encoder(vectors[None])[0].mean(dim=0))


NETWORKS = {
    "text_cnn": (TextCNN, {}),
    "transformer_encoder": (
        Encoder,
        {
            "key_map": '{"tok": "embedding", "pos": "positions", "out": "head"}',
            "hyperparameters": '{"heads": 2, "norm_first": true}',
        },
    ),
}


def built(name):
    torch.manual_seed(3)
    return NETWORKS[name][0]().eval()


def saved(network):
    stream = io.BytesIO()
    torch.save(network.state_dict(), stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def registered(client):
    """The same texts from both formats."""
    client.register("texts", content=as_npz(), classes=json.dumps(CLASSES))
    client.register(
        "lists",
        content=as_parquet(),
        classes=json.dumps(CLASSES),
        features='["text"]',
        groups='["groups"]',
    )
    return [client.get(f"/v1/datasets/{name}").json for name in ("texts", "lists")]


def test_the_same_texts_are_the_same_dataset_from_both_formats(registered):
    texts, lists = registered
    shape = {"kind": "tokens", "shape": [LONGEST], "dtype": "int32", "vocabulary": VOCABULARY}
    assert texts["input"] == lists["input"] == shape
    assert texts["digest"] == lists["digest"]
    assert (texts["format"], lists["format"]) == ("npz", "parquet")
    assert texts["groups"] == {"groups": {"east": 45, "west": 45}}


@pytest.mark.parametrize("dataset", ["texts", "lists"])
@pytest.mark.parametrize("name", NETWORKS)
def test_metrics_are_scikit_learns_of_logits_computed_independently(
    client, registered, name, dataset
):
    network = built(name)
    job = client.upload(
        "/v1/evaluations?wait",
        part="checkpoint",
        content=saved(network),
        architecture=name,
        dataset=dataset,
        batch_size=32,
        fresh="true",
        **NETWORKS[name][1],
    ).json
    assert job["state"] == "succeeded", job["error"]
    with torch.no_grad():
        logits = torch.stack([network(torch.tensor(text)) for text in TEXTS]).double()
    predicted = logits.argmax(dim=1).numpy()
    probabilities = logits.softmax(dim=1).numpy()
    macro = {"average": "macro", "zero_division": 0}
    metrics = job["result"]["metrics"]
    assert metrics["accuracy"] == accuracy_score(TARGETS, predicted)
    assert metrics["precision"] == pytest.approx(precision_score(TARGETS, predicted, **macro))
    assert metrics["recall"] == pytest.approx(recall_score(TARGETS, predicted, **macro))
    assert metrics["f1"] == pytest.approx(f1_score(TARGETS, predicted, **macro))
    assert metrics["loss"] == pytest.approx(log_loss(TARGETS, probabilities), rel=1e-5)
    for group in job["result"]["per_group"]:
        rows = group["value"] == SITES
        assert group["accuracy"] == pytest.approx(accuracy_score(TARGETS[rows], predicted[rows]))


def test_what_weights_do_not_show_of_a_transformer_is_assumed(client):
    fields = {"key_map": NETWORKS["transformer_encoder"][1]["key_map"]}
    stored = client.store(
        saved(built("transformer_encoder")), architecture="transformer_encoder", **fields
    )
    assert stored["assumed"] == ["heads", "activation", "norm_first", "classes", "transforms"]
    shown = {"vocabulary": 40, "width": 8, "depth": 2, "feedforward": 16, "max_length": 20}
    assert shown.items() <= stored["hyperparameters"].items()
    assert stored["hyperparameters"]["final_norm"] is True
    assert stored["input_shape"] == [None]
    canonical = client.get(f"/v1/checkpoints/{stored['digest']}/content")
    again = client.upload("/v1/checkpoints", content=canonical.data)
    canonical.close()
    assert (again.status_code, again.json["digest"]) == (200, stored["digest"])


def test_a_text_cnn_shows_all_of_itself(client):
    stored = client.store(saved(built("text_cnn")), architecture="text_cnn")
    assert stored["assumed"] == ["classes", "transforms"]
    shown = {"vocabulary": 40, "width": 9, "kernel_sizes": [1, 3], "channels": 7}
    assert shown.items() <= stored["hyperparameters"].items()


def test_an_unnamed_architecture_is_guessed_in_the_refusal(client):
    answer = client.upload("/v1/checkpoints", content=saved(built("text_cnn")))
    assert_problem(answer, 422, "fit text_cnn with vocabulary 40, width 9, kernel_sizes [1, 3]")


def test_an_example_is_the_sequence_without_what_stands_behind_its_end(client, registered):
    for index in (0, 7):
        assert client.get(f"/v1/datasets/texts/examples/{index}").json == {
            "dataset": "texts@1",
            "index": index,
            "target": LABELS[index],
            "groups": {"groups": SITES[index]},
            "shape": [len(TEXTS[index])],
            "dtype": "int32",
            "values": TEXTS[index],
        }
    picture = client.get("/v1/datasets/texts/examples/0?format=png")
    assert_problem(picture, 422, "no images", pointer="/format")


def test_parts_are_datasets_of_tokens_and_share_what_they_should(client, registered):
    request = {"train": "texts-a", "validation": "texts-b", "fraction": 0.3}
    job = client.http.post("/v1/datasets/texts/split?wait", json=request).json
    assert job["state"] == "succeeded", job["error"]
    part = client.get("/v1/datasets/texts-b").json
    assert part["input"] == registered[0]["input"]
    for other, fraction in (("texts-a", 0.0), ("texts", 1.0), ("lists", 1.0)):
        shared = client.get(f"/v1/datasets/texts-b/overlap?with={other}").json
        assert shared["fraction"] == fraction
    digest = client.store(saved(built("text_cnn")), architecture="text_cnn")["digest"]
    job = client.evaluate(checkpoint=digest, dataset="texts-b").json
    assert job["state"] == "succeeded", job["error"]


def test_shorter_texts_are_known_again_in_a_dataset_with_longer_ones(client, registered):
    short = [index for index, text in enumerate(TEXTS) if len(text) < 5]
    content = as_npz([TEXTS[index] for index in short], LABELS[short], SITES[short])
    client.register("short", content=content)
    found = client.get("/v1/datasets/short").json
    assert found["input"]["shape"] == [4]
    shared = client.get("/v1/datasets/short/overlap?with=texts").json
    assert shared["fraction"] == 1.0


def refused(client, content, *parts, pointer="/checkpoint", dataset="texts", **fields):
    """At the POST, with nothing kept: stored before, and as part of the request."""
    path = "/v1/evaluations?wait"
    answer = client.upload(path, part="checkpoint", content=content, dataset=dataset, **fields)
    assert_problem(answer, 422, *parts, pointer=pointer)
    stored = client.store(content, **fields)
    answer = client.evaluate(checkpoint=stored["digest"], dataset=dataset)
    assert_problem(answer, 422, *parts, pointer=pointer)


def test_a_network_that_lacks_ids_or_positions_is_refused_at_the_post(client, registered):
    weights = built("text_cnn").state_dict()
    weights["embedding.weight"] = weights["embedding.weight"][:-1]
    stream = io.BytesIO()
    torch.save(weights, stream)
    parts = ("token ids 0 to 38", "texts@1 holds ids up to 39")
    refused(client, stream.getvalue(), *parts, architecture="text_cnn")

    network = built("transformer_encoder")
    network.pos.weight = nn.Parameter(network.pos.weight[: LONGEST - 1])
    parts = (f"{LONGEST - 1} positions", f"texts@1 holds {LONGEST} token ids")
    fields = {"architecture": "transformer_encoder", **NETWORKS["transformer_encoder"][1]}
    refused(client, saved(network), *parts, **fields)


def test_networks_of_numbers_and_of_tokens_are_told_apart_at_the_post(client, registered):
    client.register("points")
    parts = ("mlp takes (6,) float32", "up to 15 token ids", "text_cnn or transformer_encoder")
    refused(client, pt(seed=4), *parts, architecture="mlp")
    parts = ("text_cnn takes sequences of token ids", "points@1 gives (6,) float32", "lengths")
    fields = {"architecture": "text_cnn", "dataset": "points"}
    refused(client, saved(built("text_cnn")), *parts, **fields)
    refused(
        client,
        saved(built("text_cnn")),
        "to_float computes with numbers, and these examples are sequences of token ids",
        pointer="/transforms/0",
        architecture="text_cnn",
        transforms='[{"name": "to_float"}]',
    )


def test_a_file_with_a_wrong_id_fails_its_ingestion_with_the_row(client):
    texts = [list(text) for text in TEXTS]
    texts[4][0] = -7
    answer = client.upload(
        "/v1/datasets?wait", content=as_npz(texts), name="wrong", split="validation"
    )
    assert answer.json["state"] == "failed"
    assert "x[4] holds -7 at position 0" in answer.json["error"]["detail"]
    assert_problem(client.get("/v1/datasets/wrong"), 404)


def test_a_worker_goes_by_the_files_and_not_by_what_it_is_told(tmp_path):
    """An id without an embedding never gets to the network."""
    context = handlers.open_context(options_of(tmp_path), "cpu")
    spec = {"name": "d", "split": "test", "format": None}
    work = {"upload": keep(context.store, as_npz()), "spec": spec}
    task = {"id": "one", "kind": "ingestion", "attempt": 1, "payload": work}
    (made,) = handlers.run(task, context, lambda _: None)["datasets"]
    weights = {name: value.numpy() for name, value in built("text_cnn").state_dict().items()}
    weights["embedding.weight"] = weights["embedding.weight"][:39]
    shown = {"vocabulary": 39, "width": 9, "kernel_sizes": [1, 3], "channels": 7, "dropout": 0.0}
    manifest = Manifest(
        architecture="text_cnn",
        hyperparameters=shown,
        input_shape=(None,),
        outputs=3,
        classes=None,
        transforms=None,
        assumed=(),
    )
    tensors = {name: TensorSource.of(array) for name, array in weights.items()}
    metadata = manifest.to_metadata()
    payload = {
        "checkpoint": publish(
            context.store, lambda stream: tensorfile.write(stream, tensors, metadata=metadata)
        ),
        "dataset": "d@1",
        "dataset_digest": made["digest"],
        "task": "multiclass",
        "positive_class": None,
        "transforms": [],
        "transforms_from": "dataset",
        "batch_size": 32,
        "threshold": None,
        "device": "auto",
        "assumed": [],
    }
    task = {"id": "two", "kind": "evaluation", "attempt": 1, "payload": payload}
    with pytest.raises(TaskFailed) as failed:
        handlers.run(task, context, lambda _: None)
    assert failed.value.reason == "bad_request"
    assert "token ids 0 to 38; dataset d@1 holds ids up to 39" in failed.value.detail
