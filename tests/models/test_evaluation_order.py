"""Networks whose classes stand in another order than the dataset's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.evaluation import REORDERED, EvaluationError, evaluate

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")


class Echo(nn.Module):
    """Gives back its input as logits."""

    def forward(self, x):
        return x


def judge(logits, targets, *, task="multiclass", classes=NAMES, order=None, model=None, **options):
    return evaluate(
        model or Echo().eval(),
        torch.as_tensor(logits).split(16),
        targets,
        task=task,
        classes=classes,
        order=order,
        groups={"half": (np.arange(len(targets)) % 2, ["even", "odd"])},
        **{"positive_class": None, "threshold": None, **options},
    )


def assert_the_same_but_for_the_word(reordered, straight):
    """Every bit of the two reports, apart from the sentence and the clock."""
    assert reordered.warnings == [*straight.warnings, REORDERED]
    for one in dataclasses.fields(straight):
        if one.name not in ("warnings", "forward_s", "metrics_s"):
            ours, theirs = getattr(reordered, one.name), getattr(straight, one.name)
            if isinstance(theirs, np.ndarray):
                assert (ours.dtype, ours.tobytes()) == (theirs.dtype, theirs.tobytes())
            else:
                assert ours == theirs, one.name


def drawn(seed, *, count=40, width=7):
    logits = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return logits, np.random.default_rng(seed + 1).integers(0, max(2, width), count)


@given(st.permutations(range(len(NAMES))), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_a_permuted_network_gives_the_report_of_the_straight_one(order, seed):
    logits, targets = drawn(seed)
    permuted = np.empty_like(logits)
    permuted[:, order] = logits  # the network's output order[i] is the dataset's class i
    straight = judge(logits, targets)
    assert_the_same_but_for_the_word(judge(permuted, targets, order=order), straight)


@given(st.permutations(range(4)))
@settings(max_examples=10, deadline=None)
def test_labels_are_put_into_order_like_classes(order):
    logits, _ = drawn(3, width=4)
    targets = (np.random.default_rng(4).random((40, 4)) < 0.5).astype(np.uint8)
    permuted = np.empty_like(logits)
    permuted[:, order] = logits
    terms = {"task": "multilabel", "classes": NAMES[:4], "threshold": 0.4}
    straight = judge(logits, targets, **terms)
    assert_the_same_but_for_the_word(judge(permuted, targets, order=order, **terms), straight)


@pytest.mark.parametrize("positive", ["ant", "bee"])
@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("width", [1, 2])
def test_a_binary_network_of_the_reversed_classes_gives_the_same_report(width, threshold, positive):
    logits, targets = drawn(5, width=width)
    logits[3] = 0.0
    reversed_ = 0 - logits if width == 1 else logits[:, ::-1].copy()
    terms = {
        "task": "binary",
        "classes": NAMES[:2],
        "threshold": threshold,
        "positive_class": positive,
    }
    straight = judge(logits, targets, **terms)
    assert_the_same_but_for_the_word(judge(reversed_, targets, order=(1, 0), **terms), straight)


def test_one_output_is_left_alone_where_the_order_is_the_same():
    logits, targets = drawn(6, width=1)
    terms = {"task": "binary", "classes": NAMES[:2]}
    straight = judge(logits, targets, **terms)
    assert judge(logits, targets, order=(0, 1), **terms).logits_sha256 == straight.logits_sha256
    one = judge(logits, (targets[:, None] > 0).astype(np.uint8), task="multilabel", classes=["x"])
    again = judge(
        logits,
        (targets[:, None] > 0).astype(np.uint8),
        task="multilabel",
        classes=["x"],
        order=(0,),
    )
    assert again.logits_sha256 == one.logits_sha256


def test_the_order_is_known_by_hand():
    logits = np.array([[1.0, 2.0, 3.0]], dtype=np.float32)  # of cat, ant, bee
    report = judge(logits, np.array([2]), classes=NAMES[:3], order=(1, 2, 0))
    assert report.logits.tolist() == [[2.0, 3.0, 1.0]]
    assert report.predicted.tolist() == [1]
    assert report.confusion_matrix == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_the_straight_report_says_nothing_of_an_order():
    logits, targets = drawn(7)
    assert REORDERED not in judge(logits, targets).warnings


@pytest.mark.parametrize("order", [(0, 1), (0, 1, 1), (1, 2, 3), (0, 1, 2, 3), (-1, 0, 1)])
def test_an_order_that_does_not_name_each_class_once_is_refused(order):
    logits, targets = drawn(8, width=3)
    with pytest.raises(EvaluationError, match=r"order must name each of 0\.\.2 once") as caught:
        judge(logits, targets, classes=NAMES[:3], order=order)
    assert caught.value.reason == "bad_request"


def test_logits_of_the_wrong_shape_are_refused_before_they_are_put_into_order():
    logits, targets = drawn(9, width=2)
    with pytest.raises(EvaluationError, match=r"shape \[16, 2\]"):
        judge(logits, targets, classes=NAMES[:3], order=(2, 1, 0))
