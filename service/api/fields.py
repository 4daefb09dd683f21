"""Marshmallow fields that take JSON's own types only, and times, pages and waits."""

from __future__ import annotations

import math
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from models.canonical import strict_json
from models.spec import NAME_PATTERN, Component

LABEL_LIMIT = 64
TEXT_PATTERN = r"^[^\x00-\x1f]*$"


class Integer(fields.Integer):
    """A JSON integer: not ``"1"``, not ``1.0``, not ``true``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(strict=True, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if type(value) is not int:
            raise ma.ValidationError("must be an integer")
        return super()._deserialize(value, attr, data, **kwargs)


class Float(fields.Float):
    """A finite JSON number: not ``"0.5"``, not ``true``."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ma.ValidationError("must be a number")
        return super()._deserialize(value, attr, data, **kwargs)


class Boolean(fields.Boolean):
    """A JSON boolean: not ``"yes"``, not ``1``."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if type(value) is not bool:
            raise ma.ValidationError("must be true or false")
        return value


class Text(fields.String):
    """A string without control characters, which neither a header nor a log line could hold."""

    def __init__(self, *, metadata: dict[str, Any] | None = None, **kwargs: Any) -> None:
        described = {"pattern": TEXT_PATTERN, **(metadata or {})}
        super().__init__(metadata=described, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in text):
            raise ma.ValidationError("must not hold control characters")
        return text


class Name(Text):
    """A name that stands in addresses."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            validate=validate.Regexp(
                NAME_PATTERN,
                error="must start with a letter or digit and hold only letters, digits, '.', '_' "
                "and '-', at most 128 of them",
            ),
            **kwargs,
        )


class Names(Text):
    """A name, or several as the text of a JSON list."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        if not text.startswith("["):
            return text
        try:
            names = strict_json(text)
        except ValueError as error:
            raise ma.ValidationError(f"must be a name or a JSON list of names: {error}") from None
        if not names or not all(isinstance(one, str) for one in names):
            raise ma.ValidationError("must be a name or a JSON list of names")
        return names


class Object(fields.Dict):
    """A JSON object of anything; what stands in it is checked where its meaning is known."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, dict):
            raise ma.ValidationError("must be an object")
        return value


class Transforms(fields.List[Any]):
    """A list of components: ``[{"name": "to_float"}, ...]``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Object(), validate=validate.Length(max=64), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        listed: list[Any] = super()._deserialize(value, attr, data, **kwargs)
        mistakes = {
            index: {"name": ["must be a string naming a transform"]}
            for index, one in enumerate(listed)
            if not isinstance(one.get("name"), str)
        }
        if mistakes:
            raise ma.ValidationError(mistakes)
        return [Component.from_json(one) for one in listed]


def labels() -> fields.Dict:
    """A flat map of strings for people's own use."""
    return fields.Dict(
        keys=Text(validate=validate.Length(1, 128)),
        values=Text(validate=validate.Length(0, 256)),
        validate=validate.Length(max=LABEL_LIMIT),
        load_default=dict,
        metadata={"description": f"At most {LABEL_LIMIT} strings by name, for your own use."},
    )


def timeout() -> Float:
    """The time limit of a job."""
    return Float(
        load_default=None,
        allow_none=True,
        validate=validate.Range(min=0, min_inclusive=False, max=30 * 86400.0),
        metadata={"description": "Seconds after which the running job is ended as failed."},
    )


def time(description: str) -> fields.String:
    """A time in an answer."""
    return fields.String(
        allow_none=True, metadata={"description": description, "format": "date-time"}
    )
