"""What a bare ``nn.Sequential`` of linear layers saves is an mlp without further words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

NETWORKS = {
    "plain": ((nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), [5], False),
    "flatten and dropout": (
        (
            *(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Dropout(), nn.Linear(5, 4)),
            *(nn.Tanh(), nn.Linear(4, 3)),
        ),
        [5, 4],
        False,
    ),
    "batch norm": (
        (
            *(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4)),
            *(nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)),
        ),
        [5, 4],
        True,
    ),
    "no hidden layer": ((nn.Flatten(), nn.Linear(6, 3)), [], False),
}


@pytest.mark.parametrize("prefix", ["", "net.", "backbone.layers.", "module.net."])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_sequential_is_read_as_the_mlp_that_it_is(convert, save, name, prefix):
    layers, hidden, batch_norm = NETWORKS[name]
    state = {prefix + key: one for key, one in nn.Sequential(*layers).state_dict().items()}
    answer = convert(save(state), architecture="mlp")
    read = answer.checkpoint
    assert read["hyperparameters"]["hidden"] == hidden
    assert read["hyperparameters"]["batch_norm"] is batch_norm
    assert (read["input_shape"], read["outputs"]) == ([6], 3)
    weights = [one.weight for one in layers if isinstance(one, nn.Linear)]
    for index, weight in enumerate(weights):
        assert torch.equal(answer.tensors[f"layers.{index}.weight"], weight)
    bare = prefix.removeprefix("module.")
    first = next(i for i, one in enumerate(layers) if isinstance(one, nn.Linear))
    assert f"renamed '{bare}{first}' to 'layers.0' (2 tensors)" in read["adjustments"]


def test_layers_with_gaps_are_a_sequential_and_without_are_the_mlps_own(convert, save):
    first, second = nn.Linear(6, 5), nn.Linear(5, 3)
    gapped = nn.ModuleDict({"layers": nn.Sequential(first, nn.ReLU(), second)})
    own = nn.ModuleDict({"layers": nn.ModuleList([first, second])})
    answers = [convert(save(one.state_dict()), architecture="mlp") for one in (gapped, own)]
    assert answers[0].digest == answers[1].digest
    assert answers[1].checkpoint["adjustments"] == []
    assert "renamed 'layers.2' to 'layers.1' (2 tensors)" in answers[0].checkpoint["adjustments"]


def test_a_batch_norm_without_an_activation_behind_it_is_no_mlp(convert, save):
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    detail = convert(save(network.state_dict()), architecture="mlp").error["detail"]
    assert detail.startswith("0 and 2 are linear layers with no activation between them")


def test_linear_layers_with_nothing_between_are_no_mlp(convert, save):
    network = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    detail = convert(save(network.state_dict()), architecture="mlp").error["detail"]
    assert detail == (
        "0 and 1 are linear layers with no activation between them; mlp has one after each hidden "
        "layer"
    )


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(4, 3)),
        nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 3)),
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 3)),
        nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)),
    ],
)
def test_another_sequential_is_refused(convert, save, network):
    error = convert(save(network.state_dict()), architecture="mlp").error
    assert error["kind"] == "invalid"
    assert "mlp" in error["detail"]


def test_a_file_without_architecture_is_told_that_it_fits_an_mlp(convert, save):
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    error = convert(save(network.state_dict())).error
    assert "The tensors in the file fit mlp with hidden [5], batch_norm False" in error["detail"]


def test_a_key_map_comes_first(convert, save):
    state = {
        "encoder.0.weight": torch.ones(5, 6),
        "encoder.0.bias": torch.ones(5),
        "head.weight": torch.ones(3, 5),
        "head.bias": torch.ones(3),
    }
    answer = convert(save(state), architecture="mlp", key_map={"encoder": "", "head": "2"})
    assert answer.checkpoint["hyperparameters"]["hidden"] == [5]
