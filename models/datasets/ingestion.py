"""An uploaded file becomes a decoded dataset, in a limited child process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from models import catalog
from models.datasets.arrays import Source
from models.datasets.intake import Found, Intake
from models.datasets.sniffing import HEAD_BYTES, sniff
from models.entries import Entry
from models.spec import DatasetSpec, SpecError

_MAX_DETAIL_LETTERS = 2000
BOUNDS = ("max_examples", "max_bytes", "max_columns", "max_pixels", "processes")


def ingest(request: Mapping[str, Any], descriptors: Sequence[int]) -> dict[str, Any]:
    """Read an uploaded file and write its decoded form.

    Args:
        request: ``spec`` (a DatasetSpec as JSON), the `BOUNDS` of an `Intake`, ``additions``
            (if there are plug-ins, their names as `models.catalog.publish_added` takes them) and
            ``target`` (of a plug-in's format its ``module:object``).
        descriptors: the uploaded file, readable and seekable; an empty file to write to, and
            another for what is needed meanwhile. What stands in them after a refusal is of no use.

    Returns:
        ``{"dataset": {"format", and what Found says}}``, or ``{"error": {"detail", "pointer"}}``
        whatever is wrong with the file or the spec.

    Raises:
        OSError: the disk is full or fails.
    """
    source, output, scratch = descriptors
    catalog.publish_added(request.get("additions", {}))
    try:
        intake = Intake(
            spec=DatasetSpec.from_json(request["spec"]),
            source=Source(source),
            output=output,
            scratch=scratch,
            **{name: request[name] for name in BOUNDS},
        )
        name = intake.spec.format or sniff(intake.source[:HEAD_BYTES])
        found: Found = _target(name, request.get("target"))(intake)
    except SpecError as error:
        detail = error.detail[:_MAX_DETAIL_LETTERS]
        return {"error": {"detail": detail, "pointer": error.pointer}}
    os.fsync(output)  # here, where time is limited; whoever publishes the file needs it on disk
    return {"dataset": {"format": name, **found.to_json()}}


def _target(name: str, target: str | None) -> Any:
    if target is not None:
        return Entry(target=target, summary="").load()
    try:
        return catalog.FORMATS[name].load()
    except SpecError as error:
        raise error.under("/format") from None
