"""The command line, each command as a process of its own; those that stay up are in tests/e2e."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import pytest

from service.cli import FLAGS
from service.settings import Settings

HOLDOUT = Path(sys.executable).with_name("holdout")


@pytest.fixture
def holdout(tmp_path):
    """Run a command in an empty folder."""

    def run(*arguments, **variables):
        plain = {name: text for name, text in os.environ.items() if "HOLDOUT" not in name}
        return subprocess.run(
            [HOLDOUT, *arguments],
            cwd=tmp_path,
            env=plain | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def refusal(run):
    assert (run.returncode, run.stdout) == (2, "")
    (sentence,) = run.stderr.splitlines()
    return sentence.removeprefix("holdout: ")


def test_version_prints_the_version(holdout):
    run = holdout("version")
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{version('holdout')}\n", "")


def test_help_lists_every_command_and_what_it_does(holdout):
    listed = holdout("--help").stdout
    for command in ("serve", "web", "worker", "db", "token", "version"):
        assert re.search(rf"^  {command} +\w", listed, re.MULTILINE)


def test_each_flag_is_a_setting():
    assert set(FLAGS) <= {one.name for one in fields(Settings)}


def test_upgrading_makes_a_database_and_twice_is_as_good_as_once(holdout, tmp_path):
    for _ in range(2):
        run = holdout("db", "upgrade")
        assert (run.returncode, run.stdout) == (0, "the database is up to date\n")
    assert (tmp_path / "var/holdout.db").is_file()
    assert (tmp_path / "var/store-id").is_file()


def test_a_database_elsewhere_is_named_by_flag_or_variable(holdout, tmp_path):
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    assert holdout("db", "upgrade", "--data-dir", "data", "--database-url", url).returncode == 0
    assert (tmp_path / "elsewhere.db").is_file()
    listed = holdout("token", "list", HOLDOUT_DATA_DIR="data", HOLDOUT_DATABASE_URL=url)
    assert (listed.returncode, listed.stdout) == (0, "")
    assert not (tmp_path / "var").exists()


def test_the_working_folders_env_file_is_read(holdout, tmp_path):
    (tmp_path / ".env").write_text("HOLDOUT_DATA_DIR=data\n")
    assert holdout("db", "upgrade").returncode == 0
    assert (tmp_path / "data/holdout.db").is_file()


def test_a_token_is_printed_once_listed_without_its_secret_and_revoked(holdout):
    assert holdout("db", "upgrade").returncode == 0
    made = holdout("token", "create", "--name", "ci", "--role", "evaluator")
    assert re.fullmatch(r"holdout_[\w-]{43}\n", made.stdout)
    listed = holdout("token", "list").stdout
    assert re.fullmatch(r"ci\tevaluator\t\d{4}-\d\d-\d\dT[\d:.]+Z\tvalid\n", listed)
    assert holdout("token", "revoke", "ci").stdout == "ci is revoked\n"
    assert re.search(r"\trevoked \d{4}-", holdout("token", "list").stdout)
    assert "no valid token named 'ci'" in refusal(holdout("token", "revoke", "ci"))
    taken = holdout("token", "create", "--name", "ci", "--role", "viewer")
    assert refusal(taken) == "a token named 'ci' exists already; names are used once"


@pytest.mark.parametrize(
    ("name", "role", "said"),
    [
        ("me", "root", "role must be one of viewer, evaluator, trainer, admin; got 'root'"),
        ("m e", "admin", "name must start with a letter or digit"),
    ],
)
def test_a_token_that_cannot_be_is_refused(holdout, name, role, said):
    assert holdout("db", "upgrade").returncode == 0
    assert said in refusal(holdout("token", "create", "--name", name, "--role", role))


def test_tokens_want_a_database_that_is_set_up(holdout):
    said = "the database is not at this version's schema: run holdout db upgrade"
    assert refusal(holdout("token", "list")) == said


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://localhost/x", "must start with sqlite:/// or postgresql://, got 'mysql'"),
        ("sqlite:///:memory:", "SQLite must be a plain file"),
        ("postgresql://nobody@127.0.0.1:1/none", "the database cannot be used: "),
    ],
)
def test_a_database_that_cannot_be_used_is_refused_in_one_sentence(holdout, url, said):
    assert said in refusal(holdout("db", "upgrade", "--database-url", url))


def test_a_file_that_is_no_database_is_refused_in_one_sentence(holdout, tmp_path):
    (tmp_path / "notes.txt").write_text("no database" * 1000)
    run = holdout("db", "upgrade", "--database-url", f"sqlite:///{tmp_path}/notes.txt")
    assert refusal(run) == "the database cannot be used: file is not a database"


@pytest.mark.parametrize("command", [("db", "upgrade"), ("token", "list"), ("worker",), ("web",)])
def test_a_mistake_in_the_settings_is_refused_in_one_sentence(holdout, command):
    said = "unknown variable HOLDOUT_DATADIR; the nearest known one is HOLDOUT_DATA_DIR"
    assert refusal(holdout(*command, HOLDOUT_DATADIR="x")) == said


def test_a_data_folder_that_is_a_file_is_refused_in_one_sentence(holdout, tmp_path):
    (tmp_path / "taken").write_text("")
    for command in (("db", "upgrade"), ("web", "--port", "0"), ("worker",)):
        run = holdout(*command, "--data-dir", "taken")
        assert run.returncode == 2
        assert run.stderr.splitlines()[-1].startswith("holdout: the database cannot be used: ")
        assert run.stderr.splitlines()[-1].endswith("/taken: File exists")
        assert "Traceback" not in run.stderr


def test_a_data_folder_that_cannot_be_written_is_refused_in_one_sentence(holdout, tmp_path):
    (tmp_path / "var/store-id").mkdir(parents=True)
    assert refusal(holdout("db", "upgrade")).startswith("the data folder cannot be used: ")


def test_a_database_whose_driver_is_not_installed_is_refused_in_one_sentence(holdout, tmp_path):
    said = "No module named 'psycopg'"
    (tmp_path / "psycopg.py").write_text(f"raise ModuleNotFoundError({said!r})")
    run = holdout(
        "db", "upgrade", "--database-url", "postgresql://x@localhost/x", PYTHONPATH=str(tmp_path)
    )
    assert refusal(run) == f"the database needs a driver that is not installed: {said}"
