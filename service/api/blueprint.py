"""flask-smorest with this service's rules: roles, problems as errors, strict parsing, replays."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any, ClassVar

import flask_smorest
import marshmallow as ma
from flask import Flask, current_app, g, request
from flask_smorest import Api

from models.canonical import digest
from models.spec import SpecError
from service.api import problems
from service.api.access import caller
from service.api.parsing import JSON_OR_UPLOAD, NOTHING, UPLOAD, StrictParser
from service.operations import idempotency
from service.operations.services import Services

KEY_LIMIT = 255

DESCRIPTION = """The referee for PyTorch classifiers.

* A single resource has an `ETag`; `If-None-Match` gives 304.
* `X-Request-Id` is echoed when it is sane, else made, and stands in the logs.
* Where a form with a file is taken, the file may also be the body, as `application/octet-stream`;
  the form's other fields are query parameters then.
"""


def services() -> Services:
    """The parts that the application was made with."""
    found: Services = current_app.extensions["holdout"]
    return found


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc]  # flask-smorest has no types
    """A blueprint each of whose routes names the role that it needs."""

    ARGUMENTS_PARSER = StrictParser()
    DEFAULT_LOCATION_CONTENT_TYPE_MAPPING: ClassVar = {
        "json": "application/json",
        UPLOAD: "multipart/form-data",
        JSON_OR_UPLOAD: "multipart/form-data",
    }

    def route(self, rule: str, *, role: str, **options: Any) -> Callable[..., Any]:
        """Register a view that callers of at least ``role`` may use."""
        register = super().route(rule, **options)

        def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
            told = getattr(view, "_apidoc", {}).get("arguments", {}).get("parameters", [])
            if not told:
                view = self.no_query(view)
            if "POST" in options.get("methods", ()) and all(one["in"] == "query" for one in told):
                view = self.no_body(view)
            view.role = role  # type: ignore[attr-defined]  # read by service.api.access
            return register(view)  # type: ignore[no-any-return]

        return decorate

    def no_query(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """Refuse every query parameter, but for those that a raw body's location took."""
        check = self.arguments(ma.Schema, location="query", as_kwargs=True)
        return check(view)  # type: ignore[no-any-return]

    def no_body(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """Refuse every field of a body."""

        @wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            self.ARGUMENTS_PARSER.parse(ma.Schema(), location=NOTHING)
            return view(*args, **kwargs)

        return checked


class ProblemApi(Api):  # type: ignore[misc]  # flask-smorest has no types
    """flask-smorest's Api that documents and gives errors as problem details."""

    ERROR_SCHEMA = problems.ProblemSchema

    def _register_error_handlers(self) -> None:
        problems.register(self._app)

    def _register_responses(self) -> None:
        """Document every error as a problem; smorest would say ``application/json``."""
        content = {problems.MEDIA_TYPE: {"schema": problems.ProblemSchema}}
        response = {
            "description": "What was wrong and what would be right.",
            "content": content,
        }
        self.spec.components.response(self.DEFAULT_ERROR_RESPONSE_NAME, response)
        # The name under which smorest refers to what a request with wrong fields is answered.
        self.spec.components.response(HTTPStatus.UNPROCESSABLE_ENTITY.name, response)


def make_api(app: Flask, *, version: str) -> ProblemApi:
    """The API of an application, with its document at ``/openapi.json``."""
    app.config.update(
        API_TITLE="Holdout",
        API_VERSION=version,
        OPENAPI_VERSION="3.0.3",
        API_SPEC_OPTIONS={
            "info": {"description": DESCRIPTION},
            "components": {
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{"token": []}],
        },
    )
    return ProblemApi(app)


def once(act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do what a POST asks for, or recall what the same POST led to.

    Args:
        act: does it and returns which resource it led to, as JSON values.

    Returns:
        What ``act`` returned, now or when the same ``Idempotency-Key`` was first seen.

    Raises:
        Replayed: the first request was refused.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return act()
    if not (0 < len(key) <= KEY_LIMIT and key.isascii() and key.isprintable()):
        raise SpecError(f"Idempotency-Key must be 1 to {KEY_LIMIT} printable ASCII characters")
    scope = digest([caller().name, request.path])
    query = {name: text for name, text in request.args.items() if name != "wait"}
    fingerprint = digest([request.method, query, g.get("sent")])
    kept = idempotency.begin(services(), scope, key, fingerprint)
    if kept is not None:
        if "problem" in kept:
            raise problems.Replayed(kept["problem"])
        return kept
    try:
        outcome = act()
    except Exception as error:
        made = problems.of(error)
        forgotten = made["status"] in (401, 429) or made["status"] >= 500
        idempotency.conclude(services(), scope, key, None if forgotten else {"problem": made})
        raise
    idempotency.conclude(services(), scope, key, outcome)
    return outcome
