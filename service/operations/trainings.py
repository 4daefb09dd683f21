"""Trainings: check that one can be run as it is asked for, queue it, resume it, show its epochs."""

from __future__ import annotations

import dataclasses
from typing import Any

from sqlalchemy import Connection, Row

from checkpoints.manifest import Manifest
from models import chains
from models import parameters as declared
from models.canonical import digest
from models.onnx import ARCHITECTURE as ONNX
from models.spec import Component, SpecError, TrainingSpec
from service.db.connection import reading, writing
from service.jobs import queue, saving
from service.operations import checkpoints, datasets, examples, workers
from service.operations import jobs as jobs_of
from service.operations.errors import Conflict
from service.operations.plans import Plan, to_json
from service.operations.services import Caller, Services

# What of a request decides nothing of the bytes that come out.
_BESIDE = ("device", "allow_overlap", "train_metrics", "dataset", "validation_dataset")

Overlaps = dict[tuple[str, str], dict[str, Any]]
"""Overlaps that were looked up, by the digests of both datasets."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A training that can be queued.

    Attributes:
        request: the spec with everything filled in.
        payload: all that its child needs.
    """

    request: dict[str, Any]
    payload: dict[str, Any]


def request(
    services: Services,
    spec: TrainingSpec,
    *,
    labels: dict[str, str],
    timeout_s: float | None,
    caller: Caller,
) -> queue.Job:
    """Queue a training.

    Raises:
        SpecError: it cannot be run as written, naming the field.
    """
    prepared = prepare(services, spec, {})
    with writing(services.database) as db:
        job = submit(
            services, db, prepared, labels=labels, timeout_s=timeout_s, created_by=caller.name
        )
    services.doorbell.ring("work")
    return job


def submit(
    services: Services,
    db: Connection,
    prepared: Prepared,
    *,
    labels: dict[str, str],
    timeout_s: float | None,
    created_by: str,
) -> queue.Job:
    """Put a training into the queue; who calls it rings the doorbell."""
    return queue.submit(
        db,
        kind=saving.KIND,
        request=prepared.request,
        payload=prepared.payload,
        device=prepared.payload["device"],
        created_by=created_by,
        labels=labels,
        timeout_s=timeout_s,
        now=services.clock(),
        needs=prepared.payload["needs"],
    )


def resume(services: Services, job_id: str) -> queue.Job:
    """Queue a training again that failed or was cancelled.

    Raises:
        NotFound: there is no such training.
        Conflict: it has not ended, it succeeded, or what was stored of it is gone.
    """
    jobs_of.get(services, job_id, kind=saving.KIND)
    try:
        with writing(services.database) as db:
            job = queue.resume(db, job_id, now=services.clock())
    except queue.JobNotResumable as error:
        raise Conflict(error.detail) from None
    services.doorbell.ring("work")
    services.doorbell.ring("news")
    return job


def history(services: Services, job_id: str) -> list[dict[str, Any]]:
    """A row for each epoch that is stored, also while the training runs; NotFound if it is none."""
    jobs_of.get(services, job_id, kind=saving.KIND)
    with reading(services.database) as db:
        return saving.history(db, job_id)


def prepare(services: Services, spec: TrainingSpec, overlaps: Overlaps) -> Prepared:
    """Check all that can be checked without torch, and fill in everything.

    Args:
        overlaps: those looked up so far; others are added.

    Raises:
        SpecError: it cannot be run as written, naming the field.
    """
    with reading(services.database) as db:
        workers.publish_added(db, services.clock())
        sides = _sides(db, spec)
        initial = _initial(db, spec)
        needs = chains.providers(
            [Component.from_json(one) for one in sides[0].spec["transforms"]],
            architecture=spec.architecture,
        )
        workers.policies_for(
            db, services.clock(), spec.device, sorted(needs), onnx=False, pointer="/architecture"
        )
    plan = Plan.of(services, spec, *sides, initial)
    names = [f"{one.name}@{one.version}" for one in sides]
    resolved = {
        **{one.name: getattr(spec, one.name) for one in dataclasses.fields(spec)},
        "dataset": names[0],
        "validation_dataset": names[1],
        "hyperparameters": declared.to_json(plan.hyperparameters),
        "loss": to_json(plan.loss_name, plan.loss),
        "optimizer": to_json(spec.optimizer.name, plan.optimizer),
        "scheduler": spec.scheduler and to_json(spec.scheduler.name, plan.scheduler),
        "early_stopping": spec.early_stopping and dataclasses.asdict(spec.early_stopping),
        "augmentations": plan.augmentations,
        "initial_checkpoint": initial and initial[0],
    }
    payload = {name: value for name, value in resolved.items() if name != "allow_overlap"}
    payload |= {
        "dataset_digest": sides[0].digest,
        "validation_digest": sides[1].digest,
        "task": sides[1].spec["task"],
        "positive_class": sides[1].spec["positive_class"],
        "transforms": sides[0].spec["transforms"],
        "outputs": plan.outputs,
        "overlap": _overlap(services, sides, spec.allow_overlap, overlaps),
        "warnings": plan.warnings,
        "needs": sorted(needs),
    }
    deciding = {name: value for name, value in payload.items() if name not in _BESIDE}
    payload["spec_digest"] = digest({**deciding, "overlap": None, "warnings": None})
    return Prepared(request=resolved, payload=payload)


def _sides(db: Connection, spec: TrainingSpec) -> tuple[Row[Any], Row[Any]]:
    """Both datasets, if they may be used for what they are to be used for."""
    training = datasets.named(db, spec.dataset, pointer="/dataset")
    validation = datasets.named(db, spec.validation_dataset, pointer="/validation_dataset")
    name, other = (f"{one.name}@{one.version}" for one in (training, validation))
    split = training.spec["split"]
    if split != "train":
        raise SpecError(
            f"{name} is for {_use(split)}: what was trained on it could not be judged by it; name "
            "a dataset of the split train",
            pointer="/dataset",
        )
    if training.spec["sealed"]:
        raise SpecError(
            f"{name} is sealed: its examples must not get into a training", pointer="/dataset"
        )
    if validation.spec["split"] == "test":
        raise SpecError(
            f"{other} is for {_use('test')}: an epoch that was chosen by it could not be judged "
            "by it; name a dataset of the split validation",
            pointer="/validation_dataset",
        )
    tasks = [one.spec["task"] for one in (training, validation)]
    if tasks[0] != tasks[1]:
        raise SpecError(
            f"{name} is {tasks[0]} and {other} is {tasks[1]}: both must be of one task",
            pointer="/validation_dataset",
        )
    return training, validation


def _use(split: str) -> str:
    return {"test": "testing", "validation": "validation"}[split]


def _initial(db: Connection, spec: TrainingSpec) -> tuple[str, Manifest] | None:
    """Digest and manifest of the checkpoint to start from."""
    if spec.initial_checkpoint is None:
        return None
    row = checkpoints.named(db, spec.initial_checkpoint, pointer="/initial_checkpoint")
    manifest = Manifest.from_json(row.manifest)
    if manifest.architecture == ONNX:
        raise SpecError(
            "a checkpoint that came as ONNX can be evaluated and not trained; start from the "
            "network's own weights",
            pointer="/initial_checkpoint",
        )
    if manifest.architecture != spec.architecture:
        raise SpecError(
            f"the checkpoint is of the architecture {manifest.architecture}, and the training of "
            f"{spec.architecture}: both must be the same",
            pointer="/initial_checkpoint",
        )
    return row.digest, manifest


def _overlap(
    services: Services,
    sides: tuple[Row[Any], Row[Any]],
    allowed: bool,
    known: Overlaps,
) -> dict[str, Any]:
    """How much of the validation dataset is in the training dataset; SpecError if too much."""
    training, validation = sides
    key = (validation.digest, training.digest)
    if key not in known:
        known[key] = examples.shared(services, [validation, training])
    found, most = known[key], services.settings.overlap_fraction
    if found["fraction"] > most and not allowed:
        raise SpecError(
            f"{found['examples']} of the {found['of']} examples of "
            f"{validation.name}@{validation.version} are in {training.name}@{training.version} "
            f"too, which is more than {most:.2%} (HOLDOUT_OVERLAP_FRACTION): its metrics would say "
            "little about new data. Register datasets that are apart, or set allow_overlap",
            pointer="/validation_dataset",
        )
    return found
