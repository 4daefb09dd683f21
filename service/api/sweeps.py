"""``/v1/sweeps``: trainings that differ in some fields, side by side."""

from __future__ import annotations

from typing import Any

from flask import Response

from service.api import recipes, resources, schemas
from service.api.access import caller
from service.api.blueprint import Blueprint, once, services
from service.api.replies import page
from service.operations import sweeps

blueprint = Blueprint(
    "sweeps", __name__, url_prefix="/v1/sweeps", description="Compare trainings over a grid."
)


@blueprint.route("", role="viewer")
@blueprint.arguments(schemas.PageQuery, location="query")
@blueprint.response(200, resources.SweepPage)
def list_sweeps(wanted: tuple[Any, dict[str, Any]]) -> dict[str, Any]:
    """List sweeps"""
    at, _ = wanted
    return page(sweeps.search(services(), at))


@blueprint.route("", methods=["POST"], role="trainer")
@blueprint.arguments(recipes.SweepRequestSchema)
@blueprint.no_query
@blueprint.response(201, resources.SweepSchema, description="Every training is queued.")
def post_sweep(wanted: dict[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Queue a training for each point of a grid

    All are checked before any is queued.
    """

    def act() -> dict[str, Any]:
        made = sweeps.create(
            services(),
            base=wanted["base"],
            grid=wanted["grid"],
            members=[
                recipes.member(point)
                for point in sweeps.points(wanted["base"], wanted["grid"], recipes.DEFAULTS)
            ],
            labels=wanted["labels"],
            caller=caller(),
        )
        return {"sweep": made}

    sweep_id = once(act)["sweep"]
    body = sweeps.get(services(), sweep_id)
    return body, 201, {"Location": body["links"]["self"]}


@blueprint.route("/<sweep_id>", role="viewer")
@blueprint.arguments(schemas.SweepQuery, location="query")
@blueprint.response(200, resources.SweepSchema)
@blueprint.doc(responses={"200": {"content": {"text/markdown": {"schema": {"type": "string"}}}}})
def get_sweep(query: dict[str, Any], sweep_id: str) -> Any:
    """Compare the trainings of a sweep"""
    body = sweeps.get(services(), sweep_id)
    if query["format"] == "markdown":
        return Response(sweeps.markdown(body), content_type="text/markdown; charset=utf-8")
    return body
