"""What an evaluation says, and why it could not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.metrics import Indicators, Integers, Logits


class EvaluationError(ValueError):
    """This network cannot be judged on this dataset.

    Args:
        detail: what was wrong and what would be right, for the person who asked.
        reason: one word for programs: ``non_finite_logits``, ``wrong_logits``, ``wrong_count``,
            ``bad_request`` or ``in_training_mode``.
    """

    def __init__(self, detail: str, *, reason: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationReport:
    """What came out, as JSON values and, for each of N examples, as arrays.

    Attributes:
        metrics: loss, accuracy, precision, recall and f1.
        averaging: ``binary`` (of the positive class) or ``macro`` (over the classes that are
            present; for ``multilabel`` over all).
        averages: precision, recall and f1 by ``micro``, ``macro`` and ``weighted``.
        per_class: in the order of the classes.
        per_group: in the order of the groups and their values, those with examples.
        confusion_matrix: row = true class, column = predicted; None for too many classes and,
            without a warning, for ``multilabel``.
        scores: None where undefined or too costly.
        intervals: ``[low, high]`` by metric; None where there are too few examples, or where
            resampling them would be too costly.
        level: confidence of the intervals.
        warnings: sentences; each None above and each division by nothing is in one of them.
        logits: float32 ``(N, outputs)``, in the dataset's order of classes.
        logits_sha256: of their little-endian bytes in C order.
        predicted: int64 ``(N,)``, class indices; for ``multilabel`` uint8 ``(N, L)``, 0 or 1 for
            each class.
        confidence: float32 ``(N,)``, probability of the predicted class; for ``multilabel`` the
            lowest ``max(p, 1 - p)`` among the example's classes, of probability p each.
        forward_s: seconds in the network, its logits' way to the host included.
        metrics_s: seconds in everything after it.
    """

    metrics: dict[str, float]
    averaging: str
    averages: dict[str, dict[str, float]]
    per_class: list[dict[str, Any]]
    per_group: list[dict[str, Any]]
    confusion_matrix: list[list[int]] | None
    scores: dict[str, float | None]
    intervals: dict[str, list[float] | None]
    level: float
    warnings: list[str]
    logits: Logits
    logits_sha256: str
    predicted: Integers | Indicators
    confidence: np.ndarray[Any, np.dtype[np.float32]]
    forward_s: float
    metrics_s: float

    @classmethod
    def brief(
        cls,
        *,
        metrics: dict[str, float],
        averaging: str,
        level: float,
        logits: Logits,
        predicted: Integers | Indicators,
        confidence: np.ndarray[Any, np.dtype[np.float32]],
    ) -> EvaluationReport:
        """One of which everything else is empty."""
        return cls(
            metrics=metrics,
            averaging=averaging,
            averages={},
            per_class=[],
            per_group=[],
            confusion_matrix=None,
            scores={},
            intervals={},
            level=level,
            warnings=[],
            logits=logits,
            logits_sha256="",
            predicted=predicted,
            confidence=confidence,
            forward_s=0.0,
            metrics_s=0.0,
        )

    def to_json(self) -> dict[str, Any]:
        """What the HTTP contract calls an evaluation's result, as far as it is computed here."""
        return {
            "metrics": self.metrics,
            "averaging": self.averaging,
            "averages": self.averages,
            "per_class": self.per_class,
            "per_group": self.per_group,
            "confusion_matrix": self.confusion_matrix,
            "scores": self.scores,
            "intervals": self.intervals,
            "level": self.level,
            "warnings": self.warnings,
        }
