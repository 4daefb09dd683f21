"""How the learning rate goes: torch's schedulers, after a linear warm-up."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from models import optimization
from models.recipes import SCHEDULERS
from models.spec import Component


class Schedule:
    """The rate of an optimizer from the first step of a training to its last.

    In epoch e, from 1, of the warm-up the rate is e / (warmup_epochs + 1) of the one that the
    scheduler starts from; its own first epoch is the one after the warm-up. That is torch's
    ``LinearLR`` with a start_factor of 1 / (warmup_epochs + 1) before it.

    Args:
        component: of `models.recipes.SCHEDULERS`; None for a constant rate.
        lower_is_better: of the metric that `after_epoch` is told.
        epochs: of the whole training.
        steps_per_epoch: each of which has a rate of its own with OneCycleLR.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        component: Component | None,
        *,
        lower_is_better: bool,
        warmup_epochs: int,
        epochs: int,
        steps_per_epoch: int,
    ) -> None:
        self._optimizer = optimizer
        self._warmup_epochs = warmup_epochs
        self._epochs_done = 0
        self._scheduler: LRScheduler | None = None
        self._each_step = False
        if component is not None:
            entry = SCHEDULERS[component.name]
            given: optimization.Scheduler = entry.build(component.parameters)
            options = {one.name: getattr(given, one.name) for one in dataclasses.fields(given)}
            if isinstance(given, optimization.CosineAnnealingLR):
                options["T_max"] = given.T_max or epochs - warmup_epochs
            elif isinstance(given, optimization.OneCycleLR):
                options["total_steps"] = epochs * steps_per_epoch
                self._each_step = True
            elif isinstance(given, optimization.ReduceLROnPlateau):
                options["mode"] = "min" if lower_is_better else "max"
            self._scheduler = entry.load()(optimizer, **options)
        self._first = [group["lr"] for group in optimizer.param_groups]
        self._warm_up()

    @property
    def rate(self) -> float:
        """Of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def after_step(self) -> None:
        """To be called after each step of the optimizer."""
        if self._scheduler is not None and self._each_step:
            self._scheduler.step()

    def after_epoch(self, monitored: float) -> None:
        """To be called after each epoch with the monitored metric's value."""
        self._epochs_done += 1
        if self._epochs_done <= self._warmup_epochs:
            self._warm_up()
        elif isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(monitored)
        elif self._scheduler is not None and not self._each_step:
            self._scheduler.step()

    def _warm_up(self) -> None:
        if self._epochs_done <= self._warmup_epochs:
            share = (self._epochs_done + 1) / (self._warmup_epochs + 1)
            for group, first in zip(self._optimizer.param_groups, self._first, strict=True):
                group["lr"] = first * share

    def state_dict(self) -> dict[str, Any]:
        """JSON values, non-finite numbers among them; the rates are in the optimizer's state."""
        state: dict[str, Any] = {"epochs_done": self._epochs_done}
        if self._scheduler is not None:
            whole = self._scheduler.state_dict()
            state["scheduler"] = {name: whole[name] for name in _CHANGING if name in whole}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave of a schedule that was built alike."""
        self._epochs_done = state["epochs_done"]
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])


# What is not as the constructors leave it.
_CHANGING = (
    "last_epoch",
    "_step_count",
    "_last_lr",
    "T_cur",
    "T_i",
    "best",
    "num_bad_epochs",
    "cooldown_counter",
)
