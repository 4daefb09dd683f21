"""Equal values have equal bytes, and JSON that others would read differently is refused."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.canonical import canonical_json, digest, strict_json

# Text that a database column and UTF-8 can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20
)


@given(VALUES)
def test_what_was_written_is_read_back_and_written_the_same(value):
    text = canonical_json(value)
    assert strict_json(text) == value
    assert canonical_json(strict_json(text)) == text
    assert json.loads(text) == value


@given(VALUES)
def test_escaping_every_letter_changes_nothing(value):
    assert strict_json(json.dumps(value, ensure_ascii=True)) == value


def test_the_order_of_keys_does_not_change_the_digest():
    one, other = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert canonical_json(one) == b'{"a":1,"b":{"c":2,"d":3}}'
    assert digest(one) == digest(other)
    assert digest(one) == hashlib.sha256(b'{"a":1,"b":{"c":2,"d":3}}').hexdigest()


def test_letters_beyond_ascii_are_written_as_utf_8():
    assert canonical_json("Käse") == '"Käse"'.encode()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_json_has_no_word_for_is_not_written(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json([value])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"a": 1, "a": 1}', "key 'a' stands twice"),
        ('[{"x": {"a": 1, "a": 2}}]', "key 'a' stands twice"),
        ("[NaN]", "NaN is not a JSON number"),
        ("Infinity", "Infinity is not"),
        ("-Infinity", "-Infinity is not"),
        ("1e999", "too large for a double"),
        ("-1e999", "too large for a double"),
        ("9223372036854775808", "at most 64 bits"),
        ("-9223372036854775809", "at most 64 bits"),
        ("1" * 5000, "at most 64 bits"),
        (r'"\u0000"', "u0000"),
        (r'{"\u0000": 1}', "u0000"),
        (r'"\\\u0000"', "u0000"),
        (r'"\ud800"', "surrogate"),
        (r'["\udc00\ud800"]', "surrogate"),
        ('{"a": 1} {}', "Extra data"),
        ("[1,]", "Expecting value|Illegal trailing comma"),
        ("", "Expecting value"),
        ("{'a': 1}", "Expecting property name"),
        ('"a\nb"', "Invalid control character"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    ],
)
def test_what_other_readers_would_read_differently_is_refused(text, complaint):
    for form in (text, text.encode()):
        with pytest.raises(ValueError, match=complaint):
            strict_json(form)


def test_bytes_that_are_not_utf_8_are_refused():
    with pytest.raises(ValueError, match="utf-8"):
        strict_json(b'"\xff"')


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        (r'"\ud83d\ude00"', "😀"),
        (r'"\\u0000"', r"\u0000"),
        (r'"\\\\u0000 \u0041"', r"\\u0000 A"),
        ("1e-999", 0.0),
        (" [1, 2] ", [1, 2]),
    ],
)
def test_what_only_looks_suspicious_is_taken(text, value):
    assert strict_json(text) == value
