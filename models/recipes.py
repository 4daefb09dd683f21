"""The names that only a training can write: augmentations, optimizers, schedulers and losses.

Part of the catalog, see `models.catalog`.
"""

from __future__ import annotations

from models.augmentations import (
    ColorJitter,
    CutMix,
    GaussianNoise,
    MixUp,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
)
from models.entries import Catalog, Entry
from models.losses import BinaryCrossEntropy, CrossEntropy, Focal
from models.optimization import (
    SGD,
    Adam,
    AdamW,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    RMSprop,
    StepLR,
)

AUGMENTATIONS = Catalog(
    "augmentation",
    {
        "random_crop": Entry(
            target="models.augmentations.geometry:random_crop",
            summary="Cut out a window of fixed size at a random place, after padding on demand.",
            parameters=RandomCrop,
        ),
        "random_resized_crop": Entry(
            target="models.augmentations.geometry:random_resized_crop",
            summary="Cut out a window of random place, area and aspect ratio, and resize it.",
            parameters=RandomResizedCrop,
        ),
        "random_horizontal_flip": Entry(
            target="models.augmentations.geometry:random_horizontal_flip",
            summary="Swap left and right with probability p.",
            parameters=RandomHorizontalFlip,
        ),
        "random_vertical_flip": Entry(
            target="models.augmentations.geometry:random_vertical_flip",
            summary="Swap top and bottom with probability p.",
            parameters=RandomVerticalFlip,
        ),
        "random_rotation": Entry(
            target="models.augmentations.geometry:random_rotation",
            summary="Rotate about the centre by a random angle.",
            parameters=RandomRotation,
        ),
        "color_jitter": Entry(
            target="models.augmentations.values:color_jitter",
            summary="Change brightness, contrast, saturation and hue by random factors.",
            parameters=ColorJitter,
        ),
        "random_erasing": Entry(
            target="models.augmentations.values:random_erasing",
            summary="Overwrite a random rectangle with probability p.",
            parameters=RandomErasing,
        ),
        "gaussian_noise": Entry(
            target="models.augmentations.values:gaussian_noise",
            summary="Add normal noise with probability p.",
            parameters=GaussianNoise,
        ),
        "mixup": Entry(
            target="models.augmentations.mixing:mixup",
            summary="Mix each example with another of its batch, and their targets alike.",
            parameters=MixUp,
        ),
        "cutmix": Entry(
            target="models.augmentations.mixing:cutmix",
            summary="Paste a rectangle of another image of the batch, and mix their targets alike.",
            parameters=CutMix,
        ),
    },
)

OPTIMIZERS = Catalog(
    "optimizer",
    {
        "SGD": Entry(
            target="torch.optim:SGD", summary="Stochastic gradient descent.", parameters=SGD
        ),
        "Adam": Entry(
            target="torch.optim:Adam",
            summary="Adam; weight decay is a part of the gradient.",
            parameters=Adam,
        ),
        "AdamW": Entry(
            target="torch.optim:AdamW",
            summary="Adam with decoupled weight decay.",
            parameters=AdamW,
        ),
        "RMSprop": Entry(
            target="torch.optim:RMSprop",
            summary="Gradients over the root of their running mean of squares.",
            parameters=RMSprop,
        ),
    },
)

SCHEDULERS = Catalog(
    "scheduler",
    {
        "StepLR": Entry(
            target="torch.optim.lr_scheduler:StepLR",
            summary="Multiply the rate by gamma every step_size epochs.",
            parameters=StepLR,
        ),
        "MultiStepLR": Entry(
            target="torch.optim.lr_scheduler:MultiStepLR",
            summary="Multiply the rate by gamma at each milestone.",
            parameters=MultiStepLR,
        ),
        "ExponentialLR": Entry(
            target="torch.optim.lr_scheduler:ExponentialLR",
            summary="Multiply the rate by gamma after every epoch.",
            parameters=ExponentialLR,
        ),
        "CosineAnnealingLR": Entry(
            target="torch.optim.lr_scheduler:CosineAnnealingLR",
            summary="Half a cosine down to eta_min, over all epochs unless T_max says otherwise.",
            parameters=CosineAnnealingLR,
        ),
        "CosineAnnealingWarmRestarts": Entry(
            target="torch.optim.lr_scheduler:CosineAnnealingWarmRestarts",
            summary="Half a cosine down to eta_min, again and again.",
            parameters=CosineAnnealingWarmRestarts,
        ),
        "OneCycleLR": Entry(
            target="torch.optim.lr_scheduler:OneCycleLR",
            summary="Up to max_lr and down again, step by step, within the whole training.",
            parameters=OneCycleLR,
        ),
        "ReduceLROnPlateau": Entry(
            target="torch.optim.lr_scheduler:ReduceLROnPlateau",
            summary="Lower the rate once the monitored validation metric stops improving.",
            parameters=ReduceLROnPlateau,
        ),
    },
)

LOSSES = Catalog(
    "loss",
    {
        "cross_entropy": Entry(
            target="models.losses.functions:SoftmaxLoss",
            summary="Softmax cross-entropy, with label smoothing and class weights on demand.",
            parameters=CrossEntropy,
        ),
        "binary_cross_entropy_with_logits": Entry(
            target="models.losses.functions:SigmoidLoss",
            summary="Sigmoid cross-entropy: one output if binary, one a label if multilabel.",
            parameters=BinaryCrossEntropy,
        ),
        "focal": Entry(
            target="models.losses.functions:FocalLoss",
            summary="Cross-entropy that counts less what is predicted well already.",
            parameters=Focal,
        ),
    },
)
