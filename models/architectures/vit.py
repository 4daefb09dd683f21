"""The vision transformer (Dosovitskiy et al., 2020)."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.initial import draw_normal
from models.layouts import OpenShape, vit
from models.layouts.vit import ViTParameters


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, layers of attention, a head on the class token.

    Args:
        parameters: the hyperparameters.
        input_shape: ``(channels, side, side)``, the side a multiple of the patch size.
        outputs: number of logits.

    Raises:
        SpecError: such images cannot be cut into patches, or the heads do not divide the width.
    """

    def __init__(self, parameters: ViTParameters, input_shape: OpenShape, outputs: int) -> None:
        super().__init__()
        shapes = vit.tensors(parameters, input_shape, outputs)
        width, channels, patch_size, _ = shapes["conv_proj.weight"].shape
        self.conv_proj = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.encoder = Encoder(parameters, shapes["encoder.pos_embedding"].shape)
        self.dropout = nn.Dropout(parameters.dropout)
        head = nn.Linear(width, outputs)
        self.heads = nn.ModuleDict({"head": head})
        draw_normal(self.conv_proj.weight, std=1 / math.sqrt(channels * patch_size**2))
        self.conv_proj.bias = nn.Parameter(torch.zeros(width))
        # not zeros, with which the first step would move nothing but the head
        draw_normal(head.weight, std=0.02)
        nn.init.zeros_(head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 ``(N, outputs)``, of images, float32 ``(N, channels, side, side)``."""
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = self.class_token.expand(len(x), -1, -1)
        encoded = self.encoder(torch.cat([tokens, patches], dim=1))
        logits: Tensor = self.heads["head"](self.dropout(encoded[:, 0]))
        return logits


class Encoder(nn.Module):
    """Positions, layers, and a layer normalization behind them."""

    def __init__(self, parameters: ViTParameters, positions: tuple[int, ...]) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.empty(positions))
        draw_normal(self.pos_embedding, std=0.02)
        self.dropout = nn.Dropout(parameters.dropout)
        self.layers = nn.Sequential(
            OrderedDict(
                (f"encoder_layer_{index}", EncoderLayer(parameters))
                for index in range(parameters.depth)
            )
        )
        self.ln = _norm(parameters.width)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 ``(N, places, width)`` to the same shape."""
        encoded: Tensor = self.ln(self.layers(self.dropout(x + self.pos_embedding)))
        return encoded


class EncoderLayer(nn.Module):
    """Attention, then a perceptron, each behind a layer normalization and beside a shortcut."""

    def __init__(self, parameters: ViTParameters) -> None:
        super().__init__()
        width, mlp_width = parameters.width, parameters.mlp_width
        self.ln_1 = _norm(width)
        self.self_attention = SelfAttention(width, vit.heads_of(parameters))
        self.dropout = nn.Dropout(parameters.dropout)
        self.ln_2 = _norm(width)
        self.mlp = nn.Sequential(
            _dense(width, mlp_width),
            nn.GELU(),
            nn.Dropout(parameters.dropout),
            _dense(mlp_width, width),
            nn.Dropout(parameters.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float32 ``(N, places, width)`` to the same shape."""
        x = x + self.dropout(self.self_attention(self.ln_1(x)))
        mixed: Tensor = x + self.mlp(self.ln_2(x))
        return mixed


class SelfAttention(nn.Module):
    """Every place's mean of all places' values, weighted by likeness, in each head by itself.

    Written out, and not by ``nn.MultiheadAttention`` or ``scaled_dot_product_attention``: those
    choose a kernel by mode, device, shape and version, so that training and evaluation would
    round differently, and the fused kernels on CUDA do not promise the same gradient twice.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 ``(N, places, width)`` to the same shape."""
        examples, places, width = x.shape
        projected = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        parted = projected.view(examples, places, 3, self.heads, width // self.heads)
        query, key, value = parted.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query / math.sqrt(width // self.heads)) @ key.transpose(-2, -1)
        mixed = scores.softmax(dim=-1) @ value
        together: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(x.shape))
        return together


def _norm(width: int) -> nn.LayerNorm:
    # the published weights were trained with this eps
    return nn.LayerNorm(width, eps=1e-6)


def _dense(before: int, after: int) -> nn.Linear:
    made = nn.Linear(before, after)
    nn.init.xavier_uniform_(made.weight)
    draw_normal(made.bias, std=1e-6)
    return made
