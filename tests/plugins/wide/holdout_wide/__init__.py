"""A plug-in with one of each: an architecture, a transform and a format."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from models.entries import Entry, NoParameters
from models.parameters import parameter
from models.plugins import Additions
from models.spec import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class WideParameters:
    width: int = parameter(
        summary="Hidden units.", default=8, type="integer", minimum=1, maximum=4096
    )


def wide(parameters, input_shape, outputs):
    features = math.prod(input_shape)
    if features > 100:
        raise SpecError(f"wide takes at most 100 numbers, got {features}")
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(features, parameters.width),
        nn.Hardtanh(),
        nn.Linear(parameters.width, outputs),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SquareRoot:
    on_host: ClassVar[bool] = False

    offset: float = parameter(summary="Added before.", type="number", minimum=0, maximum=1e6)

    def output(self, example):
        if example.dtype != "float32":
            raise SpecError(f"square_root takes float32, got {example.dtype}: put to_float before")
        return example


def square_root(batch, parameters):
    return torch.sqrt(torch.abs(batch) + parameters.offset)


def clumsy(parameters, input_shape, outputs):
    class Clumsy(nn.Linear):
        def forward(self, x):
            raise RuntimeError(f"cannot read /etc/secret/{x.shape[1]}.txt")

    return Clumsy(math.prod(input_shape), outputs)


def absent(parameters, input_shape, outputs):
    return None


ADDITIONS = Additions(
    architectures={
        "absent": Entry(target="holdout_wide:absent", summary="Builds nothing."),
        "wide": Entry(
            target="holdout_wide:wide", summary="One wide layer.", parameters=WideParameters
        ),
        "clumsy": Entry(target="holdout_wide:clumsy", summary="Fails.", parameters=NoParameters),
    },
    transforms={
        "square_root": Entry(
            target="holdout_wide:square_root",
            summary="Square root of the size.",
            parameters=SquareRoot,
        )
    },
    formats={
        "pairs": Entry(target="holdout_wide.pairs:take", summary="Lines of a label and numbers.")
    },
)
