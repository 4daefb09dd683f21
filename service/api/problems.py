"""Errors on the wire: RFC 9457 problem details, from one table of exceptions.

A problem's ``detail`` says what was wrong and what would be right. A 500 says nothing internal.
"""

from __future__ import annotations

import errno
import math
import sqlite3
from dataclasses import dataclass
from typing import Any

import marshmallow as ma
import structlog
from flask import Flask, Response, current_app, request
from gunicorn.http.errors import ParseException
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, TimeoutError
from werkzeug.exceptions import (
    ClientDisconnected,
    HTTPException,
    MethodNotAllowed,
    NotFound,
    RequestedRangeNotSatisfiable,
    RequestEntityTooLarge,
)

from checkpoints.errors import CheckpointError, MissingBlob
from models.canonical import canonical_json
from models.spec import SpecError
from service.operations import errors

log = structlog.get_logger("holdout.web")

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of problem: the end of its ``type``, its status and its title."""

    slug: str
    status: int
    title: str


INVALID = Kind(slug="invalid-request", status=422, title="The request cannot be run as written")
MALFORMED = Kind(slug="malformed-request", status=400, title="The request could not be read")
TOO_LARGE = Kind(slug="too-large", status=413, title="The request is larger than a limit")
UNSUPPORTED = Kind(
    slug="unsupported-media-type", status=415, title="Nothing here reads this kind of content"
)
NO_SPACE = Kind(slug="no-space", status=507, title="There is no space left to keep this")
UNAVAILABLE = Kind(slug="unavailable", status=503, title="Something needed is not there now")
TIMED_OUT = Kind(slug="request-timeout", status=408, title="The request did not arrive in time")
INTERNAL = Kind(slug="internal-error", status=500, title="The service failed")

PROBLEMS: dict[type[Exception], Kind] = {
    SpecError: INVALID,
    errors.NotFound: Kind(slug="not-found", status=404, title="The resource does not exist"),
    errors.Conflict: Kind(slug="conflict", status=409, title="The state does not allow it"),
    errors.Unauthorized: Kind(slug="unauthorized", status=401, title="A valid token is needed"),
    errors.Forbidden: Kind(slug="forbidden", status=403, title="The caller may not do this"),
    errors.Unavailable: UNAVAILABLE,
    errors.KeyReused: Kind(
        slug="idempotency-key-reused", status=422, title="The key belongs to another request"
    ),
    errors.KeyInUse: Kind(
        slug="idempotency-key-in-use", status=409, title="The first request is being handled"
    ),
    MissingBlob: Kind(slug="not-found", status=404, title="The resource does not exist"),
}

CHECKPOINT_KINDS = {"invalid": INVALID, "unsupported": UNSUPPORTED, "too_large": TOO_LARGE}

# Titles of what the framework itself refuses.
HTTP_TITLES = {
    400: MALFORMED,
    404: PROBLEMS[errors.NotFound],
    405: Kind(slug="method-not-allowed", status=405, title="The resource has no such method"),
    413: TOO_LARGE,
    415: UNSUPPORTED,
    416: Kind(slug="range-not-satisfiable", status=416, title="The range lies outside of it"),
}

UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)

# Of a body that nobody read, what the server skips to go on with the connection.
MOST_SKIPPED_BYTES = 2**16

RETRY_AFTER_S = {429: 5, 503: 5}


class ErrorDetailSchema(ma.Schema):
    """One field at fault."""

    pointer = ma.fields.String(
        required=True, metadata={"description": "JSON pointer of the field in the request."}
    )
    detail = ma.fields.String(required=True)


class ProblemSchema(ma.Schema):
    """An error, as RFC 9457 has it."""

    type = ma.fields.String(required=True, metadata={"description": "Names the kind of problem."})
    title = ma.fields.String(required=True)
    status = ma.fields.Integer(required=True)
    detail = ma.fields.String(
        required=True, metadata={"description": "What was wrong and what would be right."}
    )
    errors = ma.fields.List(ma.fields.Nested(ErrorDetailSchema))


class Replayed(Exception):
    """The problem that an earlier request with the same ``Idempotency-Key`` met."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem["detail"])
        self.problem = problem


def problem(
    kind: Kind, detail: str, pointers: list[tuple[str, str]] | None = None
) -> dict[str, Any]:
    """The body of one problem."""
    made: dict[str, Any] = {
        "type": f"/problems/{kind.slug}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
    }
    if pointers:
        made["errors"] = [{"pointer": where, "detail": what} for where, what in pointers]
    return made


def of(error: Exception) -> dict[str, Any]:
    """The problem that an exception is; what is not in the table says nothing internal."""
    if isinstance(error, Replayed):
        return error.problem
    if isinstance(error, CheckpointError):
        return problem(CHECKPOINT_KINDS[error.kind], error.detail, list(error.errors))
    if isinstance(error, HTTPException):
        return _of_http(error)
    for kind, entry in PROBLEMS.items():
        if isinstance(error, kind):
            detail = getattr(error, "detail", None) or entry.title
            pointer = getattr(error, "pointer", "")
            return problem(entry, detail, [(pointer, detail)] if pointer else None)
    if isinstance(error, ParseException):
        return problem(MALFORMED, "the body's framing is malformed")
    if _is_full(error):
        return problem(NO_SPACE, "the service's disk is full; nothing of this request was kept")
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return problem(UNAVAILABLE, "the service cannot write to its data folder; nothing was kept")
    if isinstance(error, (OperationalError, InterfaceError, TimeoutError)):
        return problem(UNAVAILABLE, "the database does not answer; nothing of this was kept")
    return problem(INTERNAL, "an unexpected failure, which the service's log explains")


def _is_full(error: Exception) -> bool:
    if isinstance(error, DBAPIError):
        return getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _of_http(error: HTTPException) -> dict[str, Any]:
    status = error.code or 500
    entry = HTTP_TITLES.get(status)
    if entry is None:
        entry = Kind(slug="http", status=status, title=error.name) if status < 500 else INTERNAL
    if isinstance(error, RequestEntityTooLarge):
        settings = current_app.extensions["holdout"].settings
        return problem(
            entry,
            "the request is too large: JSON bodies and form fields may have 1 MiB, forms 64 parts, "
            f"uploads {settings.max_upload_bytes} bytes (HOLDOUT_MAX_UPLOAD_BYTES)",
        )
    if isinstance(error, ClientDisconnected):
        if isinstance(error.__context__, BlockingIOError):
            return problem(TIMED_OUT, "the rest did not arrive in time; send the request again")
        return problem(entry, "the body ended before it was complete; send it again")
    if isinstance(error, RequestedRangeNotSatisfiable):
        return problem(
            entry, f"the file has {error.length} bytes; ask for bytes=FIRST-LAST inside it"
        )
    if isinstance(error, NotFound):
        return problem(entry, "there is no such path; GET /openapi.json lists all that there are")
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        methods = ", ".join(sorted(error.valid_methods))
        return problem(entry, f"this resource answers to {methods}")
    messages = getattr(error, "data", {}).get("messages")
    if messages:
        pointers = pointers_of(messages)
        detail = "; ".join(f"{where or '/'}: {what}" for where, what in pointers[:5])
        return problem(entry if status != 422 else INVALID, detail, pointers)
    return problem(entry, (error.description or entry.title) if status < 500 else entry.title)


def pointers_of(messages: Any, path: str = "") -> list[tuple[str, str]]:
    """Marshmallow's nested messages, each with the pointer of its field.

    Its ``_schema`` level is the object itself.
    """
    if isinstance(messages, dict):
        found = []
        for name, inner in messages.items():
            # A message about a whole object, or about a mapping's key or value, has no own level.
            flat = name == "_schema" or (name in ("key", "value") and isinstance(inner, list))
            escaped = str(name).replace("~", "~0").replace("/", "~1")
            found += pointers_of(inner, path if flat else f"{path}/{escaped}")
        return found
    if isinstance(messages, list):
        return [one for inner in messages for one in pointers_of(inner, path)]
    return [(path, str(messages))]


def respond(error: Exception) -> Response:
    """Turn an exception into its answer; the unexpected ones are logged with their stack."""
    made = of(error)
    if made["status"] == 500:
        log.error("unexpected failure", exc_info=error)
    elif made["status"] in (503, 507):
        log.warning(
            "the service cannot do its work", detail=made["detail"], cause=repr(error)[:500]
        )
    response = Response(canonical_json(made), status=made["status"], content_type=MEDIA_TYPE)
    if isinstance(error, HTTPException):
        for name, value in error.get_headers():
            if name.lower() not in ("content-type", "content-length"):
                response.headers[name] = value
    if isinstance(error, errors.Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="holdout"'
    if isinstance(error, errors.KeyInUse):
        response.headers["Retry-After"] = "1"
    if made["status"] in RETRY_AFTER_S:
        response.headers["Retry-After"] = str(RETRY_AFTER_S[made["status"]])
    if _unread_bytes() > MOST_SKIPPED_BYTES or made["status"] in (408, 413):
        # Where the next request begins is out of reach; `service.web` parts from the client.
        response.headers["Connection"] = "close"
    return response


def _unread_bytes() -> float:
    """How much of the request's body may still be on its way."""
    if request.content_length is not None:
        return request.content_length
    return math.inf if request.headers.get("Transfer-Encoding") else 0


def register(app: Flask) -> None:
    """Answer every exception of this application with a problem."""
    app.register_error_handler(Exception, respond)
