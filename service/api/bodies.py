"""What bodies of requests say: each once, which checks it, builds the spec and is the document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import marshmallow as ma
from marshmallow import fields, post_load, validate

from checkpoints.store import Draft
from models.spec import (
    DEVICE_PATTERN,
    MODES,
    SPLITS,
    TASKS,
    Component,
    DatasetSpec,
    EvaluationSpec,
)
from service.api.fields import (
    Boolean,
    Float,
    Integer,
    Name,
    Names,
    Object,
    Text,
    Transforms,
    labels,
    timeout,
)
from service.api.parsing import File, FileOrText
from service.api.schemas import Schema
from service.operations.checkpoints import DECLARED


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointUpload:
    """An uploaded checkpoint file and what is said of it."""

    file: Draft
    declaration: dict[str, Any]
    labels: dict[str, str]


class DeclarationSchema(Schema):
    """What is said of an uploaded checkpoint where its file does not say it."""

    architecture = Text(
        validate=validate.Length(1, 128),
        metadata={"description": "A name of the catalog; an ONNX file needs none."},
    )
    hyperparameters = Object(
        metadata={
            "description": "Where the weights do not show them, such as the activation; of ONNX "
            "only padding_id."
        }
    )
    classes = fields.List(Text(validate=validate.Length(1, 256)), validate=validate.Length(1))
    transforms = Transforms(metadata={"description": "What the network needs done to its input."})
    key_map = fields.Dict(
        keys=Text(validate=validate.Length(1, 512)),
        values=Text(validate=validate.Length(0, 512)),
        metadata={"description": 'Foreign names to ours by prefix: {"net.0": "layers.0"}.'},
    )


class CheckpointUploadSchema(DeclarationSchema):
    """A checkpoint file."""

    file = File(required=True, metadata={"type": "string", "format": "binary"})
    labels = labels()

    @post_load
    def to_upload(self, data: dict[str, Any], **_: Any) -> CheckpointUpload:
        """The file apart from what is said of it."""
        return CheckpointUpload(
            file=data["file"], declaration=declaration(data), labels=data["labels"]
        )


def declaration(data: dict[str, Any]) -> dict[str, Any]:
    """The declared fields as JSON values."""
    said = {name: data[name] for name in DECLARED if name in data}
    if "transforms" in said:
        said["transforms"] = [one.to_json() for one in said["transforms"]]
    return said


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetUpload:
    """An uploaded dataset file, its spec and the terms of its ingestion."""

    file: Draft
    spec: DatasetSpec
    labels: dict[str, str]
    timeout_s: float | None


class DatasetUploadSchema(Schema):
    """A dataset file."""

    file = File(required=True, metadata={"type": "string", "format": "binary"})
    name = Name(required=True)
    split = Text(required=True, validate=validate.OneOf(SPLITS))
    task = Text(load_default="multiclass", validate=validate.OneOf(TASKS))
    format = Text(
        load_default=None,
        validate=validate.Length(1, 128),
        metadata={
            "description": "A name of the catalog; found from the content if it is not said, but "
            "for a plug-in's."
        },
    )
    classes = fields.List(
        Text(), load_default=None, metadata={"description": "In index order; else sorted labels."}
    )
    positive_class = Text(
        load_default=None, metadata={"description": "Of a binary task; the second by default."}
    )
    label = Names(
        load_default=None,
        metadata={
            "description": "Of a table, the column of the labels (default `label`); for a "
            "multilabel task a JSON list of columns."
        },
    )
    features = fields.List(
        Text(validate=validate.Length(1, 256)),
        load_default=None,
        validate=validate.Length(1, 100_000),
        metadata={
            "description": "Of a table, the columns of an example, or the one column of lists of "
            "token ids; by default all others."
        },
    )
    groups = fields.List(
        Text(validate=validate.Length(1, 128)),
        load_default=None,
        validate=validate.Length(max=32),
        metadata={"description": "Names of the arrays or columns that define slices."},
    )
    mode = Text(
        load_default=None,
        validate=validate.OneOf(MODES),
        metadata={"description": "What images are converted to; rgb by default."},
    )
    transforms = Transforms(load_default=list)
    sealed = Boolean(
        load_default=None,
        metadata={
            "description": "Whether single examples are for admins only; by default for `test`."
        },
    )
    labels = labels()
    timeout_s = timeout()

    @post_load
    def to_upload(self, data: dict[str, Any], **_: Any) -> DatasetUpload:
        """The file apart from its spec."""
        if data["sealed"] is None:
            data["sealed"] = data["split"] == "test"
        file, marks, timeout_s = data.pop("file"), data.pop("labels"), data.pop("timeout_s")
        listed: Any = {n: tuple(v) if isinstance(v, list) else v for n, v in data.items()}
        spec = DatasetSpec(**listed)
        return DatasetUpload(file=file, spec=spec, labels=marks, timeout_s=timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """How a dataset becomes two, and the terms of that ingestion."""

    train: str
    validation: str
    fraction: float
    seed: int
    stratify: bool
    labels: dict[str, str]
    timeout_s: float | None


class DivisionSchema(Schema):
    """A dataset in two parts."""

    train = Name(required=True, metadata={"description": "Name of the training part."})
    validation = Name(required=True, metadata={"description": "Name of the validation part."})
    fraction = Float(
        load_default=0.2,
        validate=validate.Range(0, 1, min_inclusive=False, max_inclusive=False),
        metadata={"description": "Of the examples, for validation."},
    )
    seed = Integer(load_default=0, validate=validate.Range(0, 2**32 - 1))
    stratify = Boolean(
        load_default=True,
        metadata={
            "description": "Take the fraction of each class; for a multilabel task of each "
            "combination of labels, so that a label's share is kept only as far as those allow."
        },
    )
    labels = labels()
    timeout_s = timeout()

    @post_load
    def to_division(self, data: dict[str, Any], **_: Any) -> Division:
        """One value."""
        return Division(**data)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """What to evaluate: a stored checkpoint, or one that the request brings."""

    checkpoint: str | Draft
    declaration: dict[str, Any]
    transforms: tuple[Component, ...] | None
    terms: dict[str, Any]
    labels: dict[str, str]
    timeout_s: float | None
    fresh: bool

    def spec(self, digest: str) -> EvaluationSpec:
        """The spec, once the checkpoint has a digest."""
        return EvaluationSpec(checkpoint=digest, transforms=self.transforms, **self.terms)


class EvaluationTerms(Schema):
    """How a checkpoint is evaluated."""

    dataset = Text(
        required=True,
        validate=validate.Length(1, 160),
        metadata={"description": "NAME (the latest version) or NAME@VERSION."},
    )
    batch_size = Integer(load_default=256, validate=validate.Range(1, 65536))
    device = Text(
        load_default="auto",
        validate=validate.Regexp(DEVICE_PATTERN, error="must be auto, cpu, cuda or cuda:N"),
    )
    threshold = Float(
        load_default=None,
        allow_none=True,
        validate=validate.Range(0, 1, min_inclusive=False, max_inclusive=False),
        metadata={
            "description": "Of the positive class's probability, for a binary task; of "
            "each label's, for a multilabel one. No other task takes it."
        },
    )
    fresh = Boolean(
        load_default=False, metadata={"description": "Compute again even if the answer is known."}
    )
    labels = labels()
    timeout_s = timeout()


class EvaluationOfStored(EvaluationTerms):
    """Evaluate a stored checkpoint."""

    checkpoint = Text(
        required=True,
        validate=validate.Length(1, 128),
        metadata={"description": "A digest, or a prefix of 8 or more of its digits."},
    )
    transforms = Transforms(
        metadata={"description": "In place of the checkpoint's or the dataset's."}
    )


class EvaluationOfUpload(EvaluationTerms, DeclarationSchema):
    """Evaluate a checkpoint that comes with the request."""

    checkpoint = File(required=True, metadata={"type": "string", "format": "binary"})


class EvaluationRequestSchema(EvaluationTerms, DeclarationSchema):
    """Either of the two; what belongs to an upload only is an error beside a reference."""

    checkpoint = FileOrText(required=True)

    @post_load
    def to_request(self, data: dict[str, Any], **_: Any) -> EvaluationRequest:
        """Sort the fields by what they are about."""
        said = declaration(data)
        transforms = None
        if isinstance(data["checkpoint"], str):
            said.pop("transforms", None)
            transforms = tuple(data["transforms"]) if "transforms" in data else None
            if said:
                raise ma.ValidationError(
                    {name: ["belongs to an upload; the checkpoint is stored"] for name in said}
                )
        return EvaluationRequest(
            checkpoint=data["checkpoint"],
            declaration=said,
            transforms=transforms,
            terms={name: data[name] for name in ("dataset", "batch_size", "device", "threshold")},
            labels=data["labels"],
            timeout_s=data["timeout_s"],
            fresh=data["fresh"],
        )
