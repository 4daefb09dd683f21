"""Bring a database to the tables that this release works with.

A new revision is a module in ``versions/`` whose ``down_revision`` is the former `HEAD`; raise
`HEAD` with it, and change `service.db.tables` alike. Released revisions are never edited.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from service.db.connection import lock_database, reading, writing

HEAD = "0004"
_FOLDER = Path(__file__).parent


class MigrationError(RuntimeError):
    """The database cannot be brought to this release's tables; the message says why."""


def current(engine: Engine) -> bool:
    """Whether the database has this release's tables."""
    with reading(engine) as db:
        return _revision(db) == HEAD


def upgrade(engine: Engine) -> None:
    """Create or change the tables in one transaction, all or nothing.

    Any number of processes may do so at once: the first works, the rest wait and find it done.

    Raises:
        MigrationError: a newer release has upgraded this database.
    """
    if current(engine):
        return
    # Costs 8 MB and 0.1 s, which a process whose database is up to date does without.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with writing(engine) as db:
        lock_database(db)
        revision = _revision(db)
        if revision is not None and revision not in known:
            raise MigrationError(
                f"the database is at revision {revision}, which a newer release of holdout made; "
                f"this one knows revisions up to {HEAD}: run the newer release"
            )
        config.attributes["connection"] = db
        command.upgrade(config, HEAD)


def _revision(db: Connection) -> str | None:
    if not inspect(db).has_table("alembic_version"):
        return None
    found: str | None = db.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found
