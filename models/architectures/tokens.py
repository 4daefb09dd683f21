"""Embeddings of token ids."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Embedding(nn.Module):
    """A vector for each id, at first of about unit length; zeros where no id stands.

    Not ``nn.Embedding``, whose first values are normal: on the meta device, where a network is
    built whose weights come from a file, PyTorch would import its compiler to draw none of them.

    Args:
        count: ids are 0 to ``count - 1``.
        width: of a vector.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))
        bound = math.sqrt(3 / width)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, ids: Tensor) -> Tensor:
        """Float32 ``(N, L, width)`` of integers ``(N, L)``, -1 where no id stands."""
        vectors = functional.embedding(ids.clamp(min=0), self.weight)
        return vectors.masked_fill((ids < 0)[:, :, None], 0.0)
