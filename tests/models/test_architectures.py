"""Every architecture of the catalog, and each family against an independent forward pass."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn
from torch.nn import functional

from models import parameters
from models.architectures.convnet import ConvNet
from models.architectures.mlp import ACTIVATIONS, MLP
from models.catalog import ARCHITECTURES
from models.layouts.convnet import ConvNetParameters
from models.layouts.mlp import MLPParameters
from models.spec import SpecError

CASES = [
    ("mlp", {}, (64,), 10),
    ("mlp", {"hidden": []}, (5,), 2),
    ("mlp", {"hidden": [7], "batch_norm": True, "activation": "gelu"}, (1,), 1),
    ("mlp", {"hidden": [9, 8, 7], "dropout": 0.5, "activation": "tanh"}, (12,), 3),
    ("mlp", {"hidden": [6, 6], "batch_norm": True, "dropout": 0.1}, (4,), 4),
    ("convnet", {}, (3, 32, 32), 10),
    ("convnet", {"widths": [4]}, (1, 8, 8), 2),
    ("convnet", {"widths": [4, 5, 6, 7], "dropout": 0.3}, (2, 5, 9), 1),
    ("text_cnn", {"vocabulary": 50}, (20,), 4),
    ("text_cnn", {"vocabulary": 9, "width": 3, "kernel_sizes": [1, 6], "channels": 4}, (2,), 1),
    ("transformer_encoder", {"vocabulary": 50, "width": 16, "feedforward": 20}, (20,), 4),
    (
        "transformer_encoder",
        {
            "vocabulary": 9,
            "width": 6,
            "depth": 1,
            "heads": 3,
            "feedforward": 5,
            "max_length": 7,
            "activation": "gelu",
            "norm_first": True,
            "final_norm": True,
        },
        (7,),
        1,
    ),
    ("resnet18", {}, (3, 16, 16), 10),
    ("resnet18", {"stem": "cifar", "dropout": 0.3}, (1, 2, 3), 1),
    ("resnet34", {"dropout": 0.1}, (2, 9, 17), 2),
    ("resnet50", {"stem": "cifar"}, (3, 5, 5), 3),
    ("mobilenet_v3_small", {}, (3, 32, 32), 10),
    ("mobilenet_v3_small", {"dropout": 0.0}, (1, 1, 5), 1),
    ("vit", {"patch_size": 4, "width": 32, "depth": 2, "mlp_width": 48}, (3, 16, 16), 10),
    (
        "vit",
        {"patch_size": 2, "width": 30, "depth": 1, "heads": 5, "mlp_width": 7, "dropout": 0.1},
        (1, 2, 2),
        1,
    ),
]
every_case = pytest.mark.parametrize(("name", "hyperparameters", "input_shape", "outputs"), CASES)


def built(name, hyperparameters, input_shape, outputs):
    entry = ARCHITECTURES[name]
    chosen = parameters.build(entry.parameters, hyperparameters)
    return entry, chosen, entry.load()(chosen, input_shape, outputs)


def drawn(name, chosen, input_shape, count, *, seed):
    """Examples of random numbers, or of random token ids of random lengths."""
    generator = torch.Generator().manual_seed(seed)
    tokens = ARCHITECTURES[name].tokens
    if tokens is None:
        return torch.randn(count, *input_shape, generator=generator)
    (longest,), vocabulary = input_shape, tokens(chosen).vocabulary
    ids = torch.randint(0, vocabulary, (count, longest), generator=generator, dtype=torch.int32)
    lengths = torch.randint(1, longest + 1, (count, 1), generator=generator)
    return ids.masked_fill(torch.arange(longest) >= lengths, -1)


def test_the_cases_cover_the_catalog():
    assert {case[0] for case in CASES} == set(ARCHITECTURES)


@every_case
def test_the_layout_says_the_modules_state_dict(name, hyperparameters, input_shape, outputs):
    entry, chosen, network = built(name, hyperparameters, input_shape, outputs)
    said = entry.layout.tensors(chosen, input_shape, outputs)
    have = network.state_dict()
    assert {key: (spec.shape, spec.dtype) for key, spec in said.items()} == {
        key: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for key, tensor in have.items()
    }


@every_case
def test_the_shapes_show_the_hyperparameters(name, hyperparameters, input_shape, outputs):
    entry, chosen, network = built(name, hyperparameters, input_shape, outputs)
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    shown = entry.layout.shown(shapes)
    assert shown.outputs == outputs
    assert all(
        known in (None, real) for known, real in zip(shown.input_shape, input_shape, strict=True)
    )
    full = parameters.to_json(chosen)
    assert shown.parameters == {key: full[key] for key in shown.parameters}
    again = parameters.build(entry.parameters, {**full, **shown.parameters})
    assert entry.layout.tensors(again, shown.input_shape, outputs).keys() == shapes.keys()


@every_case
def test_tensors_assigned_to_a_network_without_storage_give_the_same_logits(
    name, hyperparameters, input_shape, outputs
):
    entry, chosen, network = built(name, hyperparameters, input_shape, outputs)
    network.eval()
    with torch.device("meta"):
        loaded = entry.load()(chosen, input_shape, outputs)
    result = loaded.load_state_dict(network.state_dict(), strict=True, assign=True)
    assert not result.missing_keys
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()]), (
        "a tensor outside the state dict would stay without storage"
    )
    x = drawn(name, chosen, input_shape, 3, seed=0)
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(x), network(x))
    for key, tensor in loaded.state_dict().items():
        wanted = torch.int64 if key.endswith("num_batches_tracked") else torch.float32
        assert tensor.dtype == wanted


def test_a_network_without_storage_is_built_without_the_compiler():
    """Which PyTorch imports for some of its random numbers, in 1.2 s."""
    program = """
import json, sys
import torch
from models import parameters
from models.catalog import ARCHITECTURES
for name, hyperparameters, input_shape, outputs in json.load(sys.stdin):
    entry = ARCHITECTURES[name]
    with torch.device("meta"):
        entry.load()(parameters.build(entry.parameters, hyperparameters), input_shape, outputs)
print(sorted({"torch._dynamo", "torch._inductor", "sympy"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(CASES),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@every_case
def test_one_training_step_moves_every_parameter_and_lowers_the_loss(
    name, hyperparameters, input_shape, outputs
):
    torch.manual_seed(0)
    _, chosen, network = built(name, {**hyperparameters, "dropout": 0.0}, input_shape, outputs)
    x = drawn(name, chosen, input_shape, 32, seed=0)
    y = torch.randint(0, max(2, outputs), (32,))
    before = {key: value.detach().clone() for key, value in network.named_parameters()}

    def loss():
        logits = network(x)
        if outputs == 1:
            return functional.binary_cross_entropy_with_logits(logits[:, 0], y.float())
        return functional.cross_entropy(logits, y)

    first = loss()
    first.backward()
    torch.optim.SGD(network.parameters(), lr=0.001).step()
    assert loss().item() < first.item()
    still = [key for key, value in network.named_parameters() if torch.equal(value, before[key])]
    # batch norm subtracts the mean, and with it whatever bias stands before it
    assert all(key.startswith("layers.") and key.endswith(".bias") for key in still), (
        f"not moved: {still}"
    )


@every_case
def test_each_example_is_judged_by_itself_in_evaluation(
    name, hyperparameters, input_shape, outputs
):
    _, chosen, network = built(name, hyperparameters, input_shape, outputs)
    x = drawn(name, chosen, input_shape, 4, seed=1)
    with torch.inference_mode():
        together = network.eval()(x)
        alone = torch.cat([network(one[None]) for one in x])
    torch.testing.assert_close(together, alone)
    assert together.shape == (4, outputs)


def with_statistics(network):
    """Batch norms that have seen data: running values that are not 0 and 1."""
    generator = torch.Generator().manual_seed(7)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data = torch.randn(tensor.shape, generator=generator)
            module.running_var.data = (
                torch.rand(module.running_var.shape, generator=generator) + 0.5
            )
    return network.eval()


REFERENCE_ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "tanh": np.tanh,
}


def test_every_activation_that_may_be_asked_for_exists():
    schema = parameters.json_schema(MLPParameters)["properties"]["activation"]
    assert set(schema["enum"]) == set(ACTIVATIONS) == set(REFERENCE_ACTIVATIONS)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_mlp_computes_what_numpy_computes_from_its_tensors(activation, batch_norm):
    chosen = MLPParameters(
        hidden=(11, 6), activation=activation, batch_norm=batch_norm, dropout=0.4
    )
    network = with_statistics(MLP(chosen, (9,), 4))
    tensors = {key: value.double().numpy() for key, value in network.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    wanted = x.astype(np.float64)
    for index in range(2):
        wanted = wanted @ tensors[f"layers.{index}.weight"].T + tensors[f"layers.{index}.bias"]
        if batch_norm:
            norm = {
                key: tensors[f"norms.{index}.{key}"]
                for key in ("weight", "bias", "running_mean", "running_var")
            }
            wanted = (wanted - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5)
            wanted = wanted * norm["weight"] + norm["bias"]
        wanted = REFERENCE_ACTIVATIONS[activation](wanted)
    wanted = wanted @ tensors["layers.2.weight"].T + tensors["layers.2.bias"]
    with torch.inference_mode():
        np.testing.assert_allclose(network(torch.from_numpy(x)), wanted, rtol=1e-4, atol=1e-5)


def convolved(x, weight):
    """3x3 cross-correlation with a border of zeros, by loops."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    result = np.zeros((len(x), len(weight), height, width))
    for i in range(height):
        for j in range(width):
            patch = padded[:, :, i : i + 3, j : j + 3]
            result[:, :, i, j] = np.einsum("nchw,ochw->no", patch, weight)
    return result


def halved(x):
    """The largest of each 2x2 square; at an odd edge of what there is."""
    height, width = x.shape[2:]
    return np.stack(
        [
            np.stack(
                [x[:, :, i : i + 2, j : j + 2].max(axis=(2, 3)) for j in range(0, width, 2)],
                axis=-1,
            )
            for i in range(0, height, 2)
        ],
        axis=-2,
    )


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1), (1, 6)])
def test_the_convnet_computes_what_numpy_computes_from_its_tensors(size):
    network = with_statistics(ConvNet(ConvNetParameters(widths=(5, 4), dropout=0.4), (2, *size), 3))
    tensors = {key: value.double().numpy() for key, value in network.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(3, 2, *size)).astype(np.float32)
    wanted = x.astype(np.float64)
    for index in range(2):
        wanted = convolved(wanted, tensors[f"convs.{index}.weight"])
        norm = {
            key: tensors[f"norms.{index}.{key}"][:, None, None]
            for key in ("weight", "bias", "running_mean", "running_var")
        }
        wanted = (wanted - norm["running_mean"]) / np.sqrt(norm["running_var"] + 1e-5)
        wanted = halved(np.maximum(wanted * norm["weight"] + norm["bias"], 0))
    wanted = wanted.mean(axis=(2, 3)) @ tensors["head.weight"].T + tensors["head.bias"]
    with torch.inference_mode():
        np.testing.assert_allclose(network(torch.from_numpy(x)), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "chosen", "shape"),
    [
        (MLP, MLPParameters(), (8, 8)),
        (MLP, MLPParameters(), (None,)),
        (ConvNet, ConvNetParameters(), (64,)),
        (ConvNet, ConvNetParameters(), (None, 8, 8)),
    ],
)
def test_an_input_that_the_family_cannot_take_is_refused(kind, chosen, shape):
    with pytest.raises(SpecError, match="takes examples of"):
        kind(chosen, shape, 3)
