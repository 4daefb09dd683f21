"""One way to open either database, and two kinds of transaction: one reads, one writes.

SQLite allows one writer at a time. A transaction that starts by reading and writes later fails
when another wrote in between, without waiting, so `writing` takes the write lock at its start
(``BEGIN IMMEDIATE``) and waits its turn. Readers never wait for it: the journal is a WAL.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, TimeoutError

_BUSY_TIMEOUT_S = 15.0
_LOCK_KEY = 0x686F6C646F7574  # "holdout": advisory locks are shared with whatever else is there


def parse_url(value: str) -> URL:
    """The URL with its driver named: ``postgresql://`` means psycopg 3.

    Raises:
        ValueError: not a URL of a SQLite file or of a PostgreSQL database.
    """
    try:
        url = make_url(value)
    except ArgumentError:
        raise ValueError(
            "the database URL must read sqlite:///PATH or postgresql://USER@HOST/NAME"
        ) from None
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if url.database in (None, "", ":memory:") or url.query:
            raise ValueError(
                "SQLite must be a plain file, sqlite:///PATH: several processes share it"
            )
        return url
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    raise ValueError(
        f"unknown database {url.drivername!r}; known: sqlite:///PATH, postgresql://USER@HOST/NAME"
    )


def open_database(url: str) -> Engine:
    """An engine over ``url``, which connects when first used and pools its connections.

    Any number of threads may share it. A forked process must open its own. The folder of a SQLite
    file is made if it is not there.

    Raises:
        ValueError: the URL is none that `parse_url` takes.
    """
    parsed = parse_url(url)
    # NaN is refused by PostgreSQL's JSON, so SQLite must not take it either.
    options: dict[str, Any] = {
        "json_serializer": partial(json.dumps, allow_nan=False),
        # Transactions are short: the threads of a web process take turns on these connections.
        "pool_size": 8,
        "max_overflow": 16,
    }
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed, pool_pre_ping=True, **options)
    Path(str(parsed.database)).absolute().parent.mkdir(parents=True, exist_ok=True)
    # SQLite's writers wait for each other by sleeping ever longer, so that under load some starve.
    # Those of one process queue at this lock instead, and only processes meet at SQLite's.
    options["execution_options"] = {"turn": threading.Lock()}
    engine = create_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_S}, **options)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees committed data and in which every write is an error.

    On SQLite all its statements see one moment; on PostgreSQL each sees its own.
    """
    with engine.connect() as db, _begun(db, writes=False):
        yield db


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that commits at the end of the block and rolls back if it raises.

    Keep it short: on SQLite it is the only writer, so one inside another cannot begin.

    Raises:
        sqlalchemy.exc.TimeoutError: others wrote for too long.
        sqlalchemy.exc.OperationalError: so did another process.
    """
    with _turn(engine), engine.connect() as db, _begun(db, writes=True):
        yield db


def lock_database(db: Connection) -> None:
    """Keep every other transaction that asks for this lock waiting until this one ends."""
    if db.dialect.name == "postgresql":
        db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    # On SQLite `writing` alone keeps them waiting.


def upsert(db: Connection, table: Table) -> postgresql.Insert:
    """An INSERT into ``table`` that takes ``on_conflict_do_update`` and ``on_conflict_do_nothing``.

    SQLAlchemy has a class for each database; the methods are the same.
    """
    kind = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    return cast("Callable[[Table], postgresql.Insert]", kind)(table)


@contextmanager
def _turn(engine: Engine) -> Iterator[None]:
    turn: threading.Lock | None = engine.get_execution_options().get("turn")
    if turn is None:
        yield
    elif turn.acquire(timeout=_BUSY_TIMEOUT_S):
        try:
            yield
        finally:
            turn.release()
    else:
        raise TimeoutError(f"waited {_BUSY_TIMEOUT_S:.0f} s for other threads to write")


@contextmanager
def _begun(db: Connection, *, writes: bool) -> Iterator[None]:
    if db.dialect.name == "postgresql":
        db.execution_options(postgresql_readonly=not writes)
    else:
        db.execution_options(writes=writes)
    with db.begin():
        yield


def _configure_sqlite(connection: Any, _record: Any) -> None:
    # The driver would begin transactions by its own rules (none before SELECT or CREATE TABLE).
    connection.isolation_level = None
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:  # SQLite's own waiting leaves out the switch of the journal
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            break
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
    connection.execute("PRAGMA synchronous = FULL").close()  # what was acknowledged stays
    connection.execute("PRAGMA foreign_keys = ON").close()


def _begin_sqlite(db: Connection) -> None:
    writes = db.get_execution_options().get("writes", False)
    db.exec_driver_sql(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")
    db.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
