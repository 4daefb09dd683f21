"""Every name that a request may write exists, says what it takes, and is found without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import jsonschema_rs
import pytest

from models import chains, parameters
from models.catalog import ARCHITECTURES, CATALOGS, TRANSFORMS
from models.spec import Component, DatasetSpec, EvaluationSpec, SpecError, check_classes
from models.transforms import ExampleType

EVERY_ENTRY = [(kind, name) for kind, entries in CATALOGS.items() for name in entries]


@pytest.mark.parametrize(("kind", "name"), EVERY_ENTRY)
def test_every_name_leads_to_an_object(kind, name):
    assert callable(CATALOGS[kind][name].load())


@pytest.mark.parametrize("kind", CATALOGS)
def test_every_entry_is_described_with_a_valid_json_schema(kind):
    described = CATALOGS[kind].describe()
    assert [entry["name"] for entry in described] == list(CATALOGS[kind])
    assert json.loads(json.dumps(described)) == described
    for entry in described:
        jsonschema_rs.meta.validate(entry["parameters"])
        assert entry["summary"].endswith(".")
        assert all(one["description"] for one in entry["parameters"]["properties"].values())


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_the_default_hyperparameters_of_every_architecture_are_themselves_valid(name):
    kind = ARCHITECTURES[name].parameters
    assert parameters.to_json(parameters.build(kind, {})) == parameters.to_json(kind())


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_a_layout_refuses_shapes_of_another_family(name):
    with pytest.raises(SpecError, match=f"{name} needs"):
        ARCHITECTURES[name].layout.shown({"something.else": (3, 3)})


def test_the_catalog_is_read_without_torch():
    program = """
import sys
from models.catalog import CATALOGS
assert all(entries.describe() for entries in CATALOGS.values())
print("torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_an_unknown_name_lists_the_known_ones_and_the_nearest():
    with pytest.raises(SpecError) as caught:
        ARCHITECTURES["convnt"]
    assert str(caught.value) == (
        "unknown architecture 'convnt', perhaps 'convnet'; known: mlp, convnet, text_cnn, "
        "transformer_encoder, resnet18, resnet34, resnet50, mobilenet_v3_small, vit"
    )
    with pytest.raises(SpecError, match=r"unknown transform 'zzz'; known: to_float, normalize"):
        TRANSFORMS["zzz"]


def component(name, **given):
    return Component(name=name, parameters=given)


def test_a_chain_is_resolved_with_its_defaults_written_out():
    chain = [component("to_float"), component("normalize", mean=[0], std=[2]), component("flatten")]
    assert chains.resolved(chain, pointer="/transforms") == [
        {"name": "to_float", "scale": None},
        {"name": "normalize", "mean": [0.0], "std": [2.0]},
        {"name": "flatten"},
    ]


@pytest.mark.parametrize(
    ("chain", "pointer", "detail"),
    [
        ([component("to_flaot")], "/t/0/name", "perhaps 'to_float'"),
        ([component("flatten"), component("flatten", axis=1)], "/t/1/axis", "known: none"),
        ([component("normalize", mean=[0.5])], "/t/0/std", "std is required"),
        ([component("normalize", mean=[1], std=[0])], "/t/0/std/0", "at least 1e-30"),
        ([component("normalize", mean=[1, 2], std=[1])], "/t/0/std", "as many entries as mean"),
    ],
)
def test_a_bad_link_of_a_chain_is_pointed_at(chain, pointer, detail):
    with pytest.raises(SpecError) as caught:
        chains.resolved(chain, pointer="/t")
    assert caught.value.pointer == pointer
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    ("chain", "example", "result"),
    [
        ([], ExampleType(shape=(3,), dtype="int32"), ExampleType(shape=(3,), dtype="int32")),
        (
            [component("to_float"), component("normalize", mean=[1, 2, 3], std=[1, 1, 1])],
            ExampleType(shape=(3, 8, 8), dtype="uint8"),
            ExampleType(shape=(3, 8, 8), dtype="float32"),
        ),
        (
            [component("flatten")],
            ExampleType(shape=(3, 8, 8), dtype="uint8"),
            ExampleType(shape=(192,), dtype="uint8"),
        ),
        (
            [component("flatten")],
            ExampleType(shape=(), dtype="float32"),
            ExampleType(shape=(1,), dtype="float32"),
        ),
    ],
)
def test_a_chain_says_what_it_makes_of_an_example(chain, example, result):
    assert chains.output_of(chain, example, pointer="/t") == result


def test_a_chain_that_cannot_take_an_example_points_at_the_link():
    example = ExampleType(shape=(3, 8, 8), dtype="uint8")
    with pytest.raises(SpecError, match="put to_float before it") as caught:
        chains.output_of([component("normalize", mean=[1], std=[1])], example, pointer="/t")
    assert caught.value.pointer == "/t/0"
    chain = [component("to_float"), component("normalize", mean=[1, 2], std=[1, 1])]
    with pytest.raises(SpecError, match=r"2 means, but the first axis.* has 3 entries") as caught:
        chains.output_of(chain, example, pointer="/t")
    assert caught.value.pointer == "/t/1/mean"


def test_a_component_is_read_from_the_wire_and_written_back():
    wire = {"name": "normalize", "mean": [0.5], "std": [0.2]}
    assert Component.from_json(wire).to_json() == wire
    with pytest.raises(SpecError) as caught:
        Component.from_json({"mean": [0.5]})
    assert caught.value.pointer == "/name"


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "-x"}, "/name"),
        ({"name": "a b"}, "/name"),
        ({"name": "digits\n"}, "/name"),
        ({"name": "x" * 129}, "/name"),
        ({"split": "tset"}, "/split"),
        ({"task": "regression"}, "/task"),
        ({"classes": ("a",)}, "/classes"),
        ({"classes": ("a", "a")}, "/classes"),
        ({"classes": ("a", "")}, "/classes/1"),
        ({"classes": ("a", "b", "c"), "task": "binary"}, "/classes"),
        ({"positive_class": "a"}, "/positive_class"),
        ({"positive_class": "z", "task": "binary", "classes": ("a", "b")}, "/positive_class"),
    ],
)
def test_a_dataset_spec_that_makes_no_sense_cannot_be_built(fields, pointer):
    with pytest.raises(SpecError) as caught:
        DatasetSpec(**{"name": "digits", "split": "test", **fields})
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"batch_size": 0}, "/batch_size"),
        ({"batch_size": 65537}, "/batch_size"),
        ({"device": "gpu"}, "/device"),
        ({"device": "cpu\n"}, "/device"),
        ({"device": "cuda:"}, "/device"),
        ({"threshold": 0.0}, "/threshold"),
        ({"threshold": 1.0}, "/threshold"),
        ({"threshold": float("nan")}, "/threshold"),
    ],
)
def test_an_evaluation_spec_that_makes_no_sense_cannot_be_built(fields, pointer):
    with pytest.raises(SpecError) as caught:
        EvaluationSpec(**{"checkpoint": "c", "dataset": "digits@1", **fields})
    assert caught.value.pointer == pointer


def test_class_names_are_checked_where_they_stand():
    check_classes(["a", "b"], pointer="/classes")
    for name in ("x" * 257, "a\tb", "\x00"):
        with pytest.raises(SpecError) as caught:
            check_classes(["a", "b", name], pointer="/classes")
        assert caught.value.pointer == "/classes/2"
