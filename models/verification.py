"""Whether an evaluation that was done again came out the same, and what of its key has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from models.report import EvaluationReport

# Logits that another device, number of threads or release of PyTorch computes differ by less.
RELATIVE, ABSOLUTE = 1e-4, 1e-5

IDENTICAL, WITHIN_TOLERANCE, DIFFERENT = "identical", "within_tolerance", "different"

_NO_PART = ("key", "logits_sha256", "environment", "transforms_from")


def verified(
    original: Mapping[str, Any],
    before: Mapping[str, np.ndarray[Any, Any]] | None,
    judged: EvaluationReport,
    result: Mapping[str, Any],
) -> dict[str, Any]:
    """Compare an evaluation with the one that it repeats.

    Args:
        original: ``evaluation`` (its id), ``evidence`` and ``metrics`` of the first.
        before: its ``logits``, float32 ``(N, outputs)``, and what it ``predicted``; None if they
            are gone.
        judged: the second.
        result: the second's, with its ``evidence`` and ``metrics``.

    Returns:
        ``evaluation``; ``outcome``: ``identical`` (every bit of the logits), ``within_tolerance``
        (each differs by at most `ABSOLUTE` plus `RELATIVE` of itself) or ``different``;
        ``changed``, the parts of the key that are not what they were; ``largest_difference``
        between two logits and ``predictions_changed``, both null if the first's are gone; and
        ``metrics_equal``.
    """
    evidence = original["evidence"]
    found = {
        "evaluation": original["evaluation"],
        "outcome": DIFFERENT,
        "changed": _changed(evidence, result["evidence"]),
        "largest_difference": None,
        "predictions_changed": None,
        "metrics_equal": original["metrics"] == result["metrics"],
    }
    same = evidence["logits_sha256"] == judged.logits_sha256
    if same:
        found |= {"outcome": IDENTICAL, "largest_difference": 0.0, "predictions_changed": 0}
    elif before is not None and before["logits"].shape == judged.logits.shape:
        a, b = before["logits"].astype(np.float64), judged.logits.astype(np.float64)
        gap = np.abs(a - b)
        if (gap <= ABSOLUTE + RELATIVE * np.abs(a)).all():
            found["outcome"] = WITHIN_TOLERANCE
        found["largest_difference"] = float(gap.max())
        differ = (before["predicted"] != judged.predicted).reshape(len(gap), -1).any(axis=1)
        found["predictions_changed"] = int(differ.sum())
    return found


def _changed(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The names of what differs, those inside the numeric policy as ``policy.torch``."""
    found = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if name in _NO_PART or old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _changed(old, new, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found
