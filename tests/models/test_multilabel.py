"""Reports on indicator targets: against scikit-learn and torch, at the edges, and refused."""

from __future__ import annotations

import json
import tracemalloc

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binomtest, norm, sem
from sklearn import metrics as oracle
from torch import nn

from models import metrics, multilabel, sections, statistics
from models.evaluation import EvaluationError, evaluate, score
from models.spec import TASKS, DatasetSpec, EvaluationSpec, SpecError

AVERAGES = ("micro", "macro", "weighted")
NULL_SCORES = ("top_5_accuracy", "balanced_accuracy", "matthews_corrcoef")


def names(labels):
    return [f"label {index}" for index in range(labels)]


def judge(logits, targets, **options):
    settled = {"positive_class": None, "threshold": None, **options}
    return score(logits, targets, task="multilabel", classes=names(targets.shape[1]), **settled)


def ratios(targets, predicted, average):
    return oracle.precision_recall_fscore_support(
        targets, predicted, average=average, zero_division=0
    )


def drawn(seed, *, count, labels, share=0.4, spread=2.0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((count, labels)) < share).astype(np.uint8)
    logits = rng.normal(size=(count, labels)) * spread + (2.0 * targets - 1)
    return logits.astype(np.float32), targets


def per_example_loss(logits, targets):
    """PyTorch's, in float64, the mean over the labels."""
    z, y = torch.from_numpy(logits).double(), torch.from_numpy(targets).double()
    found = nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    return found.mean(dim=1).numpy()


def near(wanted):
    return pytest.approx(wanted, abs=1e-9)


def assert_agrees(report, logits, targets, *, threshold=0.5):
    """Every number of a report against scikit-learn and torch on SciPy's probabilities."""
    count, labels = targets.shape
    p = expit(logits.astype(np.float64))
    predicted = (p >= threshold).astype(np.uint8)
    assert report.predicted.dtype == np.uint8
    np.testing.assert_array_equal(report.predicted, predicted)
    assert (report.confidence.dtype, report.confidence.shape) == (np.float32, (count,))
    np.testing.assert_allclose(report.confidence, np.maximum(p, 1 - p).min(axis=1), rtol=1e-6)

    precision, recall, f1, _ = ratios(targets, predicted, "macro")
    right = (predicted == targets).all(axis=1)
    assert report.averaging == "macro"
    assert report.metrics == {
        "loss": near(per_example_loss(logits, targets).mean()),
        "accuracy": near(oracle.accuracy_score(targets, predicted)),
        "precision": near(precision),
        "recall": near(recall),
        "f1": near(f1),
    }
    for average in AVERAGES:
        wanted = ratios(targets, predicted, average)[:3]
        assert list(report.averages[average].values()) == near(list(wanted))
    columns = ratios(targets, predicted, None)
    assert report.per_class == [
        {
            "class": names(labels)[index],
            "precision": near(columns[0][index]),
            "recall": near(columns[1][index]),
            "f1": near(columns[2][index]),
            "support": int(columns[3][index]),
        }
        for index in range(labels)
    ]
    assert report.confusion_matrix is None
    assert not any("confusion_matrix" in text for text in report.warnings)

    scores, support = report.scores, targets.sum(axis=0)
    for name in NULL_SCORES:
        assert scores[name] is None
        assert any(name in text and "null" in text for text in report.warnings)
    assert scores["brier"] == near(oracle.mean_squared_error(targets, p))
    assert scores["expected_calibration_error"] == near(calibration_by_loops(p, targets))
    if support.all():
        assert scores["average_precision"] == near(oracle.average_precision_score(targets, p))
    else:
        assert scores["average_precision"] is None
    if support.all() and (support < count).all():
        assert scores["roc_auc"] == near(oracle.roc_auc_score(targets, p))
    else:
        assert scores["roc_auc"] is None
        constant = [n for n, s in zip(names(labels), support, strict=True) if s in (0, count)]
        reason = next(text for text in report.warnings if text.startswith("roc_auc"))
        assert any(name in reason for name in constant)

    wilson = binomtest(int(right.sum()), count).proportion_ci(0.95, method="wilson")
    assert report.intervals["accuracy"] == near([wilson.low, wilson.high])
    if count > 1:
        each = per_example_loss(logits, targets)
        wanted = norm.interval(0.95, loc=each.mean(), scale=sem(each)) if each.std() else None
        assert wanted is None or report.intervals["loss"] == near(list(wanted))
        for name in ("precision", "recall", "f1"):
            low, high = report.intervals[name]
            assert 0 <= low <= high <= 1
    assert json.loads(json.dumps(report.to_json(), allow_nan=False)) == report.to_json()


def calibration_by_loops(p, targets, bins=15):
    """Guo et al. 2017, equation 3, of every label's more probable value."""
    pairs = [
        (max(one, 1 - one), (one >= 0.5) == bool(true))
        for one, true in zip(p.ravel().tolist(), targets.ravel().tolist(), strict=True)
    ]
    total = 0.0
    for index in range(bins):
        inside = [pair for pair in pairs if index / bins < pair[0] <= (index + 1) / bins]
        total += abs(sum(confidence - right for confidence, right in inside))
    return total / len(pairs)


@pytest.mark.parametrize("seed", range(60))
def test_reports_agree_with_scikit_learn(seed):
    logits, targets = drawn(seed, count=20 + 5 * seed, labels=2 + seed % 9)
    threshold = (None, 0.5, 0.2, 0.9)[seed % 4]
    report = judge(logits, targets, threshold=threshold)
    assert_agrees(report, logits, targets, threshold=threshold or 0.5)


@pytest.mark.parametrize("seed", range(20))
def test_reports_with_absent_and_full_labels_and_empty_rows_agree_with_scikit_learn(seed):
    logits, targets = drawn(seed, count=40, labels=7, share=0.2)
    targets[:, seed % 3] = 0
    if seed % 2:
        targets[:, 4] = 1
        targets[:, seed % 3] = targets[:, 5]
    targets[::4, [0, 1, 2, 3, 5, 6]] = 0
    logits[:, 6] = -9
    assert_agrees(judge(logits, targets), logits, targets)


@pytest.mark.parametrize("seed", range(20))
def test_reports_on_tied_logits_and_ties_at_the_threshold_agree_with_scikit_learn(seed):
    logits, targets = drawn(seed, count=50, labels=2 + seed % 4, spread=1.0)
    logits = logits.round(0)
    assert (logits == 0).any()
    assert_agrees(judge(logits, targets), logits, targets)


def test_a_label_is_predicted_at_the_threshold_and_not_just_below_it():
    logits = np.array([[0.0, -1e-7, 1e-7]], dtype=np.float32)
    report = judge(logits, np.ones((1, 3), np.uint8), threshold=0.5)
    assert report.predicted.tolist() == [[1, 0, 1]]
    p = float(expit(np.float64(np.float32(0.75))))
    logits[:] = 0.75
    for threshold, wanted in ((p - 1e-12, 1), (p + 1e-12, 0)):
        report = judge(logits, np.ones((1, 3), np.uint8), threshold=threshold)
        assert report.predicted.tolist() == [[wanted] * 3]


@pytest.mark.parametrize("fill", [0, 1])
def test_targets_that_are_all_alike_agree_with_scikit_learn(fill):
    logits, targets = drawn(0, count=15, labels=3)
    targets[:] = fill
    assert_agrees(judge(logits, targets), logits, targets)
    assert_agrees(judge(np.full_like(logits, -3), targets), np.full_like(logits, -3), targets)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_one_label_is_judged_as_a_binary_task_with_one_output_is(seed, threshold):
    logits, targets = drawn(seed, count=60, labels=1)
    ours = judge(logits, targets, threshold=threshold)
    theirs = score(
        logits,
        targets[:, 0].astype(np.int64),
        task="binary",
        classes=["no", "yes"],
        positive_class="yes",
        threshold=threshold,
    )
    assert ours.metrics == theirs.metrics
    for average in AVERAGES:
        assert ours.averages[average] == near(
            {k: theirs.metrics[k] for k in ours.averages[average]}
        )
    for name in ("roc_auc", "average_precision"):
        assert ours.scores[name] == theirs.scores[name]
    assert ours.scores["brier"] == near(theirs.scores["brier"])
    if threshold is None:
        wanted = theirs.scores["expected_calibration_error"]
        assert ours.scores["expected_calibration_error"] == near(wanted)
        np.testing.assert_array_equal(ours.confidence, theirs.confidence)
    for name in ("loss", "accuracy"):
        assert ours.intervals[name] == theirs.intervals[name]
    assert ours.logits_sha256 == theirs.logits_sha256


@given(
    st.integers(1, 12).flatmap(
        lambda count: st.integers(2, 4).flatmap(
            lambda labels: st.tuples(
                arrays.arrays(np.uint8, (count, labels), elements=st.integers(0, 1)),
                arrays.arrays(
                    np.float32, (count, labels), elements=st.integers(-3, 3).map(np.float32)
                ),
                st.sampled_from([0.1, 0.5, 0.8]),
            )
        )
    )
)
@settings(max_examples=60, deadline=None)
def test_any_small_report_agrees_with_scikit_learn(drawing):
    targets, logits, threshold = drawing
    report = judge(logits, targets, threshold=threshold)
    assert_agrees(report, logits, targets, threshold=threshold)


def test_integers_of_either_width_are_taken_and_give_the_same_report():
    logits, targets = drawn(1, count=30, labels=4)
    assert judge(logits, targets).to_json() == judge(logits, targets.astype(np.int64)).to_json()


def test_chunks_change_nothing(monkeypatch):
    logits, targets = drawn(2, count=101, labels=5)
    whole = multilabel.examine(logits, targets, threshold=0.5)
    monkeypatch.setattr(metrics, "CHUNK_ELEMENTS", 33)
    pieces = multilabel.examine(logits, targets, threshold=0.5)
    for name in ("loss", "predicted", "confidence", "squared_error"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name))
    np.testing.assert_allclose(whole.calibration_gaps, pieces.calibration_gaps, atol=1e-12)


def test_logits_as_large_as_float32_allows_give_finite_numbers():
    top = float(np.finfo(np.float32).max)
    logits = np.array([[top, -top], [top, -top]], dtype=np.float32)
    targets = np.array([[1, 0], [0, 1]], dtype=np.uint8)
    found = multilabel.examine(logits, targets, threshold=0.5)
    assert found.loss.tolist() == [0.0, top]
    assert found.squared_error.tolist() == [0.0, 1.0]
    assert found.confidence.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("seed", range(10))
def test_groups_are_judged_as_scikit_learn_judges_their_examples_alone(seed):
    logits, targets = drawn(seed, count=60, labels=4)
    rng = np.random.default_rng(seed)
    groups = {
        "site": (rng.integers(0, 3, 60).astype(np.int32), ["a", "b", "c", "never"]),
        "id": (np.arange(60, dtype=np.int32) // 2, [str(index) for index in range(30)]),
    }
    report = judge(logits, targets, groups=groups)
    predicted, loss = (logits >= 0).astype(np.uint8), per_example_loss(logits, targets)
    expected = [
        (group, value, codes == index)
        for group, (codes, values) in groups.items()
        for index, value in enumerate(values)
        if (codes == index).any()
    ]
    assert len(report.per_group) == len(expected) == 33
    for entry, (group, value, mask) in zip(report.per_group, expected, strict=True):
        precision, recall, f1, _ = ratios(targets[mask], predicted[mask], "macro")
        assert entry == {
            "group": group,
            "value": value,
            "examples": int(mask.sum()),
            "loss": near(loss[mask].mean()),
            "accuracy": near(oracle.accuracy_score(targets[mask], predicted[mask])),
            "precision": near(precision),
            "recall": near(recall),
            "f1": near(f1),
        }


def test_empty_divisions_in_groups_name_metric_and_values():
    targets = np.array([[1, 1], [1, 0], [1, 1], [1, 1]], dtype=np.uint8)
    logits = np.where([[1, 1], [1, 1], [1, 0], [1, 0]], 1.0, -1.0).astype(np.float32)
    groups = {"site": (np.array([0, 0, 1, 1]), ["north", "south"])}
    told = [text for text in judge(logits, targets, groups=groups).warnings if " by site " in text]
    assert told == ["precision by site counts an empty division as 0 for south"]


def test_each_empty_division_is_a_warning_that_names_metric_and_labels():
    targets = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=np.uint8)
    logits = np.where([[1, 0, 1, 0], [1, 0, 1, 0]], 1.0, -1.0).astype(np.float32)
    told = [text for text in judge(logits, targets).warnings if "empty division" in text]
    assert told == [
        "precision: an empty division counts as 0 for label 1 (never predicted)",
        "recall: an empty division counts as 0 for label 2 (predicted but without examples)",
        "precision, recall and f1: an empty division counts as 0 for label 3 (without examples "
        "or predictions)",
    ]


def test_areas_that_cost_too_much_are_null_with_the_reason(monkeypatch):
    logits, targets = drawn(0, count=30, labels=4)
    monkeypatch.setattr(sections, "MAX_RANKED_ELEMENTS", 119)
    report = judge(logits, targets)
    assert report.scores["roc_auc"] is report.scores["average_precision"] is None
    assert any("30 examples of 4 classes are more than 119" in text for text in report.warnings)


# Intervals


def bootstrap(logits, targets, *, resamples, level):
    """Of scikit-learn's macro ratios, resampling examples one by one."""
    predicted, rng = (logits >= 0).astype(np.uint8), np.random.default_rng(9)
    each = []
    for _ in range(resamples):
        taken = rng.integers(0, len(targets), len(targets))
        each.append(ratios(targets[taken], predicted[taken], "macro")[:3])
    tail = 50 * (1 - level)
    return np.percentile(each, [tail, 100 - tail], axis=0).T


@pytest.mark.parametrize(("count", "labels"), [(80, 6), (400, 2)])
def test_both_ways_of_drawing_agree_with_a_bootstrap_of_the_examples(count, labels):
    logits, targets = drawn(3, count=count, labels=labels)
    rows, _ = statistics.distinct_rows((logits >= 0).astype(np.uint8), targets)
    assert (count > statistics.EXAMPLES_PER_CELL * len(rows)) == (count == 400)
    found = judge(logits, targets, level=0.9).intervals
    wanted = bootstrap(logits, targets, resamples=1000, level=0.9)
    # the ends of a percentile interval from 1,000 draws vary by about a hundredth here
    np.testing.assert_allclose(
        [found[name] for name in ("precision", "recall", "f1")], wanted, atol=0.02
    )


@pytest.mark.parametrize("count", [60, 900])
def test_resampling_rows_is_resampling_examples_one_by_one(count):
    logits, targets = drawn(count, count=count, labels=3)
    targets[:, 2], logits[:, 2] = 0, -1
    targets[0, 2] = 1  # so that a label is absent from many resamples
    predicted = (logits >= 0).astype(np.uint8)
    rows, row_counts = statistics.distinct_rows(predicted, targets)
    assert count > statistics.EXAMPLES_PER_CELL * len(rows) or count == 60
    found = statistics.resampled_label_ratios(
        predicted,
        targets,
        rows=rows,
        row_counts=row_counts,
        level=0.8,
        resamples=40,
        seed=5,
    )
    random, each = np.random.RandomState(5), []
    for _ in range(40):
        if count > statistics.EXAMPLES_PER_CELL * len(rows):
            taken = np.repeat(rows, random.multinomial(count, row_counts / count))
        else:
            bits = random.randint(0, 2**32, size=count, dtype=np.uint32)
            taken = np.repeat(rows, row_counts)[[int(one) * count >> 32 for one in bits]]
        each.append(ratios(targets[taken], predicted[taken], "macro")[:3])
    wanted = np.percentile(each, [10, 90], axis=0).T
    np.testing.assert_allclose(
        [found[name] for name in ("precision", "recall", "f1")], wanted, atol=1e-12
    )


@pytest.mark.parametrize("labels", [1, 3, 8, 9, 33, 70])
def test_distinct_rows_are_those_of_numpys_unique(labels):
    rng = np.random.default_rng(labels)
    base = np.tile(rng.integers(0, 2, 2 * labels).astype(np.uint8), (9, 1))
    base[np.arange(9), np.linspace(0, 2 * labels - 1, 9).astype(int)] ^= 1  # one bit apart
    both = base[rng.integers(0, 9, 200)]
    predicted, targets = np.ascontiguousarray(both[:, :labels]), both[:, labels:]
    rows, row_counts = statistics.distinct_rows(predicted, targets)
    wanted, wanted_counts = np.unique(both, axis=0, return_counts=True)
    ours = sorted(zip(both[rows].tolist(), row_counts.tolist(), strict=True))
    assert ours == sorted(zip(wanted.tolist(), wanted_counts.tolist(), strict=True))


def test_equal_inputs_give_equal_intervals_and_blocks_change_nothing(monkeypatch):
    logits, targets = drawn(5, count=300, labels=6)
    whole = judge(logits, targets)
    assert judge(logits.copy(), targets.copy()).to_json() == whole.to_json()
    monkeypatch.setattr(statistics, "BLOCK_ELEMENTS", 2000)
    monkeypatch.setattr(statistics, "CHUNK_ELEMENTS", 5000)
    assert judge(logits, targets).intervals == whole.intervals


def test_counts_beyond_the_whole_numbers_of_float32_are_summed_exactly():
    predicted = np.array([[1, 0], [1, 1], [0, 1]], dtype=np.uint8)
    targets = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.uint8)
    row_counts = np.array([2**25 + 1, 3, 5])
    found = statistics.resampled_label_ratios(
        predicted,
        targets,
        rows=np.arange(3),
        row_counts=row_counts,
        level=0.5,
        resamples=1,
        seed=3,
    )
    drawn_counts = np.random.RandomState(3).multinomial(2**25 + 9, row_counts / (2**25 + 9))
    a, b, c = (int(one) for one in drawn_counts)
    assert found["precision"][0] == (a / (a + b) + 1.0) / 2
    assert found["recall"][0] == (a / (a + c) + 1.0) / 2


def test_intervals_that_cost_too_much_are_null_with_the_reason(monkeypatch):
    logits, targets = drawn(6, count=200, labels=8)
    rows, row_counts = statistics.distinct_rows((logits >= 0).astype(np.uint8), targets)
    cost = statistics.label_cost(row_counts, 8)
    assert cost == 200 + len(rows) * 8 // 50
    monkeypatch.setattr(statistics, "MAX_RESAMPLED_COST", cost)
    assert judge(logits, targets).intervals["f1"]
    monkeypatch.setattr(statistics, "MAX_RESAMPLED_COST", cost - 1)
    report = judge(logits, targets)
    assert [report.intervals[name] for name in ("precision", "recall", "f1")] == [None] * 3
    assert report.intervals["loss"]
    assert report.intervals["accuracy"]
    reason = next(text for text in report.warnings if text.startswith("the intervals of"))
    assert f"200 examples, of which {len(rows)} differ" in reason


def test_a_perfect_network_says_that_its_intervals_have_no_width():
    _, targets = drawn(7, count=40, labels=3)
    report = judge(np.where(targets, 9, -9).astype(np.float32), targets)
    assert report.intervals["f1"] == [1.0, 1.0]
    assert any("have no width" in text for text in report.warnings)


def test_one_example_is_enough():
    report = judge(np.array([[2.0, -1.0]], np.float32), np.array([[1, 0]], np.uint8))
    assert report.metrics["accuracy"] == 1.0
    assert report.metrics["loss"] == near((np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2)
    assert [report.intervals[name] for name in ("loss", "precision", "recall", "f1")] == [None] * 4
    assert any("they need 2 examples" in text for text in report.warnings)


def test_scoring_needs_little_memory_beside_the_logits():
    logits, targets = drawn(0, count=40_000, labels=200)
    groups = {"site": (np.zeros(40_000, np.int32), ["only"])}
    tracemalloc.start()
    try:
        judge(logits, targets, groups=groups)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert logits.nbytes == 32_000_000
    assert peak < 32_000_000, "float64 copies of all logits would take 64 MB each"


# A network


class Echo(nn.Module):
    """Gives back its input as logits."""

    def forward(self, x):
        return x


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_a_network_is_judged_as_its_logits_are_whatever_the_batch_size(batch_size):
    logits, targets = drawn(8, count=50, labels=3)
    report = evaluate(
        Echo().eval(),
        torch.from_numpy(logits).split(batch_size),
        targets,
        task="multilabel",
        classes=names(3),
        positive_class=None,
        threshold=0.4,
    )
    assert report.to_json() == judge(logits, targets, threshold=0.4).to_json()
    np.testing.assert_array_equal(report.logits, logits)


# Refusals


def refused(match, reason):
    return pytest.raises(EvaluationError, match=match, check=lambda error: error.reason == reason)


def test_logits_of_another_width_are_refused_with_both_sides():
    with refused(r"shape \[4, 2\].*multilabel task with 3 classes give \[4, 3\]", "wrong_logits"):
        judge(np.zeros((4, 2), np.float32), np.zeros((4, 3), np.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_name_the_first_example(value):
    logits, targets = drawn(0, count=9, labels=3)
    logits[5, 1] = logits[7, 0] = value
    with refused(r"example 5 \(counted from 0\) is not finite", "non_finite_logits"):
        judge(logits, targets)


@pytest.mark.parametrize(
    ("targets", "match", "reason"),
    [
        (np.array([[0, 1], [2, 0]]), r"targets must lie in 0\.\.1, got 0\.\.2", "bad_request"),
        (np.array([[0, -1], [1, 0]]), r"got -1\.\.1", "bad_request"),
        (np.array([[0, 1.0], [1, 0]]), r"integers of shape \[2, 2\].*got float64", "bad_request"),
        (np.array([0, 1]), r"got int64 of shape \[2\]", "bad_request"),
        (np.zeros((2, 3), np.uint8), r"got uint8 of shape \[2, 3\]", "bad_request"),
        (np.zeros((3, 2), np.uint8), "3 targets for 2 examples", "wrong_count"),
    ],
)
def test_targets_that_are_no_indicators_are_refused(targets, match, reason):
    with refused(match, reason):
        score(
            np.zeros((2, 2), np.float32),
            targets,
            task="multilabel",
            classes=names(2),
            positive_class=None,
            threshold=None,
        )


def test_no_example_and_no_label_are_refused():
    with refused("at least 1 is needed", "wrong_count"):
        judge(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.uint8))
    with refused("at least one class", "bad_request"):
        judge(np.zeros((2, 0), np.float32), np.zeros((2, 0), np.uint8))


def test_a_positive_class_belongs_to_binary_tasks_only():
    with refused("positive_class belongs to task 'binary', not to 'multilabel'", "bad_request"):
        judge(np.zeros((2, 2), np.float32), np.zeros((2, 2), np.uint8), positive_class="label 1")


def test_group_codes_are_checked():
    with refused(r"group 'site' must lie in 0\.\.0", "bad_request"):
        judge(
            np.zeros((2, 2), np.float32),
            np.zeros((2, 2), np.uint8),
            groups={"site": (np.array([0, 1]), ["a"])},
        )


# Specs


def test_a_multilabel_dataset_may_have_one_class_and_no_positive_one():
    terms = {"name": "tags", "split": "validation"}
    spec = DatasetSpec(**terms, task="multilabel", classes=("smiling",))
    assert DatasetSpec.from_json(spec.to_json()) == spec
    with pytest.raises(SpecError, match="at least 1 classes, got 0"):
        DatasetSpec(**terms, task="multilabel", classes=())
    for task in set(TASKS) - {"multilabel"}:
        with pytest.raises(SpecError, match="at least 2 classes, got 1"):
            DatasetSpec(**terms, task=task, classes=("smiling",))
    with pytest.raises(SpecError, match="positive_class belongs to task 'binary' only"):
        DatasetSpec(**terms, task="multilabel", positive_class="smiling")
    assert EvaluationSpec(checkpoint="0" * 64, dataset="tags", threshold=0.3).threshold == 0.3
