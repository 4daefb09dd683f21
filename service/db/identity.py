"""A database and a data folder belong together; one id that stands in both says so.

A database beside another folder would show checkpoints whose bytes are not there, or worse, were
made by somebody else.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from sqlalchemy import Connection, Engine, insert, select

from service.db.connection import lock_database, reading, writing
from service.db.tables import meta

_KEY = "store_id"
_NAME = "store-id"


class IdentityError(RuntimeError):
    """The database and the data folder are not of one store; the message says how to mend it."""


def check_identity(engine: Engine, data_dir: Path) -> None:
    """Raise IdentityError unless the database and the folder carry the same id."""
    with reading(engine) as db:
        in_database = _id_of(db)
    _compare(in_database, _read(data_dir / _NAME), data_dir)


def make_identity(engine: Engine, data_dir: Path) -> None:
    """Give an empty database and an empty folder their common id; check those that have one.

    Any number of processes may do so at once, and one that is killed midway leaves what the next
    completes: the id is written as ``store-id.new``, then into the database, then renamed.

    Raises:
        IdentityError: as `check_identity`.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    file, pending = data_dir / _NAME, data_dir / f"{_NAME}.new"
    with writing(engine) as db:
        lock_database(db)
        in_database = _id_of(db)
        if in_database is None and _read(file) is None:
            in_database = str(uuid.uuid4())
            _write(pending, in_database)
            db.execute(insert(meta), {"key": _KEY, "value": in_database})
    with writing(engine) as db:
        lock_database(db)
        if _read(file) is None and _read(pending) == in_database:
            pending.rename(file)
            _sync(data_dir)
    _compare(in_database, _read(file), data_dir)


def _compare(in_database: str | None, in_folder: str | None, data_dir: Path) -> None:
    if in_database is None and in_folder is None:
        raise IdentityError(
            f"neither the database nor the data folder {data_dir} has been set up: "
            "run 'holdout db upgrade'"
        )
    if in_folder is None:
        raise IdentityError(
            f"the database belongs to store {in_database}, but the data folder {data_dir} has no "
            f"file {_NAME}: set HOLDOUT_DATA_DIR to that store's folder, or restore the folder"
        )
    if in_database is None:
        raise IdentityError(
            f"the data folder {data_dir} belongs to store {in_folder}, but the database is new: "
            "set HOLDOUT_DATABASE_URL to that store's database, or name an empty data folder"
        )
    if in_database != in_folder:
        raise IdentityError(
            f"the database belongs to store {in_database}, but the data folder {data_dir} to store "
            f"{in_folder}: HOLDOUT_DATABASE_URL and HOLDOUT_DATA_DIR must name parts of one store"
        )


def _id_of(db: Connection) -> str | None:
    return db.execute(select(meta.c.value).where(meta.c.key == _KEY)).scalar_one_or_none()


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None


def _write(path: Path, value: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(value + "\n")
        file.flush()
        os.fsync(file.fileno())
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
