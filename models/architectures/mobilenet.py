"""MobileNetV3-Small (Howard et al., 2019)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from models.architectures.initial import draw_for_relu, draw_normal
from models.layouts import OpenShape
from models.layouts.images import image_channels
from models.layouts.mobilenet import (
    HEAD_WIDTH,
    LAST_WIDTH,
    STEM_WIDTH,
    Block,
    MobileNetParameters,
    blocks,
)


class MobileNetV3Small(nn.Module):
    """Convolutions and inverted residual blocks, the mean over places, a head of two layers.

    Args:
        parameters: the hyperparameters.
        input_shape: ``(channels, height, width)``; any height and width from 1 on will do.
        outputs: number of logits.

    Raises:
        SpecError: ``input_shape`` has not three axes, the first of known length.
    """

    def __init__(
        self, parameters: MobileNetParameters, input_shape: OpenShape, outputs: int
    ) -> None:
        super().__init__()
        channels = image_channels("mobilenet_v3_small", input_shape)
        inner = blocks()
        self.features = nn.Sequential(
            _convolution(channels, STEM_WIDTH, 3, nn.Hardswish(), stride=2),
            *map(InvertedResidual, inner),
            _convolution(inner[-1].after, LAST_WIDTH, 1, nn.Hardswish()),
        )
        self.classifier = nn.Sequential(
            _linear(LAST_WIDTH, HEAD_WIDTH),
            nn.Hardswish(),
            nn.Dropout(parameters.dropout),
            _linear(HEAD_WIDTH, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 ``(N, outputs)``, of images, float32 ``(N, channels, H, W)``."""
        # not AdaptiveAvgPool2d, whose gradient on CUDA is not deterministic
        x = self.features(x).mean(dim=(2, 3))
        logits: Tensor = self.classifier(x)
        return logits


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, weigh the channels, narrow."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.residual = block.residual
        activation = nn.Hardswish if block.hard_swish else nn.ReLU
        parts: list[nn.Module] = []
        if block.expands:
            parts.append(_convolution(block.before, block.width, 1, activation()))
        depthwise = _convolution(
            block.width,
            block.width,
            block.kernel,
            activation(),
            stride=block.stride,
            groups=block.width,
        )
        parts.append(depthwise)
        if block.squeezes:
            parts.append(SqueezeExcitation(block.width, block.squeezed))
        parts.append(_convolution(block.width, block.after, 1, nn.Identity()))
        self.block = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 ``(N, before, H, W)`` to ``(N, after, H / stride, W / stride)``."""
        inner: Tensor = self.block(x)
        return x + inner if self.residual else inner


class SqueezeExcitation(nn.Module):
    """Multiply each channel by a weight in [0, 1] that is computed from all channels' means."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = _started(nn.Conv2d(width, squeezed, 1))
        self.fc2 = _started(nn.Conv2d(squeezed, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Float32 ``(N, width, H, W)`` to the same shape."""
        means = x.mean(dim=(2, 3), keepdim=True)
        return x * functional.hardsigmoid(self.fc2(functional.relu(self.fc1(means))))


def _convolution(
    before: int, after: int, kernel: int, activation: nn.Module, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """One without a bias, which the batch norm behind it would subtract; norm and nonlinearity."""
    convolution = nn.Conv2d(
        before,
        after,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=groups,
        bias=False,
    )
    # the published weights were trained with these; eps shows in every logit
    norm = nn.BatchNorm2d(after, eps=0.001, momentum=0.01)
    return nn.Sequential(_started(convolution), norm, activation)


def _started(convolution: nn.Conv2d) -> nn.Conv2d:
    draw_for_relu(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


def _linear(before: int, after: int) -> nn.Linear:
    made = nn.Linear(before, after)
    draw_normal(made.weight, std=0.01)
    nn.init.zeros_(made.bias)
    return made
