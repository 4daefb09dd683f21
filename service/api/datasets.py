"""``/v1/datasets`` and ``/v1/ingestions``: register what checkpoints are judged on."""

from __future__ import annotations

from typing import Any

from service.api import resources, schemas
from service.api.access import caller
from service.api.blueprint import Blueprint, once, services
from service.api.parsing import UPLOAD
from service.api.replies import job_response, job_views, page, posted
from service.operations import datasets

blueprint = Blueprint(
    "datasets", __name__, url_prefix="/v1/datasets", description="What checkpoints are judged on."
)
ingestions = Blueprint(
    "ingestions", __name__, url_prefix="/v1/ingestions", description="Files becoming datasets."
)
job_views(ingestions, kind="ingestion", query=schemas.IngestionsQuery)


@blueprint.route("", methods=["POST"], role="trainer")
@blueprint.arguments(schemas.DatasetUploadSchema, location=UPLOAD)
@blueprint.arguments(schemas.WaitQuery, location="query")
@job_response(blueprint)
def post_dataset(
    wanted: schemas.DatasetUpload, query: dict[str, Any]
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Register a dataset from a file

    The answer is a job of kind ingestion; the dataset exists once it succeeded. The same content
    under the same name and spec is the version that exists; anything else is the next version.
    """

    def act() -> dict[str, Any]:
        job = datasets.register(
            services(),
            wanted.file,
            wanted.spec,
            labels=wanted.labels,
            timeout_s=wanted.timeout_s,
            caller=caller(),
        )
        return {"job": job.id}

    return posted(once(act)["job"], query["wait"])


@blueprint.route("", role="viewer")
@blueprint.arguments(schemas.DatasetsQuery, location="query")
@blueprint.response(200, resources.DatasetPage)
def list_datasets(wanted: tuple[Any, dict[str, Any]]) -> dict[str, Any]:
    """List dataset versions"""
    at, filters = wanted
    return page(datasets.search(services(), at, **filters))


@blueprint.route("/<ref>", role="viewer")
@blueprint.response(200, resources.DatasetSchema)
def get_dataset(ref: str) -> dict[str, Any]:
    """Look at one version: NAME (the latest) or NAME@VERSION"""
    return datasets.get(services(), ref)


@blueprint.route("/<ref>", methods=["DELETE"], role="admin")
@blueprint.response(204)
def delete_dataset(ref: str) -> None:
    """Delete one version; results keep its name and digest"""
    datasets.remove(services(), ref)


@blueprint.route("/<name>/versions", role="viewer")
@blueprint.arguments(schemas.PageQuery, location="query")
@blueprint.response(200, resources.DatasetPage)
def list_versions(wanted: tuple[Any, dict[str, Any]], name: str) -> dict[str, Any]:
    """List the versions of one name"""
    datasets.get(services(), name)
    return page(datasets.search(services(), wanted[0], name=name))
