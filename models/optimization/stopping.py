"""Which epoch is the best, and when a training ends early."""

from __future__ import annotations

import math
from typing import Any

from models import spec


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of a metric of `models.spec.METRICS` is the better one."""
    return metric == "loss"


class Best:
    """The best epoch so far: the first of those with the best value. NaN is never best."""

    def __init__(self, metric: str) -> None:
        self._lower = lower_is_better(metric)
        self.epoch: int | None = None
        self.value = math.nan

    def update(self, epoch: int, value: float) -> bool:
        """Whether this epoch is the best one now."""
        better = not math.isnan(value) and (
            self.epoch is None or (value < self.value if self._lower else value > self.value)
        )
        if better:
            self.epoch, self.value = epoch, value
        return better

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"epoch": self.epoch, "value": None if self.epoch is None else self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.epoch = state["epoch"]
        self.value = math.nan if self.epoch is None else state["value"]


class EarlyStopping:
    """Ends a training after ``patience`` epochs in a row without improvement.

    An improvement is a change for the better by more than ``min_delta`` from the value of the last
    improvement; the first value that is no NaN is one.

    Args:
        given: None never ends it.
    """

    def __init__(self, given: spec.EarlyStopping | None, metric: str) -> None:
        self._given = given
        self._lower = lower_is_better(metric)
        self._reference: float | None = None
        self._waited = 0

    def update(self, value: float) -> bool:
        """Whether the epoch that had this value is the last one."""
        if self._given is None:
            return False
        if self._improves(value, self._given.min_delta):
            self._reference, self._waited = value, 0
        else:
            self._waited += 1
        return self._waited >= self._given.patience

    def _improves(self, value: float, least: float) -> bool:
        if math.isnan(value):
            return False
        if self._reference is None:
            return True
        gain = self._reference - value if self._lower else value - self._reference
        return gain > least

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"reference": self._reference, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._reference, self._waited = state["reference"], state["waited"]
