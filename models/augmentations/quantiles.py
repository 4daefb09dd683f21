"""Tables of quantiles, through which a draw becomes a number of any distribution.

An entry of a table is the quantile at the middle of one of 65,536 equal shares of probability, and
16 random bits pick one. Each table is computed once, by the CPU: a logarithm, a sine or a square
root differs in its last bit between devices, and even between places in a tensor, where the last
few elements miss the vector unit. A look-up does not.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COUNT = 1 << 16
_KEPT = 64  # half a megabyte each; a training uses a handful


def picked(table: Tensor, words: Tensor) -> Tensor:
    """The entry of a table that each of `models.augmentations.draws.Draws.words` stands for."""
    return table[words >> 16]


@lru_cache(_KEPT)
def normal(device: torch.device) -> Tensor:
    """Of the normal distribution with variance 1/2, float32.

    The sum of two entries is a standard normal number of 2**32 possible outcomes; one entry alone
    would end at 4.2 deviations.
    """
    table: Tensor = torch.special.ndtri(torch.from_numpy(_middles())) * math.sqrt(0.5)
    return table.to(device, torch.float32)


@lru_cache(_KEPT)
def directions(lowest: float, highest: float, device: torch.device) -> Tensor:
    """Cosine and sine of a uniform angle between two in degrees: float64 ``(COUNT, 2)``."""
    angles = np.radians(lowest + (highest - lowest) * _middles())
    return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=1)).to(device)


@lru_cache(_KEPT)
def roots_uniform(lowest: float, highest: float, device: torch.device) -> Tensor:
    """The square root of a uniform number, float64."""
    return torch.from_numpy(np.sqrt(lowest + (highest - lowest) * _middles())).to(device)


@lru_cache(_KEPT)
def roots_loguniform(lowest: float, highest: float, device: torch.device) -> Tensor:
    """The square root of a number whose logarithm is uniform, float64."""
    low, high = math.log(lowest), math.log(highest)
    return torch.from_numpy(np.exp((low + (high - low) * _middles()) / 2)).to(device)


@lru_cache(_KEPT)
def beta(alpha: float, device: torch.device) -> Tensor:
    """Of Beta(alpha, alpha), float64."""
    return torch.from_numpy(_beta(alpha)).to(device)


@lru_cache(_KEPT)
def roots_beta(alpha: float, device: torch.device) -> Tensor:
    """The square root of one minus a number of Beta(alpha, alpha), float64, at `beta`'s places."""
    return torch.from_numpy(np.sqrt(_beta(alpha)[::-1].copy())).to(device)


def _middles() -> NDArray[np.float64]:
    return (np.arange(COUNT) + 0.5) / COUNT


def _beta(alpha: float) -> NDArray[np.float64]:
    """Quantiles of Beta(alpha, alpha).

    By the trapezoidal rule over ``x = log(b / (1 - b))``, whose density, in proportion to
    ``cosh(x / 2) ** (-2 * alpha)``, is smooth for every alpha where that of ``b`` is not. It is
    symmetric, so that the upper half says all.
    """
    reach = 32.0  # exp(-32) of the density at 0 is where the integral ends
    exponent = reach / (2 * alpha)
    # arcosh(exp(y)) = y + log(1 + sqrt(1 - exp(-2 y))), which does not overflow
    edge = 2 * (exponent + math.log1p(math.sqrt(-math.expm1(-2 * exponent))))
    x = np.linspace(0, edge, 4 * COUNT + 1)
    density = np.exp(-alpha * (x + 2 * np.log1p(np.exp(-x)) - 2 * math.log(2)))
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    upper = np.interp(_middles()[COUNT // 2 :] * 2 - 1, mass / mass[-1], x)
    odds = np.exp(-upper)  # of the smaller share
    return np.concatenate([(odds / (1 + odds))[::-1], 1 / (1 + odds)])
