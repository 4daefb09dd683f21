"""The training loop: a generator over epochs, whose caller saves, reports and cancels in between.

Everything random in epoch e follows from the seed and e alone (order of the examples, dropout,
augmentations), so that a training that goes on after epoch e from the state stored there ends with
the same bytes as one that never stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer

from models import feeding
from models.augmentations import Augmentation, Mixing, batches
from models.losses.functions import Loss, Total
from models.optimization.schedules import Schedule
from models.optimization.stopping import Best, EarlyStopping
from models.report import EvaluationError
from models.spec import steps_per_epoch
from models.transforms import elementwise

# Steps between two looks at the losses, each of which waits for the device.
_LOOK_STEPS = 64


class Diverged(ArithmeticError):
    """The loss or its gradient is not finite any more.

    Attributes:
        epoch: counted from 1, as is ``step`` within it.
    """

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(
            f"the loss or its gradient was not finite at epoch {epoch}, step {step}: a lower "
            "learning rate, a warm-up or gradient clipping would help"
        )
        self.epoch = epoch
        self.step = step


class TooFewExamples(ValueError):
    """A batch has so few examples that the network's batch normalization has nothing to measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """What one epoch came to.

    Attributes:
        epoch: counted from 1.
        train_loss: mean of the training loss over the epoch's examples while it went on: with
            dropout, augmentation, smoothing and weights, and so not comparable with ``loss``.
        metrics: of the validation dataset, by the names of `models.spec.METRICS`.
        train_metrics: of the training dataset, without anything random; None unless asked for.
        lr: of the epoch's first step.
        gradient_norm: mean over the steps of the norm of all gradients together, before clipping.
        duration_s: with validation.
    """

    epoch: int
    train_loss: float
    metrics: dict[str, float]
    train_metrics: dict[str, float] | None
    lr: float
    gradient_norm: float
    duration_s: float

    def to_json(self) -> dict[str, Any]:
        """A row of a history."""
        values = asdict(self)
        row = {"epoch": values["epoch"], "train_loss": values["train_loss"], **self.metrics}
        row |= {name: values[name] for name in ("lr", "gradient_norm", "duration_s")}
        return row if self.train_metrics is None else {**row, "train_metrics": self.train_metrics}


@dataclass(kw_only=True)
class Trainee:
    """A network in training, and what goes on with it from epoch to epoch.

    Attributes:
        epoch: the last one that it has been through, 0 before the first.
        stopped: why it is trained no more: ``completed`` or ``early_stopping``; None until then.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    best: Best
    stopping: EarlyStopping
    epoch: int = 0
    stopped: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What of a training does not change from epoch to epoch.

    Attributes:
        epochs: the most that there are.
        monitor: the metric that chooses the best epoch.
        precision: ``float32``, or ``bfloat16`` for the forward pass by autocast.
    """

    epochs: int
    batch_size: int
    seed: int
    loss: Loss
    augmentations: Sequence[Augmentation] = ()
    gradient_clip_norm: float | None = None
    precision: str = "float32"
    monitor: str = "loss"


Judge = Callable[[nn.Module], tuple[dict[str, float], dict[str, float] | None]]
"""Takes the network and returns `EpochReport.metrics` and ``train_metrics``."""


def train(
    trainee: Trainee,
    source: feeding.Source,
    examples: int,
    recipe: Recipe,
    *,
    judge: Judge,
    device: str,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[EpochReport]:
    """Train from the trainee's epoch on, and yield after each.

    When an epoch is yielded, the trainee is as it will be when the next begins: to go on from
    there is to go on from what its parts' states are now.

    Args:
        examples: of the training dataset, at least 1.
        judge: called after each epoch; must leave the network as it is.
        progress: called now and then with the number of examples done in the whole training.

    Raises:
        Diverged: the loss, or the network's output on the validation dataset, is not finite.
        TooFewExamples: as it says.
    """
    sizes = batch_sizes(examples, recipe.batch_size)
    while trainee.stopped is None and trainee.epoch < recipe.epochs:
        began, lr = time.perf_counter(), trainee.schedule.rate
        epoch = trainee.epoch + 1
        train_loss, norm = _epoch(trainee, source, sizes, recipe, epoch, device, progress)
        try:
            metrics, train_metrics = judge(trainee.model)
        except EvaluationError as error:
            if error.reason != "non_finite_logits":
                raise
            raise Diverged(epoch, len(sizes)) from error
        monitored = metrics[recipe.monitor]
        trainee.epoch = epoch
        trainee.best.update(epoch, monitored)
        trainee.schedule.after_epoch(monitored)
        if trainee.stopping.update(monitored):
            trainee.stopped = "early_stopping"
        elif epoch == recipe.epochs:
            trainee.stopped = "completed"
        yield EpochReport(
            epoch=epoch,
            train_loss=train_loss,
            metrics=metrics,
            train_metrics=train_metrics,
            lr=lr,
            gradient_norm=norm,
            duration_s=time.perf_counter() - began,
        )


def batch_sizes(examples: int, batch_size: int) -> list[int]:
    """How many examples each batch of an epoch has, see `models.spec.steps_per_epoch`."""
    before = steps_per_epoch(examples, batch_size) - 1
    return [*[batch_size] * before, examples - batch_size * before]


def order_of(examples: int, *, seed: int, epoch: int) -> Tensor:
    """The order of the examples in an epoch: int64 ``(examples,)`` on the CPU."""
    generator = torch.Generator().manual_seed(derived_seed("order", seed, epoch))
    return torch.randperm(examples, generator=generator)


def derived_seed(purpose: str, seed: int, epoch: int = 0) -> int:
    """63 bits for one purpose, which another seed, epoch or purpose shares only by chance."""
    text = f"{purpose}:{seed}:{epoch}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def _epoch(
    trainee: Trainee,
    source: feeding.Source,
    sizes: Sequence[int],
    recipe: Recipe,
    epoch: int,
    device: str,
    progress: Callable[[int], None],
) -> tuple[float, float]:
    """Every example once; returns the mean loss and the mean norm of the gradients."""
    model, optimizer = trainee.model, trainee.optimizer
    model.train()
    kind = torch.device(device).type
    _seed(derived_seed("dropout", recipe.seed, epoch), kind)
    precision: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if recipe.precision == "bfloat16":
        precision = torch.autocast(kind, torch.bfloat16)
    mixing = any(isinstance(one, Mixing) for one in recipe.augmentations)
    learned = [one for group in optimizer.param_groups for one in group["params"]]
    sums = _Sums(epoch)
    order = order_of(sum(sizes), seed=recipe.seed, epoch=epoch)
    done = (epoch - 1) * len(order)
    for x, y, indices in source.epoch(order, sizes):
        if recipe.augmentations:
            x, y = batches.apply(
                recipe.augmentations,
                x,
                recipe.loss.probabilities(y) if mixing else y,
                seed=recipe.seed,
                epoch=epoch,
                indices=indices,
            )
        x = elementwise.apply(source.transforms, x)
        if kind == "cuda" and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with precision:
            logits = _forward(model, x)
        total = recipe.loss(logits.float(), y)
        for one in learned:
            one.grad = None  # what zero_grad does, in a tenth of the time
        _mean(total).backward()  # type: ignore[no-untyped-call]
        gradients = [one.grad for one in learned if one.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if recipe.gradient_clip_norm is not None:
            clip_grads_with_norm_(learned, recipe.gradient_clip_norm, norm)
        optimizer.step()
        trainee.schedule.after_step()
        sums.add(total, norm)
        done += len(indices)
        progress(done)
    return sums.means()


def _seed(seed: int, kind: str) -> None:
    """What `torch.manual_seed` does for the devices in use; it takes a millisecond for the rest."""
    torch.default_generator.manual_seed(seed)
    if kind == "cuda":
        torch.cuda.manual_seed(seed)


def _mean(total: Total) -> Tensor:
    if isinstance(total.weight, int):
        return total.loss / total.weight
    # a batch whose classes all weigh nothing teaches nothing
    return total.loss / total.weight.clamp_min(torch.finfo(torch.float32).tiny)


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    try:
        logits: Tensor = model(x)
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise TooFewExamples(
            f"batch normalization cannot measure a batch of {len(x)}: a batch_size of at least 2, "
            "and as many examples, would fit"
        ) from error
    return logits


class _Sums:
    """Adds up steps without waiting for the device at each."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._seen: list[Tensor] = []  # losses, and after each the norm of its gradients
        self._weights: list[Any] = []
        self._steps = 0
        self._loss = self._weight = self._norm = 0.0

    def add(self, total: Total, norm: Tensor) -> None:
        """One step; Diverged if one since the last look was not finite."""
        self._seen += (total.loss.detach(), norm)
        self._weights.append(total.weight)
        if len(self._weights) == _LOOK_STEPS:
            self._look()

    def means(self) -> tuple[float, float]:
        """Of all steps: loss and norm."""
        self._look()
        return self._loss / self._weight if self._weight else 0.0, self._norm / self._steps

    def _look(self) -> None:
        if not self._weights:
            return
        seen = torch.stack(self._seen).tolist()
        if isinstance(self._weights[0], Tensor):
            self._weights = torch.stack(self._weights).tolist()
        for loss, norm, weight in zip(seen[::2], seen[1::2], self._weights, strict=True):
            self._steps += 1
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise Diverged(self._epoch, self._steps)
            self._loss += loss
            self._weight += weight
            self._norm += norm
        self._seen, self._weights = [], []
