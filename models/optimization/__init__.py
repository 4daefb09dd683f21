"""Optimizers and schedulers: what a request may say of each, without torch.

Names, meanings and defaults are torch's, but for AdamW's rate and decay and ReduceLROnPlateau's
factor and patience, which suit the training of a classifier. The computation stands in
`models.optimization.optimizers`, `schedules` and `stopping`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.parameters import parameter
from models.spec import MOST_EPOCHS, SpecError


def _lr(default: float) -> Any:
    return parameter(
        summary="Learning rate.",
        default=default,
        type="number",
        exclusiveMinimum=0,
        maximum=1000,
    )


def _weight_decay(default: float) -> Any:
    return parameter(
        summary="How strongly weights are pulled to 0; see decay_all.",
        default=default,
        type="number",
        minimum=0,
        maximum=100,
    )


def _decay_all() -> Any:
    return parameter(
        summary="Decay biases and the parameters of norms too, which are spared otherwise.",
        default=False,
        type="boolean",
    )


def _betas() -> Any:
    return parameter(
        summary="Decay of the running means of gradients and of their squares.",
        default=(0.9, 0.999),
        type="array",
        items={"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        minItems=2,
        maxItems=2,
    )


def _eps() -> Any:
    return parameter(
        summary="Added to the denominator.",
        default=1e-8,
        type="number",
        exclusiveMinimum=0,
        maximum=1,
    )


def _flag(summary: str) -> Any:
    return parameter(summary=summary, default=False, type="boolean")


def _share(summary: str, default: float, **bounds: float) -> Any:
    return parameter(
        summary=summary, default=default, type="number", **(bounds or {"minimum": 0, "maximum": 1})
    )


def _epochs(summary: str, **more: Any) -> Any:
    return parameter(
        summary=summary, **{"type": "integer", "minimum": 1, "maximum": MOST_EPOCHS, **more}
    )


def _gamma() -> Any:
    return _share("Factor of the rate.", 0.1, exclusiveMinimum=0, maximum=1)


def _eta_min() -> Any:
    return _share("Lowest rate.", 0.0, minimum=0, maximum=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class SGD:
    """Stochastic gradient descent."""

    lr: float = _lr(1e-3)
    momentum: float = _share("Share of the last step that is kept.", 0.0)
    dampening: float = _share("Share of the gradient that momentum leaves out.", 0.0)
    nesterov: bool = _flag("Nesterov's momentum.")
    weight_decay: float = _weight_decay(0.0)
    decay_all: bool = _decay_all()

    def __post_init__(self) -> None:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise SpecError(
                "nesterov takes a momentum above 0 and a dampening of 0", pointer="/nesterov"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """Adam, whose weight decay is a part of the gradient."""

    lr: float = _lr(1e-3)
    betas: tuple[float, float] = _betas()
    eps: float = _eps()
    weight_decay: float = _weight_decay(0.0)
    amsgrad: bool = _flag("Use the largest running mean of squares so far.")
    decay_all: bool = _decay_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay."""

    lr: float = _lr(3e-4)
    betas: tuple[float, float] = _betas()
    eps: float = _eps()
    weight_decay: float = _weight_decay(1e-4)
    amsgrad: bool = _flag("Use the largest running mean of squares so far.")
    decay_all: bool = _decay_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class RMSprop:
    """Gradients divided by the root of their running mean of squares."""

    lr: float = _lr(1e-2)
    alpha: float = _share("Decay of the running mean of squares.", 0.99)
    eps: float = _eps()
    momentum: float = _share("Share of the last step that is kept.", 0.0)
    centered: bool = _flag("Divide by the deviation instead.")
    weight_decay: float = _weight_decay(0.0)
    decay_all: bool = _decay_all()


Optimizer = SGD | Adam | AdamW | RMSprop


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLR:
    """Multiply the rate by gamma every so many epochs."""

    step_size: int = _epochs("Epochs between two drops.")
    gamma: float = _gamma()


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiStepLR:
    """Multiply the rate by gamma after each of these numbers of epochs."""

    milestones: tuple[int, ...] = parameter(
        summary="Epochs after which the rate drops, rising.",
        type="array",
        items={"type": "integer", "minimum": 1, "maximum": MOST_EPOCHS},
        minItems=1,
        maxItems=1000,
    )
    gamma: float = _gamma()

    def __post_init__(self) -> None:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise SpecError("milestones must rise", pointer="/milestones")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentialLR:
    """Multiply the rate by gamma after every epoch."""

    gamma: float = _share("Factor of the rate.", 0.95, exclusiveMinimum=0, maximum=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineAnnealingLR:
    """Half a cosine from the rate to eta_min."""

    T_max: int | None = _epochs(
        "Epochs until eta_min is reached; by default all after the warm-up.",
        default=None,
        type=["null", "integer"],
    )
    eta_min: float = _eta_min()


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineAnnealingWarmRestarts:
    """Half a cosine from the rate to eta_min, again and again."""

    T_0: int = _epochs("Epochs until the first restart.")
    T_mult: int = parameter(
        summary="Factor of each further period.", default=1, type="integer", minimum=1, maximum=100
    )
    eta_min: float = _eta_min()


@dataclass(frozen=True, slots=True, kw_only=True)
class OneCycleLR:
    """Up to a highest rate and down again within the whole training, step by step."""

    max_lr: float = parameter(
        summary="Highest rate.", type="number", exclusiveMinimum=0, maximum=1000
    )
    pct_start: float = _share(
        "Share of all steps in which the rate rises.",
        0.3,
        exclusiveMinimum=0,
        exclusiveMaximum=1,
    )
    anneal_strategy: str = parameter(
        summary="Shape of the change.", default="cos", type="string", enum=["cos", "linear"]
    )
    cycle_momentum: bool = parameter(
        summary="Cycle momentum (or Adam's first beta) against the rate.",
        default=True,
        type="boolean",
    )
    base_momentum: float = _share("Lowest momentum.", 0.85, minimum=0, exclusiveMaximum=1)
    max_momentum: float = _share("Highest momentum.", 0.95, minimum=0, exclusiveMaximum=1)
    div_factor: float = _share(
        "Highest rate over the first one.", 25.0, minimum=1, maximum=1_000_000
    )
    final_div_factor: float = _share(
        "First rate over the last one.", 1e4, minimum=1, maximum=1_000_000_000
    )
    three_phase: bool = _flag("Come down to the first rate as long as it rose, then to the last.")

    def __post_init__(self) -> None:
        if self.three_phase and self.pct_start >= 0.5:
            raise SpecError(
                "with three_phase the rate comes down as long as it rose: pct_start must be less "
                f"than 0.5, got {self.pct_start}",
                pointer="/pct_start",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReduceLROnPlateau:
    """Multiply the rate by factor once the monitored metric has not improved for long enough."""

    factor: float = _share("Factor of the rate.", 0.5, exclusiveMinimum=0, exclusiveMaximum=1)
    patience: int = parameter(
        summary="Epochs without improvement that are allowed before a drop.",
        default=2,
        type="integer",
        minimum=0,
        maximum=MOST_EPOCHS,
    )
    threshold: float = _share("Least change that counts.", 1e-4, minimum=0, maximum=1000)
    threshold_mode: str = parameter(
        summary="Whether threshold is a share of the best value or a difference from it.",
        default="rel",
        type="string",
        enum=["rel", "abs"],
    )
    cooldown: int = parameter(
        summary="Epochs after a drop that are not counted.",
        default=0,
        type="integer",
        minimum=0,
        maximum=MOST_EPOCHS,
    )
    min_lr: float = _share("Lowest rate.", 0.0, minimum=0, maximum=1000)


Scheduler = (
    StepLR
    | MultiStepLR
    | ExponentialLR
    | CosineAnnealingLR
    | CosineAnnealingWarmRestarts
    | OneCycleLR
    | ReduceLROnPlateau
)
