"""What queries of requests say; their bodies stand in `service.api.bodies`."""

from __future__ import annotations

import math
import re
from typing import Any

import marshmallow as ma
from marshmallow import fields, post_load, validate

from models.spec import (
    SPLITS,
    TASKS,
)
from service.api.fields import (
    Boolean,
    Integer,
    Text,
)
from service.jobs.lifecycle import State
from service.operations.jobs import COLLECTIONS, METRIC_SORTS
from service.operations.listing import Page

DIGEST_WORDS = "must be 64 lower-case hex digits"


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

    kind = Text(validate=validate.OneOf(list(COLLECTIONS)))
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


class TrainingsQuery(IngestionsQuery):
    """Filters of ``GET /v1/trainings``."""

    architecture = Text(validate=validate.Length(max=128))
    dataset = Text(
        validate=validate.Length(max=160), metadata={"description": "NAME or NAME@VERSION."}
    )


class HistoryQuery(Schema):
    """How the epochs of a training are shown."""

    format = Text(load_default="json", validate=validate.OneOf(["json", "csv"]))


class SweepQuery(Schema):
    """How a sweep is shown."""

    format = Text(load_default="json", validate=validate.OneOf(["json", "markdown"]))


class CheckpointsQuery(PageQuery):
    """Filters of ``GET /v1/checkpoints``."""

    source_sha256 = Text(
        validate=validate.Regexp(r"^[0-9a-f]{64}$", error=DIGEST_WORDS),
        metadata={"description": "Digest of the uploaded bytes: ask before you upload."},
    )
    architecture = Text(validate=validate.Length(max=128))
    created_by = Text(validate=validate.Length(max=128))


class DatasetsQuery(PageQuery):
    """Filters of ``GET /v1/datasets``."""

    name = Text(validate=validate.Length(max=128))
    split = Text(validate=validate.OneOf(SPLITS))
    task = Text(validate=validate.OneOf(TASKS))
    sealed = Boolean()
    format = Text(validate=validate.Length(max=128))
    digest = Text(validate=validate.Regexp(r"^[0-9a-f]{64}$", error=DIGEST_WORDS))
    created_by = Text(validate=validate.Length(max=128))


class ExampleQuery(Schema):
    """How one example is shown."""

    format = Text(
        load_default=None,
        validate=validate.OneOf(["png", "json"]),
        metadata={"description": "By default png for images, json otherwise."},
    )


class OverlapQuery(Schema):
    """With which dataset another one is compared."""

    other = Text(
        required=True,
        data_key="with",
        validate=validate.Length(1, 160),
        metadata={"description": "NAME (the latest version) or NAME@VERSION."},
    )
