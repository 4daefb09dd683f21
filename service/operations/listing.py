"""Cursor pages over a table, newest first or by a sort key."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, or_

from models.canonical import canonical_json, strict_json
from models.spec import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which part of a list is wanted.

    Attributes:
        limit: most items, 1 to 200.
        cursor: where the page before ended, as its ``next`` said; None for the first.
        sort: a key of the list, with ``-`` before it for descending.
    """

    limit: int = 50
    cursor: str | None = None
    sort: str = "-created_at"


def select_page(
    db: Connection,
    query: Select[Any],
    page: Page,
    *,
    identity: ColumnElement[Any],
    keys: Mapping[str, ColumnElement[Any]],
) -> tuple[list[Row[Any]], str | None]:
    """Run ``query`` for one page.

    Args:
        identity: a unique column that breaks ties; a later row has a greater one.
        keys: what ``sort`` may name. Rows without a value for it come last.

    Returns:
        The rows and the cursor of the next page, None where this is the last.

    Raises:
        SpecError: a cursor that this list never gave.
    """
    descending = page.sort.startswith("-")
    key = keys[page.sort.removeprefix("-")]
    # Only where rows may lack the key: as a first key of its own it would keep indexes from use.
    missing = [key.is_(None)] if getattr(key, "nullable", True) else []
    order = [
        *missing,
        key.desc() if descending else key.asc(),
        identity.desc() if descending else identity.asc(),
    ]
    if page.cursor is not None:
        value, last = _read_cursor(page.cursor, page.sort, key.type.python_type)
        after = identity < last if descending else identity > last
        if value is None:
            query = query.where(key.is_(None), after)
        else:
            beyond = key < value if descending else key > value
            query = query.where(or_(beyond, and_(key == value, after), *missing))
    columns = query.add_columns(key.label("_key"), identity.label("_identity"))
    rows = list(db.execute(columns.order_by(*order).limit(page.limit + 1)))
    if len(rows) <= page.limit:
        return rows, None
    rows = rows[: page.limit]
    last_row = rows[-1]
    cursor = canonical_json([page.sort, last_row._key, last_row._identity])
    return rows, base64.urlsafe_b64encode(cursor).decode().rstrip("=")


def _read_cursor(text: str, sort: str, kind: type) -> tuple[Any, str]:
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        value = strict_json(base64.b64decode(padded, altchars=b"-_", validate=True))
        kept_sort, key, identity = value
    except (ValueError, TypeError, binascii.Error):
        kept_sort = key = identity = None
    key = float(key) if kind is float and type(key) is int else key
    if not isinstance(identity, str) or type(key) not in (kind, type(None)) or kept_sort != sort:
        raise SpecError(
            "cursor must be the 'next' of a page of this list with the same sort", pointer="/cursor"
        )
    return key, str(identity)
