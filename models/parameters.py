"""Parameters of catalog entries: a frozen dataclass each, whose fields carry their JSON Schema.

The schema is written once and serves three times: it checks what a request says, it is what
``GET /v1/catalog`` shows, and a worker publishes it for the names that its plug-ins add.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar, cast

from models.spec import SpecError


class Parameters(Protocol):
    """A frozen dataclass, each field of which was made with `parameter`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


P = TypeVar("P", bound=Parameters)

_TYPES: dict[str, Any] = {
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "string": str,
    "array": (list, tuple),
    "object": Mapping,
}
_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (operator.ge, "at least"),
    "exclusiveMinimum": (operator.gt, "greater than"),
    "maximum": (operator.le, "at most"),
    "exclusiveMaximum": (operator.lt, "less than"),
}


def parameter(*, summary: str, default: Any = MISSING, **schema: Any) -> Any:
    """Declare one parameter of a catalog entry.

    Args:
        summary: what it does, for the reader of the catalog.
        default: what is used where nothing is said; without one the parameter is required.
        schema: JSON Schema keywords: ``type`` (a name or a list), the four numeric bounds,
            ``enum``, ``items``, ``minItems``, ``maxItems``, and for objects, which map any names
            to values of one schema, ``additionalProperties`` and ``maxProperties``.
    """
    metadata = {"schema": {**schema, "description": summary}}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


def build(kind: type[P], given: Mapping[str, Any]) -> P:
    """Check ``given`` (JSON values) against the declarations of ``kind`` and build one.

    Raises:
        SpecError: an unknown or missing name, a wrong type or a value out of range, with a
            pointer to it below the object that holds the parameters.
    """
    declared = {one.name: one.metadata["schema"] for one in fields(cast(Any, kind))}
    required = [one.name for one in fields(cast(Any, kind)) if one.default is MISSING]
    return kind(**_all_checked(given, declared, required))


@dataclass(frozen=True, slots=True)
class Foreign:
    """Parameters of an entry whose code only workers have; checked by its schema alone.

    Attributes:
        values: by name, every default filled in.
    """

    on_host: ClassVar[bool] = False  # plug-ins' transforms work on batches

    values: Mapping[str, Any]

    @classmethod
    def build(cls, schema: Mapping[str, Any], given: Mapping[str, Any]) -> Foreign:
        """Check ``given`` against what `json_schema` gave; SpecError as `build` says."""
        declared, required = schema["properties"], schema.get("required", ())
        defaults = {name: one["default"] for name, one in declared.items() if name not in required}
        return cls({**defaults, **_all_checked(given, declared, required)})


def _all_checked(
    given: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]], required: Collection[str]
) -> dict[str, Any]:
    """What is given, each as a dataclass holds it."""
    for name in given:
        if name not in declared:
            known = ", ".join(declared) or "none"
            raise SpecError(f"unknown parameter {name!r}; known: {known}", pointer=f"/{name}")
    for name in required:
        if name not in given:
            raise SpecError(
                f"{name} is required: {declared[name]['description']}", pointer=f"/{name}"
            )
    return {
        name: _checked(given[name], schema, f"/{name}")
        for name, schema in declared.items()
        if name in given
    }


def to_json(parameters: Parameters | Foreign) -> dict[str, Any]:
    """Every parameter with its value as JSON values, defaults filled in."""
    if isinstance(parameters, Foreign):
        return {name: _json(value) for name, value in parameters.values.items()}
    return {one.name: _json(getattr(parameters, one.name)) for one in fields(cast(Any, parameters))}


def json_schema(kind: type[Parameters]) -> dict[str, Any]:
    """The JSON Schema of the object that a request writes for ``kind``."""
    properties, required = {}, []
    for one in fields(cast(Any, kind)):
        properties[one.name] = dict(one.metadata["schema"])
        if one.default is MISSING:
            required.append(one.name)
        else:
            default = one.default
            properties[one.name]["default"] = list(default) if type(default) is tuple else default
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _json(one) for name, one in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _checked(value: Any, schema: Mapping[str, Any], pointer: str) -> Any:
    """The value as the dataclass holds it (tuples for arrays, floats for numbers)."""
    name = pointer.strip("/").replace("/", "[", 1) + ("]" if pointer.count("/") > 1 else "")
    allowed = schema.get("type", [])
    allowed = [allowed] if isinstance(allowed, str) else allowed
    if not any(_is_a(value, kind) for kind in allowed):
        raise SpecError(
            f"{name} must be {' or '.join(allowed)}, got {_shown(value)}", pointer=pointer
        )
    if "enum" in schema and value not in schema["enum"]:
        known = ", ".join(map(str, schema["enum"]))
        raise SpecError(f"{name} must be one of {known}; got {_shown(value)}", pointer=pointer)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise SpecError(f"{name} must be finite, got {value}", pointer=pointer)
        for keyword, (holds, words) in _BOUNDS.items():
            if keyword in schema and not holds(value, schema[keyword]):
                raise SpecError(
                    f"{name} must be {words} {schema[keyword]}, got {value}", pointer=pointer
                )
        return value if "integer" in allowed else float(value)
    if isinstance(value, (list, tuple)):
        low, high = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not low <= len(value) <= high:
            right = f"exactly {low}" if low == high else f"{low} to {high}"
            raise SpecError(f"{name} must have {right} entries, got {len(value)}", pointer=pointer)
        return tuple(
            _checked(item, schema["items"], f"{pointer}/{index}")
            for index, item in enumerate(value)
        )
    if isinstance(value, Mapping):
        if len(value) > (most := schema["maxProperties"]):
            raise SpecError(
                f"{name} must have at most {most} entries, got {len(value)}", pointer=pointer
            )
        one = schema["additionalProperties"]
        return {key: _checked(item, one, f"{pointer}/{key}") for key, item in value.items()}
    return value


def _is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
