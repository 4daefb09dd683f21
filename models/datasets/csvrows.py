"""Where the rows and the cells of a CSV file end, as Python's own reader and pyarrow's have it.

A cell is quoted if its first letter is a quote; inside of one, two quotes are a letter and line
breaks belong to it; what stands between the closing quote and the delimiter is added to it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

DELIMITERS = (b",", b";", b"\t")

_FIRST_LINE = re.compile(rb'(?:"[^"]*"|[^"\r\n])*+')
_QUOTED = re.compile(rb'"[^"]*"')


def delimiter_of(header: bytes) -> bytes:
    """The delimiter that stands most often in the first line, outside of quotes.

    Args:
        header: the file from the first byte of its first row on.
    """
    found = _FIRST_LINE.match(header)
    line = _QUOTED.sub(b"", found[0]) if found else b""
    return max(DELIMITERS, key=line.count)  # the first of several


def row_at(data: bytes, at: int, delimiter: bytes) -> tuple[list[bytes], int] | None:
    """The cells of the row that starts at ``at``, and where it ends; None if a quote stays open."""
    cells = []
    while True:
        found = _cell(delimiter).match(data, at)
        if found is None:
            return None
        quoted, rest, plain, end = found.groups()
        cells.append(plain if quoted is None else quoted.replace(b'""', b'"') + rest)
        at = found.end()
        if end != delimiter:
            return cells, at


def end_of_rows(data: bytes, delimiter: bytes, *, last: bool) -> int:
    """Where the last whole row ends.

    Args:
        data: starts with the first byte of a row.
        delimiter: one byte.
        last: nothing follows, so that the last row needs no line break.
    """
    if b'"' not in data:
        return len(data) if last else data.rfind(b"\n") + 1
    text = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(text == ord('"'))
    # A quote opens a cell only as its first letter, and inside of one two quotes are a letter. So
    # quotes open and close by turns, unless one that would open stands elsewhere.
    first = _starts_cell(delimiter)[text[quotes - 1]]
    first[0] |= quotes[0] == 0
    second = np.diff(quotes, prepend=-2) == 1
    if not (first | second)[::2].all():
        quotes = quotes[_turns(quotes.tolist(), first.tolist())]
    if last and len(quotes) % 2 == 0:
        return len(data)
    end = len(data)
    while end:
        end = data.rfind(b"\n", 0, end) + 1
        before = int(np.searchsorted(quotes, end))
        if before % 2 == 0:
            break
        end = int(quotes[before - 1])  # it stands inside of this quote
    return end


@cache
def _cell(delimiter: bytes) -> re.Pattern[bytes]:
    """One cell, its quoted part, what follows it or else the plain cell, and what ends it."""
    other = rb"[^\r\n" + delimiter + rb"]*+"
    return re.compile(
        rb'(?:"([^"]*+(?:""[^"]*+)*+)"(' + other + rb')|(?!")(' + other + rb"))"
        rb"(" + delimiter + rb"|\r\n|[\r\n]|\Z)"
    )


@cache
def _starts_cell(delimiter: bytes) -> np.ndarray[Any, Any]:
    """Whether a cell starts behind each byte."""
    found = np.zeros(256, bool)
    found[list(delimiter + b"\r\n")] = True
    return found


def _turns(quotes: list[int], first: list[bool]) -> list[int]:
    """Which quotes open or close, one after the other, by their indices."""
    found, inside, index = [], False, 0
    while index < len(quotes):
        if inside and index + 1 < len(quotes) and quotes[index + 1] == quotes[index] + 1:
            index += 2
            continue
        if inside or first[index]:
            found.append(index)
            inside = not inside
        index += 1
    return found
