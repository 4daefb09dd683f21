"""Whether checkpoints fit datasets, and where they have the datasets' classes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from checkpoints.fitting import check_fit, output_order
from checkpoints.manifest import Manifest
from models.architectures.mlp import MLP
from models.evaluation import REORDERED, evaluate
from models.layouts.mlp import MLPParameters
from models.spec import Component, SpecError
from models.transforms import ExampleType

NAMES = ("ant", "bee", "cat", "dog")


def manifest(classes, *, outputs=None):
    return Manifest(
        architecture="mlp",
        hyperparameters={"hidden": [], "activation": "relu", "dropout": 0.0, "batch_norm": False},
        input_shape=(6,),
        outputs=outputs or len(classes),
        classes=None if classes is None else tuple(classes),
        transforms=(),
        assumed=(),
    )


def fit(stated, *, task="multiclass", classes=NAMES):
    check_fit(
        stated,
        dataset="zoo@1",
        task=task,
        classes=classes,
        example=ExampleType(shape=(6,), dtype="float32"),
        transforms=[],
    )


def refusal(stated, *, task="multiclass", classes=NAMES):
    """What both functions say, which is the same."""
    with pytest.raises(SpecError) as caught:
        fit(stated, task=task, classes=classes)
    with pytest.raises(SpecError) as again:
        output_order(stated, task=task, classes=classes)
    assert (caught.value.detail, caught.value.pointer) == (again.value.detail, "/checkpoint")
    return caught.value.detail


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("stated", list(itertools.permutations(NAMES[:3])))
def test_the_same_names_in_any_order_fit(stated, task):
    fit(manifest(stated), task=task, classes=NAMES[:3])
    order = output_order(manifest(stated), task=task, classes=NAMES[:3])
    if stated == NAMES[:3]:
        assert order is None
    else:
        assert [stated[index] for index in order] == list(NAMES[:3])


def test_classes_that_nobody_stated_are_taken_in_the_datasets_order():
    fit(manifest(None, outputs=4))
    assert output_order(manifest(None, outputs=4), task="multiclass", classes=NAMES) is None


@pytest.mark.parametrize("outputs", [1, 2])
def test_reversed_classes_of_a_binary_task_are_told(outputs):
    stated = manifest(("bee", "ant"), outputs=outputs)
    fit(stated, task="binary", classes=NAMES[:2])
    assert output_order(stated, task="binary", classes=NAMES[:2]) == (1, 0)
    straight = manifest(NAMES[:2], outputs=outputs)
    assert output_order(straight, task="binary", classes=NAMES[:2]) is None


def test_one_output_fits_one_label():
    fit(manifest(("smiling",)), task="multilabel", classes=("smiling",))
    assert output_order(manifest(("x",)), task="multilabel", classes=("x",)) is None


@pytest.mark.parametrize(
    ("outputs", "task", "classes", "words"),
    [
        (3, "multiclass", NAMES, "has 3 outputs, but the dataset has 4 classes: 4 outputs would"),
        (3, "multilabel", NAMES[:2], "has 3 outputs, but the dataset has 2 classes: 2 outputs"),
        (1, "multilabel", NAMES[:2], "has 1 output, but the dataset has 2 classes: 2 outputs"),
        (2, "multilabel", NAMES[:1], "has 2 outputs, but the dataset has 1 class: 1 output would"),
        (3, "binary", NAMES[:2], "2 outputs would fit (or 1, for a binary task)"),
    ],
)
def test_another_number_of_outputs_than_classes_is_refused(outputs, task, classes, words):
    detail = refusal(manifest(None, outputs=outputs), task=task, classes=classes)
    assert words in detail
    assert ("(or 1" in detail) == (task == "binary")


def test_another_set_of_classes_is_refused_with_what_is_missing_and_what_is_extra():
    assert refusal(manifest(("dog", "emu", "ant", "bee"))) == (
        "the checkpoint's classes are not the dataset's: missing (1): 'cat'; extra (1): 'emu'. "
        "The same names would fit, in any order"
    )


def test_one_label_is_another_set_than_the_two_classes_of_a_binary_task():
    detail = refusal(manifest(("ant",)), task="binary", classes=NAMES[:2])
    assert "missing (1): 'bee'. The same" in detail


def test_a_refusal_lists_at_most_twenty_names_of_each_side():
    ours, theirs = [f"our {i}" for i in range(30)], [f"their {i}" for i in range(30)]
    detail = refusal(manifest(theirs), classes=ours)
    assert "missing (30): 'our 0', " in detail
    assert detail.count("'our ") == detail.count("'their ") == 20
    assert detail.count(", and 10 more") == 2


# Reports


def network(*, outputs, task):
    """Of small whole numbers, whose sums are exact in every order, and examples for it."""
    generator = torch.Generator().manual_seed(outputs)
    model = MLP(MLPParameters(hidden=()), (6,), outputs)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(torch.randint(-3, 4, tensor.shape, generator=generator))
    x = torch.randint(-3, 4, (50, 6), generator=generator).float()
    shape = (50, outputs) if task == "multilabel" else (50,)
    high = 2 if task != "multiclass" else outputs
    return model.eval(), x, torch.randint(0, high, shape, generator=generator).numpy()


def judged(model, x, targets, stated, *, task, classes):
    fit(stated, task=task, classes=classes)
    return evaluate(
        model,
        x.split(16),
        targets,
        task=task,
        classes=classes,
        positive_class=None,
        threshold=None,
        order=output_order(stated, task=task, classes=classes),
    )


@pytest.mark.parametrize(
    ("task", "shuffled"),
    [
        ("binary", (1, 0)),
        *itertools.product(
            ("multiclass", "multilabel"), [(1, 0, 2, 3), (1, 2, 3, 0), (2, 0, 3, 1), (3, 2, 1, 0)]
        ),
    ],
)
def test_a_permuted_network_with_its_permuted_manifest_gives_the_same_report(task, shuffled):
    classes = NAMES[: len(shuffled)]
    model, x, targets = network(outputs=len(classes), task=task)
    straight = judged(model, x, targets, manifest(classes), task=task, classes=classes)
    with torch.no_grad():
        for tensor in model.layers[0].parameters():
            tensor.copy_(tensor[list(shuffled)])
    stated = manifest([classes[index] for index in shuffled])
    permuted = judged(model, x, targets, stated, task=task, classes=classes)
    assert permuted.warnings == [*straight.warnings, REORDERED]
    assert permuted.to_json() | {"warnings": straight.warnings} == straight.to_json()
    assert permuted.logits_sha256 == straight.logits_sha256
    assert permuted.predicted.tobytes() == straight.predicted.tobytes()
    assert permuted.confidence.tobytes() == straight.confidence.tobytes()


def test_one_output_of_the_reversed_classes_gives_the_same_report_as_its_negation():
    model, x, targets = network(outputs=1, task="binary")
    terms = {"task": "binary", "classes": NAMES[:2]}
    straight = judged(model, x, targets, manifest(NAMES[:2], outputs=1), **terms)
    assert (straight.logits == 0).any()
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.neg_()
    reversed_ = judged(model, x, targets, manifest(("bee", "ant"), outputs=1), **terms)
    assert reversed_.warnings == [*straight.warnings, REORDERED]
    assert reversed_.logits_sha256 == straight.logits_sha256
    assert reversed_.to_json() | {"warnings": straight.warnings} == straight.to_json()


def images(channels, height, width):
    return Manifest(
        architecture="convnet",
        hyperparameters={"widths": [4], "dropout": 0.0},
        input_shape=(channels, height, width),
        outputs=4,
        classes=None,
        transforms=(),
        assumed=(),
    )


UINT8 = "uint8"


@pytest.mark.parametrize(
    ("stated", "shape", "dtype", "transforms", "said"),
    [
        (
            images(3, 224, 224),
            (1, 28, 28),
            UINT8,
            ["to_float"],
            "expects (3, 224, 224) float32; dataset zoo@1 gives (1, 28, 28) float32 after "
            "[to_float]; add the transforms grey with channels 3 and resize to [224, 224] before "
            "to_float",
        ),
        (
            images(1, 28, 28),
            (3, 32, 32),
            UINT8,
            [],
            "expects (1, 28, 28) float32; dataset zoo@1 gives (3, 32, 32) uint8 after []; add the "
            "transforms grey and resize to [28, 28] and to_float",
        ),
        (
            images(3, 8, 8),
            (3, 9, 8),
            UINT8,
            ["to_float"],
            "expects (3, 8, 8) float32; dataset zoo@1 gives (3, 9, 8) float32 after [to_float]; "
            "add the transform resize to [8, 8] before to_float",
        ),
        (
            images(3, None, None),
            (3, 9, 8),
            UINT8,
            [],
            "expects (3, any, any) float32; dataset zoo@1 gives (3, 9, 8) uint8 after []; add the "
            "transform to_float",
        ),
        (
            images(5, None, None),
            (3, 9, 8),
            UINT8,
            ["to_float"],
            "; register images of 5 channels",
        ),
        (
            manifest(NAMES),
            (2, 3),
            UINT8,
            ["to_float"],
            "expects (6,) float32; dataset zoo@1 gives (2, 3) float32 after [to_float]; add the "
            "transform flatten",
        ),
        (
            manifest(NAMES),
            (1, 28, 28),
            UINT8,
            ["to_float"],
            "; flatten would make 784 numbers of them: choose other examples",
        ),
        (
            manifest(NAMES),
            (7,),
            "float32",
            [],
            "expects (6,) float32; dataset zoo@1 gives (7,) float32 after []; choose the columns "
            "or arrays that the network was trained on",
        ),
        (
            manifest(NAMES),
            (6,),
            "int64",
            [],
            "expects (6,) float32; dataset zoo@1 gives (6,) int64 after []; add the transform "
            "to_float",
        ),
    ],
)
def test_a_mismatch_says_both_sides_and_what_would_fit(stated, shape, dtype, transforms, said):
    with pytest.raises(SpecError) as caught:
        check_fit(
            stated,
            dataset="zoo@1",
            task="multiclass",
            classes=NAMES,
            example=ExampleType(shape=shape, dtype=dtype),
            transforms=[Component(name=one) for one in transforms],
        )
    assert said in caught.value.detail
    assert caught.value.pointer == "/transforms"


def test_what_only_a_plugins_code_knows_is_left_to_the_worker():
    foreign = replace(images(3, 8, 8), architecture="theirs", input_shape=None, outputs=None)
    check_fit(
        foreign,
        dataset="zoo@1",
        task="multiclass",
        classes=NAMES,
        example=ExampleType(shape=(1,), dtype="int64"),
        transforms=[],
    )
    stated = replace(foreign, classes=NAMES[:3])
    assert "missing (1): 'dog'" in refusal(stated)


def onnx_fit(takes, gives, *, shape=(6,), transforms=()):
    stated = Manifest(
        architecture="onnx",
        hyperparameters={"opset": 20, "dtype": takes, "batch": None},
        input_shape=(6,),
        outputs=4,
        classes=NAMES,
        transforms=(),
        assumed=(),
    )
    check_fit(
        stated,
        dataset="zoo@1",
        task="multiclass",
        classes=NAMES,
        example=ExampleType(shape=shape, dtype=gives),
        transforms=[Component(name=name) for name in transforms],
    )


@pytest.mark.parametrize(
    ("takes", "gives"),
    [
        ("float32", "float32"),
        ("int64", "int64"),
        ("int64", "int32"),
        ("int64", "uint8"),
        ("int32", "int32"),
        ("int32", "int16"),
        ("uint8", "uint8"),
    ],
)
def test_an_onnx_network_takes_its_dtype_and_what_that_can_hold(takes, gives):
    onnx_fit(takes, gives)


@pytest.mark.parametrize(
    ("takes", "gives", "transforms", "advice"),
    [
        ("float32", "uint8", (), "add the transform to_float"),
        ("int64", "float32", (), "a dataset of such numbers would fit"),
        ("int32", "int64", (), "a dataset of such numbers would fit"),
        ("uint8", "uint8", ("to_float",), "leave out the transform to_float"),
    ],
)
def test_another_dtype_is_refused_for_an_onnx_network_with_both_sides(
    takes, gives, transforms, advice
):
    made = "float32" if transforms else gives
    with pytest.raises(SpecError) as caught:
        onnx_fit(takes, gives, transforms=transforms)
    assert caught.value.pointer == "/transforms"
    assert caught.value.detail == (
        f"the checkpoint expects (6,) {takes}; dataset zoo@1 gives (6,) {made} after "
        f"[{', '.join(transforms)}]; {advice}"
    )


@pytest.mark.parametrize(
    ("shape", "advice"),
    [((5,), "choose the columns or arrays that"), ((2, 3), "add the transform flatten")],
)
def test_another_shape_is_refused_for_an_onnx_network_with_both_sides(shape, advice):
    with pytest.raises(SpecError, match=advice):
        onnx_fit("float32", "float32", shape=shape)


def test_sequences_are_padded_to_the_length_that_an_onnx_graph_fixes():
    stated = Manifest(
        architecture="onnx",
        hyperparameters={"opset": 20, "dtype": "int64", "batch": None, "padding_id": 0},
        input_shape=(20,),
        outputs=4,
        classes=None,
        transforms=(),
        assumed=(),
    )
    given = {"dataset": "zoo@1", "task": "multiclass", "classes": NAMES, "transforms": []}
    for length in (19, 20):
        example = ExampleType(shape=(length,), dtype="int32", vocabulary=9)
        check_fit(stated, example=example, **given)
    long = ExampleType(shape=(21,), dtype="int32", vocabulary=9)
    with pytest.raises(SpecError, match="cut the sequences to 20 token ids"):
        check_fit(stated, example=long, **given)
