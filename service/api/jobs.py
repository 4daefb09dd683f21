"""``/v1/jobs``: work that outlives a request, whatever its kind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from flask import Response, current_app, request

from models.canonical import canonical_json
from models.spec import SpecError
from service.api import resources, schemas
from service.api.access import caller
from service.api.blueprint import Blueprint, once, services
from service.api.replies import page, posted, shown
from service.jobs.job import Event
from service.jobs.lifecycle import ended
from service.jobs.watcher import Watcher
from service.operations import jobs
from service.operations.errors import Unavailable

blueprint = Blueprint(
    "jobs", __name__, url_prefix="/v1/jobs", description="Work that outlives a request."
)

STREAM_S = 55.0  # proxies often cut at 60; clients resume with Last-Event-ID
KEEP_ALIVE_S = 15.0


@blueprint.route("", role="viewer")
@blueprint.arguments(schemas.JobsQuery, location="query")
@blueprint.response(200, resources.JobPage)
def list_jobs(wanted: tuple[Any, dict[str, Any]]) -> dict[str, Any]:
    """List jobs of every kind"""
    at, filters = wanted
    return page(jobs.search(services(), at, caller=caller(), **filters))


@blueprint.route("/<job_id>", role="viewer")
@blueprint.arguments(schemas.WaitQuery, location="query")
@blueprint.response(200, resources.JobSchema)
def get_job(query: dict[str, Any], job_id: str) -> dict[str, Any]:
    """Look at a job"""
    return shown(job_id, query["wait"])


@blueprint.route("/<job_id>/cancel", methods=["POST"], role="evaluator")
@blueprint.arguments(schemas.WaitQuery, location="query")
@blueprint.response(202, resources.JobSchema)
def cancel_job(query: dict[str, Any], job_id: str) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Cancel a job that has not ended"""
    outcome = once(lambda: {"job": jobs.cancel(services(), job_id).id})
    body, _, headers = posted(outcome["job"], query["wait"])
    return body, 202, headers


@blueprint.route("/<job_id>/events", role="viewer")
@blueprint.response(
    200,
    {"type": "string"},
    content_type="text/event-stream",
    description="Server-sent events: state, progress, epoch, end.",
)
@blueprint.alt_response(204, description="It ended, and no event is newer: do not resume.")
def stream_events(job_id: str) -> Response:
    """Follow a job as server-sent events

    Each event has an id; send the last one as ``Last-Event-ID`` to go on after it. A stream ends
    with the job, or after a minute, and is then resumed; 204 says that there is nothing to resume.
    """
    job = jobs.get(services(), job_id)
    text = request.headers.get("Last-Event-ID", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise SpecError("Last-Event-ID must be the id of an event of this job")
    after = int(text)
    if ended(job.state) and job.events <= after:
        return Response(status=204)  # EventSource would reconnect for ever after anything else
    watcher: Watcher = current_app.extensions["holdout.watcher"]
    stream = _stream(watcher, job_id, after)
    if next(stream) is None:
        raise Unavailable("as many requests are held open as this process allows; try again")
    response = Response(stream, content_type="text/event-stream; charset=utf-8")
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _stream(watcher: Watcher, job_id: str, after: int) -> Iterator[Any]:
    """Yield whether there is a place, then the events as text."""
    deadline = time.monotonic() + STREAM_S
    with watcher.watch(job_id, after=after) as watch:
        yield watch
        if watch is None:
            return
        yield "retry: 1000\n\n"
        while (left := deadline - time.monotonic()) > 0:
            arrived = watch.next(min(left, KEEP_ALIVE_S))
            if arrived is None:
                return
            if not arrived:
                yield ": still here\n\n"
            for event in arrived:
                yield _frame(event)


def _frame(event: Event) -> str:
    data = canonical_json({**event.data, "at": jobs.timestamp(event.created_at)}).decode()
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n"
