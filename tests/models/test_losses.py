"""What trainings minimize, beside torch's own losses and independent formulas."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from models import losses
from models.losses import functions
from models.recipes import LOSSES
from models.spec import Component, SpecError

CLASSES = ("ant", "bee", "cat")


def made(name, *, task="multiclass", classes=CLASSES, counts=(5, 3, 2), **parameters):
    component = Component(name=name, parameters=parameters)
    return functions.build(component, task=task, classes=classes, counts=counts, device="cpu")


def mean(loss, logits, targets):
    total = loss(logits, targets)
    return total.loss / total.weight


@pytest.fixture
def logits():
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def targets():
    return torch.arange(40) % 3


def test_label_smoothing_is_the_mean_of_the_hard_loss_and_the_uniform_one(logits, targets):
    x = logits.double().numpy()
    log_p = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    hard = -log_p[np.arange(40), targets.numpy()]
    expected = (0.9 * hard - 0.1 * log_p.mean(axis=1)).mean()
    found = mean(made("cross_entropy", label_smoothing=0.1), logits, targets)
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, {"ant": 2.0, "cat": 0.0}, "balanced"])
def test_cross_entropy_is_torchs(logits, targets, smoothing, weights):
    given = {None: None, "balanced": torch.tensor([10 / 15, 10 / 9, 10 / 6])}
    weight = torch.tensor([2.0, 1.0, 0.0]) if isinstance(weights, dict) else given[weights]
    expected = functional.cross_entropy(logits, targets, weight=weight, label_smoothing=smoothing)
    loss = made("cross_entropy", label_smoothing=smoothing, class_weights=weights)
    assert mean(loss, logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    mixed = 0.3 * loss.probabilities(targets) + 0.7 * loss.probabilities(targets.flip(0))
    expected = functional.cross_entropy(logits, mixed, weight=weight, label_smoothing=smoothing)
    assert mean(loss, logits, mixed).item() == pytest.approx(expected.item(), rel=1e-6)


def test_parts_of_a_batch_add_up_to_the_whole(logits, targets):
    loss = made("cross_entropy", class_weights={"ant": 3.0}, label_smoothing=0.1)
    whole = loss(logits, targets)
    parts = [loss(logits[:11], targets[:11]), loss(logits[11:], targets[11:])]
    assert sum(one.loss.item() for one in parts) == pytest.approx(whole.loss.item(), rel=1e-6)
    assert sum(one.weight.item() for one in parts) == pytest.approx(whole.weight.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("given", "weight"),
    [(None, None), (2.5, [2.5]), ({"bee": 4.0}, [4.0]), ("balanced", [6 / 4])],
)
def test_a_binary_task_has_one_output_for_its_second_class(given, weight):
    logits = torch.linspace(-3, 3, 10)[:, None]
    targets = torch.tensor([0, 1] * 5)
    loss = made(
        "binary_cross_entropy_with_logits",
        task="binary",
        classes=("ant", "bee"),
        counts=(6, 4),
        pos_weight=given,
    )
    expected = functional.binary_cross_entropy_with_logits(
        logits[:, 0], targets.float(), pos_weight=weight and torch.tensor(weight)
    )
    assert mean(loss, logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.probabilities(targets).shape == (10, 1)


def test_a_multilabel_task_has_one_output_a_label(logits):
    targets = (torch.arange(120).reshape(40, 3) % 4 == 0).to(torch.uint8)
    loss = made(
        "binary_cross_entropy_with_logits",
        task="multilabel",
        counts=(10, 20, 30, 40),
        pos_weight="balanced",
    )
    expected = functional.binary_cross_entropy_with_logits(
        logits, targets.float(), pos_weight=torch.tensor([30 / 10, 20 / 20, 10 / 30])
    )
    assert mean(loss, logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_its_papers_formula(logits, targets, gamma):
    expected = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        p = math.exp(row[target]) / sum(map(math.exp, row))
        expected += -((1 - p) ** gamma) * math.log(p) / 40
    found = mean(made("focal", gamma=gamma), logits, targets)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_of_labels_is_the_sigmoids(logits):
    targets = (torch.arange(120).reshape(40, 3) % 4 == 0).to(torch.uint8)
    expected = 0.0
    for z, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        p = p if y else 1 - p
        expected += -((1 - p) ** 2) * math.log(p) / 120
    found = mean(made("focal", task="multilabel", counts=(1, 1, 1, 40)), logits, targets)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_focal_loss_weighs_classes_and_takes_mixed_targets(logits, targets):
    loss = made("focal", gamma=0.0, class_weights={"bee": 5.0})
    each = functional.cross_entropy(logits, targets, reduction="none")
    weights = torch.tensor([1.0, 5.0, 1.0])[targets]
    assert mean(loss, logits, targets).item() == pytest.approx((weights * each).mean().item())
    mixed = 0.5 * loss.probabilities(targets) + 0.5 * loss.probabilities(targets.flip(0))
    other = functional.cross_entropy(logits, targets.flip(0), reduction="none")
    weighed = torch.tensor([1.0, 5.0, 1.0])[targets.flip(0)] * other
    expected = ((weights * each).mean() + weighed.mean()).item() / 2
    assert mean(loss, logits, mixed).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_gradient_of_focal_loss_is_finite_where_predictions_are_sure(gamma, task):
    logits = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0]], requires_grad=True)
    targets = torch.tensor([0, 0])
    if task == "multilabel":
        targets = torch.tensor([[1, 0, 1], [1, 0, 1]], dtype=torch.uint8)
    counts = (1, 1, 1, 2) if task == "multilabel" else (1, 1, 1)
    mean(made("focal", task=task, counts=counts, gamma=gamma), logits, targets).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("name", "parameters", "detail", "pointer"),
    [
        (
            "cross_entropy",
            {"class_weights": {"dog": 1.0}},
            "known: ant, bee, cat",
            "/class_weights",
        ),
        ("cross_entropy", {"class_weights": "even"}, "must be 'balanced'", "/class_weights"),
        ("cross_entropy", {"class_weights": {"ant": -1.0}}, "at least 0", "/class_weights/ant"),
        ("cross_entropy", {"label_smoothing": 1.0}, "less than 1", "/label_smoothing"),
        (
            "cross_entropy",
            {"class_weights": {"ant": 0, "bee": 0, "cat": 0}},
            "0 for every class",
            "/class_weights",
        ),
        ("focal", {"gamma": -1}, "at least 0", "/gamma"),
    ],
)
def test_wrong_parameters_are_refused_by_name(name, parameters, detail, pointer):
    with pytest.raises(SpecError, match=detail) as caught:
        made(name, **parameters)
    assert caught.value.pointer == pointer


def test_a_class_without_examples_cannot_be_balanced():
    with pytest.raises(SpecError, match="class 'bee' has no training example"):
        made("cross_entropy", counts=(5, 0, 2), class_weights="balanced")
    with pytest.raises(SpecError, match="class 'bee' has no training example"):
        made(
            "binary_cross_entropy_with_logits",
            task="binary",
            classes=("ant", "bee"),
            counts=(5, 0),
            pos_weight="balanced",
        )


@pytest.mark.parametrize(
    ("name", "task", "outputs"),
    [
        ("cross_entropy", "multiclass", 3),
        ("cross_entropy", "binary", 3),
        ("focal", "multilabel", 3),
        ("binary_cross_entropy_with_logits", "binary", 1),
        ("binary_cross_entropy_with_logits", "multilabel", 3),
    ],
)
def test_a_loss_says_how_many_outputs_it_takes(name, task, outputs):
    assert losses.outputs_for(LOSSES[name].build({}), task=task, classes=3) == outputs


@pytest.mark.parametrize(
    ("name", "task"),
    [("cross_entropy", "multilabel"), ("binary_cross_entropy_with_logits", "multiclass")],
)
def test_a_loss_of_another_task_is_refused_with_those_that_would_fit(name, task):
    with pytest.raises(SpecError, match="focal would fit"):
        losses.outputs_for(LOSSES[name].build({}), task=task, classes=3)
