"""``/v1/trainings``: the regularized loop, which ends with a checkpoint."""

from __future__ import annotations

import csv
import io
from typing import Any

from flask import Response

from service.api import recipes, resources, schemas
from service.api.access import caller
from service.api.blueprint import Blueprint, once, services
from service.api.replies import job_response, job_views, posted
from service.operations import trainings

blueprint = Blueprint(
    "trainings", __name__, url_prefix="/v1/trainings", description="Train a classifier."
)
job_views(blueprint, kind="training", query=schemas.TrainingsQuery)


@blueprint.route("", methods=["POST"], role="trainer")
@blueprint.arguments(recipes.TrainingRequestSchema)
@blueprint.arguments(schemas.WaitQuery, location="query")
@job_response(blueprint)
def post_training(
    wanted: recipes.TrainingRequest, query: dict[str, Any]
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Train a network on one dataset, and choose its best epoch by another

    The smallest request names an architecture and two datasets. Every epoch is judged as an
    evaluation of its checkpoint would be.
    """

    def act() -> dict[str, Any]:
        job = trainings.request(
            services(),
            wanted.spec,
            labels=wanted.labels,
            timeout_s=wanted.timeout_s,
            caller=caller(),
        )
        return {"job": job.id}

    return posted(once(act)["job"], query["wait"])


@blueprint.route("/<job_id>/history", role="viewer")
@blueprint.arguments(schemas.HistoryQuery, location="query")
@blueprint.response(200, resources.HistorySchema)
@blueprint.doc(responses={"200": {"content": {"text/csv": {"schema": {"type": "string"}}}}})
def get_history(query: dict[str, Any], job_id: str) -> Any:
    """List the epochs of a training, also while it runs"""
    rows = trainings.history(services(), job_id)
    if query["format"] == "json":
        return {"items": rows}
    flat = [_flat(row) for row in rows]
    text = io.StringIO()
    names = list(flat[0] if flat else resources.EpochSchema(exclude=["train_metrics"]).fields)
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return Response(text.getvalue(), content_type="text/csv; charset=utf-8")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """With ``train_metrics`` as columns ``train_metrics_loss`` and so on."""
    plain = {name: value for name, value in row.items() if name != "train_metrics"}
    inner = row.get("train_metrics", {})
    return {**plain, **{f"train_metrics_{name}": value for name, value in inner.items()}}


@blueprint.route("/<job_id>/resume", methods=["POST"], role="trainer")
@blueprint.arguments(schemas.WaitQuery, location="query")
@job_response(blueprint)
def resume_training(
    query: dict[str, Any], job_id: str
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Go on with a training that failed or was cancelled, after its last stored epoch

    It keeps its id, and ends with the bytes that it would have ended with undisturbed.
    """
    outcome = once(lambda: {"job": trainings.resume(services(), job_id).id})
    return posted(outcome["job"], query["wait"])
