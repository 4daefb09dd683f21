"""Random values that weights have before any training."""

from __future__ import annotations

from torch import Tensor, nn


def draw_normal(tensor: Tensor, *, std: float) -> None:
    """Fill ``tensor`` from a normal distribution around 0 with the deviation ``std``.

    On the meta device, where a network is built whose weights come from a file, there is nothing
    to fill, and PyTorch would first import its compiler for it: 1.2 s of a child's first request.
    """
    if not tensor.is_meta:
        nn.init.normal_(tensor, std=std)


def draw_for_relu(weight: Tensor) -> None:
    """Fill a convolution's weight so that gradients keep their variance (He et al., 2015)."""
    if not weight.is_meta:
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
