"""Every name that a request may write, what it takes, and where its code stands.

Nothing registers itself: the tables below are the catalog, and only a worker resolves a target to
the object it names, so that reading the catalog imports no torch. What plug-ins add to it
(`models.plugins`) a worker loads and publishes; every other process knows it by that alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models.entries import ArchitectureEntry, Catalog, Entry, FormatEntry, PublishedEntry
from models.layouts import (
    convnet,
    mlp,
    mobilenet,
    resnet,
    text_cnn,
    transformer_encoder,
    vit,
)
from models.recipes import AUGMENTATIONS, LOSSES, OPTIMIZERS, SCHEDULERS
from models.transforms import Clip, Flatten, Normalize, ToFloat, images
from models.transforms.tables import (
    Impute,
    OneHot,
    Standardize,
)

# A line of text, not of JSON, with a comma, semicolon or tab behind its first cell.
_CSV = (
    rb"(?:\xef\xbb\xbf)?[\r\n]*(?![ \t]*[{\[])(?=[\t -~\xc2-\xf4])"
    rb'(?:"(?:[^"\x00]|"")*"|(?!"))[^,;\x00-\x1f]*[,;\t]'
)

# The first member of what Excel, LibreOffice and the libraries that write for them save.
OFFICE = (
    rb"(?s:PK\x03\x04.{26}(?:\[Content_Types\]\.xml|mimetypeapplication/vnd\.oasis|"
    rb"(?:_rels|docProps|xl)/[!-~]{0,80}\.(?:xml|rels)))"
)

ARCHITECTURES = Catalog(
    "architecture",
    {
        "mlp": ArchitectureEntry(
            target="models.architectures.mlp:MLP",
            summary="Multilayer perceptron for examples of one axis.",
            parameters=mlp.MLPParameters,
            layout=mlp,
            renames=mlp.sequential_names,
        ),
        "convnet": ArchitectureEntry(
            target="models.architectures.convnet:ConvNet",
            summary="Small convolutional network with batch normalization, for images.",
            parameters=convnet.ConvNetParameters,
            layout=convnet,
        ),
        "text_cnn": ArchitectureEntry(
            target="models.architectures.text_cnn:TextCNN",
            summary="Convolutions of several sizes over embeddings, for sequences of token ids.",
            parameters=text_cnn.TextCNNParameters,
            layout=text_cnn,
            tokens=text_cnn.limits,
        ),
        "transformer_encoder": ArchitectureEntry(
            target="models.architectures.transformer_encoder:TransformerEncoder",
            summary="Transformer encoder for sequences of token ids; names of torch's own layers.",
            parameters=transformer_encoder.TransformerEncoderParameters,
            layout=transformer_encoder,
            tokens=transformer_encoder.limits,
        ),
        "resnet18": ArchitectureEntry(
            target="models.architectures.resnet:resnet18",
            summary="Residual network of 18 layers, for images; torchvision's names and shapes.",
            parameters=resnet.ResNetParameters,
            layout=resnet.RESNET18,
            renames=resnet.other_names,
        ),
        "resnet34": ArchitectureEntry(
            target="models.architectures.resnet:resnet34",
            summary="Residual network of 34 layers, for images; torchvision's names and shapes.",
            parameters=resnet.ResNetParameters,
            layout=resnet.RESNET34,
            renames=resnet.other_names,
        ),
        "resnet50": ArchitectureEntry(
            target="models.architectures.resnet:resnet50",
            summary="Residual network of 50 layers, for images; torchvision's names and shapes.",
            parameters=resnet.ResNetParameters,
            layout=resnet.RESNET50,
            renames=resnet.other_names,
        ),
        "mobilenet_v3_small": ArchitectureEntry(
            target="models.architectures.mobilenet:MobileNetV3Small",
            summary="MobileNetV3-Small, for images; torchvision's names and shapes.",
            parameters=mobilenet.MobileNetParameters,
            layout=mobilenet,
            renames=mobilenet.other_names,
        ),
        "vit": ArchitectureEntry(
            target="models.architectures.vit:VisionTransformer",
            summary="Vision transformer, for square images; torchvision's names and shapes.",
            parameters=vit.ViTParameters,
            layout=vit,
            renames=vit.other_names,
        ),
    },
)

TRANSFORMS = Catalog(
    "transform",
    {
        "to_float": Entry(
            target="models.transforms.elementwise:to_float",
            summary="Convert to float32 and scale; uint8 is divided by 255 unless told otherwise.",
            parameters=ToFloat,
        ),
        "normalize": Entry(
            target="models.transforms.elementwise:normalize",
            summary="Subtract a mean and divide by a deviation.",
            parameters=Normalize,
        ),
        "clip": Entry(
            target="models.transforms.elementwise:clip",
            summary="Replace what lies beyond a bound by the bound.",
            parameters=Clip,
        ),
        "flatten": Entry(
            target="models.transforms.elementwise:flatten",
            summary="Make one axis of all axes of an example.",
            parameters=Flatten,
        ),
        "resize": Entry(
            target="models.transforms.geometric:resize",
            summary="Resample images to a size, or to a length of the shorter side.",
            parameters=images.Resize,
        ),
        "center_crop": Entry(
            target="models.transforms.geometric:center_crop",
            summary="Cut out the middle of images; smaller ones get zeros around them.",
            parameters=images.CenterCrop,
        ),
        "pad": Entry(
            target="models.transforms.geometric:pad",
            summary="Put a border around images.",
            parameters=images.Pad,
        ),
        "grey": Entry(
            target="models.transforms.geometric:grey",
            summary="Make grey of colour.",
            parameters=images.Grey,
        ),
        "impute": Entry(
            target="models.transforms.tabular:impute",
            summary="Put a constant where a cell of a table is missing.",
            parameters=Impute,
        ),
        "one_hot": Entry(
            target="models.transforms.tabular:one_hot",
            summary="Replace a table's columns of text by one column for each of their categories.",
            parameters=OneHot,
        ),
        "standardize": Entry(
            target="models.transforms.tabular:standardize",
            summary=(
                "Subtract the mean of a table's column and divide by its deviation: those of the "
                "cells that the training dataset has, before impute fills the others."
            ),
            parameters=Standardize,
        ),
    },
)

FORMATS = Catalog(
    "format",
    {
        "npz": FormatEntry(
            target="models.datasets.npz:take",
            kind="array",
            summary="A NumPy archive with the arrays x and y, and optionally groups and lengths.",
            # The first member of the zip lies at the top.
            signature=rb"(?s)PK\x03\x04.{26}[^/\\]*?\.npy",
        ),
        "safetensors": FormatEntry(
            target="models.datasets.safetensors:take",
            kind="array",
            summary="A safetensors file with the tensors x and y, optionally groups and lengths.",
            signature=rb"(?s).{3}[\x00\x01]\x00{4}\{",  # the length of the header, its first byte
        ),
        "images": FormatEntry(
            target="models.datasets.images:take",
            kind="image",
            summary="A zip, tar or tar.gz of PNG, JPEG, BMP or WebP images in folders by class.",
            # A zip, but no office document and not what torch.save writes; gzip; tar.
            signature=(
                rb"(?s)(?!" + OFFICE + rb")PK\x03\x04(?!.{26}[^/]*/data\.pkl)"
                rb"|\x1f\x8b\x08|.{257}ustar[\x00 ]"
            ),
        ),
        "parquet": FormatEntry(
            target="models.datasets.parquetfile:take",
            kind="table",
            summary="A Parquet table with a column of labels; or of labels and lists of token ids.",
            signature=rb"PAR1(?![ -~])",  # and not a column of that name
        ),
        "csv": FormatEntry(
            target="models.datasets.csvfile:take",
            kind="table",
            summary=(
                "A CSV table in UTF-8 with a header and a column of labels. Missing are empty "
                "cells, and among numbers and booleans NA, N/A, null and NULL."
            ),
            signature=_CSV,
        ),
    },
)

METRICS = Catalog(
    "metric",
    {
        "loss": Entry(
            target="models.metrics:losses",
            summary="Mean cross-entropy over all examples, in nats; lower is better.",
        ),
        "accuracy": Entry(
            target="models.metrics:ratios", summary="Share of examples predicted right."
        ),
        "precision": Entry(
            target="models.metrics:ratios",
            summary="Of the positive class if binary, else the mean over the classes.",
        ),
        "recall": Entry(
            target="models.metrics:ratios",
            summary="Of the positive class if binary, else the mean over the classes.",
        ),
        "f1": Entry(
            target="models.metrics:ratios",
            summary="Of the positive class if binary, else the mean over the classes.",
        ),
    },
)

CATALOGS: dict[str, Catalog[Entry]] = {
    "architectures": ARCHITECTURES,
    "transforms": TRANSFORMS,
    "augmentations": AUGMENTATIONS,
    "optimizers": OPTIMIZERS,
    "schedulers": SCHEDULERS,
    "losses": LOSSES,
    "formats": FORMATS,
    "metrics": METRICS,
}


def publish_added(described: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """From now on, in this process, these are the names that plug-ins add.

    Args:
        described: by kind, of each what `Entry.describe` gave, and its ``name``.
    """
    for kind, catalog in CATALOGS.items():
        entries = {one["name"]: PublishedEntry.of(one) for one in described.get(kind, ())}
        catalog.replace_added(entries)


def added() -> dict[str, list[dict[str, Any]]]:
    """What plug-ins add here, as `publish_added` takes it elsewhere."""
    return {
        kind: [{"name": name, **entry.describe()} for name, entry in catalog.added.items()]
        for kind, catalog in CATALOGS.items()
        if catalog.added
    }
