"""What bodies say of trainings and sweeps; see `service.api.bodies`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import marshmallow as ma
from marshmallow import fields, post_load, validate

from models.spec import (
    DEVICE_PATTERN,
    METRICS,
    MOST_EPOCHS,
    PRECISIONS,
    Component,
    EarlyStopping,
    SpecError,
    TrainingSpec,
)
from service.api import parsing, problems
from service.api.fields import Boolean, Float, Integer, Object, Text, Transforms, labels, timeout
from service.api.schemas import Schema
from service.operations.sweeps import Member, Point


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What to train, and the terms of the job."""

    spec: TrainingSpec
    labels: dict[str, str]
    timeout_s: float | None


class Named(Object):
    """A component: ``{"name": "AdamW", "lr": 0.001}``."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        given = super()._deserialize(value, attr, data, **kwargs)
        if not isinstance(given.get("name"), str):
            raise ma.ValidationError({"name": ["is required: a name of the catalog"]})
        return Component.from_json(given)


class EarlyStoppingSchema(Schema):
    """When a training ends before its last epoch."""

    patience = Integer(
        load_default=5,
        validate=validate.Range(1, MOST_EPOCHS),
        metadata={"description": "Epochs in a row without improvement after which it ends."},
    )
    min_delta = Float(
        load_default=0.0,
        validate=validate.Range(0, 1e9),
        metadata={"description": "Least change of the monitored metric that is an improvement."},
    )

    @post_load
    def to_value(self, data: dict[str, Any], **_: Any) -> EarlyStopping:
        """As the spec holds it."""
        return EarlyStopping(**data)


def _dataset(description: str) -> Text:
    return Text(
        required=True,
        validate=validate.Length(1, 160),
        metadata={"description": f"{description}; NAME (the latest version) or NAME@VERSION."},
    )


def _component(catalog: str, default: dict[str, Any], **options: Any) -> Named:
    return Named(
        metadata={
            "description": f"A name of /v1/catalog/{catalog} with its parameters.",
            "default": default,
        },
        **options,
    )


# What a training is where its request says nothing.
DEFAULTS: dict[str, dict[str, Any]] = {
    "loss": {"name": "cross_entropy", "label_smoothing": 0.0, "class_weights": None},
    "optimizer": {"name": "AdamW", "lr": 3e-4, "weight_decay": 1e-4},
    "scheduler": {"name": "ReduceLROnPlateau", "factor": 0.5, "patience": 2},
    "early_stopping": {"patience": 5, "min_delta": 0.0},
}


class TrainingRequestSchema(Schema):
    """A training."""

    architecture = Text(
        required=True,
        validate=validate.Length(1, 128),
        metadata={"description": "A name of /v1/catalog/architectures."},
    )
    dataset = _dataset("What it learns from, of the split train")
    validation_dataset = _dataset("What judges every epoch and chooses the best")
    hyperparameters = Object(
        metadata={"description": "Of the architecture, such as dropout; else its defaults."}
    )
    epochs = Integer(validate=validate.Range(1, MOST_EPOCHS), metadata={"default": 50})
    batch_size = Integer(validate=validate.Range(1, 65536), metadata={"default": 64})
    seed = Integer(
        validate=validate.Range(0, 2**63 - 1),
        metadata={"default": 0, "description": "Of the weights, the order, dropout, augmentation."},
    )
    loss = _component("losses", DEFAULTS["loss"])
    optimizer = _component("optimizers", DEFAULTS["optimizer"])
    scheduler = _component("schedulers", DEFAULTS["scheduler"], allow_none=True)
    warmup_epochs = Integer(
        validate=validate.Range(0, MOST_EPOCHS),
        metadata={
            "default": 0,
            "description": "The rate rises in them; then the scheduler starts.",
        },
    )
    early_stopping = fields.Nested(EarlyStoppingSchema, allow_none=True)
    monitor = Text(
        validate=validate.OneOf(METRICS),
        metadata={
            "default": "loss",
            "description": "The validation metric that chooses the best epoch.",
        },
    )
    augmentations = Transforms(
        metadata={"description": "Names of /v1/catalog/augmentations; in training only."}
    )
    gradient_clip_norm = Float(
        allow_none=True,
        validate=validate.Range(0, 1e9, min_inclusive=False),
        metadata={"description": "Largest norm of all gradients together."},
    )
    precision = Text(
        validate=validate.OneOf(PRECISIONS),
        metadata={"default": "float32", "description": "Of the forward pass in training."},
    )
    initial_checkpoint = Text(
        allow_none=True,
        validate=validate.Length(1, 128),
        metadata={"description": "Where the weights start: a digest, or a prefix of 8 or more."},
    )
    allow_overlap = Boolean(
        metadata={"default": False, "description": "Take datasets that share examples."}
    )
    train_metrics = Boolean(
        metadata={
            "default": False,
            "description": "Judge the training dataset as well, without anything random.",
        }
    )
    device = Text(
        validate=validate.Regexp(DEVICE_PATTERN, error="must be auto, cpu, cuda or cuda:N"),
        metadata={"default": "auto"},
    )
    labels = labels()
    timeout_s = timeout()

    @post_load
    def to_request(self, data: dict[str, Any], **_: Any) -> TrainingRequest:
        """The spec apart from the terms."""
        marks, timeout_s = data.pop("labels"), data.pop("timeout_s")
        if "augmentations" in data:
            data["augmentations"] = tuple(data["augmentations"])
        return TrainingRequest(spec=TrainingSpec(**data), labels=marks, timeout_s=timeout_s)


class SweepRequestSchema(Schema):
    """Trainings that differ in some fields."""

    base = Object(
        required=True,
        metadata={"description": "A training, as POST /v1/trainings takes it."},
    )
    grid = fields.Dict(
        required=True,
        keys=Text(validate=validate.Length(1, 512)),
        values=fields.List(fields.Raw(allow_none=True), validate=validate.Length(1, 256)),
        validate=validate.Length(1, 16),
        metadata={
            "description": "Values by JSON pointer into the base, with the defaults of loss, "
            "optimizer, scheduler and early_stopping filled in; a training for each combination."
        },
    )
    labels = labels()


def member(point: Point) -> Member:
    """The training at one point of a sweep.

    Raises:
        SpecError: its body is wrong; names the point and the field.
    """
    schema = TrainingRequestSchema(unknown=ma.RAISE)
    try:
        found: TrainingRequest = schema.load(point.body)
    except ma.ValidationError as error:
        (pointer, detail), *_ = problems.pointers_of(parsing.in_words(error.messages, schema))
        raise SpecError(
            f"{pointer.strip('/')}: {detail} (at {point})", pointer=f"/base{pointer}"
        ) from None
    except SpecError as error:
        raise SpecError(f"{error.detail} (at {point})", pointer=f"/base{error.pointer}") from None
    return Member(point=point, spec=found.spec, labels=found.labels, timeout_s=found.timeout_s)
