"""Networks of token ids against independent forward passes, and what they do not depend on."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from models import parameters
from models.architectures.text_cnn import TextCNN
from models.architectures.transformer_encoder import ACTIVATIONS, TransformerEncoder
from models.catalog import ARCHITECTURES
from models.layouts import TokenLimits
from models.layouts.text_cnn import TextCNNParameters
from models.layouts.transformer_encoder import TransformerEncoderParameters
from models.spec import SpecError

VOCABULARY, OUTPUTS = 30, 3
LENGTHS = (1, 2, 3, 5, 7, 12, 12, 4)


def sequences(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, length) for length in LENGTHS]


def padded(found, longest):
    x = np.full((len(found), longest), -1, np.int32)
    for row, ids in zip(x, found, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(x)


def text_cnn(**given):
    chosen = TextCNNParameters(
        **{"vocabulary": VOCABULARY, "width": 8, "channels": 6, "kernel_sizes": (2, 3, 5), **given}
    )
    torch.manual_seed(1)
    return TextCNN(chosen, (None,), OUTPUTS).eval()


def transformer(**given):
    chosen = TransformerEncoderParameters(
        **{
            "vocabulary": VOCABULARY,
            "width": 12,
            "depth": 2,
            "heads": 3,
            "feedforward": 20,
            "max_length": 40,
            **given,
        }
    )
    torch.manual_seed(1)
    network = TransformerEncoder(chosen, (None,), OUTPUTS)
    with torch.no_grad():  # biases and norms that are not 0 and 1
        for tensor in network.parameters():
            tensor += 0.2 * torch.randn(tensor.shape)
    return network.eval()


NETWORKS = {"text_cnn": text_cnn, "transformer_encoder": transformer}
every_network = pytest.mark.parametrize("name", NETWORKS)


def logits(network, x):
    with torch.inference_mode():
        return network(x)


def test_the_networks_are_those_of_the_catalog_that_take_tokens():
    assert {name for name in ARCHITECTURES if ARCHITECTURES[name].tokens} == set(NETWORKS)


# --- forward passes


@pytest.mark.parametrize("sizes", [(2, 3, 5), (1,), (20, 4)])
def test_the_text_cnn_computes_what_numpy_computes_for_each_sequence_by_itself(sizes):
    network = text_cnn(kernel_sizes=sizes, dropout=0.4)
    tensors = {key: value.double().numpy() for key, value in network.state_dict().items()}
    for ids, found in zip(sequences(), logits(network, padded(sequences(), 12)), strict=True):
        features = []
        for index, size in enumerate(sizes):
            vectors = tensors["embedding.weight"][ids]
            if len(vectors) < size:
                vectors = np.pad(vectors, ((0, size - len(vectors)), (0, 0)))
            weight, bias = tensors[f"convs.{index}.weight"], tensors[f"convs.{index}.bias"]
            windows = [
                np.einsum("lw,cwl->c", vectors[start : start + size], weight) + bias
                for start in range(len(vectors) - size + 1)
            ]
            features.append(np.maximum(windows, 0).max(axis=0))
        wanted = tensors["head.weight"] @ np.concatenate(features) + tensors["head.bias"]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("final_norm", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_transformer_computes_what_torchs_layers_compute_with_its_tensors(
    activation, norm_first, final_norm
):
    network = transformer(activation=activation, norm_first=norm_first, final_norm=final_norm)
    layer = nn.TransformerEncoderLayer(
        12, 3, 20, activation=activation, norm_first=norm_first, batch_first=True
    )
    norm = nn.LayerNorm(12) if final_norm else None
    oracle = nn.TransformerEncoder(layer, 2, norm=norm, enable_nested_tensor=False).eval()
    tensors = network.state_dict()
    oracle.load_state_dict(
        {
            key.removeprefix("encoder."): value
            for key, value in tensors.items()
            if key.startswith("encoder.")
        },
        strict=True,
    )
    for ids, found in zip(sequences(), logits(network, padded(sequences(), 12)), strict=True):
        with torch.no_grad():
            vectors = tensors["embedding.weight"][ids] + tensors["positions.weight"][: len(ids)]
            mean = oracle(vectors[None])[0].mean(dim=0)
            wanted = tensors["head.weight"] @ mean + tensors["head.bias"]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_every_activation_that_may_be_asked_for_exists():
    schema = parameters.json_schema(TransformerEncoderParameters)["properties"]["activation"]
    assert set(schema["enum"]) == set(ACTIVATIONS)


# --- what the logits do not depend on


@every_network
@pytest.mark.parametrize("longest", [13, 20, 40])
def test_logits_do_not_depend_on_the_padding(name, longest):
    network = NETWORKS[name]()
    short, long = (logits(network, padded(sequences(), length)) for length in (12, longest))
    torch.testing.assert_close(short, long, rtol=0, atol=1e-6)


@every_network
def test_the_bits_of_an_example_do_not_depend_on_the_others_of_its_batch(name):
    network = NETWORKS[name]()
    one, other = sequences(), sequences(seed=1)
    other[4] = one[4]
    # lengths that differ too, so that masks are others
    other[:4], other[5:] = other[:4][::-1], other[5:][::-1]
    found, again = (logits(network, padded(batch, 12))[4] for batch in (one, other))
    assert torch.equal(found, again)


@every_network
def test_embeddings_of_ids_that_do_not_stand_there_have_no_say(name):
    """Not even one that is not a number, at the id 0 that padding is often written as."""
    network = NETWORKS[name]()
    found = [ids.clip(min=1) for ids in sequences()]
    before = logits(network, padded(found, 20))
    with torch.no_grad():
        network.embedding.weight[0] = float("nan")
    assert torch.equal(logits(network, padded(found, 20)), before)
    found[0][0] = 0
    assert torch.isnan(logits(network, padded(found, 20))[0]).all()


@every_network
def test_gradients_come_from_the_ids_that_stand_there_alone(name):
    network = NETWORKS[name]()
    found = sequences()
    network(padded(found, 20)).square().sum().backward()
    moved = network.embedding.weight.grad.abs().sum(dim=1) > 0
    assert set(np.flatnonzero(moved)) <= set(np.concatenate(found))
    assert torch.isfinite(network.embedding.weight.grad).all()
    if name == "transformer_encoder":
        assert (network.positions.weight.grad[12:] == 0).all()
        assert (network.positions.weight.grad[:12] != 0).any(dim=1).all()


@every_network
def test_gradients_are_the_same_bits_again_where_only_deterministic_functions_are_allowed(
    name, numerics
):
    torch.use_deterministic_algorithms(True)
    grads = []
    for _ in range(2):
        network = NETWORKS[name]()
        network(padded(sequences(), 15)).square().sum().backward()
        grads.append([tensor.grad for tensor in network.parameters()])
    assert all(map(torch.equal, *grads))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_network
def test_gradients_on_cuda_are_the_same_bits_again(name, numerics):
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    x = padded(sequences() * 500, 40).cuda()
    grads = []
    for _ in range(3):
        network = NETWORKS[name]().cuda()
        network(x).square().sum().backward()
        grads.append([tensor.grad for tensor in network.parameters()])
    assert all(map(torch.equal, grads[0], grads[1]))
    assert all(map(torch.equal, grads[0], grads[2]))


# --- what they take


def test_limits_are_those_of_the_tensors():
    chosen = TextCNNParameters(vocabulary=7)
    assert ARCHITECTURES["text_cnn"].tokens(chosen) == TokenLimits(vocabulary=7, max_length=None)
    chosen = TransformerEncoderParameters(vocabulary=8, max_length=9)
    limits = ARCHITECTURES["transformer_encoder"].tokens(chosen)
    assert limits == TokenLimits(vocabulary=8, max_length=9)


@every_network
@pytest.mark.parametrize("shape", [(3, 8), ()])
def test_examples_that_are_no_sequences_are_refused(name, shape):
    entry = ARCHITECTURES[name]
    with pytest.raises(SpecError, match="takes examples of one axis, sequences of token ids"):
        entry.load()(entry.parameters(), shape, OUTPUTS)


def test_a_transformer_is_not_built_for_sequences_that_are_too_long_or_heads_that_do_not_fit():
    with pytest.raises(SpecError, match="max_length is 4, and the longest sequence holds 5"):
        TransformerEncoder(TransformerEncoderParameters(max_length=4), (5,), 2)
    with pytest.raises(SpecError, match="heads is 8, which does not divide width 30"):
        TransformerEncoder(TransformerEncoderParameters(width=30), (None,), 2)


def test_a_network_without_storage_is_built_without_the_compiler():
    """Which PyTorch imports for some of its random numbers, in a second."""
    program = """
import sys
import torch
from models.catalog import ARCHITECTURES
with torch.device("meta"):
    for name in ("text_cnn", "transformer_encoder"):
        ARCHITECTURES[name].load()(ARCHITECTURES[name].parameters(), (None,), 2)
print(sorted({"torch._inductor", "torch._dynamo", "sympy"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
