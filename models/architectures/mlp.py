"""The multilayer perceptron."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layouts import OpenShape, mlp
from models.layouts.mlp import MLPParameters

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
}


class MLP(nn.Module):
    """For each hidden layer: linear, batch norm if asked, activation, dropout; a linear head.

    Args:
        parameters: the hyperparameters.
        input_shape: ``(features,)``.
        outputs: number of logits.

    Raises:
        SpecError: ``input_shape`` has not exactly one axis of known length.
    """

    def __init__(self, parameters: MLPParameters, input_shape: OpenShape, outputs: int) -> None:
        super().__init__()
        shapes = mlp.tensors(parameters, input_shape, outputs)
        features = shapes["layers.0.weight"].shape[1]
        widths = [features, *parameters.hidden, outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(width) if parameters.batch_norm else nn.Identity()
            for width in parameters.hidden
        )
        self.activation = ACTIVATIONS[parameters.activation]
        self.dropout = nn.Dropout(parameters.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 ``(N, outputs)``, of examples, float32 ``(N, features)``."""
        *hidden, head = self.layers
        for layer, norm in zip(hidden, self.norms, strict=True):
            x = self.dropout(self.activation(norm(layer(x))))
        logits: Tensor = head(x)
        return logits
