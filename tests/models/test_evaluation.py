"""Whole evaluations: against scikit-learn, at the edges, and refused."""

from __future__ import annotations

import hashlib
import json
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax
from sklearn import metrics as oracle
from torch import nn

from models import runtime, scoring, sections
from models.architectures.convnet import ConvNet
from models.architectures.mlp import MLP
from models.evaluation import EvaluationError, evaluate, score
from models.layouts.convnet import ConvNetParameters
from models.layouts.mlp import MLPParameters

AVERAGES = ("micro", "macro", "weighted")


def names(classes):
    return [f"class {index}" for index in range(classes)]


def judge(logits, targets, classes, **options):
    settings = {"task": "multiclass", "positive_class": None, "threshold": None, **options}
    return score(logits, targets, classes=names(classes), **settings)


def ratios(targets, predicted, **options):
    return oracle.precision_recall_fscore_support(targets, predicted, zero_division=0, **options)


def assert_plain_json(value):
    """Nothing but JSON's own types, so that any encoder takes it, and no NaN."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) is str
            assert_plain_json(item)
    elif isinstance(value, list):
        for item in value:
            assert_plain_json(item)
    else:
        assert type(value) in (str, int, float, type(None)), type(value)


def assert_agrees(report, logits, targets, classes, *, positive=None, threshold=None):
    """Every number of a report against scikit-learn on SciPy's probabilities."""
    near = lambda wanted: pytest.approx(wanted, abs=1e-9)  # noqa: E731
    wide = logits.astype(np.float64)
    if logits.shape[1] == 1:
        p = np.concatenate([expit(-wide), expit(wide)], axis=1)
        loss = -np.log(p[np.arange(len(p)), targets])
        threshold = 0.5 if threshold is None else threshold
    else:
        p = softmax(wide, axis=1)
        loss = -log_softmax(wide, axis=1)[np.arange(len(p)), targets]
    predicted = p.argmax(axis=1)
    if threshold is not None:
        predicted = np.where(p[:, positive] >= threshold, positive, 1 - positive)
    np.testing.assert_array_equal(report.predicted, predicted)
    np.testing.assert_allclose(report.confidence, p[np.arange(len(p)), predicted], rtol=1e-6)

    judged = (
        {"average": "macro"}
        if positive is None
        else {
            "average": "binary",
            "pos_label": positive,
        }
    )
    if positive is not None and positive not in [*targets, *predicted]:
        precision, recall, f1 = 0.0, 0.0, 0.0  # scikit-learn refuses the label
    else:
        precision, recall, f1, _ = ratios(targets, predicted, **judged)
    assert report.averaging == judged["average"]
    assert report.metrics == {
        "loss": near(loss.mean()),
        "accuracy": near(oracle.accuracy_score(targets, predicted)),
        "precision": near(precision),
        "recall": near(recall),
        "f1": near(f1),
    }
    for average in AVERAGES:
        wanted = ratios(targets, predicted, average=average)[:3]
        assert list(report.averages[average].values()) == near(list(wanted))
    columns = ratios(targets, predicted, average=None, labels=range(classes))
    for index, entry in enumerate(report.per_class):
        assert entry == {
            "class": names(classes)[index],
            "precision": near(columns[0][index]),
            "recall": near(columns[1][index]),
            "f1": near(columns[2][index]),
            "support": int(columns[3][index]),
        }
    assert (
        report.confusion_matrix
        == oracle.confusion_matrix(targets, predicted, labels=range(classes)).tolist()
    )

    scores, present = report.scores, np.unique(targets)
    recalls = ratios(targets, predicted, average=None, labels=present)[1]
    assert scores["balanced_accuracy"] == near(recalls.mean())
    if len(np.unique([*targets, *predicted])) > 1:
        assert scores["matthews_corrcoef"] == near(oracle.matthews_corrcoef(targets, predicted))
    else:
        assert scores["matthews_corrcoef"] == 0.0
    onehot = np.eye(classes)[targets]
    if positive is None:
        assert scores["brier"] == near(oracle.brier_score_loss(targets, p, labels=range(classes)))
        defined, wanted_score = len(present) == classes, (onehot, p)
    else:
        assert scores["brier"] == near(
            oracle.brier_score_loss(targets == positive, p[:, positive], pos_label=True)
        )
        defined, wanted_score = positive in present, (onehot[:, positive], p[:, positive])
    if defined:
        assert scores["average_precision"] == near(oracle.average_precision_score(*wanted_score))
    else:
        assert scores["average_precision"] is None
    if defined and len(present) > 1:
        assert scores["roc_auc"] == near(oracle.roc_auc_score(*wanted_score))
    else:
        assert scores["roc_auc"] is None
        assert any(text.startswith("roc_auc") for text in report.warnings)
    if classes > 5:
        assert scores["top_5_accuracy"] == near(
            oracle.top_k_accuracy_score(targets, logits, k=5, labels=range(classes))
        )
    else:
        assert scores["top_5_accuracy"] is None
        assert any(text.startswith("top_5_accuracy is null") for text in report.warnings)
    assert 0 <= scores["expected_calibration_error"] <= 1

    for metric in ("accuracy", "precision", "recall", "f1"):
        low, high = report.intervals[metric]
        assert 0 <= low <= high <= 1
    assert_plain_json(report.to_json())
    json.dumps(report.to_json(), allow_nan=False)


def drawn(seed, *, count, classes, outputs=None, spread=2.0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, outputs or classes)) * spread
    if outputs == 1:
        logits[:, 0] += 2 * targets - 1
    else:
        logits[np.arange(count), targets] += spread
    return logits.astype(np.float32), targets


@pytest.mark.parametrize("seed", range(50))
def test_multiclass_reports_agree_with_scikit_learn(seed):
    classes = 2 + seed % 9
    logits, targets = drawn(seed, count=20 + 7 * seed, classes=classes)
    assert_agrees(judge(logits, targets, classes), logits, targets, classes)


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("outputs", [1, 2])
def test_binary_reports_agree_with_scikit_learn(seed, outputs):
    logits, targets = drawn(seed, count=10 + 3 * seed, classes=2, outputs=outputs)
    positive, threshold = seed % 2, (None, 0.5, 0.2, 0.9)[seed // 2 % 4]
    report = judge(
        logits,
        targets,
        2,
        task="binary",
        positive_class=names(2)[positive],
        threshold=threshold,
    )
    assert_agrees(report, logits, targets, 2, positive=positive, threshold=threshold)


def test_the_positive_class_is_the_second_unless_another_is_named():
    logits, targets = drawn(0, count=40, classes=2, outputs=2)
    report = judge(logits, targets, 2, task="binary")
    assert_agrees(report, logits, targets, 2, positive=1)
    first = judge(logits, targets, 2, task="binary", positive_class="class 0")
    assert first.metrics["recall"] != report.metrics["recall"]


@pytest.mark.parametrize("seed", range(20))
def test_reports_with_classes_that_do_not_occur_agree_with_scikit_learn(seed):
    logits, targets = drawn(seed, count=30, classes=8)
    targets = targets % 5 + seed % 3
    report = judge(logits, targets, 8)
    assert_agrees(report, logits, targets, 8)
    absent = sorted(set(range(8)) - set(targets.tolist()))
    reason = next(text for text in report.warnings if text.startswith("roc_auc"))
    assert all(f"class {index}" in reason for index in absent)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("only", [0, 1])
def test_reports_on_one_class_only_agree_with_scikit_learn(seed, only):
    logits, _ = drawn(seed, count=12, classes=2, outputs=1 + seed % 2)
    targets = np.full(12, only)
    report = judge(logits, targets, 2, task="binary", positive_class="class 1")
    assert_agrees(report, logits, targets, 2, positive=1)
    logits, _ = drawn(seed, count=12, classes=4)
    assert_agrees(judge(logits, targets, 4), logits, targets, 4)


@pytest.mark.parametrize("seed", range(20))
def test_reports_on_tied_logits_agree_with_scikit_learn(seed):
    classes = 2 + seed % 6
    logits, targets = drawn(seed, count=50, classes=classes, spread=1.0)
    logits = logits.round(0)
    assert_agrees(judge(logits, targets, classes), logits, targets, classes)
    single, targets = drawn(seed, count=50, classes=2, outputs=1, spread=1.0)
    report = judge(single.round(0), targets, 2, task="binary", positive_class="class 0")
    assert_agrees(report, single.round(0), targets, 2, positive=0)


def test_a_constant_network_is_judged_as_scikit_learn_does():
    logits, targets = np.zeros((40, 7), dtype=np.float32), np.arange(40) % 7
    assert_agrees(judge(logits, targets, 7), logits, targets, 7)


def test_a_report_on_a_thousand_classes_agrees_with_scikit_learn():
    logits, targets = drawn(0, count=1500, classes=1000, spread=3.0)
    targets[:1000] = np.arange(1000)
    assert_agrees(judge(logits, targets, 1000), logits, targets, 1000)


def test_a_report_on_a_perfect_network_says_that_its_intervals_have_no_width():
    targets = np.arange(60) % 3
    logits = np.where(np.eye(3)[targets] == 1, 9, -9).astype(np.float32)
    report = judge(logits, targets, 3)
    assert_agrees(report, logits, targets, 3)
    assert report.intervals["f1"] == [1.0, 1.0]
    assert report.intervals["accuracy"][0] < 0.95
    assert any("have no width" in text for text in report.warnings)


def test_one_example_is_enough():
    logits = np.array([[0.0, 1.0, -1.0]], dtype=np.float32)
    report = judge(logits, np.array([1]), 3)
    assert report.metrics == {
        "loss": pytest.approx(float(np.log(1 + np.exp(-1) + np.exp(-2)))),
        "accuracy": 1.0,
        "precision": 1.0,
        "recall": 1.0,
        "f1": 1.0,
    }
    assert report.intervals["accuracy"] == [pytest.approx(0.20654931), 1.0]
    assert [report.intervals[name] for name in ("loss", "precision", "recall", "f1")] == [None] * 4
    assert any("intervals of loss" in text and "2 examples" in text for text in report.warnings)
    json.dumps(report.to_json(), allow_nan=False)


def test_each_empty_division_is_a_warning_that_names_metric_and_classes():
    targets = np.array([0, 0, 1, 1])
    logits = np.eye(4, dtype=np.float32)[[0, 0, 2, 2]]
    report = judge(logits, targets, 4)
    told = [text for text in report.warnings if "empty division" in text]
    assert [text.split(":")[0] for text in told] == [
        "precision",
        "recall",
        "precision, recall and f1",
    ]
    for text, name in zip(told, ("class 1", "class 2", "class 3"), strict=True):
        assert [other for other in names(4) if other in text] == [name]


def test_a_warning_names_at_most_twenty_classes():
    report = judge(np.zeros((2, 300), dtype=np.float32), np.array([0, 1]), 300)
    assert any("and 278 more" in text for text in report.warnings)
    assert all(len(text) < 500 for text in report.warnings)


def test_scores_that_cost_too_much_are_null_with_the_reason(monkeypatch):
    logits, targets = drawn(0, count=30, classes=4)
    monkeypatch.setattr(sections, "MAX_RANKED_ELEMENTS", 119)
    monkeypatch.setattr(scoring, "MAX_MATRIX_CLASSES", 3)
    report = judge(logits, targets, 4)
    assert report.scores["roc_auc"] is report.scores["average_precision"] is None
    assert report.confusion_matrix is None
    assert any("30 examples of 4 classes are more than 119" in text for text in report.warnings)
    assert any(text.startswith("confusion_matrix is null") for text in report.warnings)


@pytest.mark.parametrize("positive", [None, 0, 1])
@pytest.mark.parametrize("seed", range(10))
def test_groups_are_judged_as_scikit_learn_judges_their_examples_alone(seed, positive):
    classes = 5 if positive is None else 2
    logits, targets = drawn(seed, count=60, classes=classes)
    rng = np.random.default_rng(seed)
    groups = {
        "site": (rng.integers(0, 3, 60).astype(np.int32), ["a", "b", "c", "never"]),
        "id": (np.arange(60, dtype=np.int32) // 2, [str(index) for index in range(30)]),
    }
    options = (
        {}
        if positive is None
        else {
            "task": "binary",
            "positive_class": names(2)[positive],
        }
    )
    report = judge(logits, targets, classes, groups=groups, **options)
    predicted = logits.argmax(axis=1)
    loss = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(60), targets]
    expected = [
        (group, value, codes == index)
        for group, (codes, values) in groups.items()
        for index, value in enumerate(values)
        if (codes == index).any()
    ]
    assert len(report.per_group) == len(expected) == 33
    for entry, (group, value, mask) in zip(report.per_group, expected, strict=True):
        if positive is None:
            wanted = ratios(targets[mask], predicted[mask], average="macro")[:3]
        else:
            columns = ratios(targets[mask], predicted[mask], average=None, labels=[0, 1])[:3]
            wanted = [column[positive] for column in columns]
        near = [pytest.approx(one, abs=1e-9) for one in wanted]
        assert entry == {
            "group": group,
            "value": value,
            "examples": int(mask.sum()),
            "loss": pytest.approx(loss[mask].mean(), abs=1e-9),
            "accuracy": pytest.approx((targets == predicted)[mask].mean(), abs=1e-9),
            "precision": near[0],
            "recall": near[1],
            "f1": near[2],
        }
    assert_plain_json(report.to_json())


def test_empty_divisions_in_groups_name_metric_and_values():
    logits = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=np.float32)
    groups = {"site": (np.array([0, 0, 1, 1]), ["north", "south"])}
    report = judge(
        logits, np.array([0, 1, 0, 0]), 2, task="binary", positive_class="class 1", groups=groups
    )
    told = [text for text in report.warnings if " by site " in text]
    assert told == [
        "precision by site counts an empty division as 0 for north",
        "recall by site counts an empty division as 0 for south",
    ]


def test_equal_logits_give_an_equal_report():
    logits, targets = drawn(4, count=90, classes=6)
    first, again = judge(logits, targets, 6), judge(logits.copy(), targets, 6)
    assert first.to_json() == again.to_json()
    assert first.logits_sha256 == hashlib.sha256(logits.tobytes()).hexdigest()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("task", "classes", "outputs"),
    [("multiclass", 7, 7), ("binary", 2, 2), ("binary", 2, 1), ("multilabel", 4, 4)],
)
def test_metrics_alone_are_those_of_the_whole_report_to_the_last_bit(seed, task, classes, outputs):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(130, outputs)).astype(np.float32)
    targets = random.integers(0, classes, 130)
    if task == "multilabel":
        targets = random.integers(0, 2, (130, classes))
    for threshold in (None, 0.3) if task != "multiclass" else (None,):
        options = {"task": task, "threshold": threshold}
        whole = judge(logits, targets, classes, **options)
        alone = judge(logits, targets, classes, metrics_only=True, **options)
        assert alone.metrics == whole.metrics
        assert alone.averaging == whole.averaging
        np.testing.assert_array_equal(alone.predicted, whole.predicted)
        assert (alone.warnings, alone.scores, alone.per_class) == ([], {}, [])


def test_the_level_is_that_of_every_interval():
    logits, targets = drawn(4, count=90, classes=3)
    wide, narrow = judge(logits, targets, 3, level=0.99), judge(logits, targets, 3, level=0.5)
    assert (wide.level, narrow.level) == (0.99, 0.5)
    for name, (low, high) in wide.intervals.items():
        assert low < narrow.intervals[name][0] < narrow.intervals[name][1] < high


def test_scoring_needs_little_memory_beside_the_logits():
    logits, targets = drawn(0, count=40_000, classes=200)
    tracemalloc.start()
    try:
        judge(logits, targets, 200)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert logits.nbytes == 32_000_000
    assert peak < 32_000_000, "float64 copies of all logits would take 64 MB each"


class Recorder(nn.Module):
    """Gives back its input as logits and remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.seen = []
        self.eval()

    def forward(self, x):
        assert torch.is_inference_mode_enabled()
        self.seen += x[:, 0].tolist()
        return self.dropout(x)


def run(model, x, targets, *, batch_size=16, classes=3, **options):
    settings = {"task": "multiclass", "positive_class": None, "threshold": None, **options}
    return evaluate(model, x.split(batch_size), targets, classes=names(classes), **settings)


def test_every_example_is_seen_once_and_in_order():
    logits, targets = drawn(0, count=50, classes=3)
    model, done = Recorder(), []
    report = run(model, torch.from_numpy(logits), targets, progress=done.append)
    assert model.seen == logits[:, 0].tolist()
    assert done == [16, 32, 48, 50]
    np.testing.assert_array_equal(report.logits, logits)
    assert report.logits.dtype == np.float32
    assert report.confidence.dtype == np.float32
    assert report.predicted.dtype == np.int64
    assert report.forward_s > 0
    assert report.metrics_s > 0


@pytest.mark.parametrize("batch_size", [1, 7, 32, 50])
def test_the_loss_of_equal_logits_is_the_same_number_for_every_batch_size(batch_size):
    logits, targets = drawn(1, count=50, classes=3)
    whole = score(
        logits,
        targets,
        task="multiclass",
        classes=names(3),
        positive_class=None,
        threshold=None,
    )
    report = run(Recorder(), torch.from_numpy(logits), targets, batch_size=batch_size)
    assert report.metrics["loss"] == whole.metrics["loss"]
    assert report.to_json() == whole.to_json()


def test_half_and_double_precision_outputs_are_taken_as_float32():
    logits, targets = drawn(2, count=20, classes=3)
    for dtype in (torch.float64, torch.bfloat16):
        report = run(Recorder(), torch.from_numpy(logits).to(dtype), targets)
        np.testing.assert_array_equal(
            report.logits, torch.from_numpy(logits).to(dtype).float().numpy()
        )


def networks():
    torch.manual_seed(0)
    mlp = MLP(MLPParameters(hidden=(32, 16), batch_norm=True, dropout=0.5), (20,), 3)
    convnet = ConvNet(ConvNetParameters(widths=(8, 8), dropout=0.5), (1, 9, 9), 3)
    return [(mlp.eval(), torch.randn(100, 20)), (convnet.eval(), torch.randn(100, 1, 9, 9))]


@pytest.mark.parametrize("index", [0, 1])
def test_two_evaluations_give_the_same_logits_also_after_another_network(index):
    model, x = networks()[index]
    other, y = networks()[1 - index]
    targets = np.arange(100) % 3
    first = run(model, x, targets).logits_sha256
    run(other, y, targets)
    assert run(model, x, targets).logits_sha256 == first


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.usefixtures("numerics")
def test_a_cuda_device_gives_the_same_logits_twice_and_nearly_those_of_the_cpu(index):
    model, x = networks()[index]
    targets = np.arange(100) % 3
    on_cpu = run(model, x, targets)
    runtime.configure("cuda:0", threads=2)
    model.cuda()
    first, again = (run(model, x.cuda(), targets) for _ in range(2))
    assert first.logits_sha256 == again.logits_sha256
    np.testing.assert_allclose(first.logits, on_cpu.logits, rtol=1e-4, atol=1e-5)
    assert first.metrics["loss"] == pytest.approx(on_cpu.metrics["loss"], rel=1e-5)


def refused(match, reason):
    return pytest.raises(EvaluationError, match=match, check=lambda error: error.reason == reason)


def test_a_network_with_one_module_in_training_mode_is_refused():
    model = Recorder()
    model.dropout.train()
    with refused("dropout is in training mode", "in_training_mode"):
        run(model, torch.zeros(4, 3), np.zeros(4, np.int64))
    assert model.seen == []


@pytest.mark.parametrize("count", [3, 5])
def test_more_or_fewer_examples_than_targets_are_refused(count):
    with refused("4 targets", "wrong_count"):
        run(Recorder(), torch.zeros(count, 3), np.zeros(4, np.int64), batch_size=2)


def test_no_example_at_all_is_refused():
    with refused("at least 1", "wrong_count"):
        judge(np.zeros((0, 3), np.float32), np.zeros(0, np.int64), 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_name_the_first_example(value):
    x = torch.zeros(50, 3)
    x[37, 1] = value
    x[41, 0] = value
    with refused(r"example 37 \(counted from 0\) is not finite", "non_finite_logits"):
        run(Recorder(), x, np.zeros(50, np.int64))


def test_logits_that_are_scored_by_themselves_are_checked_too():
    logits = np.zeros((5, 3), np.float32)
    logits[3, :2] = np.inf, -np.inf
    with refused("example 3 ", "non_finite_logits"):
        judge(logits, np.zeros(5, np.int64), 3)
    logits[3] = np.finfo(np.float32).max
    assert judge(logits, np.zeros(5, np.int64), 3).metrics["accuracy"] == 1.0


def test_a_double_that_overflows_float32_is_not_finite():
    with refused("example 1 ", "non_finite_logits"):
        run(Recorder(), torch.tensor([[0.0] * 3, [1e300] * 3]).double(), np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("shape", "options", "both_sides"),
    [
        ((4, 2), {}, r"shape \[4, 2\].*give \[4, 3\]"),
        ((4, 3, 1), {}, r"shape \[4, 3, 1\].*give \[4, 3\]"),
        ((4, 3), {"task": "binary", "classes": 2}, r"shape \[4, 3\].*give \[4, 1 or 2\]"),
        ((4, 1), {"classes": 2}, r"shape \[4, 1\].*give \[4, 2\]"),
    ],
)
def test_logits_of_the_wrong_shape_are_refused_with_both_sides(shape, options, both_sides):
    with refused(both_sides, "wrong_logits"):
        run(Recorder(), torch.zeros(shape), np.zeros(4, np.int64), **options)


class Wayward(Recorder):
    """Gives whatever it is told to, one answer a batch."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = list(answers)

    def forward(self, x):
        return self.answers.pop(0)


def test_an_output_that_is_no_tensor_of_logits_is_refused():
    targets = np.zeros(4, np.int64)
    for answer, match in (((torch.zeros(4, 3),), "got tuple"), (torch.zeros(4, 3).int(), "int32")):
        with refused(match, "wrong_logits"):
            run(Wayward(answer), torch.zeros(4, 3), targets)
    with refused(r"shape \[3, 3\].*give \[4, 3\]", "wrong_logits"):
        run(Wayward(torch.zeros(3, 3)), torch.zeros(4, 3), targets)
    answers = torch.zeros(2, 2), torch.zeros(2, 1)
    with refused("gave 1 outputs after 2", "wrong_logits"):
        run(Wayward(*answers), torch.zeros(4, 3), targets, task="binary", classes=2, batch_size=2)


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        (np.array([0, 1, 3, 0]), r"targets must lie in 0\.\.2, got 0\.\.3"),
        (np.array([0, -1, 1, 0]), r"got -1\.\.1"),
        (np.array([0.0, 1, 1, 0]), "integers, got float64"),
        (np.zeros((4, 1), np.int64), r"shape \[4, 1\]"),
    ],
)
def test_targets_that_are_no_class_indices_are_refused(targets, match):
    with refused(match, "bad_request"):
        judge(np.zeros((4, 3), np.float32), targets, 3)


def test_group_codes_are_checked():
    logits, targets = np.zeros((4, 3), np.float32), np.zeros(4, np.int64)
    with refused(r"group 'site' must lie in 0\.\.1", "bad_request"):
        judge(logits, targets, 3, groups={"site": (np.array([0, 1, 2, 0]), ["a", "b"])})
    with refused("3 codes of group 'site' for 4 examples", "wrong_count"):
        judge(logits, targets, 3, groups={"site": (np.array([0, 1, 0]), ["a", "b"])})


@pytest.mark.parametrize(
    ("options", "classes", "match"),
    [
        ({"threshold": 0.5}, 2, "threshold belongs to tasks 'binary' and 'multilabel'"),
        ({"positive_class": "class 1"}, 2, "positive_class belongs to task 'binary'"),
        ({"task": "binary"}, 3, "exactly 2 classes, got 3"),
        ({"task": "binary", "positive_class": "cat"}, 2, "one of class 0, class 1; got 'cat'"),
    ],
)
def test_what_does_not_belong_to_the_task_is_refused(options, classes, match):
    with refused(match, "bad_request"):
        judge(np.zeros((4, classes), np.float32), np.zeros(4, np.int64), classes, **options)


def test_one_output_says_whose_logit_it_is_when_the_first_class_is_the_positive_one():
    logits, targets = np.array([[0.5], [-0.5]], dtype=np.float32), np.array([1, 0])
    terms = {"task": "binary", "classes": ["ham", "spam"], "threshold": None}
    warned = score(logits, targets, positive_class="ham", **terms).warnings
    assert any("logit of the second class, 'spam'" in one for one in warned)
    silent = score(logits, targets, positive_class="spam", **terms).warnings
    assert not any("logit" in one for one in silent)


def test_outputs_that_are_probabilities_are_told():
    random = np.random.default_rng(2)
    logits = random.normal(size=(30, 4)).astype(np.float32)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.arange(30) % 4

    def told(outputs):
        report = score(
            outputs,
            targets,
            task="multiclass",
            classes=list("abcd"),
            positive_class=None,
            threshold=None,
        )
        return any("leave out the network's softmax" in one for one in report.warnings)

    assert told(shares.astype(np.float32))
    assert not told(logits)
    one_of_them = shares.astype(np.float32)
    one_of_them[7] = [0.2, 0.2, 0.2, 0.2]
    assert not told(one_of_them)
