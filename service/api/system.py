"""What people and machines ask of the service itself: health, catalog, workers, the document."""

from __future__ import annotations

import copy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import swagger_ui_bundle
from flask import Flask, Response, current_app, render_template_string, send_from_directory, url_for

from models.canonical import canonical_json
from models.catalog import CATALOGS
from service.api import resources
from service.api.access import OPEN
from service.api.blueprint import KEY_LIMIT, Blueprint, ProblemApi, services
from service.api.parsing import RAW
from service.operations import workers
from service.operations.errors import NotFound

blueprint = Blueprint(
    "service", __name__, url_prefix="/v1", description="The service itself, and its catalog."
)

VERSION = version("holdout")

SWAGGER_UI = Path(str(swagger_ui_bundle.swagger_ui_path))

DOCS_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Holdout: the HTTP contract</title>
<link rel="stylesheet" href="{{ url_for('docs_asset', name='swagger-ui.css') }}">
<div id="ui"></div>
<script src="{{ url_for('docs_asset', name='swagger-ui-bundle.js') }}"></script>
<script src="{{ url_for('docs_start') }}"></script>
</html>
"""

# In a file of its own, so that the page needs no inline script and the policy can forbid them.
DOCS_START = """SwaggerUIBundle({url: "%s", dom_id: "#ui", deepLinking: true, validatorUrl: null});
"""
DOCS_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"


def _complete_post(operation: dict[str, Any]) -> None:
    """Say what every POST takes: a key, and where a form brings a file the file as the body."""
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key and request lead to the same resource for 24 hours.",
        "schema": {"type": "string", "pattern": "^[ -~]+$", "maxLength": KEY_LIMIT},
    }
    operation.setdefault("parameters", []).append(key)
    content = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in content:
        content[RAW] = {"schema": {"type": "string", "format": "binary"}}


def _probe(
    summary: str, responses: dict[str, str], *, is_open: bool = True
) -> dict[str, dict[str, Any]]:
    """One endpoint of the document that stands outside of the API's blueprints."""
    described: dict[str, Any] = {code: {"description": text} for code, text in responses.items()}
    described["default"] = {"$ref": "#/components/responses/DEFAULT_ERROR"}
    get: dict[str, Any] = {"summary": summary, "responses": described}
    return {"get": {**get, "security": []} if is_open else get}


PROBES = {
    "/healthz": _probe("Whether the web process answers", {"200": "It does."}),
    "/readyz": _probe(
        "Whether database, store and a worker are there", {"200": "They are.", "503": "One is not."}
    ),
    "/metrics": _probe(
        "Counters and gauges for Prometheus", {"200": "Its text format."}, is_open=False
    ),
}


@blueprint.route("/catalog", role="viewer")
@blueprint.response(200, {"type": "object"})
def get_catalog() -> Response:
    """List every name that requests may write, by kind"""
    listed = {kind: {"items": items} for kind, items in workers.catalogs(services()).items()}
    return Response(canonical_json(listed), content_type="application/json")


@blueprint.route("/catalog/<kind>", role="viewer")
@blueprint.response(200, resources.CatalogSchema)
def get_catalog_of(kind: str) -> dict[str, Any]:
    """List the names of one kind"""
    if kind not in CATALOGS:
        raise NotFound(f"unknown catalog {kind[:100]!r}; known: {', '.join(CATALOGS)}")
    return {"items": workers.catalogs(services())[kind]}


@blueprint.route("/workers", role="viewer")
@blueprint.response(200, resources.WorkersSchema)
def get_workers() -> dict[str, Any]:
    """List the workers that are alive: device, numeric policy, catalog, plug-ins"""
    return {"items": workers.describe(services())}


@blueprint.route("/version", role="viewer")
@blueprint.response(200, resources.VersionSchema)
def get_version() -> dict[str, Any]:
    """Say what is running"""
    return {"version": VERSION, "api": "v1"}


def healthz() -> tuple[dict[str, str], int]:
    """Whether this process answers."""
    return {"status": "ok"}, 200


def readyz() -> tuple[dict[str, Any], int, dict[str, str]]:
    """Whether the service can do its work."""
    checks = workers.readiness(services())
    if all(check == "ok" for check in checks.values()):
        return {"status": "ready", "checks": checks}, 200, {}
    return {"status": "not ready", "checks": checks}, 503, {"Retry-After": "1"}


def metrics() -> Response:
    """What Prometheus scrapes."""
    page = current_app.extensions["holdout.metrics"].page()
    return Response(page, content_type="text/plain; version=1.0.0; charset=utf-8")


def docs() -> Response:
    """The contract as a page, with assets of this process only."""
    response = Response(render_template_string(DOCS_PAGE), content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = DOCS_POLICY
    return response


def docs_asset(name: str) -> Response:
    """A file of Swagger UI."""
    return send_from_directory(SWAGGER_UI, name, max_age=86400)


def docs_start() -> Response:
    """The script that starts Swagger UI on the document."""
    return Response(DOCS_START % url_for("openapi"), content_type="text/javascript")


def register(app: Flask, api: ProblemApi) -> None:
    """Add the endpoints that stand outside of ``/v1`` and are no resources."""

    def openapi() -> Response:
        """The contract, generated from the code."""
        document = copy.deepcopy(api.spec.to_dict())
        document["servers"] = [{"url": "/"}]
        for item in document["paths"].values():
            if "post" in item:
                _complete_post(item["post"])
        document["paths"] |= PROBES
        return Response(canonical_json(document), content_type="application/json")

    plain: tuple[tuple[str, Any, str], ...] = (
        ("/healthz", healthz, OPEN),
        ("/readyz", readyz, OPEN),
        ("/metrics", metrics, "metrics"),
        ("/openapi.json", openapi, "viewer"),
        ("/docs", docs, "viewer"),
        ("/docs/start.js", docs_start, "viewer"),
        ("/docs/assets/<name>", docs_asset, "viewer"),
    )
    for path, view, role in plain:
        view.role = role
        app.add_url_rule(path, view_func=view)
