"""Residual networks (He et al., 2015).

A bottleneck halves the image in its 3x3 convolution and not in the 1x1 before it, as the
weights were trained that torchvision publishes ("v1.5").
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from models.architectures.initial import draw_for_relu
from models.layouts import OpenShape, resnet
from models.layouts.images import image_channels
from models.layouts.resnet import STEM_KERNELS, STEM_WIDTH, Block, ResNetLayout, ResNetParameters


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, the mean over places, dropout, a linear head.

    Args:
        layout: which network of the family.
        parameters: the hyperparameters.
        input_shape: ``(channels, height, width)``; any height and width from 1 on will do.
        outputs: number of logits.

    Raises:
        SpecError: ``input_shape`` has not three axes, the first of known length.
    """

    def __init__(
        self,
        layout: ResNetLayout,
        parameters: ResNetParameters,
        input_shape: OpenShape,
        outputs: int,
    ) -> None:
        super().__init__()
        channels = image_channels(layout.name, input_shape)
        small = parameters.stem == "cifar"
        kernel = STEM_KERNELS[parameters.stem]
        self.conv1 = _convolution(channels, STEM_WIDTH, kernel, stride=1 if small else 2)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        kind = Bottleneck if layout.bottleneck else BasicBlock
        stages = layout.stages
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(*map(kind, blocks)) for blocks in stages
        )
        self.dropout = nn.Dropout(parameters.dropout)
        self.fc = nn.Linear(stages[-1][-1].after, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 ``(N, outputs)``, of images, float32 ``(N, channels, H, W)``."""
        x = self.pool(functional.relu(self.bn1(self.conv1(x)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        # not AdaptiveAvgPool2d, whose gradient on CUDA is not deterministic
        x = x.mean(dim=(2, 3))
        logits: Tensor = self.fc(self.dropout(x))
        return logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.conv1 = _convolution(block.before, block.width, 3, stride=block.stride)
        self.bn1 = nn.BatchNorm2d(block.width)
        self.conv2 = _convolution(block.width, block.after, 3)
        self.bn2 = nn.BatchNorm2d(block.after)
        self.downsample = _shortcut(block)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 ``(N, before, H, W)`` to ``(N, after, H / stride, W / stride)``."""
        inner = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        inner = self.bn2(self.conv2(inner))
        return functional.relu(inner + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution beside a shortcut."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.conv1 = _convolution(block.before, block.width, 1)
        self.bn1 = nn.BatchNorm2d(block.width)
        self.conv2 = _convolution(block.width, block.width, 3, stride=block.stride)
        self.bn2 = nn.BatchNorm2d(block.width)
        self.conv3 = _convolution(block.width, block.after, 1)
        self.bn3 = nn.BatchNorm2d(block.after)
        self.downsample = _shortcut(block)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 ``(N, before, H, W)`` to ``(N, after, H / stride, W / stride)``."""
        inner = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        inner = functional.relu(self.bn2(self.conv2(inner)), inplace=True)
        inner = self.bn3(self.conv3(inner))
        return functional.relu(inner + self.downsample(x), inplace=True)


resnet18 = partial(ResNet, resnet.RESNET18)
resnet34 = partial(ResNet, resnet.RESNET34)
resnet50 = partial(ResNet, resnet.RESNET50)


def _convolution(before: int, after: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    """One without a bias, which the batch norm behind it would subtract."""
    made = nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)
    draw_for_relu(made.weight)
    return made


def _shortcut(block: Block) -> nn.Module:
    if not block.downsamples:
        return nn.Identity()
    convolution = _convolution(block.before, block.after, 1, stride=block.stride)
    return nn.Sequential(convolution, nn.BatchNorm2d(block.after))
