"""The rates of every epoch beside torch's own schedulers, and their states."""

import json

import pytest
import torch
from torch.optim import lr_scheduler

from models.optimization import optimizers
from models.optimization.schedules import Schedule
from models.spec import Component, SpecError

EPOCHS, STEPS = 12, 3
VALUES = [1.0, 0.9, 0.95, 0.94, 0.93, 0.92, 0.8, 0.81, 0.82, 0.83, 0.84, 0.85]

CASES = {
    "StepLR": {"step_size": 3, "gamma": 0.3},
    "MultiStepLR": {"milestones": [2, 5, 6], "gamma": 0.5},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 7, "eta_min": 0.001},
    "CosineAnnealingWarmRestarts": {"T_0": 2, "T_mult": 2, "eta_min": 0.001},
    "OneCycleLR": {"max_lr": 0.5, "pct_start": 0.4, "three_phase": True},
    "ReduceLROnPlateau": {"patience": 1, "factor": 0.3, "cooldown": 1},
}


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    )


def built(name, parameters, *, warmup_epochs=0, optimizer="SGD", lower_is_better=True):
    component = Component(name=optimizer, parameters={"lr": 0.1, "momentum": 0.9})
    made = optimizers.build(component, network())
    schedule = Schedule(
        made,
        None if name is None else Component(name=name, parameters=parameters),
        lower_is_better=lower_is_better,
        warmup_epochs=warmup_epochs,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
    )
    return made, schedule


def step(optimizer):
    for group in optimizer.param_groups:
        for one in group["params"]:
            one.grad = torch.ones_like(one)
    optimizer.step()


def rates(optimizer, schedule, values=VALUES):
    found = []
    for value in values:
        found.append(schedule.rate)
        for _ in range(STEPS):
            step(optimizer)
            schedule.after_step()
        schedule.after_epoch(value)
    return found


def torchs(name, parameters):
    """The same by torch's class alone, used as its documentation says."""
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1, momentum=0.9)
    extra = {"total_steps": EPOCHS * STEPS} if name == "OneCycleLR" else {}
    scheduler = getattr(lr_scheduler, name)(optimizer, **parameters, **extra)
    found = []
    for value in VALUES:
        found.append(optimizer.param_groups[0]["lr"])
        for _ in range(STEPS):
            step(optimizer)
            if name == "OneCycleLR":
                scheduler.step()
        if name == "ReduceLROnPlateau":
            scheduler.step(value)
        elif name != "OneCycleLR":
            scheduler.step()
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_rate_of_every_epoch_is_torchs(name):
    found = rates(*built(name, CASES[name]))
    assert found == torchs(name, CASES[name])
    assert len(set(found)) > 2


@pytest.mark.parametrize("name", [name for name in CASES if name != "OneCycleLR"])
def test_after_a_warm_up_the_scheduler_starts_as_it_would_without(name):
    found = rates(*built(name, CASES[name], warmup_epochs=3), values=[0.5] * 3 + VALUES)
    assert found[:3] == pytest.approx([0.025, 0.05, 0.075])
    assert found[3:] == torchs(name, CASES[name])


def test_the_warm_up_is_torchs_linear_one():
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)
    scheduler = lr_scheduler.LinearLR(optimizer, start_factor=1 / 5, total_iters=4)
    expected = []
    for _ in range(8):
        expected.append(optimizer.param_groups[0]["lr"])
        step(optimizer)
        scheduler.step()
    found = rates(*built(None, {}, warmup_epochs=4), values=VALUES[:8])
    assert found == pytest.approx(expected)


def test_a_cosine_ends_with_the_training_unless_it_is_told_otherwise():
    found = rates(*built("CosineAnnealingLR", {}, warmup_epochs=2))
    expected = torchs("CosineAnnealingLR", {"T_max": EPOCHS - 2})[: EPOCHS - 2]
    assert found[2:] == expected


def test_a_plateau_of_a_metric_that_rises_waits_for_a_rise():
    values = [0.1, 0.2, 0.3, 0.3, 0.3, 0.3]
    parameters = {"patience": 1, "factor": 0.5}
    found = rates(*built("ReduceLROnPlateau", parameters, lower_is_better=False), values=values)
    assert found == [0.1, 0.1, 0.1, 0.1, 0.1, 0.05]


def test_a_plateau_takes_nan_for_no_improvement():
    values = [0.5, float("nan"), float("nan"), 0.6]
    found = rates(*built("ReduceLROnPlateau", {"patience": 1}), values=values)
    assert found == [0.1, 0.1, 0.1, 0.05]


@pytest.mark.parametrize("warmup_epochs", [0, 4])
@pytest.mark.parametrize("stop_at", [1, 3, 7])
@pytest.mark.parametrize("name", [None, *CASES])
def test_a_schedule_that_goes_on_from_its_state_gives_the_same_rates(name, stop_at, warmup_epochs):
    if name == "OneCycleLR" and warmup_epochs:
        pytest.skip("the two exclude each other")
    parameters = CASES.get(name, {})
    expected = rates(*built(name, parameters, warmup_epochs=warmup_epochs))
    optimizer, schedule = built(name, parameters, warmup_epochs=warmup_epochs)
    rates(optimizer, schedule, VALUES[:stop_at])
    tensors, groups = optimizers.state(optimizer)
    state = json.loads(json.dumps([groups, schedule.state_dict()]))
    optimizer, schedule = built(name, parameters, warmup_epochs=warmup_epochs)
    optimizers.restore(optimizer, tensors, state[0])
    schedule.load_state_dict(state[1])
    assert rates(optimizer, schedule, VALUES[stop_at:]) == expected[stop_at:]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("SGD", {}),
        ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("Adam", {"weight_decay": 0.01}),
        ("Adam", {"amsgrad": True}),
        ("AdamW", {}),
        ("RMSprop", {"momentum": 0.5, "centered": True}),
    ],
)
def test_an_optimizer_that_goes_on_from_its_state_takes_the_same_steps(name, parameters):
    def steps(model, optimizer, count, start):
        generator = torch.Generator().manual_seed(start)
        for _ in range(count):
            for one in model.parameters():
                one.grad = torch.randn(one.shape, generator=generator)
            optimizer.step()

    component = Component(name=name, parameters=parameters)
    whole, other = network(), network()
    steps(whole, optimizer := optimizers.build(component, whole), 3, 1)
    tensors, groups = optimizers.state(optimizer)
    tensors = {key: value.clone() for key, value in tensors.items()}
    other.load_state_dict(whole.state_dict())
    steps(whole, optimizer, 3, 2)
    resumed = optimizers.build(component, other)
    optimizers.restore(resumed, tensors, json.loads(json.dumps(groups)))
    steps(other, resumed, 3, 2)
    for name, one in whole.state_dict().items():
        assert torch.equal(one, other.state_dict()[name])


def test_a_restored_state_lies_in_memory_as_the_weights_do():
    convolution = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    component = Component(name="AdamW")
    optimizer = optimizers.build(component, convolution)
    step(optimizer)
    tensors, groups = optimizers.state(optimizer)
    stored = {key: one.clone(memory_format=torch.contiguous_format) for key, one in tensors.items()}
    resumed = optimizers.build(component, convolution)
    optimizers.restore(resumed, stored, groups)
    after, _ = optimizers.state(resumed)
    assert after["0.exp_avg"].stride() == convolution.weight.stride()
    for key, one in tensors.items():
        assert torch.equal(after[key], one)


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_weight_decay_spares_biases_and_norms_unless_told_otherwise(name, decay_all):
    model = network()
    component = Component(
        name=name, parameters={"lr": 0.1, "weight_decay": 0.5, "decay_all": decay_all}
    )
    optimizer = optimizers.build(component, model)
    model[1].weight.data.fill_(3.0)
    before = {key: value.clone() for key, value in model.named_parameters()}
    for one in model.parameters():
        one.grad = torch.zeros_like(one)
    optimizer.step()
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    weights = {"0.weight", "2.weight"}
    assert moved == (weights | {"0.bias", "1.weight", "2.bias"} if decay_all else weights)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_a_step_is_torchs(name):
    ours, theirs = network(), network()
    parameters = {"lr": 0.05, "weight_decay": 0.1}
    optimizer = optimizers.build(
        Component(name=name, parameters={**parameters, "decay_all": True}), ours
    )
    reference = getattr(torch.optim, name)(theirs.parameters(), **parameters)
    for seed in range(3):
        for model, one in ((ours, optimizer), (theirs, reference)):
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            one.step()
    for key, one in ours.state_dict().items():
        torch.testing.assert_close(one, theirs.state_dict()[key])


@pytest.mark.parametrize(
    ("name", "parameters", "pointer"),
    [
        ("SGD", {"lr": 0}, "/lr"),
        ("SGD", {"nesterov": True}, "/nesterov"),
        ("AdamW", {"betas": [0.9, 1.0]}, "/betas/1"),
        ("AdamW", {"momentum": 0.9}, "/momentum"),
    ],
)
def test_wrong_parameters_of_an_optimizer_are_refused_by_name(name, parameters, pointer):
    with pytest.raises(SpecError) as caught:
        optimizers.build(Component(name=name, parameters=parameters), network())
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    ("name", "parameters", "pointer"),
    [
        ("StepLR", {}, "/step_size"),
        ("StepLR", {"step_size": 0}, "/step_size"),
        ("MultiStepLR", {"milestones": [3, 2]}, "/milestones"),
        ("ReduceLROnPlateau", {"factor": 1.0}, "/factor"),
    ],
)
def test_wrong_parameters_of_a_scheduler_are_refused_by_name(name, parameters, pointer):
    with pytest.raises(SpecError) as caught:
        built(name, parameters)
    assert caught.value.pointer == pointer
