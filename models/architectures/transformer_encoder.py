"""The transformer encoder (Vaswani et al., 2017) as a classifier of sequences."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.tokens import Embedding
from models.layouts import OpenShape, transformer_encoder
from models.layouts.transformer_encoder import TransformerEncoderParameters

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
}


class TransformerEncoder(nn.Module):
    """Embeddings with learned positions, layers of attention, the mean over places, a linear head.

    The layers compute what ``torch.nn.TransformerEncoderLayer`` does with its defaults, under the
    same names. What stands behind the end of a sequence is neither attended to nor part of the
    mean.

    Args:
        parameters: the hyperparameters.
        input_shape: ``(length,)``, at most ``max_length`` or not known.
        outputs: number of logits.

    Raises:
        SpecError: ``input_shape`` has not exactly one axis or is too long, or the heads do not
            divide the width.
    """

    def __init__(
        self, parameters: TransformerEncoderParameters, input_shape: OpenShape, outputs: int
    ) -> None:
        super().__init__()
        transformer_encoder.tensors(parameters, input_shape, outputs)
        self.embedding = Embedding(parameters.vocabulary, parameters.width)
        self.positions = Embedding(parameters.max_length, parameters.width)
        self.encoder = Encoder(parameters)
        self.dropout = nn.Dropout(parameters.dropout)
        self.head = nn.Linear(parameters.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 ``(N, outputs)``, of token ids, int32 ``(N, L)``, -1 behind the end."""
        within = x >= 0
        features = self.embedding(x) + self.positions.weight[: x.shape[1]]
        features = self.encoder(self.dropout(features), within)
        features = features.masked_fill(~within[:, :, None], 0.0)
        mean = features.sum(dim=1) / within.sum(dim=1, keepdim=True)
        logits: Tensor = self.head(self.dropout(mean))
        return logits


class Encoder(nn.Module):
    """The layers, and a layer normalization behind them if asked."""

    def __init__(self, parameters: TransformerEncoderParameters) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(parameters) for _ in range(parameters.depth))
        self.norm = nn.LayerNorm(parameters.width) if parameters.final_norm else nn.Identity()

    def forward(self, x: Tensor, within: Tensor) -> Tensor:
        """Float32 ``(N, L, width)`` to the same shape; ``within`` is bool ``(N, L)``."""
        for layer in self.layers:
            x = layer(x, within)
        encoded: Tensor = self.norm(x)
        return encoded


class EncoderLayer(nn.Module):
    """Attention, then a perceptron, each with a shortcut and a layer normalization."""

    def __init__(self, parameters: TransformerEncoderParameters) -> None:
        super().__init__()
        width, feedforward = parameters.width, parameters.feedforward
        self.self_attn = SelfAttention(width, parameters.heads, parameters.dropout)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(parameters.dropout)
        self.activation = ACTIVATIONS[parameters.activation]
        self.norm_first = parameters.norm_first

    def forward(self, x: Tensor, within: Tensor) -> Tensor:
        """Float32 ``(N, L, width)`` to the same shape; ``within`` is bool ``(N, L)``."""
        if self.norm_first:
            x = x + self.dropout(self.self_attn(self.norm1(x), within))
            x = x + self._perceptron(self.norm2(x))
        else:
            x = self.norm1(x + self.dropout(self.self_attn(x, within)))
            x = self.norm2(x + self._perceptron(x))
        return x

    def _perceptron(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.linear1(x)))
        mixed: Tensor = self.dropout(self.linear2(hidden))
        return mixed


class SelfAttention(nn.Module):
    """Every place's mean of the values within its sequence, weighted by likeness, in each head.

    Written out, and not by ``nn.MultiheadAttention`` or ``scaled_dot_product_attention``: those
    choose a kernel by mode, device and mask, so that bits would depend on what else is in a batch,
    and the fused kernels on CUDA do not promise the same gradient twice.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, within: Tensor) -> Tensor:
        """Float32 ``(N, L, width)`` to the same shape; ``within`` is bool ``(N, L)``."""
        examples, places, width = x.shape
        projected = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        parted = projected.view(examples, places, 3, self.heads, width // self.heads)
        query, key, value = parted.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query / math.sqrt(width // self.heads)) @ key.transpose(-2, -1)
        # every sequence holds an id, so that no row of scores is masked as a whole
        scores = scores.masked_fill(~within[:, None, None, :], -math.inf)
        mixed = self.dropout(scores.softmax(dim=-1)) @ value
        together: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(x.shape))
        return together
