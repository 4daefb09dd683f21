"""Evaluations: check that a checkpoint can be judged on a dataset, then answer or queue it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from checkpoints.fitting import check_fit
from checkpoints.manifest import Manifest
from models import catalog, chains
from models.evaluation_key import evaluation_key
from models.onnx import ARCHITECTURE as ONNX
from models.onnx import DISTRIBUTION
from models.spec import Component, EvaluationSpec, SpecError
from service.db.connection import reading, writing
from service.db.tables import jobs
from service.jobs import queue
from service.jobs.lifecycle import State
from service.operations import checkpoints, constants, datasets, workers
from service.operations import jobs as jobs_of
from service.operations.errors import Conflict
from service.operations.services import Caller, Services

# What an answer says beside the numbers that its key stands for.
_SAID = ("dataset", "transforms_from", "assumed", "lineage")
MOST_COMPARED = 20


def request(
    services: Services,
    spec: EvaluationSpec,
    *,
    fresh: bool,
    labels: dict[str, str],
    timeout_s: float | None,
    caller: Caller,
) -> tuple[queue.Job, bool]:
    """Answer from the results that exist, or queue the evaluation.

    Args:
        fresh: compute again even if an equal result is there.

    Returns:
        The job, and whether it is an earlier one whose key equals this request's.

    Raises:
        SpecError: the parts do not fit each other, naming the field.
    """
    now = services.clock()
    with reading(services.database) as db:
        checkpoint = checkpoints.named(db, spec.checkpoint, pointer="/checkpoint")
        manifest = Manifest.from_json(checkpoint.manifest)
        payload, policies = _settled(services, db, spec, checkpoint.digest, manifest)
        known = None if fresh else _known(db, payload, policies, labels)
    if known is not None:
        return known, True
    with writing(services.database) as db:
        job = queue.submit(
            db,
            kind="evaluation",
            request=_resolved_request(spec, payload),
            payload=payload,
            device=spec.device,
            created_by=caller.name,
            labels=labels,
            timeout_s=timeout_s,
            now=now,
            needs=payload["needs"],
        )
    services.doorbell.ring("work")
    return job, False


def verify(services: Services, job_id: str, *, caller: Caller) -> queue.Job:
    """Queue the same evaluation again, whose result says whether it came out the same.

    Raises:
        NotFound: there is no such evaluation.
        Conflict: it has no result, or what it was computed from is gone.
    """
    original = jobs_of.get(services, job_id, kind="evaluation")
    if original.state != State.SUCCEEDED or original.result is None:
        raise Conflict(f"evaluation {job_id} is {original.state}: it has no result to verify")
    for name, what in (("checkpoint", "checkpoint"), ("dataset_digest", "dataset")):
        if not services.store.exists(original.payload[name]):
            raise Conflict(f"the {what} of evaluation {job_id} is not in the store any more")
    with reading(services.database) as db:
        live = workers.live(db, services.clock())
    needs = original.payload.get("needs", ())
    if live and not workers.able(live, needs):
        raise Conflict(
            f"no live worker has all of {', '.join(needs)}, whose code evaluation {job_id} "
            "ran; GET /v1/workers says what each has"
        )
    payload = {name: value for name, value in original.payload.items() if name != "verifies"}
    payload["verifies"] = {
        "evaluation": original.id,
        **{name: original.result[name] for name in ("evidence", "metrics", "predictions")},
    }
    with writing(services.database) as db:
        job = queue.submit(
            db,
            kind="evaluation",
            request={**original.request, "verifies": original.id},
            payload=payload,
            device=original.device,
            created_by=caller.name,
            labels=original.labels,
            timeout_s=original.timeout_s,
            now=services.clock(),
            needs=needs,
        )
    services.doorbell.ring("work")
    return job


def check_dataset(services: Services, ref: str) -> None:
    """Raise SpecError if a request's dataset does not exist."""
    with reading(services.database) as db:
        datasets.named(db, ref, pointer="/dataset")


def check(services: Services, spec: EvaluationSpec, manifest: Manifest) -> None:
    """Raise SpecError unless a checkpoint that is not stored yet can be evaluated so."""
    with reading(services.database) as db:
        _settled(services, db, spec, spec.checkpoint, manifest)


def _settled(
    services: Services, db: Connection, spec: EvaluationSpec, digest: str, manifest: Manifest
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the job's child needs, and the policies of the workers that could do it.

    Raises:
        SpecError: the parts do not fit each other, naming the field.
    """
    now = services.clock()
    workers.publish_added(db, now)
    _check_offered(manifest)
    payload = _payload(services, db, spec, digest, manifest)
    onnx = manifest.architecture == ONNX
    policies = workers.policies_for(
        db, now, spec.device, payload["needs"], onnx=onnx, pointer="/checkpoint"
    )
    return payload, policies


def _check_offered(manifest: Manifest) -> None:
    """A plug-in's architecture is known as long as a worker that has it lives."""
    if manifest.input_shape is None and manifest.architecture not in catalog.ARCHITECTURES.added:
        raise SpecError(
            f"{manifest.architecture} comes from a plug-in that no live worker has; GET "
            "/v1/workers says which plug-ins each has, and which failed",
            pointer="/checkpoint",
        )


def _payload(
    services: Services, db: Connection, spec: EvaluationSpec, digest: str, manifest: Manifest
) -> dict[str, Any]:
    """All that the child needs, once it is sure that checkpoint and dataset fit each other."""
    dataset = datasets.named(db, spec.dataset, pointer="/dataset")
    task, name = dataset.spec["task"], f"{dataset.name}@{dataset.version}"
    if spec.threshold is not None and task == "multiclass":
        raise SpecError(
            f"threshold belongs to binary and multilabel tasks; {name} is {task}",
            pointer="/threshold",
        )
    transforms, transforms_from = _transforms(db, spec, manifest, dataset)
    components = [Component.from_json(one) for one in transforms]
    check_fit(
        manifest,
        dataset=name,
        task=task,
        classes=dataset.details["classes"],
        example=datasets.example(dataset),
        transforms=components,
    )
    chains.check_prepared(
        components,
        datasets.example(dataset),
        examples=dataset.details["examples"],
        most_bytes=services.settings.prepared_bytes,
        pointer="/transforms",
    )
    needs = chains.providers(components, architecture=manifest.architecture)
    if manifest.architecture == ONNX:
        needs.add(DISTRIBUTION)
    stated = {"transforms"} if transforms_from == "request" else set()
    threshold = spec.threshold
    if threshold is None and (task == "multilabel" or (task == "binary" and manifest.outputs == 1)):
        threshold = 0.5
    return {
        "checkpoint": digest,
        "dataset": name,
        "dataset_digest": dataset.digest,
        "task": task,
        "positive_class": dataset.spec["positive_class"],
        "transforms": transforms,
        "transforms_from": transforms_from,
        "batch_size": spec.batch_size,
        "threshold": threshold,
        "device": spec.device,
        "sealed": dataset.spec["sealed"],
        "needs": sorted(needs),
        "lineage": checkpoints.lineage(db, digest),
        "assumed": [one for one in manifest.assumed if one not in stated],
    }


def _resolved_request(spec: EvaluationSpec, payload: dict[str, Any]) -> dict[str, Any]:
    """The request as people see it: what was asked, with every default filled in."""
    return {one.name: payload[one.name] for one in dataclasses.fields(spec)}


def _transforms(
    db: Connection, spec: EvaluationSpec, manifest: Manifest, dataset: Row[Any]
) -> tuple[list[dict[str, Any]], str]:
    if spec.transforms is not None:
        components = constants.filled(db, spec.transforms, pointer="/transforms")
        return chains.resolved(components, pointer="/transforms"), "request"
    if manifest.transforms is not None:
        return list(manifest.transforms), "checkpoint"
    return dataset.spec["transforms"], "dataset"


def _known(
    db: Connection,
    payload: dict[str, Any],
    policies: Sequence[dict[str, Any]],
    labels: dict[str, str],
) -> queue.Job | None:
    """The newest result under a key that a live worker would compute again.

    The key names contents. An answer also names the dataset, says where the transforms came from
    and carries the labels, so one that would say something else of them is not taken.
    """
    named = ("checkpoint", "dataset_digest", "task", "positive_class", "threshold", "transforms")
    wanted = {name: payload[name] for name in (*named, "batch_size")}
    keys = [evaluation_key(**wanted, policy=policy) for policy in policies]
    query = select(jobs.c.id, jobs.c.payload, jobs.c.labels)
    query = query.where(jobs.c.key.in_(keys), jobs.c.state == State.SUCCEEDED)
    for row in db.execute(query.order_by(jobs.c.created_at.desc()).limit(MOST_COMPARED)):
        same = all(row.payload.get(name) == payload[name] for name in _SAID)
        if same and labels in ({}, row.labels):
            return queue.get(db, row.id)
    return None
