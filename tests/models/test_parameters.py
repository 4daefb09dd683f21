"""Parameters are checked against the schema that the catalog shows."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.parameters import build, json_schema, parameter, to_json
from models.spec import SpecError
from models.transforms.images import Resize


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One parameter of each sort."""

    rate: float = parameter(
        summary="A rate.", type="number", exclusiveMinimum=0, exclusiveMaximum=1
    )
    count: int = parameter(summary="A count.", default=3, type="integer", minimum=1, maximum=9)
    kind: str = parameter(summary="A kind.", default="a", type="string", enum=["a", "b"])
    flag: bool = parameter(summary="A flag.", default=False, type="boolean")
    scale: float | None = parameter(summary="A scale.", default=None, type=["number", "null"])
    sizes: tuple[int, ...] = parameter(
        summary="Sizes.",
        default=(1, 2),
        type="array",
        items={"type": "integer", "minimum": 1},
        minItems=1,
        maxItems=3,
    )


def test_defaults_are_filled_in_and_numbers_and_lists_get_their_types():
    built = build(Example, {"rate": 0.5, "scale": 2, "sizes": [4]})
    assert built == Example(rate=0.5, scale=2.0, sizes=(4,))
    assert type(built.scale) is float
    assert to_json(built) == {
        "rate": 0.5,
        "count": 3,
        "kind": "a",
        "flag": False,
        "scale": 2.0,
        "sizes": [4],
    }
    assert build(Example, to_json(built)) == built


@pytest.mark.parametrize(
    ("given", "pointer", "detail"),
    [
        ({}, "/rate", "rate is required: A rate."),
        ({"rate": 0.5, "ratio": 1}, "/ratio", "unknown parameter 'ratio'; known: rate, count"),
        ({"rate": 0}, "/rate", "rate must be greater than 0, got 0"),
        ({"rate": 1.0}, "/rate", "rate must be less than 1, got 1.0"),
        ({"rate": math.nan}, "/rate", "rate must be finite, got nan"),
        ({"rate": "0.5"}, "/rate", "rate must be number, got '0.5'"),
        ({"rate": True}, "/rate", "rate must be number, got True"),
        ({"rate": 0.5, "count": 0}, "/count", "count must be at least 1, got 0"),
        ({"rate": 0.5, "count": 10}, "/count", "count must be at most 9, got 10"),
        ({"rate": 0.5, "count": 2.0}, "/count", "count must be integer, got 2.0"),
        ({"rate": 0.5, "count": None}, "/count", "count must be integer, got None"),
        ({"rate": 0.5, "kind": "c"}, "/kind", "kind must be one of a, b; got 'c'"),
        ({"rate": 0.5, "flag": 1}, "/flag", "flag must be boolean, got 1"),
        ({"rate": 0.5, "scale": "x" * 99}, "/scale", f"number or null, got '{'x' * 56}..."),
        ({"rate": 0.5, "sizes": []}, "/sizes", "sizes must have 1 to 3 entries, got 0"),
        ({"rate": 0.5, "sizes": [1] * 4}, "/sizes", "sizes must have 1 to 3 entries, got 4"),
        ({"rate": 0.5, "sizes": [1, 0]}, "/sizes/1", "sizes[1] must be at least 1, got 0"),
        ({"rate": 0.5, "sizes": 4}, "/sizes", "sizes must be array, got 4"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_pointer_to_it(given, pointer, detail):
    with pytest.raises(SpecError) as caught:
        build(Example, given)
    assert caught.value.pointer == pointer
    assert detail in caught.value.detail


def test_a_fixed_number_of_entries_is_said_as_one_number():
    with pytest.raises(SpecError, match=r"size must have exactly 2 entries, got 3"):
        build(Resize, {"size": [1, 2, 3]})


def test_the_schema_says_types_bounds_defaults_and_what_is_required():
    assert json_schema(Example) == {
        "type": "object",
        "additionalProperties": False,
        "required": ["rate"],
        "properties": {
            "rate": {
                "type": "number",
                "exclusiveMinimum": 0,
                "exclusiveMaximum": 1,
                "description": "A rate.",
            },
            "count": {
                "type": "integer",
                "minimum": 1,
                "maximum": 9,
                "default": 3,
                "description": "A count.",
            },
            "kind": {
                "type": "string",
                "enum": ["a", "b"],
                "default": "a",
                "description": "A kind.",
            },
            "flag": {"type": "boolean", "default": False, "description": "A flag."},
            "scale": {"type": ["number", "null"], "default": None, "description": "A scale."},
            "sizes": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1},
                "minItems": 1,
                "maxItems": 3,
                "default": [1, 2],
                "description": "Sizes.",
            },
        },
    }


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 12)
    # JSON Schema calls 2.0 an integer; here a float is never one
    | st.floats(-2, 2).filter(lambda x: not x.is_integer())
    | st.sampled_from(["a", "b", ""])
)


@given(
    st.fixed_dictionaries(
        {"rate": st.just(0.5) | SCALARS},
        optional={
            name: SCALARS | st.lists(SCALARS | st.integers(1, 9), max_size=4)
            for name in ("count", "kind", "flag", "scale", "sizes", "other")
        },
    )
)
def test_what_is_taken_is_what_a_json_schema_validator_takes(given):
    valid = jsonschema_rs.Draft202012Validator(json_schema(Example)).is_valid(given)
    try:
        built = build(Example, given)
    except SpecError:
        assert not valid
    else:
        assert valid
        assert json.loads(json.dumps(to_json(built))) == to_json(built)
