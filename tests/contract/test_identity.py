"""A database and a data folder that belong together know it, whichever the database."""

import pytest
from sqlalchemy import func, insert, select

from service.db.connection import reading, writing
from service.db.identity import IdentityError, check_identity, make_identity
from service.db.tables import meta


def test_a_new_store_gets_one_identity_for_good(database, tmp_path):
    with pytest.raises(IdentityError, match="holdout db upgrade"):
        check_identity(database, tmp_path)
    make_identity(database, tmp_path)
    first = (tmp_path / "store-id").read_text()
    make_identity(database, tmp_path)
    check_identity(database, tmp_path)
    assert (tmp_path / "store-id").read_text() == first
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("store-id")] == [
        "store-id"
    ]


def test_the_folder_of_another_store_is_refused(database, tmp_path):
    make_identity(database, tmp_path)
    (tmp_path / "store-id").write_text("another\n")
    with pytest.raises(IdentityError, match=r"belongs to store .* but the data folder .* another"):
        check_identity(database, tmp_path)


@pytest.mark.parametrize("function", [check_identity, make_identity])
def test_an_empty_folder_beside_a_database_in_use_is_refused(database, tmp_path, function):
    make_identity(database, tmp_path / "a")
    with pytest.raises(IdentityError, match=r"has no file store-id: set HOLDOUT_DATA_DIR"):
        function(database, tmp_path / "b")
    assert not (tmp_path / "b" / "store-id").exists()


@pytest.mark.parametrize("function", [check_identity, make_identity])
def test_a_new_database_beside_a_folder_in_use_is_refused(database, tmp_path, function):
    (tmp_path / "store-id").write_text("mine\n")
    with pytest.raises(IdentityError, match=r"mine, but the database is new: set HOLDOUT_DATABASE"):
        function(database, tmp_path)
    with reading(database) as db:
        assert db.execute(select(func.count()).select_from(meta)).scalar_one() == 0


def test_an_identity_that_was_cut_off_before_the_commit_is_made_anew(database, tmp_path):
    (tmp_path / "store-id.new").write_text("never committed\n")
    make_identity(database, tmp_path)
    check_identity(database, tmp_path)
    assert (tmp_path / "store-id").read_text() != "never committed\n"


def test_an_identity_that_was_cut_off_after_the_commit_is_completed(database, tmp_path):
    (tmp_path / "store-id.new").write_text("committed\n")
    with writing(database) as db:
        db.execute(insert(meta), {"key": "store_id", "value": "committed"})
    make_identity(database, tmp_path)
    check_identity(database, tmp_path)
    assert (tmp_path / "store-id").read_text() == "committed\n"


IDENTIFY = """
import sys
from pathlib import Path
from service.db.connection import open_database
from service.db.identity import make_identity
engine = open_database(sys.argv[1])
engine.connect().close()
ready()
make_identity(engine, Path(sys.argv[2]))
"""


def test_processes_that_identify_a_store_at_once_agree(database, tmp_path, run_processes):
    url = database.url.render_as_string(hide_password=False)
    run_processes(IDENTIFY, url, tmp_path, copies=3)
    check_identity(database, tmp_path)
