"""Remember what a request with an ``Idempotency-Key`` led to: its repeat leads there too."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from service.db.connection import writing
from service.db.tables import idempotency
from service.operations.errors import KeyInUse, KeyReused
from service.operations.services import Services

# A request that is "being handled" for so much longer than its file may be read was cut off with
# its process.
GRACE_S = 60.0


def begin(services: Services, scope: str, key: str, fingerprint: str) -> dict[str, Any] | None:
    """Take the key for this request, or say what the first request with it led to.

    Raises:
        KeyReused: it belongs to another request.
        KeyInUse: the first is being handled at this moment.
    """
    now = services.clock()
    mine = (idempotency.c.scope == scope) & (idempotency.c.key == key)
    stale = idempotency.c.created_at < now - services.settings.idempotency_s
    cut_off = idempotency.c.outcome.is_(None) & (
        idempotency.c.created_at < now - services.settings.reader_s - GRACE_S
    )
    with writing(services.database) as db:
        db.execute(delete(idempotency).where(stale | (mine & cut_off)))
        row = db.execute(select(idempotency).where(mine)).first()
        if row is None:
            values = {"scope": scope, "key": key, "fingerprint": fingerprint, "created_at": now}
            try:
                with db.begin_nested():
                    db.execute(idempotency.insert().values(**values))
            except IntegrityError:
                raise KeyInUse("the first request with this key is being handled") from None
            return None
    if row.fingerprint != fingerprint:
        raise KeyReused("this Idempotency-Key was used with another request; take a new one")
    if row.outcome is None:
        raise KeyInUse("the first request with this key is being handled")
    outcome: dict[str, Any] = row.outcome
    return outcome


def conclude(services: Services, scope: str, key: str, outcome: dict[str, Any] | None) -> None:
    """Keep what the request led to; None forgets the key."""
    mine = (idempotency.c.scope == scope) & (idempotency.c.key == key)
    with writing(services.database) as db:
        if outcome is None:
            db.execute(delete(idempotency).where(mine))
        else:
            db.execute(update(idempotency).where(mine).values(outcome=outcome))
