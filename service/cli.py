"""``holdout``: run the service, or look after its database and its tokens."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from service.settings import Settings, SettingsError, ignored, read_dotenv

log = structlog.get_logger("holdout")

STOP_S = 9.0

_supervised = False

FLAGS: dict[str, Callable[[Any], Any]] = {
    "host": click.option("--host", help="Address to listen on."),
    "port": click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on."),
    "data_dir": click.option("--data-dir", type=click.Path(path_type=Path), help="Data folder."),
    "database_url": click.option("--database-url", help="sqlite:///PATH or postgresql://..."),
    "children": click.option("--children", type=int, help="Child processes of the worker."),
    "threads_per_child": click.option("--threads-per-child", type=int, help="Threads of a child."),
    "device": click.option("--device", help="auto, cpu, cuda or cuda:N."),
}
STORAGE = ("data_dir", "database_url")
LISTEN = ("host", "port")
WORK = ("children", "threads_per_child", "device")


def flags(*names: str) -> Callable[[Any], Any]:
    """The options of these settings; the command gets one `Settings` for them."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        def run(**given: Any) -> Any:
            wanted = {name: given.pop(name) for name in names}
            try:
                settings = Settings.from_env(flags=wanted)
            except SettingsError as error:
                refuse(str(error))
            return command(settings, **given)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
        for name in reversed(names):
            run = FLAGS[name](run)
        return run

    return decorate


def refuse(detail: str) -> NoReturn:
    """End with one sentence on what is wrong."""
    click.echo(f"holdout: {detail}", err=True)
    sys.exit(2)


def configure_logging() -> None:
    """One JSON object a line on standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Without the values of variables: among them are tokens.
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Holdout is the referee for PyTorch classifiers."""
    os.umask(0o077)  # whatever a command makes is for its own user only
    configure_logging()


@contextmanager
def opened(settings: Settings) -> Any:
    """The database of these settings, or one sentence on why it cannot be opened."""
    from service.db.connection import open_database

    try:
        engine = open_database(settings.database)
    except ValueError as error:
        refuse(str(error))
    except ImportError as error:
        refuse(f"the database needs a driver that is not installed: {error}")
    except OSError as error:
        refuse(f"the database cannot be used: {error.filename}: {error.strerror}")
    try:
        yield engine
    except OSError as error:
        refuse(f"the data folder cannot be used: {error.filename}: {error.strerror}")
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).splitlines()[0]
        refuse(f"the database cannot be used: {reason}")
    finally:
        engine.dispose()


def check_database(engine: Engine, settings: Settings) -> None:
    """Refuse to start on a database that is not ready or belongs to another data folder."""
    from service.db.identity import IdentityError, check_identity
    from service.db.migrations import current

    if not current(engine):
        refuse("the database is not at this version's schema: run holdout db upgrade")
    try:
        check_identity(engine, settings.data_dir)
    except IdentityError as error:
        refuse(str(error))


def upgrade_database(engine: Engine, settings: Settings) -> None:
    """Bring the schema up to date and give a new database and folder their common id."""
    from service.db.identity import IdentityError, make_identity
    from service.db.migrations import MigrationError, upgrade

    try:
        upgrade(engine)
        make_identity(engine, settings.data_dir)
    except (IdentityError, MigrationError) as error:
        refuse(str(error))


def check_access(engine: Engine, settings: Settings) -> None:
    """Install the first admin, and refuse an open address while there is no token."""
    from models.spec import SpecError
    from service.operations import tokens

    if settings.admin_token_file is not None:
        try:
            if tokens.install_admin(engine, settings.admin_token_file, now=time.time()):
                log.info("first admin installed", token="admin")  # noqa: S106 - its name
        except SpecError as error:
            refuse(error.detail)
    if not settings.is_loopback and not tokens.any_made(engine):
        refuse(
            f"no token exists, so {settings.host} would be open to everyone: make one with "
            "'holdout token create --name NAME --role admin', set HOLDOUT_ADMIN_TOKEN_FILE, or "
            "listen on 127.0.0.1"
        )


def claim_port(settings: Settings) -> Settings:
    """Refuse an address that cannot be listened on; for port 0, settle on a free one.

    gunicorn would try a taken port again for five seconds and end with a traceback.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                refuse(f"cannot listen on {settings.host}, port {settings.port}: {error.strerror}")
            refuse(
                f"port {settings.port} of {settings.host} is taken: stop what uses it, or choose "
                "another with --port or HOLDOUT_PORT"
            )
        return dataclasses.replace(settings, port=probe.getsockname()[1])


def announce(command: str, settings: Settings) -> None:
    """Log once what this process runs with."""
    log.info("start", command=command, pid=os.getpid(), settings=settings.printable())
    names = ignored({**read_dotenv(), **os.environ})
    if names and not _supervised:
        log.info("ignored variables of the client or of Kubernetes", names=names)


@main.command()
@flags(*LISTEN, *STORAGE)
def web(settings: Settings) -> None:
    """Answer HTTP (gunicorn, one process of many threads)."""
    from service.web import serve as serve_web

    settings = claim_port(settings)
    announce("web", settings)
    with opened(settings) as engine:
        check_database(engine, settings)
        check_access(engine, settings)
    serve_web(settings)


@main.command()
@flags(*STORAGE, *WORK)
def worker(settings: Settings) -> None:
    """Run jobs in child processes."""
    from service.jobs.engines import EngineError
    from service.work import work

    announce("worker", settings)
    with opened(settings) as engine:
        check_database(engine, settings)
    try:
        work(settings)
    except EngineError as error:
        refuse(str(error))
    except OSError as error:  # while it starts; a worker that runs lives through them
        refuse(f"the data folder cannot be used: {error.filename}: {error.strerror}")


@main.command()
@flags(*LISTEN, *STORAGE, *WORK)
def serve(settings: Settings) -> None:
    """Run web and worker together: everything on one machine."""
    settings = claim_port(settings)
    announce("serve", settings)
    with opened(settings) as engine:
        upgrade_database(engine, settings)
        check_access(engine, settings)
    given = {
        f"HOLDOUT_{name.upper()}": str(getattr(settings, name))
        for name in (*LISTEN, *STORAGE, *WORK)
    }
    sys.exit(supervise(("worker", "web"), {**os.environ, **given}))


def supervise(roles: Sequence[str], environ: dict[str, str]) -> int:
    """Run these commands as children until told to stop or until one ends; end them all then.

    Returns:
        0 if it was told to stop, else the status of the child that ended by itself.
    """
    stopping = False

    def stop(_signal: int, _frame: Any) -> None:
        nonlocal stopping
        stopping = True

    # Before there are children, or a signal at the wrong moment would leave them alone.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # Not "-m service.cli": every child of the worker would import the main module again.
    command = [sys.executable, "-P", "-c", "from service.cli import supervised; supervised()"]
    children = [
        subprocess.Popen(  # noqa: S603
            [*command, role],
            env=environ,
            stdin=subprocess.PIPE,
            process_group=0,  # Ctrl-C reaches this process alone, which then ends them gracefully
        )
        for role in roles
    ]
    while not stopping and all(child.poll() is None for child in children):
        time.sleep(0.1)
    failed = next((child.returncode for child in children if child.returncode), 1)
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + STOP_S
    for child in children:
        try:
            child.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    return 0 if stopping else abs(failed)


def supervised() -> None:
    """Run a command as a child of `supervise`; stop it also if its parent is killed."""

    def follow() -> None:
        os.read(0, 1)  # nothing is ever written there, so this returns when the parent is gone
        signal.pthread_kill(main_thread, signal.SIGTERM)

    global _supervised
    _supervised = True  # what concerns both children alike was logged by their parent
    main_thread = threading.get_ident()
    threading.Thread(target=follow, daemon=True, name="parent").start()
    main()


@main.group()
def db() -> None:
    """Look after the database."""


@db.command("upgrade")
@flags(*STORAGE)
def db_upgrade(settings: Settings) -> None:
    """Bring the database to this version's schema; does nothing if it is there."""
    with opened(settings) as engine:
        upgrade_database(engine, settings)
    click.echo("the database is up to date")


@main.group()
def token() -> None:
    """Make, list and revoke tokens."""


@contextmanager
def token_database(settings: Settings) -> Any:
    """The database, with refusals of the use case as one sentence."""
    from models.spec import SpecError
    from service.operations.errors import OperationError

    with opened(settings) as engine:
        check_database(engine, settings)
        try:
            yield engine
        except (SpecError, OperationError) as error:
            refuse(error.detail)


@token.command("create")
@click.option("--name", required=True, help="Whose token it is; answers say it as created_by.")
@click.option("--role", required=True, help="viewer, evaluator, trainer or admin.")
@flags(*STORAGE)
def token_create(settings: Settings, name: str, role: str) -> None:
    """Make a token and print it, this once."""
    from service.operations import tokens

    with token_database(settings) as engine:
        made = tokens.create(engine, name=name, role=role, created_by="cli", now=time.time())
    click.echo(made)


@token.command("list")
@flags(*STORAGE)
def token_list(settings: Settings) -> None:
    """List tokens, without their secrets."""
    from service.operations import tokens

    with token_database(settings) as engine:
        for row in tokens.search(engine):
            state = f"revoked {row['revoked_at']}" if row["revoked_at"] else "valid"
            click.echo(f"{row['name']}\t{row['role']}\t{row['created_at']}\t{state}")


@token.command("revoke")
@click.argument("name")
@flags(*STORAGE)
def token_revoke(settings: Settings, name: str) -> None:
    """End a token at once."""
    from service.operations import tokens

    with token_database(settings) as engine:
        tokens.revoke(engine, name, now=time.time())
    click.echo(f"{name} is revoked")


@main.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    click.echo(installed("holdout"))


if __name__ == "__main__":
    main()
