"""What requests say: each body once, which checks it, builds the spec and is the document."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import marshmallow as ma
from marshmallow import fields, post_load, validate

from checkpoints.store import Draft
from models.spec import DEVICE_PATTERN, SPLITS, TASKS, Component, DatasetSpec, EvaluationSpec
from service.api.fields import (
    Boolean,
    Float,
    Integer,
    Name,
    Object,
    Text,
    Transforms,
    labels,
    timeout,
)
from service.api.parsing import File, FileOrText
from service.jobs.lifecycle import State
from service.operations.checkpoints import DECLARED
from service.operations.jobs import METRIC_SORTS
from service.operations.listing import Page


class Schema(ma.Schema):
    """Fields keep the order in which they are written."""


class Wait(fields.String):
    """``?wait`` (as long as the setting allows) or ``?wait=SECONDS``."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not re.fullmatch(WAIT_PATTERN, value):
            raise ma.ValidationError("must be empty or a number of seconds, such as 30 or 0.5")
        return float(value) if value else math.inf


WAIT_PATTERN = r"([0-9]{1,9}(\.[0-9]{1,9})?)?"


class WaitQuery(Schema):
    """How long the answer is held."""

    wait = Wait(
        load_default=0.0,
        metadata={
            "description": "Hold the answer until the job ended or this many seconds passed; "
            "empty means as long as the service allows.",
            "pattern": f"^{WAIT_PATTERN}$",
            "allowEmptyValue": True,
        },
    )


def sort(*names: str) -> Text:
    """The fields that a list can be sorted by."""
    known = [f"{sign}{name}" for name in ("created_at", *names) for sign in ("-", "")]
    return Text(
        load_default="-created_at",
        validate=validate.OneOf(known),
        metadata={"description": "A field, with '-' before it for descending."},
    )


class PageQuery(Schema):
    """Which part of a list."""

    limit = Integer(load_default=50, validate=validate.Range(1, 200))
    cursor = Text(load_default=None, validate=validate.Length(max=2048))
    sort = sort()

    @post_load
    def to_page(self, data: dict[str, Any], **_: Any) -> tuple[Page, dict[str, Any]]:
        """The page, and the filters that stand beside it."""
        page = Page(**{name: data.pop(name) for name in ("limit", "cursor", "sort")})
        return page, data


class JobsQuery(PageQuery):
    """Filters of ``GET /v1/jobs``."""

    kind = Text(validate=validate.OneOf(["evaluation", "ingestion"]))
    state = Text(validate=validate.OneOf([str(state) for state in State]))
    created_by = Text(validate=validate.Length(max=128))


class IngestionsQuery(PageQuery):
    """Filters of ``GET /v1/ingestions``."""

    state = Text(validate=validate.OneOf([str(state) for state in State]))
    created_by = Text(validate=validate.Length(max=128))


class EvaluationsQuery(IngestionsQuery):
    """Filters of ``GET /v1/evaluations``."""

    sort = sort(*METRIC_SORTS)
    checkpoint = Text(
        validate=validate.Length(max=128), metadata={"description": "A digest or a prefix of it."}
    )
    dataset = Text(
        validate=validate.Length(max=160), metadata={"description": "NAME or NAME@VERSION."}
    )


class CheckpointsQuery(PageQuery):
    """Filters of ``GET /v1/checkpoints``."""

    source_sha256 = Text(
        validate=validate.Regexp(r"^[0-9a-f]{64}$", error="must be 64 lower-case hex digits"),
        metadata={"description": "Digest of the uploaded bytes: ask before you upload."},
    )
    architecture = Text(validate=validate.Length(max=128))
    created_by = Text(validate=validate.Length(max=128))


class DatasetsQuery(PageQuery):
    """Filters of ``GET /v1/datasets``."""

    name = Text(validate=validate.Length(max=128))
    split = Text(validate=validate.OneOf(SPLITS))
    task = Text(validate=validate.OneOf(TASKS))


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointUpload:
    """An uploaded checkpoint file and what is said of it."""

    file: Draft
    declaration: dict[str, Any]
    labels: dict[str, str]


class DeclarationSchema(Schema):
    """What is said of an uploaded checkpoint where its file does not say it."""

    architecture = Text(
        validate=validate.Length(1, 128), metadata={"description": "A name of the catalog."}
    )
    hyperparameters = Object(
        metadata={"description": "Where the weights do not show them, such as the activation."}
    )
    classes = fields.List(Text(validate=validate.Length(1, 256)), validate=validate.Length(2))
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
        validate=validate.OneOf(["npz", "safetensors"]),
        metadata={"description": "Found from the content if it is not said."},
    )
    classes = fields.List(
        Text(), load_default=None, metadata={"description": "In index order; else sorted labels."}
    )
    positive_class = Text(
        load_default=None, metadata={"description": "Of a binary task; the second by default."}
    )
    groups = fields.List(
        Text(validate=validate.Length(1, 128)),
        load_default=None,
        validate=validate.Length(max=32),
        metadata={"description": "Names of the arrays that define slices."},
    )
    transforms = Transforms(load_default=list)
    labels = labels()
    timeout_s = timeout()

    @post_load
    def to_upload(self, data: dict[str, Any], **_: Any) -> DatasetUpload:
        """The file apart from its spec."""
        file, marks, timeout_s = data.pop("file"), data.pop("labels"), data.pop("timeout_s")
        listed: Any = {n: tuple(v) if isinstance(v, list) else v for n, v in data.items()}
        spec = DatasetSpec(**listed)
        return DatasetUpload(file=file, spec=spec, labels=marks, timeout_s=timeout_s)


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
        metadata={"description": "Of the positive class's probability; binary tasks only."},
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
