"""Whether networks of token ids fit datasets of them: both sides are named where they do not."""

from __future__ import annotations

import pytest

from checkpoints.fitting import check_fit
from checkpoints.manifest import Manifest
from models import parameters
from models.catalog import ARCHITECTURES
from models.spec import Component, SpecError
from models.transforms import Column, ExampleType

TEXTS = ExampleType(shape=(12,), dtype="int32", vocabulary=30)
TABLE = ExampleType(shape=(1,), dtype="float64", columns=(Column(name="a"),))


def manifest(architecture, input_shape=(None,), **hyperparameters):
    entry = ARCHITECTURES[architecture]
    chosen = parameters.build(entry.parameters, hyperparameters)
    return Manifest(
        architecture=architecture,
        hyperparameters=parameters.to_json(chosen),
        input_shape=input_shape,
        outputs=2,
        classes=None,
        transforms=None,
        assumed=(),
    )


def fit(stated, example=TEXTS, transforms=()):
    check_fit(
        stated,
        dataset="texts@1",
        task="multiclass",
        classes=("a", "b"),
        example=example,
        transforms=[Component(name=name) for name in transforms],
    )


@pytest.mark.parametrize("vocabulary", [30, 31, 40_000])
def test_a_network_takes_ids_that_it_has_embeddings_for(vocabulary):
    fit(manifest("text_cnn", vocabulary=vocabulary))
    fit(manifest("transformer_encoder", vocabulary=vocabulary, max_length=12))


@pytest.mark.parametrize(
    ("stated", "example", "words"),
    [
        (
            manifest("text_cnn", vocabulary=29),
            TEXTS,
            "the checkpoint has embeddings for the token ids 0 to 28; dataset texts@1 holds ids up "
            "to 29: it takes a dataset from the same tokenizer",
        ),
        (
            manifest("transformer_encoder", vocabulary=30, max_length=11),
            TEXTS,
            "the checkpoint has 11 positions; the longest sequence of dataset texts@1 holds 12 "
            "token ids: cut them to 11",
        ),
        (
            manifest("mlp", (12,)),
            TEXTS,
            "mlp takes (12,) float32; dataset texts@1 gives sequences of up to 12 token ids: "
            "text_cnn or transformer_encoder would take those",
        ),
        (
            manifest("convnet", (3, None, None)),
            TEXTS,
            "convnet takes (3, any, any) float32; dataset texts@1 gives sequences of up to 12",
        ),
        (
            manifest("text_cnn"),
            ExampleType(shape=(12,), dtype="int64"),
            "text_cnn takes sequences of token ids; dataset texts@1 gives (12,) int64. Integers x",
        ),
        (
            manifest("transformer_encoder"),
            ExampleType(shape=(3, 8, 8), dtype="uint8"),
            "transformer_encoder takes sequences of token ids; dataset texts@1 gives (3, 8, 8)",
        ),
        (manifest("text_cnn"), TABLE, "dataset texts@1 gives (1,) float32"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides(stated, example, words):
    with pytest.raises(SpecError) as caught:
        fit(stated, example)
    assert words in caught.value.detail
    assert caught.value.pointer == "/checkpoint"


def test_transforms_of_token_ids_are_refused_where_they_stand():
    with pytest.raises(SpecError, match="to_float computes with numbers") as caught:
        fit(manifest("text_cnn"), transforms=["to_float"])
    assert caught.value.pointer == "/transforms/0"
