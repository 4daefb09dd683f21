"""One way to write a value down, so that equal values have equal bytes and equal digests."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

MAX_DEPTH = 64
TOO_DEEP = f"nested too deeply: at most {MAX_DEPTH} levels are taken"

# A NUL as json.dumps writes it: an even number of backslashes before it are text of their own.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; ValueError for NaN and infinities."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: Any) -> str:
    """Lower-case SHA-256 hex of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def strict_json(text: bytes | str) -> Any:
    """Parse JSON, refusing what RFC 8259 leaves open: duplicate keys, NaN and infinities.

    Values nested deeper than `MAX_DEPTH`, strings that hold NUL or lone surrogates, and integers
    beyond 64 bits are refused too: nothing behind this function could store them.

    Raises:
        ValueError: not UTF-8, not JSON, or one of the above; the message says which and where.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    _check_depth(value)
    if "\\u" in text:  # an escape can smuggle in what no database column and no UTF-8 text can hold
        plain = json.dumps(value, ensure_ascii=False)
        if _NUL.search(plain) or any("\ud800" <= letter <= "\udfff" for letter in plain):
            raise ValueError("a string holds \\u0000 or half of a surrogate pair")
    return value


def _check_depth(value: Any) -> None:
    """What the parser just takes, whoever writes it again from a deeper stack may not."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key[:100]!r} stands twice in one object")
        found[key] = value
    return found


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is too large for a double")
    return value


def _int(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"the integer {text[:40]} is too large; at most 64 bits are taken")
    return int(text)
