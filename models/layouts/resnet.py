"""The tensors of `models.architectures.resnet`, named and shaped as torchvision's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.layouts import OpenShape, Shape, Shown, TensorSpec
from models.layouts.images import dropout_before_head, image_channels, names_of_head
from models.layouts.norms import batch_norm_tensors
from models.parameters import parameter
from models.spec import SpecError

STEM_WIDTH = 64
STEM_KERNELS = {"imagenet": 7, "cifar": 3}

_STAGE_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4  # of a bottleneck's last convolution


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetParameters:
    """Hyperparameters of the residual networks."""

    stem: str = parameter(
        summary="imagenet: a 7x7 convolution of stride 2 and a max pool; cifar: a 3x3 convolution "
        "of stride 1 and no pool, for small images; an upload's shapes show it.",
        default="imagenet",
        type="string",
        enum=list(STEM_KERNELS),
    )
    dropout: float = dropout_before_head(0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One residual block.

    Attributes:
        name: before its tensors' names.
        before: channels that it takes.
        width: channels of its 3x3 convolutions.
        after: channels that it gives.
        stride: of its first 3x3 convolution and of its shortcut.
    """

    name: str
    before: int
    width: int
    after: int
    stride: int

    @property
    def downsamples(self) -> bool:
        """Whether the shortcut has a convolution, because input and output differ in shape."""
        return self.stride != 1 or self.before != self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class ResNetLayout:
    """One network of the family; a `models.layouts.Layout`.

    Attributes:
        name: in the catalog.
        depths: number of blocks of each of the four stages.
        bottleneck: whether a block is a 1x1, a 3x3 and a 1x1 convolution, else two 3x3 ones.
    """

    name: str
    depths: tuple[int, int, int, int]
    bottleneck: bool

    @property
    def stages(self) -> list[list[Block]]:
        """The blocks, stage by stage."""
        before, stages = STEM_WIDTH, []
        for number, (width, depth) in enumerate(zip(_STAGE_WIDTHS, self.depths, strict=True), 1):
            blocks = []
            for index in range(depth):
                block = Block(
                    name=f"layer{number}.{index}",
                    before=before,
                    width=width,
                    after=width * _EXPANSION if self.bottleneck else width,
                    stride=2 if number > 1 and index == 0 else 1,
                )
                blocks.append(block)
                before = block.after
            stages.append(blocks)
        return stages

    def tensors(
        self, parameters: ResNetParameters, input_shape: OpenShape, outputs: int
    ) -> dict[str, TensorSpec]:
        """See `models.layouts.Layout.tensors`."""
        channels = image_channels(self.name, input_shape)
        found = _convolution("conv1", "bn1", channels, STEM_WIDTH, STEM_KERNELS[parameters.stem])
        features = STEM_WIDTH
        for block in (block for blocks in self.stages for block in blocks):
            for index, (before, after, kernel) in enumerate(self._convolutions(block), 1):
                names = f"{block.name}.conv{index}", f"{block.name}.bn{index}"
                found |= _convolution(*names, before, after, kernel)
            if block.downsamples:
                names = f"{block.name}.downsample.0", f"{block.name}.downsample.1"
                found |= _convolution(*names, block.before, block.after, 1)
            features = block.after
        found["fc.weight"] = TensorSpec(shape=(outputs, features))
        found["fc.bias"] = TensorSpec(shape=(outputs,))
        return found

    def shown(self, shapes: Mapping[str, Shape]) -> Shown:
        """See `models.layouts.Layout.shown`."""
        stem, head = shapes.get("conv1.weight", ()), shapes.get("fc.weight", ())
        stems = {(kernel, kernel): name for name, kernel in STEM_KERNELS.items()}
        if len(stem) != 4 or stem[2:] not in stems or len(head) != 2:
            raise SpecError(
                f"{self.name} needs conv1.weight with shape ({STEM_WIDTH}, channels, 7, 7) or "
                f"({STEM_WIDTH}, channels, 3, 3) and fc.weight with 2 axes (outputs, features)"
            )
        return Shown(
            parameters={"stem": stems[stem[2:]]},
            input_shape=(stem[1], None, None),
            outputs=head[0],
        )

    def _convolutions(self, block: Block) -> list[tuple[int, int, int]]:
        """Channels before and after, and kernel, of each one that is not the shortcut's."""
        if not self.bottleneck:
            return [(block.before, block.width, 3), (block.width, block.after, 3)]
        return [
            (block.before, block.width, 1),
            (block.width, block.width, 3),
            (block.width, block.after, 1),
        ]


RESNET18 = ResNetLayout(name="resnet18", depths=(2, 2, 2, 2), bottleneck=False)
RESNET34 = ResNetLayout(name="resnet34", depths=(3, 4, 6, 3), bottleneck=False)
RESNET50 = ResNetLayout(name="resnet50", depths=(3, 4, 6, 3), bottleneck=True)


def _convolution(
    convolution: str, norm: str, before: int, after: int, kernel: int
) -> dict[str, TensorSpec]:
    """One without a bias, and the batch normalization behind it."""
    weight = TensorSpec(shape=(after, before, kernel, kernel))
    return {f"{convolution}.weight": weight, **batch_norm_tensors(norm, after)}


def other_names(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """See `models.entries.ArchitectureEntry.renames`."""
    return names_of_head(shapes, "fc")
