"""Checkpoints: take an upload in, find it again, give it up."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import structlog
from sqlalchemy import Connection, Row, Table, delete, exists, select

from checkpoints.errors import CheckpointError
from checkpoints.manifest import Manifest
from checkpoints.store import Draft
from models.canonical import digest as digest_of
from models.spec import Component, SpecError
from service.db.connection import lock_database, reading, upsert, writing
from service.db.tables import checkpoint_sources, checkpoints, jobs, lineages
from service.jobs.sandbox import Limits, SandboxError, SandboxUnavailable
from service.operations import constants, workers
from service.operations.errors import Conflict, NotFound, Unavailable
from service.operations.jobs import timestamp
from service.operations.listing import Page, select_page
from service.operations.services import Caller, Services

log = structlog.get_logger("holdout.checkpoints")

DIGEST = re.compile(r"[0-9a-f]{64}")
PREFIX = re.compile(r"[0-9a-f]{8,63}")
MANIFEST = tuple(one.name for one in fields(Manifest))
SLACK_BYTES = 2**24
MOST_FOLLOWED = 100
DECLARED = ("architecture", "hyperparameters", "classes", "transforms", "key_map")


def upload(
    services: Services,
    draft: Draft,
    declaration: dict[str, Any],
    *,
    labels: dict[str, str],
    caller: Caller,
    field: str = "file",
    accept: Callable[[Manifest], None] = lambda manifest: None,
) -> tuple[str, bool]:
    """Read an uploaded file and keep its canonical form.

    Args:
        draft: the received bytes, hashed on the way.
        declaration: the fields of `DECLARED` that the request states.
        field: what the request calls the file.
        accept: raises if a checkpoint that is new here is not wanted after all; nothing is kept
            then.

    Returns:
        The checkpoint's digest, and whether it is new.

    Raises:
        CheckpointError: the file cannot be taken; nothing of it is kept.
        SpecError: a transform takes constants from a dataset that cannot give them.
        Unavailable: the reader is away, or the same checkpoint is being deleted.
    """
    with reading(services.database) as db:
        additions = workers.publish_added(db, services.clock())
        declaration = _with_constants(db, declaration)
    declared = digest_of(declaration)
    source = {"source_sha256": draft.sha256, "declaration": declared}
    same = [checkpoint_sources.c[name] == value for name, value in source.items()]
    with reading(services.database) as db:
        known = db.scalar(select(checkpoint_sources.c.digest).where(*same))
    if known is not None and services.store.exists(known):
        return known, False
    with services.store.draft() as canonical:
        try:
            request = {"declaration": declaration, "additions": additions}
            found = _convert(services, draft, canonical, request)
        except CheckpointError as error:
            raise error.with_file(field) from None
        accept(Manifest.from_json(found))
        blob = canonical.publish()
    made = {"digest": blob.digest, "created_at": services.clock(), "created_by": caller.name}
    with writing(services.database) as db:
        lock_database(db)  # against `remove`, which deletes the bytes of what it deletes
        created = _insert_new(
            db,
            checkpoints,
            **made,
            size_bytes=blob.size_bytes,
            manifest={name: found[name] for name in MANIFEST},
            details={name: found[name] for name in ("parameters", "tensors", "warnings")},
            labels=labels,
        )
        kept = {name: found[name] for name in ("format", "adjustments")}
        _insert_new(db, checkpoint_sources, **made, **source, **kept)
        if not services.store.exists(blob.digest):
            raise Unavailable("the same checkpoint was deleted at this moment; send it again")
    return blob.digest, created


def _with_constants(db: Connection, declaration: dict[str, Any]) -> dict[str, Any]:
    """What is declared, with numbers in place of each dataset that a transform names."""
    stated = declaration.get("transforms")
    if not isinstance(stated, list) or not all(isinstance(one, dict) for one in stated):
        return declaration  # the reader says what is wrong with it
    components = [Component.from_json(one) for one in stated]
    filled = constants.filled(db, components, pointer="/transforms")
    return {**declaration, "transforms": [one.to_json() for one in filled]}


def _convert(
    services: Services, draft: Draft, canonical: Draft, request: dict[str, Any]
) -> dict[str, Any]:
    """Run the reader in a limited child; the descriptors are all that it gets of us."""
    settings = services.settings
    # Eight-bit floats grow fourfold, shared weights are written out; but a view that repeats one
    # number must not fill the disk from a file of a kilobyte.
    most_bytes = SLACK_BYTES + 8 * draft.size_bytes
    request = {**request, "max_bytes": most_bytes}
    limits = Limits(
        address_space_bytes=settings.reader_memory_bytes + 2 * draft.size_bytes,
        cpu_s=int(settings.reader_s) + 1,
        file_bytes=SLACK_BYTES + most_bytes,
        wall_s=settings.reader_s,
    )
    try:
        answer = services.reader.run(
            "checkpoints.reading:convert", request, [draft.fileno(), canonical.fileno()], limits
        )
    except SandboxUnavailable as error:
        log.error("the server of readers is away", detail=error.detail)
        raise Unavailable("checkpoints cannot be read at this moment") from None
    except SandboxError as error:
        log.warning("a reader failed", detail=error.detail, trace=error.trace)
        raise CheckpointError(
            f"the file could not be read within its limits: {error.detail}"
        ) from None
    if "error" in answer:
        refused = answer["error"]
        raise CheckpointError(
            refused["detail"],
            kind=refused["kind"],
            errors=[(one["pointer"], one["detail"]) for one in refused["errors"]],
        )
    found: dict[str, Any] = answer["checkpoint"]
    return found


def resolve(db: Connection, ref: str) -> Row[Any]:
    """The row of the one checkpoint that a digest, or a prefix of 8 or more of it, names.

    Raises:
        NotFound: none.
        Conflict: more than one.
    """
    if DIGEST.fullmatch(ref):
        condition = checkpoints.c.digest == ref
    elif PREFIX.fullmatch(ref):
        condition = checkpoints.c.digest.startswith(ref)
    else:
        raise NotFound(
            f"{ref[:80]!r} names no checkpoint: give its digest (64 hex digits) or the first 8 or "
            "more of them"
        )
    rows = db.execute(select(checkpoints).where(condition).limit(2)).all()
    if not rows:
        raise NotFound(f"there is no checkpoint {ref!r}; upload it with POST /v1/checkpoints")
    if len(rows) > 1:
        raise Conflict(f"several checkpoints start with {ref!r}; give more digits")
    return rows[0]


def named(db: Connection, ref: str, *, pointer: str) -> Row[Any]:
    """The checkpoint that a field of a request names, or SpecError."""
    try:
        return resolve(db, ref)
    except (NotFound, Conflict) as error:
        raise SpecError(error.detail, pointer=pointer) from None


def get(services: Services, ref: str, *, source_sha256: str | None = None) -> dict[str, Any]:
    """One checkpoint by reference, as these bytes were uploaded or as it first was."""
    with reading(services.database) as db:
        (found,) = _bodies(db, [resolve(db, ref).digest], source_sha256)
    return found


def search(
    services: Services,
    page: Page,
    *,
    source_sha256: str | None = None,
    architecture: str | None = None,
    created_by: str | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """One page of checkpoints."""
    query = select(checkpoints.c.digest)
    sources = checkpoint_sources.c
    if source_sha256 is not None:
        same = (sources.digest == checkpoints.c.digest) & (sources.source_sha256 == source_sha256)
        query = query.where(exists().where(same))
    if architecture is not None:
        query = query.where(checkpoints.c.manifest["architecture"].as_string() == architecture)
    if created_by is not None:
        query = query.where(checkpoints.c.created_by == created_by)
    keys = {"created_at": checkpoints.c.created_at}
    with reading(services.database) as db:
        rows, following = select_page(db, query, page, identity=checkpoints.c.digest, keys=keys)
        return _bodies(db, [row.digest for row in rows], source_sha256), following


def remove(services: Services, ref: str) -> None:
    """Delete a checkpoint; results keep its digest."""
    with writing(services.database) as db:
        lock_database(db)
        digest = resolve(db, ref).digest
        db.execute(delete(checkpoints).where(checkpoints.c.digest == digest))
        services.store.delete(digest)


def _bodies(
    db: Connection, digests: Sequence[str], source_sha256: str | None
) -> list[dict[str, Any]]:
    """These checkpoints in this order, each with one of its sources: that one, or the first."""
    sources = checkpoint_sources.c
    query = select(
        checkpoints, sources.source_sha256, sources.format, sources.adjustments
    ).join_from(checkpoints, checkpoint_sources, sources.digest == checkpoints.c.digest)
    order: list[Any] = [sources.created_at, sources.source_sha256, sources.declaration]
    if source_sha256 is not None:
        order.insert(0, sources.source_sha256 != source_sha256)
    found: dict[str, dict[str, Any]] = {}
    known = _lineages(db, digests)
    for row in db.execute(query.where(checkpoints.c.digest.in_(digests)).order_by(*order)):
        found.setdefault(row.digest, _body(row, known.get(row.digest)))
    return [found[digest] for digest in digests if digest in found]


def lineage(db: Connection, digest: str) -> dict[str, Any]:
    """What a checkpoint was trained on, from its first training back to where weights began.

    Where several trainings made it, one whose whole past is known speaks for it.

    Returns:
        ``trained_on`` and ``selected_on``, each [{``dataset``, ``digest``}], and ``complete``:
        whether nothing of its past is unknown.
    """
    return _past(db, digest, {})


def _past(db: Connection, digest: str, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """See `lineage`; ``known`` keeps what was found, so that each checkpoint is followed once."""
    unknown: dict[str, Any] = {"trained_on": [], "selected_on": [], "complete": False}
    if digest in known:
        return known[digest]
    if len(known) == MOST_FOLLOWED:
        return unknown
    known[digest] = unknown  # whoever comes back here before it is known goes in a circle
    query = (
        select(jobs.c.payload)
        .join_from(lineages, jobs, lineages.c.job_id == jobs.c.id)
        .where(lineages.c.digest == digest)
    )
    found = []
    for payload in db.scalars(query.order_by(jobs.c.created_at, jobs.c.id)):
        before: dict[str, Any] = {"trained_on": [], "selected_on": [], "complete": True}
        if payload["initial_checkpoint"] is not None:
            before = _past(db, payload["initial_checkpoint"], known)
        used = {"dataset": payload["dataset"], "digest": payload["dataset_digest"]}
        chose = {"dataset": payload["validation_dataset"], "digest": payload["validation_digest"]}
        found.append(
            {
                "trained_on": [used, *(part for part in before["trained_on"] if part != used)],
                "selected_on": [chose, *(part for part in before["selected_on"] if part != chose)],
                "complete": before["complete"],
            }
        )
        if before["complete"]:
            break
    whole = [one for one in found if one["complete"]]
    known[digest] = (whole or found or [unknown])[0]
    return known[digest]


def _lineages(db: Connection, digests: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The trainings that made these checkpoints, and what the first of each was told."""
    told = ("spec_digest", "dataset", "validation_dataset")
    query = (
        select(
            lineages.c.digest,
            lineages.c.job_id,
            lineages.c.epoch,
            *(jobs.c.payload[name].as_string().label(name) for name in told),
        )
        .join_from(lineages, jobs, lineages.c.job_id == jobs.c.id)
        .where(lineages.c.digest.in_(digests))
        .order_by(jobs.c.created_at, jobs.c.id)
    )
    found: dict[str, dict[str, Any]] = {}
    for row in db.execute(query):
        first = {name: getattr(row, name) for name in (*told, "epoch")}
        lineage = found.setdefault(row.digest, {"trainings": [], **first})
        lineage["trainings"].append(row.job_id)
    return found


def _body(row: Row[Any], lineage: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "digest": row.digest,
        "source_sha256": row.source_sha256,
        "size_bytes": row.size_bytes,
        "format": row.format,
        **row.manifest,
        **row.details,
        "adjustments": row.adjustments,
        "lineage": lineage,
        "labels": row.labels,
        "created_at": timestamp(row.created_at),
        "created_by": row.created_by,
        "links": {
            "self": f"/v1/checkpoints/{row.digest}",
            "content": f"/v1/checkpoints/{row.digest}/content",
        },
    }


def _insert_new(db: Connection, table: Table, **values: Any) -> bool:
    """Insert unless the row is there; whether it was not."""
    return db.execute(upsert(db, table).values(**values).on_conflict_do_nothing()).rowcount == 1
