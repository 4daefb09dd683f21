"""How request bodies become checked values: strict JSON, and uploads that stream to disk.

An uploaded file is written into a draft of the store while it arrives, hashed on the way. The
draft goes with the request unless a use case keeps it, so a refused upload leaves nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any, BinaryIO, NoReturn, cast
from urllib.parse import unquote_to_bytes

import marshmallow as ma
from flask import Flask, Request, current_app, g
from marshmallow import fields
from webargs import core
from webargs.flaskparser import FlaskParser
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

from checkpoints.store import Draft
from models.canonical import strict_json
from service.api.fields import Text, Transforms
from service.operations.errors import Unavailable

JSON_LIMIT_BYTES = 2**20
CHUNK_BYTES = 2**18
MOST_FILES = 8
RAW = "application/octet-stream"

# The location of a body that may be JSON or an upload, and of one that is always an upload.
JSON_OR_UPLOAD = "json_or_upload"
UPLOAD = "upload"
# That of a POST that takes no fields.
NOTHING = "nothing"


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
        NOTHING: ma.RAISE,
    }
    __location_map__ = {  # noqa: RUF012 - the base class declares it
        **FlaskParser.__location_map__,
        "query": "load_query",
        UPLOAD: "load_upload",
        JSON_OR_UPLOAD: "load_json_or_upload",
        NOTHING: "load_nothing",
    }

    def load_json(self, req: Request, schema: ma.Schema) -> Any:
        """A JSON object, strictly."""
        if not core.is_json(req.mimetype):
            raise UnsupportedMediaType(
                "the body must be JSON with Content-Type: application/json, got "
                f"{req.mimetype[:100] or 'no Content-Type'!r}"
            )
        with _receiving():
            data = req.get_data(cache=False)
        try:
            value = strict_json(data)
        except UnicodeDecodeError:
            raise BadRequest("the body is not UTF-8") from None
        except ValueError as error:
            raise BadRequest(f"the body is not JSON that can be taken: {error}") from None
        if not isinstance(value, dict):
            raise BadRequest("the body must be a JSON object: {...}")
        return self._remember(value, schema)

    def load_query(self, req: Request, schema: ma.Schema) -> Any:
        """The query string, but for what the body's location took from it."""
        return _read_texts(_query(req), schema, leave=g.get("taken_from_query", ()))

    def load_upload(self, req: Request, schema: ma.Schema) -> Any:
        """A multipart form with a file, or a raw body with its fields in the query string."""
        limit = current_app.extensions["holdout"].settings.max_upload_bytes
        if req.mimetype == "multipart/form-data":
            # What stands around the file in the form comes on top of the file's own limit.
            req.max_content_length = limit + JSON_LIMIT_BYTES
            with _receiving():
                form, sent = req.form, req.files
            values = _read_texts(form, schema)
            for name, files in sent.lists():
                if name in values or len(files) > 1:
                    raise ma.ValidationError({name: ["stands more than once in the form"]})
                received = cast(Received, files[0].stream)
                if received.draft.size_bytes > limit:
                    raise RequestEntityTooLarge()
                values[name] = received
        elif req.mimetype == RAW:
            req.max_content_length = limit + 1  # the stream refuses to end at its limit
            name = next(n for n, one in schema.fields.items() if isinstance(one, File))
            values = _read_texts(_query(req), schema, leave=("wait",))
            g.taken_from_query = set(values)
            values[name] = _received_raw(req, limit)
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

    def load_nothing(self, req: Request, schema: ma.Schema) -> Any:
        """No body, or an empty JSON object."""
        with _receiving():
            empty = not req.get_data()
        return {} if empty else self.load_json(req, schema)

    def handle_error(
        self, error: ma.ValidationError, req: Request, schema: ma.Schema, **options: Any
    ) -> NoReturn:
        """Say it in our words, without the location: a pointer starts at the field."""
        messages = error.messages
        if isinstance(messages, dict) and len(messages) == 1:
            ((name, inner),) = messages.items()
            if name in self.__location_map__ and isinstance(inner, dict):
                messages = inner
        error.messages = in_words(messages, schema)
        super().handle_error(error, req, schema, **options)

    def _remember(self, values: Mapping[str, Any], schema: ma.Schema) -> Mapping[str, Any]:
        """Keep what was sent, files by their digests, for the ``Idempotency-Key``."""
        g.sent = {
            name: {"sha256": value.draft.sha256} if isinstance(value, Received) else value
            for name, value in values.items()
        }
        return values


UNKNOWN = "Unknown field."

# Marshmallow's sentences, which do not say what would be right, in ours.
WORDS = {
    "Missing data for required field.": "is required",
    "Field may not be null.": "must not be null",
    "Not a valid string.": "must be a string",
    "Not a valid list.": "must be a list",
    "Not a valid mapping type.": "must be an object",
    "Invalid input type.": "must be an object",
}

# What a text must be that stands for the value of a field of this class.
PLAIN = (
    (fields.Boolean, "true or false"),
    (fields.Integer, "an integer"),
    (fields.Float, "a number"),
)

# What the JSON text for a field of this class may look like.
EXAMPLES = (
    (Transforms, '[{"name": "to_float"}]'),
    (fields.List, '["p", "q"]'),
    (fields.Dict, '{"p": "q"}'),
)


def in_words(messages: Any, schema: ma.Schema) -> Any:
    """Marshmallow's messages about what a schema was to load, in our sentences."""
    known = ", ".join(one.data_key or name for name, one in schema.fields.items())
    words = {**WORDS, UNKNOWN: f"is unknown; known: {known}" if known else "is unknown here"}
    return _replaced(messages, words)


def _replaced(messages: Any, words: Mapping[str, str]) -> Any:
    if isinstance(messages, dict):
        return {name: _replaced(inner, words) for name, inner in messages.items()}
    if isinstance(messages, list):
        return [_replaced(one, words) for one in messages]
    return words.get(messages, messages)


@contextlib.contextmanager
def _receiving() -> Iterator[None]:
    """Hold one of the places for bodies that are arriving, so that slow ones leave threads free."""
    places: threading.BoundedSemaphore = current_app.extensions["holdout.bodies"]
    if not places.acquire(blocking=False):
        raise Unavailable("too many requests are being received; send this one again in a moment")
    try:
        yield
    finally:
        places.release()


def _received_raw(req: Request, limit: int) -> Received:
    """The body as a file; a client that went away in the middle has sent none."""
    received = _receive()
    with _receiving():
        while chunk := req.stream.read(CHUNK_BYTES):
            received.write(chunk)
    size = received.draft.size_bytes
    if size > limit:
        raise RequestEntityTooLarge()
    if req.content_length is not None and size != req.content_length:
        raise BadRequest(
            f"the body ended after {size} of {req.content_length} bytes; send it again"
        )
    return received


def _query(req: Request) -> MultiDict[str, str]:
    """The query string, which must be UTF-8: werkzeug would leave other bytes as ``%E9``."""
    try:
        unquote_to_bytes(req.query_string).decode()
    except UnicodeDecodeError:
        raise BadRequest("the query string is not UTF-8") from None
    return req.args


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
        if "\ufffd" in text:  # what werkzeug puts for bytes that are no text
            raise BadRequest(f"the field {name[:100]!r} is not UTF-8")
        declared = schema.fields.get(name)
        if declared is None or isinstance(declared, (fields.String, File)):
            values[name] = text
            continue
        try:
            values[name] = strict_json(text)
        except ValueError as error:
            kind = next((words for one, words in PLAIN if isinstance(declared, one)), None)
            if kind is None:
                example = next(text for one, text in EXAMPLES if isinstance(declared, one))
                kind = f"JSON such as {example} ({error})"
            raise ma.ValidationError({name: [f"must be {kind}, got {text[:60]!r}"]}) from None
    return values


def register(app: Flask) -> None:
    """Make this application read requests in this module's way."""
    app.request_class = StreamingRequest
    app.config["MAX_CONTENT_LENGTH"] = JSON_LIMIT_BYTES
    app.config["MAX_FORM_MEMORY_SIZE"] = JSON_LIMIT_BYTES
    app.teardown_request(discard_drafts)
    threads: int = app.extensions["holdout"].settings.web_threads
    app.extensions["holdout.bodies"] = threading.BoundedSemaphore(max(2, threads // 4))
