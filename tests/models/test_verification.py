"""Whether an evaluation that was done again came out the same."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest

from models.verification import verified

LOGITS = np.array([[1.0, -2.0], [0.5, 0.25], [-3.0, 4.0]], np.float32)
PREDICTED = np.array([0, 0, 1])
RESULT = {
    "metrics": {"loss": 0.5},
    "evidence": {
        "key": "k",
        "logits_sha256": "a",
        "checkpoint": "c",
        "policy": {"device": "cpu", "torch": "2.13.0", "threads": 1},
        "environment": {"host": "one"},
        "transforms_from": "dataset",
    },
}


def run(logits=LOGITS, predicted=PREDICTED, *, before=True, **changes):
    result = copy.deepcopy(RESULT)
    result["evidence"] |= changes
    kept = {"logits": LOGITS, "predicted": PREDICTED} if before else None
    judged = SimpleNamespace(
        logits=logits, predicted=predicted, logits_sha256=result["evidence"]["logits_sha256"]
    )
    return verified({"evaluation": "e", **RESULT}, kept, judged, result)


def test_equal_digests_are_identical_also_when_the_first_logits_are_gone():
    for before in (True, False):
        assert run(before=before) == {
            "evaluation": "e",
            "outcome": "identical",
            "changed": [],
            "largest_difference": 0.0,
            "predictions_changed": 0,
            "metrics_equal": True,
        }


@pytest.mark.parametrize(
    ("factor", "outcome"), [(1.00005, "within_tolerance"), (1.01, "different")]
)
def test_a_small_difference_is_within_tolerance_and_a_large_one_is_not(factor, outcome):
    found = run(LOGITS * np.float32(factor), logits_sha256="b")
    assert found["outcome"] == outcome
    assert found["largest_difference"] == pytest.approx(4 * (factor - 1), rel=1e-2)
    assert found["predictions_changed"] == 0


def test_predictions_that_changed_are_counted_by_example():
    found = run(LOGITS[:, ::-1].copy(), np.array([1, 1, 0]), logits_sha256="b")
    assert (found["outcome"], found["predictions_changed"]) == ("different", 3)
    labels = verified(
        {"evaluation": "e", **RESULT},
        {"logits": LOGITS, "predicted": np.array([[1, 0], [1, 1], [0, 1]], np.uint8)},
        SimpleNamespace(
            logits=-LOGITS,
            predicted=np.array([[0, 1], [1, 1], [0, 1]], np.uint8),
            logits_sha256="b",
        ),
        RESULT,
    )
    assert labels["predictions_changed"] == 1


def test_what_changed_of_the_key_is_named_and_nothing_else():
    policy = {"device": "cpu", "torch": "2.14.0", "threads": 2}
    found = run(policy=policy, environment={"host": "two"}, key="l", metric_version=2)
    assert found["changed"] == ["policy.torch", "policy.threads", "metric_version"]


def test_without_the_first_logits_another_digest_is_different():
    found = run(before=False, logits_sha256="b")
    assert found["outcome"] == "different"
    assert found["largest_difference"] is None
