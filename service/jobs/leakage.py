"""How much of a dataset a checkpoint was trained on, and what it is worth without that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.datasets import Dataset
from models.metrics import Booleans
from models.report import EvaluationReport
from models.scoring import score
from service.jobs.materials import Array, Materials

# Of a sealed dataset: the metrics of a slice of one example would show its label.
SMALLEST_GROUP = 10

# Of weights from elsewhere.
NO_LINEAGE: dict[str, Any] = {"trained_on": [], "complete": False, "selected_on": []}


def of(
    payload: Mapping[str, Any],
    dataset: Dataset,
    judged: EvaluationReport,
    materials: Materials,
    warnings: list[str],
) -> dict[str, Any]:
    """Whether the checkpoint was trained on examples of this dataset, or chosen by it.

    Args:
        warnings: of the result; sentences are added.
    """
    lineage = payload.get("lineage", NO_LINEAGE)
    names = [one["dataset"] for one in lineage["trained_on"]]
    hashes = [materials.hashes(one["digest"]) for one in lineage["trained_on"]]
    gone = [name for name, one in zip(names, hashes, strict=True) if one is None]
    if gone:
        warnings.append(
            f"leakage: {', '.join(gone)}, which the checkpoint was trained on, is not in the store "
            "any more"
        )
    # by digest: a dataset that was registered again under another name chose just as much
    chose = [
        one["dataset"]
        for one in lineage["selected_on"]
        if one["digest"] == payload["dataset_digest"]
    ]
    if chose:
        warnings.append(
            f"the epoch of the checkpoint was chosen by {', '.join(chose)}, whose content this is: "
            "its metrics here are better than on new data"
        )
    seen = _seen(dataset.hashes, [one for one in hashes if one is not None])
    count = int(seen.sum())
    known = lineage["complete"] and not gone
    without = None
    # of a sealed dataset the difference of the metrics would show the few that are left, or out
    least = SMALLEST_GROUP if payload.get("sealed") else 1
    if count >= least and len(dataset) - count >= least:
        without = _metrics_without(
            seen,
            judged,
            dataset.y,
            task=payload["task"],
            classes=dataset.classes,
            positive_class=payload["positive_class"],
            threshold=payload["threshold"],
        )
    return {
        "status": "found" if count else "none" if known else "unknown",
        "examples": count if count or known else None,
        "metrics_without": without,
        "trained_on": names,
        "selected_on": [one["dataset"] for one in lineage["selected_on"]],
    }


def _seen(hashes: Array, trained_on: Sequence[Array]) -> Booleans:
    """Which examples occur in datasets that a network was trained on.

    Args:
        hashes: uint64 ``(N,)``, see `models.datasets.decoded`.
        trained_on: those of each of the other datasets.
    """
    found = np.zeros(len(hashes), dtype=np.bool_)
    for other in trained_on:
        found |= np.isin(hashes, other)
    return found


def _metrics_without(
    left_out: Booleans,
    judged: EvaluationReport,
    targets: Array,
    *,
    task: str,
    classes: Sequence[str],
    positive_class: str | None,
    threshold: float | None,
) -> dict[str, float]:
    """The metrics of the examples that are not left out, of which there are some.

    Args:
        left_out: ``(N,)``.
        judged: of all examples; the other arguments as `models.scoring.score` takes them.
    """
    kept = ~left_out
    return score(
        judged.logits[kept],
        targets[kept],
        task=task,
        classes=classes,
        positive_class=positive_class,
        threshold=threshold,
        metrics_only=True,
    ).metrics
