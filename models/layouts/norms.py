"""Tensors of normalization layers, which several families share."""

from __future__ import annotations

from models.layouts import TensorSpec


def batch_norm_tensors(prefix: str, channels: int) -> dict[str, TensorSpec]:
    """What ``torch.nn.BatchNorm1d`` and ``BatchNorm2d`` keep in a state dict."""
    names = ("weight", "bias", "running_mean", "running_var")
    found = {f"{prefix}.{name}": TensorSpec(shape=(channels,)) for name in names}
    found[f"{prefix}.num_batches_tracked"] = TensorSpec(shape=(), dtype="int64")
    return found
