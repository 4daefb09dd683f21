"""``/v1/checkpoints``: weights plus what is needed to use them."""

from __future__ import annotations

import re
from typing import Any

from flask import Response, request, send_file

from service.api import bodies, resources, schemas
from service.api.access import caller
from service.api.blueprint import Blueprint, once, services
from service.api.parsing import UPLOAD
from service.api.replies import page
from service.operations import checkpoints

blueprint = Blueprint(
    "checkpoints", __name__, url_prefix="/v1/checkpoints", description="Weights that are judged."
)

ONE_RANGE = re.compile(r"bytes=\s*([0-9]+-[0-9]*|-[0-9]+)\s*")


@blueprint.route("", methods=["POST"], role="evaluator")
@blueprint.arguments(bodies.CheckpointUploadSchema, location=UPLOAD)
@blueprint.no_query
@blueprint.response(201, resources.CheckpointSchema)
@blueprint.alt_response(200, schema=resources.CheckpointSchema, description="It is known.")
def post_checkpoint(
    wanted: bodies.CheckpointUpload,
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Upload a checkpoint

    Takes what torch.save writes (a state dict, bare or nested), safetensors, and ONNX, which holds
    its architecture. The file is parsed without running anything in it, checked against its
    architecture and kept as safetensors.
    """

    def act() -> dict[str, Any]:
        digest, created = checkpoints.upload(
            services(), wanted.file, wanted.declaration, labels=wanted.labels, caller=caller()
        )
        return {"digest": digest, "created": created}

    outcome = once(act)
    found = checkpoints.get(services(), outcome["digest"], source_sha256=wanted.file.sha256)
    return found, 201 if outcome["created"] else 200, {"Location": found["links"]["self"]}


@blueprint.route("", role="viewer")
@blueprint.arguments(schemas.CheckpointsQuery, location="query")
@blueprint.response(200, resources.CheckpointPage)
def list_checkpoints(wanted: tuple[Any, dict[str, Any]]) -> dict[str, Any]:
    """List checkpoints"""
    at, filters = wanted
    return page(checkpoints.search(services(), at, **filters))


@blueprint.route("/<ref>", role="viewer")
@blueprint.response(200, resources.CheckpointSchema)
def get_checkpoint(ref: str) -> dict[str, Any]:
    """Look at one checkpoint: a digest, or a prefix of 8 or more"""
    return checkpoints.get(services(), ref)


@blueprint.route("/<ref>/content", role="viewer")
@blueprint.response(
    200,
    {"type": "string", "format": "binary"},
    content_type="application/octet-stream",
    description="The canonical safetensors file.",
)
@blueprint.alt_response(206, description="The part that Range names.")
@blueprint.alt_response(304, description="The client has it.")
def get_content(ref: str) -> Response:
    """Download the canonical safetensors file, whole or by Range"""
    digest = checkpoints.get(services(), ref)["digest"]
    if not ONE_RANGE.fullmatch(request.headers.get("Range", "")):
        request.environ.pop("HTTP_RANGE", None)  # another unit or several parts: the whole answers
    response = send_file(
        services().store.path(digest).absolute(),
        mimetype="application/octet-stream",
        as_attachment=True,
        download_name=f"{digest[:16]}.safetensors",
        etag=digest,
        conditional=True,
    )
    response.headers["Accept-Ranges"] = "bytes"
    return response


@blueprint.route("/<ref>", methods=["DELETE"], role="admin")
@blueprint.response(204)
def delete_checkpoint(ref: str) -> None:
    """Delete a checkpoint; results keep its digest"""
    checkpoints.remove(services(), ref)
