"""``/v1/datasets`` and ``/v1/ingestions``: register what checkpoints are judged on."""

from __future__ import annotations

import re
from typing import Any

from flask import Response

from service.api import bodies, resources, schemas
from service.api.access import caller
from service.api.blueprint import Blueprint, once, services
from service.api.parsing import UPLOAD
from service.api.replies import job_response, job_views, page, posted
from service.operations import datasets, examples

blueprint = Blueprint(
    "datasets", __name__, url_prefix="/v1/datasets", description="What checkpoints are judged on."
)
ingestions = Blueprint(
    "ingestions", __name__, url_prefix="/v1/ingestions", description="Files becoming datasets."
)
PICTURE = {"type": "string", "format": "binary"}
INDEX = {"name": "index", "in": "path", "schema": {"type": "integer", "minimum": 0}}

job_views(ingestions, kind="ingestion", query=schemas.IngestionsQuery)


@blueprint.route("", methods=["POST"], role="trainer")
@blueprint.arguments(bodies.DatasetUploadSchema, location=UPLOAD)
@blueprint.arguments(schemas.WaitQuery, location="query")
@job_response(blueprint)
def post_dataset(
    wanted: bodies.DatasetUpload, query: dict[str, Any]
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
    return datasets.get(services(), ref, caller=caller())


@blueprint.route("/<ref>/split", methods=["POST"], role="trainer")
@blueprint.arguments(bodies.DivisionSchema)
@blueprint.arguments(schemas.WaitQuery, location="query")
@job_response(blueprint)
def split_dataset(
    wanted: bodies.Division, query: dict[str, Any], ref: str
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Make two datasets of one, for training and for validation

    The parts are chosen by the seed. Equal examples go to the same part, so the parts share none.
    """

    def act() -> dict[str, Any]:
        job = datasets.divide(
            services(),
            ref,
            train=wanted.train,
            validation=wanted.validation,
            division={
                "fraction": wanted.fraction,
                "seed": wanted.seed,
                "stratify": wanted.stratify,
            },
            labels=wanted.labels,
            timeout_s=wanted.timeout_s,
            caller=caller(),
        )
        return {"job": job.id}

    return posted(once(act)["job"], query["wait"])


@blueprint.route("/<ref>/examples/<index>", role="viewer", parameters=[INDEX])
@blueprint.arguments(schemas.ExampleQuery, location="query")
@blueprint.response(200, resources.ExampleSchema)
@blueprint.doc(responses={"200": {"content": {"image/png": {"schema": PICTURE}}}})
def get_example(query: dict[str, Any], ref: str, index: str) -> Any:
    """Look at one example before any transform

    A PNG of an image, JSON of everything else; ``?format=json`` gives the pixels, the class and
    the groups of an image. Of a sealed dataset for admins only.
    """
    number = int(index) if re.fullmatch("[0-9]{1,18}", index) else -1  # which no example has
    shown = examples.show(services(), ref, number, shown_as=query["format"], caller=caller())
    return Response(shown, content_type="image/png") if isinstance(shown, bytes) else shown


@blueprint.route("/<ref>/overlap", role="viewer")
@blueprint.arguments(schemas.OverlapQuery, location="query")
@blueprint.response(200, resources.OverlapSchema)
def get_overlap(query: dict[str, Any], ref: str) -> dict[str, Any]:
    """Count the examples that another dataset has too, whatever their labels"""
    return examples.overlap(services(), ref, query["other"], caller=caller())


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
    return page(datasets.versions(services(), wanted[0], name))
