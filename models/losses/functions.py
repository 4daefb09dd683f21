"""What a training minimizes, as sums with weights, so that batches combine exactly.

Each loss is called with logits and targets and returns the batch's total and the weight that it is
to be divided by; their quotient is what ``torch.nn.functional`` gives for the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from models import losses
from models.recipes import LOSSES
from models.spec import Component


class Total(NamedTuple):
    """Of a batch: a scalar, float32, and what it is divided by for a mean."""

    loss: Tensor
    weight: Tensor | int


class Loss(Protocol):
    """A loss with its weights on a device."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Total:
        """The batch's total.

        Args:
            logits: float32 ``(N, outputs)``.
            targets: int64 ``(N,)``, class indices; of a multilabel task uint8 ``(N, L)``, 0 or 1;
                or what `probabilities` makes of either.
        """
        ...

    def probabilities(self, targets: Tensor) -> Tensor:
        """Targets that can be mixed: float32 ``(N, outputs)``."""
        ...


def build(
    component: Component, *, task: str, classes: Sequence[str], counts: Sequence[int], device: str
) -> Loss:
    """The loss of that name.

    Args:
        component: as a request writes it.
        counts: see `models.losses.weights`.

    Raises:
        SpecError: as `models.losses.weights`.
    """
    entry = LOSSES[component.name]
    parameters = entry.build(component.parameters)
    values = losses.weights(parameters, task=task, classes=classes, counts=counts)
    weights = None if values is None else torch.tensor(values, dtype=torch.float32, device=device)
    made: Loss = entry.load()(parameters, weights, task=task, classes=len(classes))
    return made


class SoftmaxLoss:
    """Softmax cross-entropy of class indices or of class probabilities.

    The weight is that of the examples' classes for indices, as in torch, and their number for
    probabilities.
    """

    def __init__(
        self,
        parameters: losses.CrossEntropy,
        weights: Tensor | None,
        *,
        task: str,
        classes: int,
    ) -> None:
        self._smoothing = parameters.label_smoothing
        self._classes = classes
        self._weights = weights

    def __call__(self, logits: Tensor, targets: Tensor) -> Total:
        """See `Loss`."""
        total = functional.cross_entropy(
            logits,
            targets,
            weight=self._weights,
            label_smoothing=self._smoothing,
            reduction="sum",
        )
        if self._weights is not None and not targets.is_floating_point():
            return Total(total, self._weights[targets].sum())
        return Total(total, len(logits))

    def probabilities(self, targets: Tensor) -> Tensor:
        """See `Loss`."""
        return functional.one_hot(targets, self._classes).float()


class SigmoidLoss:
    """Sigmoid cross-entropy, the mean over the labels of an example."""

    def __init__(
        self,
        parameters: losses.BinaryCrossEntropy,
        weights: Tensor | None,
        *,
        task: str,
        classes: int,
    ) -> None:
        self._weights = weights

    def __call__(self, logits: Tensor, targets: Tensor) -> Total:
        """See `Loss`."""
        total = functional.binary_cross_entropy_with_logits(
            logits, self.probabilities(targets), pos_weight=self._weights, reduction="sum"
        )
        return Total(total, logits.numel())

    def probabilities(self, targets: Tensor) -> Tensor:
        """See `Loss`."""
        return _columns(targets)


class FocalLoss:
    """Cross-entropy times (1 - p)^gamma; of softmax, or of sigmoid for a multilabel task.

    Of mixed targets every class counts by its share. Weights multiply the examples (or labels) of
    their classes, and are no part of what the total is divided by.
    """

    def __init__(
        self,
        parameters: losses.Focal,
        weights: Tensor | None,
        *,
        task: str,
        classes: int,
    ) -> None:
        self._gamma = parameters.gamma
        self._sigmoid = task == "multilabel"
        self._classes = classes
        self._weights = weights

    def __call__(self, logits: Tensor, targets: Tensor) -> Total:
        """See `Loss`."""
        shares = self.probabilities(targets)
        if self._sigmoid:
            yes, no = functional.logsigmoid(logits), functional.logsigmoid(-logits)
            each = shares * self._focused(yes) + (1 - shares) * self._focused(no)
            count = logits.numel()
        else:
            each = shares * self._focused(functional.log_softmax(logits, dim=1))
            count = len(logits)
        if self._weights is not None:
            each = each * self._weights
        total = each.sum()
        return Total(total, count)

    def _focused(self, log_p: Tensor) -> Tensor:
        # p just below 1 rounds to it, where a power below 1 has no finite gradient
        rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
        return -log_p * rest**self._gamma

    def probabilities(self, targets: Tensor) -> Tensor:
        """See `Loss`."""
        if self._sigmoid or targets.is_floating_point():
            return _columns(targets)
        return functional.one_hot(targets, self._classes).float()


def _columns(targets: Tensor) -> Tensor:
    """Float32 ``(N, L)``; of class indices of a binary task ``(N, 1)``."""
    targets = targets.float()
    return targets if targets.dim() == 2 else targets[:, None]
