"""How request bodies become checked values: strict JSON, and uploads that stream to disk.

An uploaded file is written into a draft of the store while it arrives, hashed on the way. The
draft goes with the request unless a use case keeps it, so a refused upload leaves nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO, NoReturn, cast

import marshmallow as ma
from flask import Flask, Request, current_app, g
from marshmallow import fields
from webargs import core
from webargs.flaskparser import FlaskParser
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

from checkpoints.store import Draft
from models.canonical import strict_json
from service.api.fields import Text

JSON_LIMIT_BYTES = 2**20
CHUNK_BYTES = 2**18
MOST_FILES = 8
RAW = "application/octet-stream"

# The location of a body that may be JSON or an upload, and of one that is always an upload.
JSON_OR_UPLOAD = "json_or_upload"
UPLOAD = "upload"


class File(fields.Field[Draft]):
    """The uploaded file of a multipart request, or a raw body."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Draft:
        if not isinstance(value, Received):
            raise ma.ValidationError(f"must be sent as a file: curl -F {attr}=@PATH, not as text")
        return value.draft


class FileOrText(File):
    """An uploaded file, or a reference to what was uploaded before."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, str):
            return Text().deserialize(value, attr, data)
        if not isinstance(value, Received):
            raise ma.ValidationError("must be a reference or an uploaded file")
        return value.draft


class StreamingRequest(Request):
    """A request whose uploaded files go straight into drafts of the store."""

    max_form_parts = 64  # of 1 MiB each at most, see `register`

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> BinaryIO:
        return cast(BinaryIO, _receive())


class Received:
    """What the multipart parser writes an uploaded file to."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft

    def write(self, data: bytes) -> int:
        """Keep and hash what arrived."""
        self.draft.write(data)
        return len(data)

    def seek(self, _offset: int) -> None:
        """The parser rewinds what it wrote; a draft is read through its descriptor."""

    def close(self) -> None:
        """Drafts end with the request, in `discard_drafts`."""


def _receive() -> Received:
    if "drafts" not in g:
        g.drafts, g.files = contextlib.ExitStack(), 0
    g.files += 1
    if g.files > MOST_FILES:
        raise BadRequest(f"a form may hold {MOST_FILES} files at most")
    draft: Draft = g.drafts.enter_context(current_app.extensions["holdout"].store.draft())
    return Received(draft)


def discard_drafts(_error: BaseException | None = None) -> None:
    """Remove what this request uploaded and nobody kept."""
    drafts = g.pop("drafts", None)
    if drafts is not None:
        drafts.close()


class StrictParser(FlaskParser):
    """webargs' parser with our rules: unknown fields are errors, and nothing is coerced.

    Texts of forms and of query strings are read by the type of their field: plain text for names
    and numbers, JSON for lists and objects.
    """

    DEFAULT_UNKNOWN_BY_LOCATION = {  # noqa: RUF012 - the base class declares it
        "json": ma.RAISE,
        "query": ma.RAISE,
        UPLOAD: ma.RAISE,
        JSON_OR_UPLOAD: ma.RAISE,
    }
    __location_map__ = {  # noqa: RUF012 - the base class declares it
        **FlaskParser.__location_map__,
        "query": "load_query",
        UPLOAD: "load_upload",
        JSON_OR_UPLOAD: "load_json_or_upload",
    }

    def load_json(self, req: Request, schema: ma.Schema) -> Any:
        """A JSON object, strictly."""
        if not core.is_json(req.mimetype):
            raise UnsupportedMediaType(
                "the body must be JSON with Content-Type: application/json, got "
                f"{req.mimetype[:100] or 'no Content-Type'!r}"
            )
        try:
            value = strict_json(req.get_data(cache=False))
        except UnicodeDecodeError:
            raise BadRequest("the body is not UTF-8") from None
        except ValueError as error:
            raise BadRequest(f"the body is not JSON that can be taken: {error}") from None
        if not isinstance(value, dict):
            raise BadRequest("the body must be a JSON object: {...}")
        return self._remember(value, schema)

    def load_query(self, req: Request, schema: ma.Schema) -> Any:
        """The query string, but for what the body's location took from it."""
        return _read_texts(req.args, schema, leave=g.get("taken_from_query", ()))

    def load_upload(self, req: Request, schema: ma.Schema) -> Any:
        """A multipart form with a file, or a raw body with its fields in the query string."""
        limit = current_app.extensions["holdout"].settings.max_upload_bytes
        if req.mimetype == "multipart/form-data":
            # What stands around the file in the form comes on top of the file's own limit.
            req.max_content_length = limit + JSON_LIMIT_BYTES
            values = _read_texts(req.form, schema)
            for name, files in req.files.lists():
                if name in values or len(files) > 1:
                    raise ma.ValidationError({name: ["stands more than once in the form"]})
                received = cast(Received, files[0].stream)
                if received.draft.size_bytes > limit:
                    raise RequestEntityTooLarge()
                values[name] = received
        elif req.mimetype == RAW:
            req.max_content_length = limit
            name = next(n for n, one in schema.fields.items() if isinstance(one, File))
            values = _read_texts(req.args, schema, leave=("wait",))
            g.taken_from_query = set(values)
            received = _receive()
            while chunk := req.stream.read(CHUNK_BYTES):
                received.write(chunk)
            values[name] = received
        else:
            raise UnsupportedMediaType(
                "send the file as multipart/form-data (curl -F), or as the body with Content-Type: "
                f"application/octet-stream; got {req.mimetype[:100] or 'no Content-Type'!r}"
            )
        return self._remember(values, schema)

    def load_json_or_upload(self, req: Request, schema: ma.Schema) -> Any:
        """JSON that refers to a stored file, or an upload that brings it."""
        if core.is_json(req.mimetype):
            return self.load_json(req, schema)
        return self.load_upload(req, schema)

    def handle_error(self, error: ma.ValidationError, *args: Any, **kwargs: Any) -> NoReturn:
        """Leave the location out of the messages: a pointer starts at the field."""
        messages = error.messages
        if isinstance(messages, dict) and len(messages) == 1:
            ((name, inner),) = messages.items()
            if name in self.__location_map__ and isinstance(inner, dict):
                error.messages = inner
        super().handle_error(error, *args, **kwargs)

    def _remember(self, values: Mapping[str, Any], schema: ma.Schema) -> Mapping[str, Any]:
        """Keep what was sent, files by their digests, for the ``Idempotency-Key``."""
        g.sent = {
            name: {"sha256": value.draft.sha256} if isinstance(value, Received) else value
            for name, value in values.items()
        }
        return values


def _read_texts(
    texts: MultiDict[str, str], schema: ma.Schema, leave: Collection[str] = ()
) -> dict[str, Any]:
    """Each text as the JSON value that its field takes."""
    values: dict[str, Any] = {}
    for name, listed in texts.lists():
        if name in leave:
            continue
        if len(listed) > 1:
            raise ma.ValidationError({name: ["stands more than once"]})
        (text,) = listed
        if "\x00" in text:
            raise ma.ValidationError({name: ["must not hold NUL"]})
        declared = schema.fields.get(name)
        if declared is None or isinstance(declared, (fields.String, File)):
            values[name] = text
            continue
        try:
            values[name] = strict_json(text)
        except ValueError:
            kind = "JSON" if isinstance(declared, (fields.Dict, fields.List)) else "a plain value"
            raise ma.ValidationError({name: [f"must be {kind}, got {text[:60]!r}"]}) from None
    return values


def register(app: Flask) -> None:
    """Make this application read requests in this module's way."""
    app.request_class = StreamingRequest
    app.config["MAX_CONTENT_LENGTH"] = JSON_LIMIT_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = JSON_LIMIT_BYTES
    app.teardown_request(discard_drafts)
