"""State dicts as torchvision names and shapes them, uploaded as they are."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch

from models import parameters
from models.catalog import ARCHITECTURES

TINY_VIT = {"patch_size": 4, "width": 128, "depth": 2, "mlp_width": 24}


def state_of(name, input_shape=(3, None, None), outputs=5, fill=torch.zeros, **hyperparameters):
    entry = ARCHITECTURES[name]
    chosen = parameters.build(entry.parameters, hyperparameters)
    found = OrderedDict()
    for key, spec in entry.layout.tensors(chosen, input_shape, outputs).items():
        if spec.dtype == "int64":
            found[key] = torch.tensor(7)
        else:
            found[key] = fill(spec.shape)
    return found


def thin(shape):
    """Zeros of any shape that take four bytes of a file; enough for what is refused."""
    return torch.zeros(1).expand(shape)


def tiny_vit(**changed):
    return state_of("vit", (3, 12, 12), **{**TINY_VIT, **changed})


def pointers(answer):
    return [one["pointer"] for one in answer.error["errors"]]


def test_a_resnet18_is_taken_with_what_its_shapes_show(convert, save):
    generator = torch.Generator().manual_seed(0)
    state = state_of(
        "resnet18", outputs=1000, fill=lambda shape: torch.randn(shape, generator=generator)
    )
    answer = convert(save(state), max_bytes=2**26, architecture="resnet18")
    assert answer.checkpoint["hyperparameters"] == {"stem": "imagenet", "dropout": 0.0}
    assert answer.checkpoint["input_shape"] == [3, None, None]
    assert answer.checkpoint["outputs"] == 1000
    assert answer.checkpoint["parameters"] == 11_689_512
    assert answer.checkpoint["tensors"] == 122
    assert answer.checkpoint["assumed"] == ["classes", "transforms"]
    assert answer.checkpoint["adjustments"] == answer.checkpoint["warnings"] == []
    kept = answer.tensors
    assert kept.keys() == state.keys()
    assert all(torch.equal(kept[key], value) for key, value in state.items())


def test_a_fine_tuned_mobilenet_is_taken_with_what_its_shapes_show(convert, save):
    answer = convert(save(state_of("mobilenet_v3_small")), architecture="mobilenet_v3_small")
    assert answer.checkpoint["hyperparameters"] == {"dropout": 0.2}
    assert answer.checkpoint["outputs"] == 5
    assert answer.checkpoint["assumed"] == ["classes", "transforms"]


def test_the_heads_of_a_vit_are_assumed_unless_they_are_stated(convert, save):
    data = save(tiny_vit())
    answer = convert(data, architecture="vit")
    assert answer.checkpoint["hyperparameters"] == {**TINY_VIT, "heads": None, "dropout": 0.0}
    assert answer.checkpoint["input_shape"] == [3, 12, 12]
    assert answer.checkpoint["assumed"] == ["heads", "classes", "transforms"]
    stated = convert(data, architecture="vit", hyperparameters={"heads": 4})
    assert stated.checkpoint["hyperparameters"]["heads"] == 4
    assert stated.checkpoint["assumed"] == ["classes", "transforms"]


@pytest.mark.parametrize(
    ("name", "hyperparameters", "said"),
    [
        ("resnet18", {"stem": "imagenet"}, "resnet18 with stem imagenet."),
        ("resnet18", {"stem": "cifar"}, "resnet18 with stem cifar."),
        ("resnet34", {"stem": "imagenet"}, "resnet34 with stem imagenet."),
        ("resnet50", {"stem": "cifar"}, "resnet50 with stem cifar."),
        ("mobilenet_v3_small", {}, "mobilenet_v3_small."),
    ],
)
def test_without_an_architecture_the_error_names_the_one_that_fits(
    convert, save, name, hyperparameters, said
):
    answer = convert(save(state_of(name, fill=thin, **hyperparameters)))
    assert answer.error["detail"].endswith(f" The tensors in the file fit {said}")


@pytest.mark.parametrize("declared", ["mlp", "convnet", "resnet18", "mobilenet_v3_small"])
def test_a_vit_that_is_said_to_be_something_else_is_recognised(convert, save, declared):
    answer = convert(save(tiny_vit()), architecture=declared)
    answer.assert_refused("fit vit with patch_size 4, width 128, depth 2, mlp_width 24.")


@pytest.mark.parametrize(
    ("real", "declared", "difference"),
    [
        ("resnet34", "resnet18", "unexpected (96): 'layer1.2.conv1.weight'"),
        ("resnet18", "resnet34", "missing (96): 'layer1.2.conv1.weight'"),
        ("resnet50", "resnet34", "unexpected (102): 'layer1.0.conv3.weight'"),
        ("resnet34", "resnet50", "missing (102): 'layer1.0.conv3.weight'"),
    ],
)
def test_one_resnet_is_not_taken_for_another(convert, save, real, declared, difference):
    answer = convert(save(state_of(real, fill=thin)), architecture=declared)
    assert set(pointers(answer)) == {"/file"}
    answer.assert_refused(
        f"the tensors are not those of {declared} with stem imagenet. The tensors in the file fit "
        f"{real} with stem imagenet. Differences: {difference}"
    )


def test_a_stem_that_the_shapes_contradict_is_pointed_at(convert, save):
    data = save(state_of("resnet18", fill=thin))
    answer = convert(data, architecture="resnet18", hyperparameters={"stem": "cifar"})
    assert pointers(answer) == ["/hyperparameters/stem"]
    answer.assert_refused("those that fit are stem imagenet")


@pytest.mark.parametrize(
    ("hyperparameters", "pointer", "words"),
    [
        ({"heads": 5}, "/hyperparameters/heads", "heads is 5, which does not divide width 128"),
        ({"heads": 0}, "/hyperparameters/heads", "heads must be at least 1, got 0"),
        ({"depth": 3}, "/hyperparameters/depth", "those that fit are patch_size 4, width 128"),
        ({"patch_size": 6}, "/hyperparameters/patch_size", "do not fit the tensors"),
        (
            {"patch_size": 5},
            "/hyperparameters/patch_size",
            "patch_size is 5, which does not divide the images' side 12",
        ),
    ],
)
def test_a_hyperparameter_that_the_vit_of_the_file_has_not_is_pointed_at(
    convert, save, hyperparameters, pointer, words
):
    answer = convert(save(tiny_vit()), architecture="vit", hyperparameters=hyperparameters)
    assert pointers(answer) == [pointer]
    answer.assert_refused(words)


def test_heads_that_cannot_be_guessed_must_be_stated(convert, save):
    data = save(state_of("vit", (1, 4, 4), **{**TINY_VIT, "width": 200, "heads": 4}))
    answer = convert(data, architecture="vit")
    assert pointers(answer) == ["/hyperparameters/heads"]
    answer.assert_refused("state heads")
    assert convert(data, architecture="vit", hyperparameters={"heads": 8}).checkpoint


def test_the_older_names_of_a_vit_that_torchvision_publishes_are_taken(convert, save):
    state = tiny_vit()
    for index in range(2):
        layer = f"encoder.layers.encoder_layer_{index}"
        for new, name in (("mlp.0", "mlp.linear_1"), ("mlp.3", "mlp.linear_2")):
            for part in ("weight", "bias"):
                state[f"{layer}.{name}.{part}"] = state.pop(f"{layer}.{new}.{part}")
    answer = convert(save(state), architecture="vit")
    assert answer.digest == convert(save(tiny_vit()), architecture="vit").digest
    layer = "encoder.layers.encoder_layer_0.mlp"
    renamed = f"renamed '{layer}.linear_1' to '{layer}.0' (2 tensors)"
    assert renamed in answer.checkpoint["adjustments"]
    assert "The tensors in the file fit vit with" in convert(save(state)).error["detail"]


@pytest.mark.parametrize(
    ("name", "key", "shape", "words"),
    [
        ("resnet18", "conv1.weight", (64, 3, 5, 5), "needs conv1.weight with shape"),
        ("resnet18", "conv1.weight", (64, 0, 7, 7), "has no inputs"),
        ("resnet18", "conv1.weight", (32, 3, 7, 7), "has shape [32, 3, 7, 7], expected [64, 3"),
        ("resnet18", "fc.weight", (5, 2048), "has shape [5, 2048], expected [5, 512]"),
        ("resnet18", "fc.weight", (512,), "needs conv1.weight with shape"),
        ("mobilenet_v3_small", "classifier.3.weight", (5,), "needs features.0.0.weight"),
        ("mobilenet_v3_small", "features.0.0.weight", (16, 3, 5, 5), "expected [16, 3, 3, 3]"),
        ("vit", "conv_proj.weight", (128, 3, 4, 2), "vit needs conv_proj.weight"),
        ("vit", "conv_proj.weight", (128, 3, 0, 0), "patch_size must be at least 1, got 0"),
        ("vit", "conv_proj.weight", (0, 3, 4, 4), "width must be at least 1, got 0"),
        ("vit", "encoder.pos_embedding", (1, 10**12, 128), "vit needs conv_proj.weight"),
        ("vit", "encoder.pos_embedding", (2, 10, 128), "has shape [2, 10, 128], expected [1, 10"),
        ("vit", "class_token", (1, 1, 64), "has shape [1, 1, 64], expected [1, 1, 128]"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(convert, save, name, key, shape, words):
    state = tiny_vit() if name == "vit" else state_of(name, fill=thin)
    state[key] = torch.zeros(shape) if math.prod(shape) == 0 else thin(shape)
    convert(save(state), architecture=name).assert_refused(words)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_files_without_the_counters_of_batch_norms_are_taken_as_pytorch_does(convert, save, name):
    state = state_of(name)
    older = {key: one for key, one in state.items() if "num_batches" not in key}
    answer = convert(save(older), architecture=name, max_bytes=2**26)
    number = len(state) - len(older)
    added = f"added {number} tensors num_batches_tracked, which no evaluation depends on"
    assert answer.checkpoint["adjustments"] == [added]
    assert answer.tensors.keys() == state.keys()
    assert "The tensors in the file fit" in convert(save(older)).error["detail"]


@pytest.mark.parametrize(
    ("name", "head", "place"),
    [
        ("resnet18", "fc", "fc.1"),
        ("mobilenet_v3_small", "classifier.3", "classifier.3.1"),
        ("vit", "heads.head", "heads"),
        ("vit", "heads.head", "heads.1"),
        ("vit", "heads.head", "heads.head.1"),
    ],
)
def test_a_head_that_fine_tuning_put_elsewhere_is_found(convert, save, name, head, place):
    state = tiny_vit() if name == "vit" else state_of(name)
    plain = convert(save(state), architecture=name, max_bytes=2**26)
    for part in ("weight", "bias"):
        state[f"{place}.{part}"] = state.pop(f"{head}.{part}")
    answer = convert(save(state), architecture=name, max_bytes=2**26)
    assert answer.digest == plain.digest
    assert answer.checkpoint["adjustments"] == [f"renamed '{place}' to '{head}' (2 tensors)"]
