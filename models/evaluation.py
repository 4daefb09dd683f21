"""Judge a network on a dataset: the one path for jobs and for validation in training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from models.checks import check_finite, check_logits, check_order
from models.metrics import Indicators, Integers, Logits
from models.report import EvaluationError, EvaluationReport
from models.scoring import score
from models.sections import Groups

__all__ = ["EvaluationError", "EvaluationReport", "evaluate", "score"]

REORDERED = "the checkpoint's outputs were put into the dataset's order of classes by name"


def evaluate(
    model: nn.Module,
    batches: Iterable[Tensor],
    targets: Integers | Indicators,
    *,
    task: str,
    classes: Sequence[str],
    positive_class: str | None,
    threshold: float | None,
    groups: Groups | None = None,
    level: float = 0.95,
    order: Sequence[int] | None = None,
    metrics_only: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> EvaluationReport:
    """Run every example through the network once and score the logits.

    Args:
        model: in evaluation mode, every module of it.
        batches: examples as the network takes them, on its device, in the order of ``targets``.
        targets: int64 ``(N,)``, class indices; for ``multilabel`` int64 or uint8 ``(N, L)``, 0 or
            1 for each class. N is at least 1.
        task: ``multiclass`` (as many outputs as classes), ``binary`` (one output, the logit of
            the second class, or two) or ``multilabel`` (one output for each class, its logit).
        classes: names in index order.
        positive_class: for ``binary``, the class that metrics and threshold are about; None is
            the second.
        threshold: for ``binary``, see `models.metrics.examine`; None is 0.5 for one output and
            the arg max for two. For ``multilabel``, every class whose probability is at least
            this is predicted; None is 0.5.
        groups: slices to report by themselves: name -> (int codes ``(N,)``, the values' names).
        level: confidence of the intervals, in (0, 1).
        order: for each class, its index among the network's; None where they are in the same
            order. The logits are put into the order of ``classes`` before anything is computed
            from them, and a warning says so; one output of a binary task is negated.
        metrics_only: see `score`.
        progress: called after each batch with the number of examples done.

    Raises:
        EvaluationError: a module in training mode, more or fewer examples than targets, logits
            that are of the wrong shape or not finite, an order that does not name each class
            once, or what `score` raises.
    """
    if order is not None:
        check_order(order, classes=len(classes))
    for name, module in model.named_modules():
        if module.training:
            raise EvaluationError(
                f"{name or 'the network'} is in training mode: call .eval() on it first",
                reason="in_training_mode",
            )
    logits, forward_s = _logits(model, batches, len(targets), task, classes, order, progress)
    report = score(
        logits,
        targets,
        task=task,
        classes=classes,
        positive_class=positive_class,
        threshold=threshold,
        groups=groups,
        level=level,
        metrics_only=metrics_only,
    )
    warnings = report.warnings if order is None else [*report.warnings, REORDERED]
    return replace(report, forward_s=forward_s, warnings=warnings)


def _logits(
    model: nn.Module,
    batches: Iterable[Tensor],
    count: int,
    task: str,
    classes: Sequence[str],
    order: Sequence[int] | None,
    progress: Callable[[int], None],
) -> tuple[Logits, float]:
    """Collect float32 ``(count, outputs)``, and the seconds spent in the network."""
    collected: Logits | None = None
    done, forward_s = 0, 0.0
    with torch.inference_mode():
        for batch in batches:
            started = time.perf_counter()
            output = model(batch)
            size = len(batch)
            if not isinstance(output, Tensor) or not output.is_floating_point():
                kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
                raise EvaluationError(
                    f"the network must give one floating tensor of logits, got {kind}",
                    reason="wrong_logits",
                )
            check_logits(output.shape, size, task=task, classes=len(classes))
            if collected is not None and output.shape[1] != collected.shape[1]:
                raise EvaluationError(
                    f"the network gave {output.shape[1]} outputs after {collected.shape[1]} in "
                    "the batches before",
                    reason="wrong_logits",
                )
            if done + size > count:
                raise EvaluationError(
                    f"the batches hold more examples than the {count} targets",
                    reason="wrong_count",
                )
            if collected is None:
                collected = np.empty((count, output.shape[1]), dtype=np.float32)
            part = collected[done : done + size]
            torch.from_numpy(part).copy_(output)
            if order is not None:
                _reorder(part, order)
            forward_s += time.perf_counter() - started
            check_finite(part, first=done)
            done += size
            progress(done)
    if collected is None or done != count:
        raise EvaluationError(
            f"the batches hold {done} examples, but there are {count} targets",
            reason="wrong_count",
        )
    return collected, forward_s


def _reorder(logits: Logits, order: Sequence[int]) -> None:
    """Put these logits, in place, into the order of classes that ``order`` comes from."""
    if logits.shape[1] == len(order):
        logits[:] = logits[:, list(order)]
    elif list(order) == [1, 0]:
        # one output is the log-odds of the second class; 0 - x, for which a logit of 0 stays 0
        np.subtract(np.float32(0), logits, out=logits)
