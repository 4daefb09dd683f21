"""The pieces of a score by themselves; whole reports are compared in test_evaluation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    matthews_corrcoef,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)

from models import metrics
from models.catalog import METRICS
from models.evaluation_key import METRIC_VERSION


def labels(seed, *, classes=7, count=50):
    rng = np.random.default_rng(seed)
    return rng.integers(0, classes, count), rng.integers(0, classes, count)


def test_the_metric_version_is_a_number_that_can_be_raised():
    assert type(METRIC_VERSION) is int
    assert METRIC_VERSION >= 1


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_of_the_catalog_has_its_function(name):
    assert callable(METRICS[name].load())


@pytest.mark.parametrize("seed", range(20))
def test_counts_and_averages_agree_with_scikit_learn(seed):
    predicted, target = labels(seed)
    found = metrics.counts(predicted, target, cells=9)  # two classes that never occur
    each = metrics.ratios(found)
    wanted = precision_recall_fscore_support(target, predicted, labels=range(9), zero_division=0)
    for ours, theirs in zip(
        (each.precision, each.recall, each.f1, found.support), wanted, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    for average, ours in (
        ("micro", metrics.micro(found)),
        ("macro", metrics.macro(found)),
        ("weighted", metrics.weighted(found)),
    ):
        *theirs, _ = precision_recall_fscore_support(
            target, predicted, average=average, zero_division=0
        )
        assert list(ours.to_json().values()) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_the_confusion_matrix_agrees_with_scikit_learn(seed):
    predicted, target = labels(seed)
    ours = metrics.confusion_matrix(predicted, target, classes=9)
    np.testing.assert_array_equal(ours, confusion_matrix(target, predicted, labels=range(9)))


@pytest.mark.parametrize("seed", range(20))
def test_balanced_accuracy_and_correlation_agree_with_scikit_learn(seed):
    predicted, target = labels(seed, classes=2 + seed % 5, count=30)
    found = metrics.counts(predicted, target, cells=8)
    assert metrics.balanced_accuracy(found) == pytest.approx(
        balanced_accuracy_score(target, predicted), abs=1e-12
    )
    assert metrics.matthews_corrcoef(found) == pytest.approx(
        matthews_corrcoef(target, predicted), abs=1e-12
    )


def test_the_correlation_of_a_billion_examples_does_not_overflow():
    found = metrics.Counts(
        correct=np.array([4 * 10**9, 4 * 10**9]),
        predicted=np.array([5 * 10**9, 5 * 10**9]),
        support=np.array([5 * 10**9, 5 * 10**9]),
    )
    assert metrics.matthews_corrcoef(found) == pytest.approx(0.6)


def test_the_correlation_with_a_constant_is_undefined():
    found = metrics.counts(np.zeros(4, np.int64), np.array([0, 1, 0, 1]), cells=2)
    assert metrics.matthews_corrcoef(found) is None


@pytest.mark.parametrize("seed", range(20))
def test_areas_under_the_curves_agree_with_scikit_learn_also_on_ties(seed):
    rng = np.random.default_rng(seed)
    positive = rng.random(40) < 0.3
    positive[:2] = True, False
    score = rng.normal(size=40) + positive
    score = score if seed % 2 else score.round(0)
    roc_auc, average_precision = metrics.ranking(score, positive)
    assert roc_auc == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    assert average_precision == pytest.approx(average_precision_score(positive, score), abs=1e-12)


def test_areas_need_examples_of_the_kind_they_divide_by():
    score = np.array([0.1, 0.9])
    assert metrics.ranking(score, np.array([False, False])) == (None, None)
    assert metrics.ranking(score, np.array([True, True])) == (None, 1.0)


def calibration_by_loops(confidence, correct, bins=15):
    """Guo et al. 2017, equation 3, bin by bin."""
    total = 0.0
    for index in range(bins):
        low, high = index / bins, (index + 1) / bins
        inside = [k for k, c in enumerate(confidence) if low < c <= high or (index == c == 0)]
        if inside:
            accuracy = sum(bool(correct[k]) for k in inside) / len(inside)
            mean = sum(float(confidence[k]) for k in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("seed", range(10))
def test_calibration_error_agrees_with_its_definition(seed):
    rng = np.random.default_rng(seed)
    confidence = rng.random(200) ** 0.3
    confidence[:3] = 1.0, 0.0, 0.5
    correct = rng.random(200) < confidence**2
    assert metrics.expected_calibration_error(confidence, correct) == pytest.approx(
        calibration_by_loops(confidence, correct), abs=1e-12
    )


def test_a_bin_of_confidence_holds_its_upper_edge_and_not_its_lower_one():
    confidence, correct = np.array([0.25, 0.5, 0.625]), np.array([False, True, False])
    # (0, 1/2]: accuracy 1/2, confidence 3/8, two of three; (1/2, 1]: 0 against 5/8, one of three
    wanted = (2 * (1 / 2 - 3 / 8) + 5 / 8) / 3
    assert metrics.expected_calibration_error(confidence, correct, bins=2) == pytest.approx(wanted)


@pytest.mark.parametrize("classes", [2, 3, 6, 1000])
def test_one_pass_gives_what_scipy_gives(classes):
    rng = np.random.default_rng(classes)
    logits = (rng.normal(size=(400, classes)) * 5).astype(np.float32)
    targets = rng.integers(0, classes, 400)
    found = metrics.examine(logits, targets, threshold=None)
    wide = logits.astype(np.float64)
    p = softmax(wide, axis=1)
    each = np.arange(400)
    np.testing.assert_allclose(found.loss, -log_softmax(wide, axis=1)[each, targets], atol=1e-12)
    np.testing.assert_array_equal(found.predicted, logits.argmax(axis=1))
    np.testing.assert_allclose(found.confidence, p.max(axis=1), atol=1e-12)
    np.testing.assert_allclose(
        found.squared_error, ((p - np.eye(classes)[targets]) ** 2).sum(axis=1), atol=1e-12
    )
    np.testing.assert_allclose(
        metrics.probabilities(logits, found, slice(0, classes)), p.T, atol=1e-12
    )


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(101, 7)).astype(np.float32)
    targets = rng.integers(0, 7, 101)
    whole = metrics.examine(logits, targets, threshold=None)
    monkeypatch.setattr(metrics, "CHUNK_ELEMENTS", 30)
    pieces = metrics.examine(logits, targets, threshold=None)
    for name in metrics.Examined.__slots__:
        np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name))


@pytest.mark.parametrize("seed", range(10))
def test_the_top_five_agree_with_scikit_learn_also_on_ties(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(60, 9)).astype(np.float32)
    logits = logits if seed % 2 else logits.round(0)
    targets = rng.integers(0, 9, 60)
    found = metrics.examine(logits, targets, threshold=None)
    assert found.in_top.mean() == pytest.approx(
        top_k_accuracy_score(targets, logits, k=5, labels=range(9)), abs=1e-12
    )


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.5, 0.99])
def test_one_output_is_the_logit_of_the_second_class(positive, threshold):
    rng = np.random.default_rng(3)
    logits = (rng.normal(size=(200, 1)) * 3).astype(np.float32)
    logits[0] = 0
    targets = rng.integers(0, 2, 200)
    found = metrics.examine(logits, targets, positive=positive, threshold=threshold)
    p = expit(logits[:, 0].astype(np.float64))
    chance = p if positive == 1 else 1 - p
    np.testing.assert_array_equal(found.predicted == positive, chance >= threshold)
    own = np.where(targets == 1, p, 1 - p)
    np.testing.assert_allclose(found.loss, -np.log(own), rtol=1e-9)
    np.testing.assert_allclose(found.squared_error, 2 * (1 - own) ** 2, atol=1e-12)


def test_logits_as_large_as_float32_allows_give_finite_losses():
    top = float(np.finfo(np.float32).max)
    logits = np.array([[top, -top], [top, -top]], dtype=np.float32)
    found = metrics.examine(logits, np.array([0, 1]), threshold=None)
    assert found.loss.tolist() == [0.0, 2 * top]
    single = metrics.examine(logits[:, :1], np.array([1, 0]), positive=1, threshold=0.5)
    assert single.loss.tolist() == [0.0, top]
    assert all(map(math.isfinite, found.squared_error))
