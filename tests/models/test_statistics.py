"""Intervals against SciPy and against a bootstrap written as a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import precision_recall_fscore_support

from models import statistics


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(
    ("successes", "total"), [(0, 1), (1, 1), (0, 9), (9, 9), (3, 7), (351, 360)]
)
def test_wilsons_interval_agrees_with_scipy(successes, total, level):
    wanted = scipy.stats.binomtest(successes, total).proportion_ci(level, method="wilson")
    low, high = statistics.wilson(successes, total, level=level)
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert 0 <= low <= successes / total <= high <= 1


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("count", [2, 3, 500])
def test_the_interval_of_a_mean_agrees_with_scipy(count, level):
    values = np.random.default_rng(count).exponential(size=count)
    wanted = scipy.stats.norm.interval(level, loc=values.mean(), scale=scipy.stats.sem(values))
    assert statistics.normal_mean(values, level=level) == pytest.approx(wanted, abs=1e-12)


def judged(seed, *, count, classes, share):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, count)
    guesses = rng.integers(0, classes, count)
    return np.where(rng.random(count) < share, targets, guesses), targets


def ratios_of(predicted, targets, positive):
    one = {"average": None, "labels": [positive]}
    options = {"average": "macro"} if positive is None else one
    found = precision_recall_fscore_support(targets, predicted, zero_division=0, **options)[:3]
    return [float(np.ravel(one)[0]) for one in found]


@pytest.mark.parametrize(
    ("count", "classes", "positive"), [(300, 4, None), (300, 2, 1), (300, 2, 0), (90, 3, None)]
)
def test_resampling_counts_is_resampling_examples_one_by_one(count, classes, positive):
    predicted, targets = judged(count, count=count, classes=classes, share=0.9)
    found = statistics.resampled_ratios(
        predicted, targets, positive=positive, level=0.9, resamples=60, seed=5
    )
    cells, sizes = np.unique(targets * classes + predicted, return_counts=True)
    assert count > statistics.EXAMPLES_PER_CELL * len(cells)
    random = np.random.RandomState(5)
    each = []
    for _ in range(60):
        drawn = np.repeat(cells, random.multinomial(count, sizes / count))
        each.append(ratios_of(drawn % classes, drawn // classes, positive))
    wanted = np.percentile(each, [5, 95], axis=0).T
    np.testing.assert_allclose(
        [found[k] for k in ("precision", "recall", "f1")], wanted, atol=1e-12
    )


@pytest.mark.parametrize(("count", "classes"), [(60, 8), (400, 3)])
def test_both_ways_of_drawing_agree_with_a_bootstrap_of_the_examples(count, classes):
    predicted, targets = judged(1, count=count, classes=classes, share=0.6)
    cells = len(np.unique(targets * classes + predicted))
    assert (count > statistics.EXAMPLES_PER_CELL * cells) == (count == 400)
    found = statistics.resampled_ratios(
        predicted, targets, positive=None, level=0.9, resamples=4000
    )
    rng = np.random.default_rng(2)
    each = []
    for _ in range(1000):
        taken = rng.integers(0, count, count)
        each.append(ratios_of(predicted[taken], targets[taken], None))
    wanted = np.percentile(each, [5, 95], axis=0).T
    # the ends of a percentile interval from 1,000 draws vary by about a hundredth here
    np.testing.assert_allclose([found[k] for k in ("precision", "recall", "f1")], wanted, atol=0.02)


def test_equal_inputs_give_equal_intervals_and_another_seed_others():
    predicted, targets = judged(3, count=200, classes=5, share=0.5)
    first = statistics.resampled_ratios(predicted, targets, positive=None, level=0.95)
    assert statistics.resampled_ratios(predicted, targets, positive=None, level=0.95) == first
    other = statistics.resampled_ratios(predicted, targets, positive=None, level=0.95, seed=1)
    assert other != first


@pytest.mark.parametrize("count", [60, 400])
def test_chunks_of_draws_change_nothing(count, monkeypatch):
    predicted, targets = judged(4, count=count, classes=6, share=0.97)
    whole = statistics.resampled_ratios(predicted, targets, positive=None, level=0.95)
    monkeypatch.setattr(statistics, "CHUNK_ELEMENTS", 2000)
    assert statistics.resampled_ratios(predicted, targets, positive=None, level=0.95) == whole


def test_a_positive_class_that_never_occurs_has_ratios_of_zero():
    zeros = np.zeros(5, dtype=np.int64)
    found = statistics.resampled_ratios(zeros, zeros, positive=1, level=0.95)
    assert found == {"precision": (0.0, 0.0), "recall": (0.0, 0.0), "f1": (0.0, 0.0)}


def test_a_wilson_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, total, trials = 0.93, 200, 2000
    inside = 0
    for successes in rng.binomial(total, truth, trials).tolist():
        low, high = statistics.wilson(successes, total, level=0.9)
        inside += low <= truth <= high
    assert 0.87 <= inside / trials <= 0.93
