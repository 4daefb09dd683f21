"""Random numbers that depend on where they are used and on nothing else.

There is no generator whose state moves on. Each number is a function of the run's seed, the epoch,
the example's index in the dataset, the augmentation's position in the chain and the number of the
draw, in integer arithmetic that is the same on every device. So an example meets the same fate in
any batch, at any place of it and in any order, and a training that is resumed needs no state of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
# As signed numbers, because PyTorch computes in int64, which wraps as unsigned numbers do.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def splitmix64(states: Tensor, numbers: Tensor) -> Tensor:
    """What the generators that start in ``states`` give as their outputs ``numbers``.

    Args:
        states: int64, the 64 bits of each state.
        numbers: int64, from 0, of a shape that broadcasts with that of ``states``.

    Returns:
        int64, 64 random bits each.
    """
    mixed = states + (numbers + 1) * _GAMMA
    mixed ^= _shifted(mixed, 30)
    mixed *= _FIRST
    mixed ^= _shifted(mixed, 27)
    mixed *= _SECOND
    mixed ^= _shifted(mixed, 31)
    return mixed


@dataclass(frozen=True, slots=True)
class Draws:
    """A sequence of random numbers for each example of a batch.

    Attributes:
        states: int64 ``(N,)``, where the SplitMix64 generator of each starts.
    """

    states: Tensor

    @classmethod
    def start(cls, *, seed: int, epoch: int, indices: Tensor) -> Draws:
        """The sequences of a run's epoch.

        Args:
            seed: of the run; its lowest 64 bits count.
            epoch: any number of it.
            indices: int64 ``(N,)``, of the examples in their dataset.
        """
        signed = (seed + (1 << 63)) % (1 << 64) - (1 << 63)
        run = torch.full_like(indices, signed)
        return cls(splitmix64(splitmix64(run, torch.full_like(indices, epoch)), indices))

    def at(self, position: int) -> Draws:
        """The sequences of the augmentation at that position in the chain, from 0."""
        return Draws(splitmix64(self.states, torch.full_like(self.states, position)))

    def bits(self, count: int) -> Tensor:
        """The first draws of each example: int64 ``(N, count)``, 64 random bits each."""
        return splitmix64(self.states[:, None], torch.arange(count, device=self.states.device))

    def words(self, count: int) -> Tensor:
        """The upper halves of the same: int64 ``(N, count)`` in ``[0, 2**32)``."""
        return upper(self.bits(count))


def upper(bits: Tensor) -> Tensor:
    """The upper halves of `Draws.bits`: int64 in ``[0, 2**32)``."""
    return _shifted(bits, 32)


def fractions(words: Tensor) -> Tensor:
    """Uniform numbers in ``[0, 1)``, float64 and exact, from `Draws.words`."""
    return words.to(torch.float64) * 2.0**-32


def below(words: Tensor, limit: Tensor | int) -> Tensor:
    """Uniform whole numbers in ``[0, limit)``, int64, from `Draws.words`; ``limit < 2**31``."""
    return words * limit >> 32


def chosen(words: Tensor, p: float) -> Tensor:
    """Which examples are changed where each is with probability ``p``: bool, as ``words``."""
    return fractions(words) < p


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift right and fill with zeros; PyTorch's own shift copies the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
