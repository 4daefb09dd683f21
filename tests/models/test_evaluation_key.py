"""The key changes with everything that an answer depends on, and with nothing else."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from models import evaluation_key as module
from models.evaluation_key import METRIC_VERSION, evaluation_key

POLICY = {
    "device": "cpu",
    "dtype": "float32",
    "threads": 1,
    "torch": "2.13.0",
    "cpu_capability": "AVX2",
}
FIELDS = {
    "checkpoint": "c" * 64,
    "dataset_digest": "d" * 64,
    "task": "binary",
    "positive_class": "cat",
    "threshold": 0.5,
    "transforms": [{"name": "to_float", "scale": None}, {"name": "flatten"}],
    "batch_size": 256,
    "policy": POLICY,
}


def test_the_key_is_the_hash_of_the_plain_json_of_what_went_in():
    value = {name: FIELDS[name] for name in FIELDS if name != "dataset_digest"}
    value |= {"dataset": FIELDS["dataset_digest"], "metric_version": METRIC_VERSION}
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    assert evaluation_key(**FIELDS) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint", "e" * 64),
        ("dataset_digest", "c" * 64),
        ("task", "multiclass"),
        ("positive_class", "dog"),
        ("positive_class", None),
        ("threshold", 0.25),
        ("threshold", None),
        ("transforms", []),
        ("transforms", list(reversed(FIELDS["transforms"]))),
        ("transforms", [{"name": "to_float", "scale": 2.0}, {"name": "flatten"}]),
        ("batch_size", 255),
        *(("policy", {**POLICY, name: "other"}) for name in POLICY),
        ("policy", {**POLICY, "device_name": "H200"}),
    ],
)
def test_each_part_changes_the_key(name, value):
    assert evaluation_key(**{**FIELDS, name: value}) != evaluation_key(**FIELDS)


def test_a_new_metric_version_changes_the_key(monkeypatch):
    before = evaluation_key(**FIELDS)
    monkeypatch.setattr(module, "METRIC_VERSION", METRIC_VERSION + 1)
    assert evaluation_key(**FIELDS) != before


def test_the_order_in_which_a_policy_or_a_transform_is_written_does_not_matter():
    policy = dict(reversed(POLICY.items()))
    transforms = [dict(reversed(one.items())) for one in FIELDS["transforms"]]
    again = evaluation_key(**{**FIELDS, "policy": policy, "transforms": transforms})
    assert again == evaluation_key(**FIELDS)


@pytest.mark.parametrize(
    "name", ["spec", "catalog", "evaluation_key", "metrics", "statistics", "report", "scoring"]
)
def test_what_other_processes_need_is_imported_without_torch(name):
    heavy = {"torch", "scipy", "sklearn", "pyarrow", "safetensors"}
    program = f"import sys, models.{name}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
