"""What answers show, for serialization and for the document: jobs, checkpoints, datasets, names."""

from __future__ import annotations

from marshmallow import fields

from service.api.fields import time
from service.api.schemas import Schema
from service.jobs.lifecycle import State


class ProgressSchema(Schema):
    """How far a running job is."""

    done = fields.Integer()
    total = fields.Integer(allow_none=True)
    unit = fields.String()
    eta_s = fields.Float(allow_none=True)


class JobSchema(Schema):
    """A job, whatever its kind."""

    id = fields.String(required=True, metadata={"description": "A UUIDv7."})
    kind = fields.String(required=True)
    state = fields.String(required=True, metadata={"enum": [str(state) for state in State]})
    reason = fields.String(
        allow_none=True, metadata={"description": "Why it ended; set when it did."}
    )
    attempt = fields.Integer()
    progress = fields.Nested(ProgressSchema, allow_none=True)
    created_at = time("When it was asked for.")
    started_at = time("When the present or last attempt began.")
    finished_at = time("When it ended.")
    created_by = fields.String()
    labels = fields.Dict(keys=fields.String(), values=fields.String())
    error = fields.Raw(
        allow_none=True,
        metadata={"description": "A problem: why it failed.", "type": "object"},
    )
    request = fields.Dict(metadata={"description": "As resolved, with defaults filled in."})
    result = fields.Raw(
        allow_none=True,
        metadata={"description": "What came out; null until something did.", "type": "object"},
    )
    verifies = fields.String(
        allow_none=True, metadata={"description": "Of an evaluation, the one that it repeats."}
    )
    cached = fields.Boolean(
        metadata={"description": "An equal evaluation was known; nothing was computed."}
    )
    links = fields.Dict(keys=fields.String(), values=fields.String())


class JobPage(Schema):
    """One page of jobs."""

    items = fields.List(fields.Nested(JobSchema), required=True)
    next = fields.String(allow_none=True, required=True)


class EpochSchema(Schema):
    """One epoch of a training; metrics are those of the validation dataset."""

    epoch = fields.Integer()
    train_loss = fields.Float(
        metadata={
            "description": "Mean of the training loss, with dropout, augmentation, smoothing and "
            "weights: not to be compared with loss."
        }
    )
    loss = fields.Float()
    accuracy = fields.Float()
    precision = fields.Float()
    recall = fields.Float()
    f1 = fields.Float()
    train_metrics = fields.Dict(
        metadata={"description": "Of the training dataset without anything random, if asked for."}
    )
    lr = fields.Float(metadata={"description": "Of the epoch's first step."})
    gradient_norm = fields.Float(metadata={"description": "Mean over its steps, not clipped."})
    duration_s = fields.Float(metadata={"description": "With validation."})


class HistorySchema(Schema):
    """The epochs of a training that are stored."""

    items = fields.List(fields.Nested(EpochSchema), required=True)


class SweepSchema(Schema):
    """Trainings over a grid."""

    id = fields.String(required=True)
    labels = fields.Dict(keys=fields.String(), values=fields.String())
    grid = fields.Dict(metadata={"description": "Values by JSON pointer into the base."})
    states = fields.Dict(metadata={"description": "How many trainings are in each state."})
    base = fields.Dict(metadata={"description": "Not in lists, as all that follows."})
    metric = fields.String(
        allow_none=True,
        metadata={"description": "Monitored by all on one dataset; null if they differ."},
    )
    trainings = fields.List(
        fields.Dict(),
        metadata={
            "description": "id, point, state, reason, metric, validation_dataset, epochs, "
            "best {epoch, value}, checkpoint and curve (the metric of each epoch) of each."
        },
    )
    best = fields.Dict(
        allow_none=True,
        metadata={"description": "training, point, epoch, value, checkpoint."},
    )
    created_at = time("When it was asked for.")
    created_by = fields.String()
    links = fields.Dict(keys=fields.String(), values=fields.String())


class SweepPage(Schema):
    """One page of sweeps."""

    items = fields.List(fields.Nested(SweepSchema), required=True)
    next = fields.String(allow_none=True, required=True)


class CheckpointSchema(Schema):
    """A stored checkpoint."""

    digest = fields.String(
        required=True, metadata={"description": "SHA-256 of what `content` serves."}
    )
    source_sha256 = fields.String()
    size_bytes = fields.Integer()
    format = fields.String()
    architecture = fields.String()
    hyperparameters = fields.Dict()
    input_shape = fields.List(
        fields.Integer(allow_none=True),
        allow_none=True,
        metadata={"description": "Null, as outputs, where only a worker's plug-in knows it."},
    )
    outputs = fields.Integer(allow_none=True)
    classes = fields.List(fields.String(), allow_none=True)
    transforms = fields.List(fields.Dict(), allow_none=True)
    parameters = fields.Integer()
    tensors = fields.Integer()
    adjustments = fields.List(fields.String())
    assumed = fields.List(fields.String())
    warnings = fields.List(fields.String())
    lineage = fields.Dict(
        allow_none=True,
        metadata={
            "description": "trainings, and of the first of them spec_digest, epoch, dataset and "
            "validation_dataset; null for weights from elsewhere."
        },
    )
    labels = fields.Dict(keys=fields.String(), values=fields.String())
    created_at = time("When it was first uploaded.")
    created_by = fields.String()
    links = fields.Dict(keys=fields.String(), values=fields.String())


class CheckpointPage(Schema):
    """One page of checkpoints."""

    items = fields.List(fields.Nested(CheckpointSchema), required=True)
    next = fields.String(allow_none=True, required=True)


class DatasetSchema(Schema):
    """One immutable version of a dataset."""

    name = fields.String(required=True)
    version = fields.Integer(required=True)
    digest = fields.String()
    split = fields.String()
    task = fields.String()
    format = fields.String()
    examples = fields.Integer()
    classes = fields.List(fields.String())
    positive_class = fields.String(allow_none=True)
    class_counts = fields.Dict(keys=fields.String(), values=fields.Integer())
    groups = fields.Dict()
    input = fields.Dict(
        metadata={
            "description": "kind (array, image, table or tokens), shape and dtype of an example; "
            "of tokens also vocabulary, 1 + the largest id."
        }
    )
    columns = fields.List(
        fields.Dict(),
        metadata={"description": "Of a table, its features and their statistics; not in lists."},
    )
    transforms = fields.List(fields.Dict())
    sealed = fields.Boolean()
    duplicates = fields.Integer(
        metadata={"description": "Examples that equal an earlier one of the same dataset."}
    )
    uses = fields.Integer(metadata={"description": "Evaluations on it that succeeded."})
    size_bytes = fields.Integer()
    created_at = time("When its ingestion ended.")
    created_by = fields.String()
    links = fields.Dict(keys=fields.String(), values=fields.String())


class ExampleSchema(Schema):
    """One example before any transform."""

    dataset = fields.String()
    index = fields.Integer()
    target = fields.Raw(metadata={"description": "The class, or the labels that hold."})
    groups = fields.Dict(keys=fields.String(), values=fields.String())
    shape = fields.List(fields.Integer())
    dtype = fields.String()
    values = fields.Raw(metadata={"description": "Nested lists; of a table by column."})


class OverlapSchema(Schema):
    """What two datasets share."""

    dataset = fields.String()
    other = fields.String(data_key="with", attribute="with")
    examples = fields.Integer(metadata={"description": "Of the first, that the other has too."})
    of = fields.Integer()
    fraction = fields.Float()
    indices = fields.List(
        fields.Integer(),
        allow_none=True,
        metadata={"description": "The first of them; null for a sealed dataset, but for admins."},
    )


class DatasetPage(Schema):
    """One page of dataset versions."""

    items = fields.List(fields.Nested(DatasetSchema), required=True)
    next = fields.String(allow_none=True, required=True)


class CatalogEntry(Schema):
    """A name that requests may write."""

    name = fields.String()
    summary = fields.String()
    parameters = fields.Dict(metadata={"description": "JSON Schema of what it takes."})
    provider = fields.String(
        metadata={"description": "The distribution that it comes from, if it is a plug-in's."}
    )


class CatalogSchema(Schema):
    """The names of one kind."""

    items = fields.List(fields.Nested(CatalogEntry))


class WorkersSchema(Schema):
    """The workers that are alive."""

    items = fields.List(fields.Dict())


class VersionSchema(Schema):
    """What is running."""

    version = fields.String()
    api = fields.String()
