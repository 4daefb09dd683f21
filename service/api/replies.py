"""Answers that several resources give alike: jobs held by ``?wait``, and conditional ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, current_app, request

from service.api import resources, schemas
from service.api.access import caller
from service.api.blueprint import Blueprint, services
from service.jobs.lifecycle import ended
from service.jobs.watcher import Watcher
from service.operations import jobs

RETRY_AFTER_S = 1


def posted(
    job_id: str, wait_s: float, *, cached: bool = False
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """The answer of a POST that led to a job: 200 once it ended, else 202."""
    if not cached:
        hold(job_id, wait_s)
    job = jobs.get(services(), job_id)
    body = jobs.body(job, caller=caller(), now=services().clock(), cached=cached)
    headers = {"Location": jobs.location(job)}
    if ended(job.state):
        return body, 200, headers
    return body, 202, {**headers, "Retry-After": str(RETRY_AFTER_S)}


def shown(job_id: str, wait_s: float, *, kind: str | None = None) -> dict[str, Any]:
    """The answer of a GET of a job."""
    job = jobs.get(services(), job_id, kind=kind)
    if wait_s > 0 and not ended(job.state):
        hold(job_id, wait_s)
        job = jobs.get(services(), job_id)
    return jobs.body(job, caller=caller(), now=services().clock())


def hold(job_id: str, wait_s: float) -> None:
    """Return once a job that exists has ended, or the time is up."""
    longest_s = min(wait_s, services().settings.max_wait_s)
    if longest_s > 0:
        watcher: Watcher = current_app.extensions["holdout.watcher"]
        watcher.wait(job_id, longest_s)


def page(found: tuple[list[dict[str, Any]], str | None]) -> dict[str, Any]:
    """The body of one page of a list."""
    items, following = found
    return {"items": items, "next": following}


def job_views(blueprint: Blueprint, *, kind: str, query: type[schemas.PageQuery]) -> None:
    """Give a kind of job its own list and resource below the blueprint's prefix."""

    @blueprint.route("", role="viewer", endpoint=f"list_{kind}s")
    @blueprint.arguments(query, location="query")
    @blueprint.response(200, resources.JobPage)
    @blueprint.doc(summary=f"List {kind}s")
    def list_(wanted: tuple[Any, dict[str, Any]]) -> Any:
        at, filters = wanted
        return page(jobs.search(services(), at, caller=caller(), kind=kind, **filters))

    @blueprint.route("/<job_id>", role="viewer", endpoint=f"get_{kind}")
    @blueprint.arguments(schemas.WaitQuery, location="query")
    @blueprint.response(200, resources.JobSchema)
    @blueprint.doc(summary=f"Look at one {kind}")
    def get(wanted: dict[str, Any], job_id: str) -> Any:
        return shown(job_id, wanted["wait"], kind=kind)


def job_response(blueprint: Blueprint) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Document a POST that leads to a job."""
    held = blueprint.response(202, resources.JobSchema, description="Queued or running.")
    known = blueprint.alt_response(200, schema=resources.JobSchema, description="It ended.")
    return lambda view: known(held(view))


def tag(response: Response) -> Response:
    """Give the answer of a GET an ETag, and answer 304 where the client has it already."""
    plain = response.status_code == 200 and not response.is_streamed
    if request.method in ("GET", "HEAD") and plain and response.is_json:
        response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:32])
        response.make_conditional(request)
    return response


def register(app: Flask) -> None:
    """Make the answers of this application conditional."""
    app.after_request(tag)
