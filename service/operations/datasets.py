"""Datasets: queue an ingestion, write down what it found, find it again."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Text, cast, func, select, update

from checkpoints.store import Draft, Store
from models import catalog, chains
from models.canonical import digest as digest_of
from models.datasets import kinds
from models.datasets.sniffing import HEAD_BYTES, sniff
from models.spec import NAME_PATTERN, DatasetSpec, SpecError
from models.transforms import Column, ExampleType
from service.db.connection import lock_database, reading, writing
from service.db.tables import datasets
from service.jobs import queue
from service.operations import constants, workers
from service.operations.errors import NotFound
from service.operations.jobs import timestamp
from service.operations.listing import Page, select_page
from service.operations.services import Caller, Services

REFERENCE = re.compile(rf"({NAME_PATTERN[1:-1]})(?:@([1-9]\d{{0,8}}))?")


def register(
    services: Services,
    draft: Draft,
    spec: DatasetSpec,
    *,
    labels: dict[str, str],
    timeout_s: float | None,
    caller: Caller,
) -> queue.Job:
    """Keep an uploaded file and queue its ingestion.

    Raises:
        SpecError: the head of the file shows that it cannot be read, or the spec is wrong.
    """
    with reading(services.database) as db:
        workers.publish_added(db, services.clock())
        name = _format(draft, spec)
        if name not in catalog.FORMATS.added:
            kinds.check(spec, catalog.FORMATS[name].kind)
        like = constants.columns(db, spec.transforms)
        components = constants.filled(db, spec.transforms, pointer="/transforms")
    transforms = chains.resolved(components, pointer="/transforms")
    request = {**spec.to_json(), "transforms": transforms, "format": name}
    upload = draft.keep()
    try:
        return _queue(
            services,
            {**request, "source_sha256": draft.sha256},
            {"upload": upload, "spec": request, "like": like},
            needs=chains.providers(components, format=name),
            labels=labels,
            timeout_s=timeout_s,
            caller=caller,
        )
    except Exception:
        services.store.drop_upload(upload)
        raise


def divide(
    services: Services,
    ref: str,
    *,
    train: str,
    validation: str,
    division: dict[str, Any],
    labels: dict[str, str],
    timeout_s: float | None,
    caller: Caller,
) -> queue.Job:
    """Queue an ingestion that makes two datasets of one, for training and for validation.

    Args:
        division: ``fraction``, ``seed`` and ``stratify``, as `models.datasets.splitting` takes.

    Raises:
        NotFound: there is no such dataset.
        SpecError: the two names are one, or the dataset is sealed or for testing.
    """
    if train == validation:
        raise SpecError("train and validation must be two names", pointer="/validation")
    with reading(services.database) as db:
        row = resolve(db, ref)
    name = f"{row.name}@{row.version}"
    if row.spec["sealed"]:
        raise SpecError(f"{name} is sealed: its examples must not get into a training")
    if row.spec["split"] == "test":
        raise SpecError(f"{name} is for testing: its examples must not get into a training")
    common = {key: row.spec[key] for key in ("task", "transforms", "positive_class")}
    specs = [
        {**common, "name": part, "split": split, "sealed": False}
        for part, split in ((train, "train"), (validation, "validation"))
    ]
    request = {"dataset": name, "train": train, "validation": validation, **division}
    payload = {
        "dataset_digest": row.digest,
        "division": division,
        "specs": specs,
        "found": {**row.details, "positive_class": row.spec["positive_class"]},
    }
    return _queue(services, request, payload, labels=labels, timeout_s=timeout_s, caller=caller)


def _queue(
    services: Services,
    request: dict[str, Any],
    payload: dict[str, Any],
    *,
    needs: Collection[str] = (),
    labels: dict[str, str],
    timeout_s: float | None,
    caller: Caller,
) -> queue.Job:
    with writing(services.database) as db:
        job = queue.submit(
            db,
            kind="ingestion",
            request=request,
            payload=payload,
            device="auto",
            created_by=caller.name,
            labels=labels,
            timeout_s=timeout_s,
            now=services.clock(),
            needs=needs,
        )
    services.doorbell.ring("work")
    return job


def _format(draft: Draft, spec: DatasetSpec) -> str:
    if spec.format is not None:
        if spec.format in catalog.FORMATS.added:
            return spec.format  # only the plug-in knows how such a file begins
        try:
            catalog.FORMATS[spec.format]
        except SpecError as error:
            raise error.under("/format") from None
    found = sniff(os.pread(draft.fileno(), HEAD_BYTES, 0))
    if spec.format not in (None, found):
        raise SpecError(f"the file's first bytes are those of {found}", pointer="/format")
    return found


def conclude(
    store: Store, db: Connection, job: queue.Job, result: dict[str, Any], now: float
) -> dict[str, Any]:
    """Write down what a job's success changes, in the transaction that ends the job.

    Args:
        result: as the job's child reported it; for an ingestion ``{"datasets": [...]}``.

    Returns:
        What the job's ``result`` says; for an ingestion
        ``{"datasets": ["name@version"], "known": bool}``.

    Raises:
        MissingBlob: the same content was deleted since the child found it in the store.
    """
    if job.kind == "evaluation":
        used = update(datasets).where(_is(job.payload["dataset"]))
        db.execute(used.values(uses=datasets.c.uses + 1))
        return result
    lock_database(db)  # versions are counted, and `remove` looks who else has the content
    made = [_keep(store, db, job, found, now) for found in result["datasets"]]
    return {
        "datasets": [name for name, _ in made],
        "known": all(known for _, known in made),
    }


def _keep(
    store: Store, db: Connection, job: queue.Job, found: dict[str, Any], now: float
) -> tuple[str, bool]:
    """The dataset version with this content and spec, and whether it was there before."""
    spec = found["spec"]
    identity = {name: spec[name] for name in ("split", "task", "sealed")} | {
        name: found[name] for name in ("transforms", "positive_class")
    }
    spec_digest = digest_of(identity)
    named = datasets.c.name == spec["name"]
    same = (datasets.c.digest == found["digest"]) & (datasets.c.spec_digest == spec_digest)
    version = db.scalar(select(datasets.c.version).where(named, same, EXISTS))
    if version is not None:
        return f"{spec['name']}@{version}", True
    store.path(found["digest"])
    version = (db.scalar(select(func.max(datasets.c.version)).where(named)) or 0) + 1
    db.execute(
        datasets.insert().values(
            name=spec["name"],
            version=version,
            digest=found["digest"],
            spec={**identity, "name": spec["name"]},
            spec_digest=spec_digest,
            details={k: v for k, v in found.items() if k not in NOT_DETAILS},
            size_bytes=found["size_bytes"],
            created_at=now,
            created_by=job.created_by,
            job_id=job.id,
        )
    )
    return f"{spec['name']}@{version}", False


EXISTS = datasets.c.deleted_at.is_(None)
OF_SEALED_COLUMNS = ("name", "kind", "missing")  # the rest is, or may be, some cell's content
NOT_DETAILS = ("digest", "size_bytes", "positive_class", "transforms", "spec")


def _is(ref: str) -> ColumnElement[bool]:
    """Whether a row is the version that ``name@version`` names."""
    name, _, version = ref.rpartition("@")
    return (datasets.c.name == name) & (datasets.c.version == int(version))


def resolve(db: Connection, ref: str) -> Row[Any]:
    """The dataset version that ``name`` (the latest) or ``name@version`` names, or NotFound."""
    match = REFERENCE.fullmatch(ref)
    if match is None:
        raise NotFound(f"{ref[:140]!r} names no dataset: write NAME or NAME@VERSION")
    name, version = match.groups()
    query = select(datasets).where(datasets.c.name == name, EXISTS)
    if version is not None:
        query = query.where(datasets.c.version == int(version))
    row = db.execute(query.order_by(datasets.c.version.desc()).limit(1)).first()
    if row is None:
        raise NotFound(
            f"there is no dataset {ref!r}; GET /v1/datasets lists what is registered, and one "
            "exists only once its ingestion succeeded"
        )
    return row


def named(db: Connection, ref: str, *, pointer: str) -> Row[Any]:
    """The dataset version that a field of a request names, or SpecError."""
    try:
        return resolve(db, ref)
    except NotFound as error:
        raise SpecError(error.detail, pointer=pointer) from None


def example(row: Row[Any]) -> ExampleType:
    """One example of a dataset before any transform."""
    given, listed = row.details["input"], row.details.get("columns")
    columns = listed and tuple(
        Column(name=one["name"], text=one["kind"] == "text", missing=one["missing"] > 0)
        for one in listed
    )
    return ExampleType(
        shape=tuple(given["shape"]),
        dtype=given["dtype"],
        columns=columns,
        vocabulary=given.get("vocabulary"),
    )


def get(services: Services, ref: str, *, caller: Caller) -> dict[str, Any]:
    """One dataset version by reference."""
    with reading(services.database) as db:
        row = resolve(db, ref)
    columns = row.details.get("columns")  # of a table there may be thousands: not for lists
    if columns is None:
        return body(row)
    if row.spec["sealed"] and caller.role != "admin":
        columns = [{name: one[name] for name in OF_SEALED_COLUMNS} for one in columns]
    return {**body(row), "columns": columns}


def search(
    services: Services,
    page: Page,
    *,
    name: str | None = None,
    split: str | None = None,
    task: str | None = None,
    sealed: bool | None = None,
    format: str | None = None,
    digest: str | None = None,
    created_by: str | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """One page of dataset versions."""
    identity = datasets.c.name + "@" + cast(datasets.c.version, Text)
    query = select(datasets).where(EXISTS)
    for wanted, column in (
        (name, datasets.c.name),
        (split, datasets.c.spec["split"].as_string()),
        (task, datasets.c.spec["task"].as_string()),
        (sealed, datasets.c.spec["sealed"].as_boolean()),
        (format, datasets.c.details["format"].as_string()),
        (digest, datasets.c.digest),
        (created_by, datasets.c.created_by),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    keys = {"created_at": datasets.c.created_at}
    with reading(services.database) as db:
        rows, following = select_page(db, query, page, identity=identity, keys=keys)
    return [body(row) for row in rows], following


def versions(services: Services, page: Page, name: str) -> tuple[list[dict[str, Any]], str | None]:
    """One page of the versions of one name, or NotFound."""
    if "@" in name:
        raise NotFound(
            f"{name[:140]!r} names one version, which GET /v1/datasets/{name[:140]} shows; a list "
            "of versions takes the name without '@'"
        )
    with reading(services.database) as db:
        resolve(db, name)
    return search(services, page, name=name)


def remove(services: Services, ref: str) -> None:
    """Delete one version; results keep its name and digest, and its number is not given again."""
    with writing(services.database) as db:
        lock_database(db)
        row = resolve(db, ref)
        mine = (datasets.c.name == row.name) & (datasets.c.version == row.version)
        db.execute(update(datasets).where(mine).values(deleted_at=services.clock()))
        others = select(func.count()).where(datasets.c.digest == row.digest, EXISTS)
        if not db.scalar(others):
            services.store.delete(row.digest)


def body(row: Row[Any]) -> dict[str, Any]:
    """A dataset version as every answer shows it."""
    ref = f"{row.name}@{row.version}"
    details = {name: value for name, value in row.details.items() if name != "columns"}
    return {
        "name": row.name,
        "version": row.version,
        "digest": row.digest,
        "split": row.spec["split"],
        "task": row.spec["task"],
        "positive_class": row.spec["positive_class"],
        "transforms": row.spec["transforms"],
        **details,
        "sealed": row.spec["sealed"],
        "uses": row.uses,
        "size_bytes": row.size_bytes,
        "created_at": timestamp(row.created_at),
        "created_by": row.created_by,
        "links": {"self": f"/v1/datasets/{ref}", "ingestion": f"/v1/ingestions/{row.job_id}"},
    }
