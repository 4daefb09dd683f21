"""Tokens and roles. A token is shown once; only its SHA-256 is kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select, update
from sqlalchemy.exc import IntegrityError

from models.spec import NAME_PATTERN, SpecError
from service.db.connection import reading, writing
from service.db.tables import tokens
from service.jobs.lifecycle import uuid7
from service.operations.errors import Conflict, NotFound, Unauthorized
from service.operations.jobs import timestamp
from service.operations.services import Caller

ROLES = ("viewer", "evaluator", "trainer", "admin")
PREFIX = "holdout_"
LEAST_LENGTH = 20


def allows(role: str, needed: str) -> bool:
    """Whether a role contains another."""
    return ROLES.index(role) >= ROLES.index(needed)


def create(
    database: Engine,
    *,
    name: str,
    role: str,
    created_by: str,
    now: float,
    token: str | None = None,
) -> str:
    """Make a token and return it, the only time that it is seen.

    Args:
        token: one that was made elsewhere; None makes 256 random bits.

    Raises:
        SpecError: the name or the role is none.
        Conflict: the name is taken, also by a revoked token.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise SpecError(
            "name must start with a letter or digit and hold only letters, digits, '.', '_' and "
            f"'-'; got {name[:100]!r}",
            pointer="/name",
        )
    if role not in ROLES:
        raise SpecError(f"role must be one of {', '.join(ROLES)}; got {role!r}", pointer="/role")
    token = token or PREFIX + secrets.token_urlsafe(32)
    try:
        with writing(database) as db:
            db.execute(
                tokens.insert().values(
                    id=uuid7(now),
                    name=name,
                    role=role,
                    hash=_hash(token),
                    created_at=now,
                    created_by=created_by,
                )
            )
    except IntegrityError:
        raise Conflict(f"a token named {name!r} exists already; names are used once") from None
    return token


def search(database: Engine) -> list[dict[str, Any]]:
    """Every token without its secret, oldest first."""
    with reading(database) as db:
        rows = db.execute(select(tokens).order_by(tokens.c.created_at, tokens.c.id))
        return [
            {
                "name": row.name,
                "role": row.role,
                "created_at": timestamp(row.created_at),
                "created_by": row.created_by,
                "revoked_at": timestamp(row.revoked_at),
            }
            for row in rows
        ]


def revoke(database: Engine, name: str, *, now: float) -> None:
    """End a token at once; NotFound if none of that name is valid."""
    mine = (tokens.c.name == name) & tokens.c.revoked_at.is_(None)
    with writing(database) as db:
        if db.execute(update(tokens).where(mine).values(revoked_at=now)).rowcount == 0:
            raise NotFound(f"there is no valid token named {name[:100]!r}")


def any_made(database: Engine) -> bool:
    """Whether a token was ever made: from then on every request needs one."""
    with reading(database) as db:
        return db.scalar(select(tokens.c.id).limit(1)) is not None


def authenticate(database: Engine, token: str) -> Caller:
    """Whose token this is; Unauthorized if nobody's."""
    hashed = _hash(token)
    with reading(database) as db:
        row = db.execute(select(tokens).where(tokens.c.hash == hashed)).first()
    # The look-up is by a hash that the sender cannot steer; the comparison is constant in time.
    if row is None or not hmac.compare_digest(row.hash, hashed) or row.revoked_at is not None:
        raise Unauthorized("the token is not known or was revoked; an admin can make a new one")
    return Caller(name=row.name, role=row.role)


def install_admin(database: Engine, file: Path, *, now: float) -> bool:
    """Give an empty database its first admin; False where any token exists.

    Raises:
        SpecError: the file cannot be read or holds no usable token.
    """
    if any_made(database):
        return False
    try:
        token = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SpecError(f"HOLDOUT_ADMIN_TOKEN_FILE cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpecError("HOLDOUT_ADMIN_TOKEN_FILE cannot be read: it is not text") from None
    plain = token.isascii() and token.isprintable() and " " not in token
    if len(token) < LEAST_LENGTH or not plain:  # what clients cannot all send alike locks out
        raise SpecError(
            f"HOLDOUT_ADMIN_TOKEN_FILE must hold one token of at least {LEAST_LENGTH} printable "
            "ASCII characters without blanks"
        )
    try:
        create(database, name="admin", role="admin", created_by="start", now=now, token=token)
    except Conflict:
        return False  # another process that starts at this moment was first
    return True


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
