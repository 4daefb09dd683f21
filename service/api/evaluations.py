"""``/v1/evaluations``: judge a checkpoint on a dataset."""

from __future__ import annotations

from typing import Any

from service.api import bodies, schemas
from service.api.access import caller
from service.api.blueprint import Blueprint, once, services
from service.api.parsing import JSON_OR_UPLOAD
from service.api.replies import job_response, job_views, posted
from service.operations import checkpoints, evaluations

blueprint = Blueprint(
    "evaluations", __name__, url_prefix="/v1/evaluations", description="Judge a checkpoint."
)
job_views(blueprint, kind="evaluation", query=schemas.EvaluationsQuery)


@blueprint.route("", methods=["POST"], role="evaluator")
@blueprint.arguments(bodies.EvaluationRequestSchema, location=JSON_OR_UPLOAD)
@blueprint.arguments(schemas.WaitQuery, location="query")
@job_response(blueprint)
@blueprint.doc(
    requestBody={
        "content": {
            "application/json": {"schema": bodies.EvaluationOfStored},
            "multipart/form-data": {"schema": bodies.EvaluationOfUpload},
        }
    }
)
def post_evaluation(
    wanted: bodies.EvaluationRequest, query: dict[str, Any]
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Evaluate a checkpoint on a dataset

    The checkpoint is a reference in JSON, or a file in a multipart form. An equal request whose
    result is known answers 200 with ``cached: true`` and computes nothing.
    """

    def act() -> dict[str, Any]:
        digest = wanted.checkpoint
        evaluations.check_dataset(services(), wanted.terms["dataset"])  # before a file is kept
        if not isinstance(digest, str):
            digest, _ = checkpoints.upload(
                services(),
                digest,
                wanted.declaration,
                labels=wanted.labels,
                caller=caller(),
                field="checkpoint",
                accept=lambda manifest: evaluations.check(services(), wanted.spec(""), manifest),
            )
        job, cached = evaluations.request(
            services(),
            wanted.spec(digest),
            fresh=wanted.fresh,
            labels=wanted.labels,
            timeout_s=wanted.timeout_s,
            caller=caller(),
        )
        return {"job": job.id, "cached": cached}

    outcome = once(act)
    return posted(outcome["job"], query["wait"], cached=outcome["cached"])


@blueprint.route("/<job_id>/verify", methods=["POST"], role="evaluator")
@blueprint.arguments(schemas.WaitQuery, location="query")
@job_response(blueprint)
def verify_evaluation(
    query: dict[str, Any], job_id: str
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Compute an evaluation again and say whether it came out the same

    In the new evaluation ``result.verification.outcome`` is ``identical``, ``within_tolerance`` or
    ``different``, and ``result.verification.changed`` lists the parts of the key that have changed.
    """

    def act() -> dict[str, Any]:
        return {"job": evaluations.verify(services(), job_id, caller=caller()).id}

    return posted(once(act)["job"], query["wait"])
