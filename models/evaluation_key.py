"""The name of a computation: equal key, equal answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from models.canonical import digest

# Raise it whenever a metric, a score or an interval could come out different for equal logits:
# every cached result is then computed again, and old and new are not compared.
METRIC_VERSION = 1


def evaluation_key(
    *,
    checkpoint: str,
    dataset_digest: str,
    task: str,
    positive_class: str | None,
    threshold: float | None,
    transforms: Sequence[Mapping[str, Any]],
    batch_size: int,
    policy: Mapping[str, Any],
) -> str:
    """Name everything that an evaluation's numbers depend on, and nothing else.

    Args:
        checkpoint: digest of the canonical checkpoint, which its manifest is part of, and so the
            order of its classes.
        dataset_digest: digest of examples, labels, classes and groups.
        task: ``multiclass``, ``binary`` or ``multilabel``.
        positive_class: name of the class that a binary task's metrics count, else None.
        threshold: as it was asked for; None is not the same key as the default written out.
        transforms: wire form with every default filled in, in the order they are applied.
        batch_size: it is part of the key because a sum's last bit depends on the batch's shape.
        policy: the numeric policy, as `models.runtime.policy` says it.

    Returns:
        Lower-case SHA-256 hex.
    """
    return digest(
        {
            "checkpoint": checkpoint,
            "dataset": dataset_digest,
            "task": task,
            "positive_class": positive_class,
            "threshold": threshold,
            "transforms": [dict(one) for one in transforms],
            "batch_size": batch_size,
            "policy": dict(policy),
            "metric_version": METRIC_VERSION,
        }
    )


def with_plugins(
    policy: Mapping[str, Any], needs: Iterable[str], provides: Mapping[str, str]
) -> dict[str, Any]:
    """The numeric policy of an evaluation that runs the code of plug-ins.

    Args:
        policy: as `models.runtime.policy` says it, or of an ONNX network, which says its runtime.
        needs: the distributions whose code it runs; with none the policy stays as it is.
        provides: versions by distribution, of a worker.
    """
    versions = {name: provides[name] for name in sorted(needs) if name not in policy}
    return {**policy, "plugins": versions} if versions else dict(policy)
