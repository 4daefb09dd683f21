"""Jobs as people see them: one body for every kind, lists, cancel."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, case, select

from service.db.connection import reading, writing
from service.db.tables import jobs
from service.jobs import queue, saving
from service.jobs.job import JOB_COLUMNS
from service.jobs.lifecycle import State, ended
from service.operations.errors import Conflict, NotFound
from service.operations.listing import Page, select_page
from service.operations.services import Caller, Services

# Where the resource of each kind of job lives.
COLLECTIONS = {
    "evaluation": "/v1/evaluations",
    "ingestion": "/v1/ingestions",
    "training": "/v1/trainings",
}

# What a list shows of a result that whole may have megabytes.
SUMMARIES = {
    "evaluation": ("metrics", "averaging"),
    "training": ("best", "stopped", "checkpoint", "last_checkpoint"),
}

_UNLISTED = ("payload", "result", "saved")

# A row of a list: a job, less what it shows nothing of.
_LISTED = (
    *(column for column in JOB_COLUMNS if column.name not in _UNLISTED),
    case((jobs.c.kind.not_in(SUMMARIES), jobs.c.result)).label("result"),
    *(
        case((jobs.c.kind == kind, jobs.c.result[name])).label(f"result_{name}")
        for kind, names in SUMMARIES.items()
        for name in names
    ),
)

METRIC_SORTS = ("loss", "accuracy", "precision", "recall", "f1")


def timestamp(seconds: float | None) -> str | None:
    """RFC 3339 in UTC of POSIX seconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def location(job: queue.Job) -> str:
    """Path of the job's own resource."""
    return f"{COLLECTIONS[job.kind]}/{job.id}"


# What a job that ended otherwise than by its own doing failed of; anything else is the request.
SERVICE_REASONS = {
    "crashed": "The job's process died again and again",
    "timed_out": "The job ran past its time limit",
    "out_of_memory": "The job needs more memory than there is",
    "no_space": "There is no space left for the result",
    "not_writable": "The service cannot write to its data folder",
    "store_unreachable": "The service cannot reach its data folder",
    "missing_blob": "What the job needs is not in the store any more",
    "damaged_blob": "What the job needs is damaged in the store",
    "internal": "The service failed",
}


def _problem(job: queue.Job, caller: Caller) -> dict[str, Any] | None:
    """Why the job failed, in the form of every other error."""
    if job.error is None:
        return None
    reason, detail = str(job.reason), job.error["detail"]
    if job.request.get("sealed") and caller.role != "admin" and caller.name != job.created_by:
        # It may quote a cell or a label.
        detail = f"what was wrong is for admins and for {job.created_by}: the dataset is sealed"
    problem: dict[str, Any] = {
        "type": f"/problems/{reason.replace('_', '-')}",
        "title": SERVICE_REASONS.get(reason, "The job cannot be done as it was asked for"),
        "status": 500 if reason in SERVICE_REASONS else 422,
        "detail": detail,
    }
    if pointer := job.error.get("pointer"):
        problem["errors"] = [{"pointer": pointer, "detail": detail}]
    return problem


def _progress(job: queue.Job, now: float) -> dict[str, Any] | None:
    """How far the running attempt is, and how long the rest takes at its pace so far."""
    if job.progress is None:
        return None
    done, total = job.progress["done"], job.progress["total"]
    eta_s, first = None, job.progress.get("first", 0)
    if job.state == "running" and done > first and total and job.started_at is not None:
        eta_s = round(max(now - job.started_at, 0.0) * (total - done) / (done - first), 3)
    return {"done": done, "total": total, "unit": job.progress["unit"], "eta_s": eta_s}


def body(job: queue.Job, *, caller: Caller, now: float, cached: bool = False) -> dict[str, Any]:
    """The job as every answer shows it.

    Args:
        caller: who asks; a sealed dataset's error is not for everyone.
        cached: whether the answer that carries it computed nothing because an equal evaluation
            had been computed before.
    """
    links = {
        "self": location(job),
        "job": f"/v1/jobs/{job.id}",
        "events": f"/v1/jobs/{job.id}/events",
    }
    if not ended(job.state):
        links["cancel"] = f"/v1/jobs/{job.id}/cancel"
    if job.kind == saving.KIND:
        links["history"] = f"{location(job)}/history"
        if job.state in (State.FAILED, State.CANCELLED):
            links["resume"] = f"{location(job)}/resume"
    verifies = {"verifies": job.request.get("verifies")} if job.kind == "evaluation" else {}
    return {
        "id": job.id,
        "kind": job.kind,
        "state": str(job.state),
        "reason": job.reason,
        "attempt": job.attempt,
        "progress": _progress(job, now),
        "created_at": timestamp(job.created_at),
        "started_at": timestamp(job.started_at),
        "finished_at": timestamp(job.finished_at),
        "created_by": job.created_by,
        "labels": job.labels,
        "error": _problem(job, caller),
        "request": job.request,
        "result": job.result,
        **verifies,
        "cached": cached,
        "links": links,
    }


def get(services: Services, job_id: str, *, kind: str | None = None) -> queue.Job:
    """One job; NotFound if there is none of that id (and kind)."""
    with reading(services.database) as db:
        job = queue.get(db, job_id)
    if job is None or (kind is not None and job.kind != kind):
        raise NotFound(f"there is no {kind or 'job'} with the id {job_id[:64]!r}")
    return job


def search(
    services: Services,
    page: Page,
    *,
    caller: Caller,
    kind: str | None = None,
    state: str | None = None,
    checkpoint: str | None = None,
    dataset: str | None = None,
    architecture: str | None = None,
    created_by: str | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """One page of jobs, each with what a table of them needs.

    Args:
        checkpoint: digest that the request names, or the first digits of it.
        dataset: ``name@version`` that the request names, or a name for all its versions.
        architecture: that the request names.
    """
    query = select(*_LISTED)
    for column, wanted in ((jobs.c.kind, kind), (jobs.c.state, state)):
        if wanted is not None:
            query = query.where(column == wanted)
    if created_by is not None:
        query = query.where(jobs.c.created_by == created_by)
    if checkpoint is not None:
        named = jobs.c.request["checkpoint"].as_string()
        query = query.where(named.startswith(checkpoint, autoescape=True))
    if architecture is not None:
        query = query.where(jobs.c.request["architecture"].as_string() == architecture)
    if dataset is not None:
        named = jobs.c.request["dataset"].as_string()
        query = query.where(
            named == dataset if "@" in dataset else named.startswith(f"{dataset}@", autoescape=True)
        )
    keys: dict[str, Any] = {"created_at": jobs.c.created_at}
    if kind == "evaluation":
        keys |= {
            name: jobs.c.result["metrics"][name].as_float().label(name) for name in METRIC_SORTS
        }
    with reading(services.database) as db:
        rows, following = select_page(db, query, page, identity=jobs.c.id, keys=keys)
    now = services.clock()
    return [_item(row, caller, now) for row in rows], following


def _item(row: Row[Any], caller: Caller, now: float) -> dict[str, Any]:
    values = row._mapping
    names = [column.name for column in JOB_COLUMNS if column.name not in _UNLISTED]
    kept = {name: values[name] for name in ("result", *names)}
    if row.kind in SUMMARIES:
        found = {name: values[f"result_{name}"] for name in SUMMARIES[row.kind]}
        kept["result"] = found if any(value is not None for value in found.values()) else None
    job = queue.Job(**{**kept, "state": State(row.state), "payload": {}, "saved": None})
    return body(job, caller=caller, now=now)


def cancel(services: Services, job_id: str) -> queue.Job:
    """Ask a job to end: at once while it is queued, else as soon as its worker hears of it.

    Raises:
        NotFound: no such job.
        Conflict: it has ended already.
    """
    job = get(services, job_id)
    try:
        with writing(services.database) as db:
            job = queue.cancel(db, job.id, now=services.clock())
            saving.keep_partial(db, services.store, job, services.clock())
    except queue.JobEnded:
        job = get(services, job_id)
        raise Conflict(
            f"the job has ended already: {job.state} at {timestamp(job.finished_at)}"
        ) from None
    if ended(job.state) and "upload" in job.payload:
        services.store.drop_upload(job.payload["upload"])
    services.doorbell.ring("work")
    services.doorbell.ring("news")
    return job
