"""The small convolutional network."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional

from models.layouts import OpenShape, convnet
from models.layouts.convnet import ConvNetParameters


class ConvNet(nn.Module):
    """Blocks of 3x3 convolution, batch norm, ReLU and halving; the mean over places; a linear head.

    Args:
        parameters: the hyperparameters.
        input_shape: ``(channels, height, width)``; any height and width from 1 on will do.
        outputs: number of logits.

    Raises:
        SpecError: ``input_shape`` has not three axes, the first of known length.
    """

    def __init__(self, parameters: ConvNetParameters, input_shape: OpenShape, outputs: int) -> None:
        super().__init__()
        shapes = convnet.tensors(parameters, input_shape, outputs)
        channels = [shapes["convs.0.weight"].shape[1], *parameters.widths]
        self.convs = nn.ModuleList(
            # no bias: the batch norm behind it subtracts the mean, and any bias with it
            nn.Conv2d(a, b, kernel_size=3, padding=1, bias=False)
            for a, b in itertools.pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in parameters.widths)
        # rounding up keeps a place however small the image is
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.dropout = nn.Dropout(parameters.dropout)
        self.head = nn.Linear(channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 ``(N, outputs)``, of images, float32 ``(N, channels, H, W)``."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.pool(functional.relu(norm(conv(x))))
        # not AdaptiveAvgPool2d, whose gradient on CUDA is not deterministic
        x = x.mean(dim=(2, 3))
        logits: Tensor = self.head(self.dropout(x))
        return logits
