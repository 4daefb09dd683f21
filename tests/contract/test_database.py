"""What both databases must do alike: values, transactions and migrations."""

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from service.db import migrations
from service.db.connection import open_database, parse_url, reading, upsert, writing
from service.db.migrations import MigrationError, current, upgrade
from service.db.tables import (
    checkpoint_sources,
    checkpoints,
    idempotency,
    job_totals,
    meta,
    metadata,
)


def url_of(engine):
    return engine.url.render_as_string(hide_password=False)


def count(engine, table):
    with reading(engine) as db:
        return db.execute(select(func.count()).select_from(table)).scalar_one()


# Transactions


def test_a_block_that_raises_leaves_nothing(database):
    def write_twice():
        with writing(database) as db:
            db.execute(insert(meta), {"key": "a", "value": "1"})
            db.execute(insert(meta), {"key": "a", "value": "2"})

    with pytest.raises(IntegrityError):
        write_twice()
    assert count(database, meta) == 0


def test_a_reading_block_refuses_to_write(database):
    with pytest.raises(DBAPIError, match=r"read-?only"), reading(database) as db:
        db.execute(insert(meta), {"key": "a", "value": "1"})
    with writing(database) as db:  # and its connection writes again for the next who gets it
        db.execute(insert(meta), {"key": "a", "value": "1"})
    assert count(database, meta) == 1


def test_readers_see_what_was_committed_and_do_not_wait_for_a_writer(database):
    with writing(database) as db:
        db.execute(insert(meta), {"key": "a", "value": "old"})
    with writing(database) as db:
        db.execute(update(meta).values(value="new"))
        with reading(database) as other:
            assert other.execute(select(meta.c.value)).scalar_one() == "old"
    with reading(database) as db:
        assert db.execute(select(meta.c.value)).scalar_one() == "new"


def test_a_savepoint_rolls_back_alone(database):
    with writing(database) as db:
        db.execute(insert(meta), {"key": "a", "value": "1"})
        with pytest.raises(IntegrityError), db.begin_nested():
            db.execute(insert(meta), {"key": "a", "value": "2"})
        db.execute(insert(meta), {"key": "b", "value": "3"})
    with reading(database) as db:
        assert db.execute(select(meta.c.key, meta.c.value).order_by(meta.c.key)).all() == [
            ("a", "1"),
            ("b", "3"),
        ]


def test_counters_lose_nothing_when_many_threads_add(database):
    with writing(database) as db:
        db.execute(
            insert(job_totals),
            {"kind": "k", "state": "s", "count": 0, "seconds": 0.0, "forward_s": 0.0},
        )
    failures = []

    def add():
        try:
            for _ in range(25):
                with writing(database) as db:
                    seen = db.execute(select(job_totals.c.count).with_for_update()).scalar_one()
                    db.execute(update(job_totals).values(count=seen + 1))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with reading(database) as db:
        assert db.execute(select(job_totals.c.count)).scalar_one() == 200


ADD = """
import sys
from sqlalchemy import insert, select, update
from service.db.connection import open_database, writing
from service.db.tables import meta
engine = open_database(sys.argv[1])
ready()
for _ in range(40):
    with writing(engine) as db:
        seen = int(db.execute(select(meta.c.value).with_for_update()).scalar_one())
        db.execute(update(meta).values(value=str(seen + 1)))
"""


def test_counters_lose_nothing_when_many_processes_add(database, run_processes):
    with writing(database) as db:
        db.execute(insert(meta), {"key": "n", "value": "0"})
    run_processes(ADD, url_of(database), copies=3)
    with reading(database) as db:
        assert db.execute(select(meta.c.value)).scalar_one() == "120"


def test_an_upsert_adds_to_the_row_that_is_there(database):
    for _ in range(3):
        with writing(database) as db:
            row = upsert(db, job_totals).values(
                kind="k", state="s", count=2, seconds=0.5, forward_s=0.0
            )
            db.execute(
                row.on_conflict_do_update(
                    index_elements=["kind", "state"],
                    set_={"count": job_totals.c.count + row.excluded.count},
                )
            )
    with reading(database) as db:
        assert db.execute(select(job_totals)).one() == ("k", "s", 6, 0.5, 0.0)


@pytest.mark.parametrize(
    "value",
    [
        {
            "b": 1,
            "a": [1.0, 1e300, 5e-324, 0.1, -0.0, 2**53 + 1, True, None],
            "ü": "\U0001f600\n'\"",
        },
        [],
        "text",
        0,
    ],
)
def test_json_comes_back_as_it_was_with_its_order_and_types(database, value):
    with writing(database) as db:
        db.execute(
            insert(idempotency),
            {"scope": "", "key": "", "fingerprint": "", "outcome": value, "created_at": 0.0},
        )
    with reading(database) as db:
        found = db.execute(select(idempotency.c.outcome)).scalar_one()
    assert repr(found) == repr(value)


def test_json_of_none_is_null(database):
    with writing(database) as db:
        db.execute(
            insert(idempotency),
            {"scope": "", "key": "", "fingerprint": "", "outcome": None, "created_at": 0.0},
        )
        assert db.execute(
            select(idempotency.c.key).where(idempotency.c.outcome.is_(None))
        ).all() == [("",)]


def test_json_refuses_nan(database):
    with pytest.raises(Exception, match="not JSON compliant"), writing(database) as db:
        db.execute(
            insert(idempotency),
            {
                "scope": "",
                "key": "",
                "fingerprint": "",
                "outcome": float("nan"),
                "created_at": 0.0,
            },
        )


def test_times_keep_their_microseconds(database):
    with writing(database) as db:
        db.execute(
            insert(idempotency),
            {"scope": "", "key": "", "fingerprint": "", "created_at": 1795344785.935938},
        )
    with reading(database) as db:
        assert db.execute(select(idempotency.c.created_at)).scalar_one() == 1795344785.935938


def test_sources_go_with_their_checkpoint_and_need_one(database):
    source = {
        "source_sha256": "s",
        "declaration": "d",
        "digest": "c",
        "format": "safetensors",
        "adjustments": [],
        "created_at": 0.0,
        "created_by": "",
    }
    with pytest.raises(IntegrityError), writing(database) as db:
        db.execute(insert(checkpoint_sources), source)
    with writing(database) as db:
        db.execute(
            insert(checkpoints),
            {
                "digest": "c",
                "size_bytes": 2**40,
                "manifest": {},
                "details": {},
                "labels": {},
                "created_at": 0.0,
                "created_by": "",
            },
        )
        db.execute(insert(checkpoint_sources), source)
    with writing(database) as db:
        db.execute(delete(checkpoints))
    assert count(database, checkpoint_sources) == 0


# Opening


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://localhost/x",
        "postgresql+asyncpg://localhost/x",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
    ],
)
def test_a_url_that_cannot_be_shared_or_is_unknown_is_refused(url):
    with pytest.raises(ValueError, match=r"sqlite:///PATH"):
        open_database(url)


def test_a_plain_postgresql_url_means_psycopg_3():
    assert parse_url("postgresql://u:p@h/n").drivername == "postgresql+psycopg"


def test_a_sqlite_file_is_durable_and_its_folder_is_made(tmp_path):
    engine = open_database(f"sqlite:///{tmp_path}/a/b/holdout.db")
    with writing(engine) as db:
        settings = {
            name: db.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    engine.dispose()
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


OPEN = """
import sys
from service.db.connection import open_database, writing
engine = open_database(sys.argv[1])
ready()
with writing(engine) as db:
    db.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (x integer)")
    db.exec_driver_sql("INSERT INTO t VALUES (1)")
"""


def test_processes_that_meet_at_a_new_sqlite_file_all_open_it(tmp_path, run_processes):
    url = f"sqlite:///{tmp_path}/new.db"
    run_processes(OPEN, url, copies=4)
    engine = open_database(url)
    with reading(engine) as db:
        assert db.exec_driver_sql("SELECT count(*) FROM t").scalar_one() == 4
    engine.dispose()


# Migrations


def test_the_migrations_make_exactly_the_tables_of_the_code(database):
    with reading(database) as db:
        context = MigrationContext.configure(db, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_an_upgrade_twice_is_an_upgrade_once(empty_database):
    assert not current(empty_database)
    upgrade(empty_database)
    assert current(empty_database)
    upgrade(empty_database)
    assert count(empty_database, meta) == 0


UPGRADE = """
import sys
import alembic.command
from service.db.connection import open_database
from service.db.migrations import current, upgrade
engine = open_database(sys.argv[1])
assert not current(engine)
ready()
upgrade(engine)
assert current(engine)
"""


def test_processes_that_upgrade_at_once_all_find_it_done(empty_database, run_processes):
    run_processes(UPGRADE, url_of(empty_database), copies=3)
    assert current(empty_database)


def test_an_upgrade_that_fails_midway_leaves_no_table(empty_database):
    with writing(empty_database) as db:
        db.execute(text("CREATE TABLE workers (id integer)"))  # the last that the upgrade makes
    with pytest.raises(DBAPIError):
        upgrade(empty_database)
    with pytest.raises(DBAPIError):
        count(empty_database, meta)
    assert not current(empty_database)


def test_a_database_of_a_newer_release_is_refused(empty_database):
    upgrade(empty_database)
    with writing(empty_database) as db:
        db.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert not current(empty_database)
    with pytest.raises(MigrationError, match="9999, which a newer release"):
        upgrade(empty_database)


def test_the_head_named_in_the_code_is_the_last_revision():
    folder = ScriptDirectory(migrations.__path__[0])
    assert folder.get_heads() == [migrations.HEAD]
