"""Settings: where they come from, what stops the start, what is shown of them."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest

from service.db.connection import open_database
from service.settings import Settings, SettingsError, ignored, variable


def read(environ=(), *, dotenv=None, flags=None):
    return Settings.from_env(dict(environ), dotenv=dotenv, flags=flags)


def test_without_variables_every_setting_has_its_default():
    assert read() == Settings()


def test_every_setting_says_what_it_is_for_in_one_sentence():
    for one in fields(Settings):
        assert one.metadata["help"].endswith(".")
        assert "|" not in one.metadata["help"]


def test_each_setting_is_read_from_its_variable():
    given = {
        "HOLDOUT_HOST": "::1",
        "HOLDOUT_PORT": "9000",
        "HOLDOUT_DATA_DIR": "/srv/holdout",
        "HOLDOUT_LEASE_S": "12.5",
        "HOLDOUT_OPEN_METRICS": "True",
        "HOLDOUT_ADMIN_TOKEN_FILE": "/run/secrets/admin_token",
    }
    assert read(given) == Settings(
        host="::1",
        port=9000,
        data_dir=Path("/srv/holdout"),
        lease_s=12.5,
        open_metrics=True,
        admin_token_file=Path("/run/secrets/admin_token"),
    )


def test_a_flag_goes_before_a_variable_and_a_variable_before_the_file(tmp_path):
    file = tmp_path / ".env"
    file.write_text(
        "HOLDOUT_PORT=1001\nHOLDOUT_CHILDREN=11\nHOLDOUT_HOST='127.0.0.9'\nUNRELATED=1\n"
    )
    environ = {"HOLDOUT_PORT": "1002", "HOLDOUT_CHILDREN": "12"}
    settings = read(environ, dotenv=file, flags={"port": 1003, "children": None})
    assert (settings.port, settings.children, settings.host) == (1003, 12, "127.0.0.9")


def test_a_file_that_is_not_there_is_no_mistake(tmp_path):
    assert read(dotenv=tmp_path / ".env") == Settings()


def test_an_empty_variable_means_the_default():
    assert read({"HOLDOUT_PORT": "", "HOLDOUT_ADMIN_TOKEN_FILE": ""}) == Settings()


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [
        ("HOLDOUT_CHILDRN", "HOLDOUT_CHILDREN"),
        ("HOLDOUT_DATABASE", "HOLDOUT_DATABASE_URL"),
        ("HOLDOUT_LEASE_SEC", "HOLDOUT_LEASE_S"),
        ("HOLDOUT_TOKN", "HOLDOUT_TOKEN"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_nearest_known_one(misspelt, nearest):
    with pytest.raises(SettingsError) as refused:
        read({misspelt: "1"})
    assert str(refused.value) == f"unknown variable {misspelt}; the nearest known one is {nearest}"


def test_a_misspelt_name_in_the_file_is_refused_as_well(tmp_path):
    (tmp_path / ".env").write_text("HOLDOUT_PROT=1\n")
    with pytest.raises(SettingsError, match="HOLDOUT_PROT; the nearest known one is HOLDOUT_PORT"):
        read(dotenv=tmp_path / ".env")


def test_all_mistakes_are_said_at_once():
    with pytest.raises(SettingsError) as refused:
        read({"HOLDOUT_PORT": "http", "HOLDOUT_OPEN_METRICS": "maybe", "HOLDOUT_PRT": "1"})
    assert (
        str(refused.value).split("; ", 1)[0]
        == "HOLDOUT_OPEN_METRICS must be true or false, got 'maybe'"
    )
    assert "HOLDOUT_PORT must be a whole number, got 'http'" in str(refused.value)
    assert "unknown variable HOLDOUT_PRT" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("port", "65536", "HOLDOUT_PORT must be at most 65535, got 65536"),
        ("port", "-1", "HOLDOUT_PORT must be at least 0, got -1"),
        ("children", "0", "HOLDOUT_CHILDREN must be at least 1, got 0"),
        ("lease_s", "1.9", "HOLDOUT_LEASE_S must be at least 2, got 1.9"),
        ("lease_s", "nan", "HOLDOUT_LEASE_S must be at least 2, got nan"),
        ("max_wait_s", "soon", "HOLDOUT_MAX_WAIT_S must be a number, got 'soon'"),
        ("device", "gpu", "HOLDOUT_DEVICE must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ("device", "cuda:", "HOLDOUT_DEVICE must be auto, cpu, cuda or cuda:N, got 'cuda:'"),
        (
            "database_url",
            "mysql://localhost/holdout",
            "HOLDOUT_DATABASE_URL must start with sqlite:/// or postgresql://, got 'mysql'",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused(name, text, said):
    with pytest.raises(SettingsError) as refused:
        read({variable(name): text})
    assert str(refused.value) == said


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_known_devices_are_taken(device):
    assert read({"HOLDOUT_DEVICE": device}).device == device


KUBERNETES = {
    "HOLDOUT_PORT": "tcp://10.0.171.239:8000",
    "HOLDOUT_PORT_8000_TCP": "tcp://10.0.171.239:8000",
    "HOLDOUT_PORT_8000_TCP_ADDR": "10.0.171.239",
    "HOLDOUT_PORT_8000_TCP_PORT": "8000",
    "HOLDOUT_PORT_8000_TCP_PROTO": "tcp",
    "HOLDOUT_SERVICE_HOST": "10.0.171.239",
    "HOLDOUT_SERVICE_PORT": "8000",
    "HOLDOUT_SERVICE_PORT_HTTP": "8000",
}
CLIENT = {"HOLDOUT_URL": "http://127.0.0.1:8000", "HOLDOUT_TOKEN": "secret"}


def test_variables_of_clients_and_of_kubernetes_are_ignored_and_can_be_listed():
    environ = KUBERNETES | CLIENT | {"HOLDOUT_CHILDREN": "3", "HOME": "/root"}
    assert read(environ) == Settings(children=3)
    assert ignored(environ) == sorted(KUBERNETES | CLIENT)


def test_a_port_that_is_a_number_is_not_kubernetes():
    assert ignored({"HOLDOUT_PORT": "8001"}) == []


def test_the_database_is_a_file_of_the_data_folder_unless_it_is_named(tmp_path):
    assert Settings(data_dir=tmp_path).database == f"sqlite:///{tmp_path}/holdout.db"
    named = Settings(database_url="postgresql://localhost/holdout")
    assert named.database == "postgresql://localhost/holdout"


@pytest.mark.parametrize("name", ["a%20b", "a?b", 'we\'ird %s "q" #?&=', "ü b"])
def test_the_database_stands_in_the_data_folder_whatever_it_is_called(tmp_path, name):
    folder = tmp_path / name
    engine = open_database(Settings(data_dir=folder).database)
    with engine.connect():
        assert (folder / "holdout.db").exists()
    engine.dispose()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_password_that_would_be_taken_for_a_host_is_refused_and_not_shown():
    with pytest.raises(SettingsError, match="write %40") as caught:
        Settings(database_url="postgresql://u:one@two@db/holdout")
    assert "two" not in str(caught.value)


def test_a_dotenv_file_that_cannot_be_read_says_so(tmp_path):
    (tmp_path / ".env").write_bytes(b"\xff\xfe=1\n")
    with pytest.raises(SettingsError, match="cannot be read: it is not UTF-8"):
        Settings.from_env({}, dotenv=tmp_path / ".env")


def test_threads_are_half_the_cores_unless_they_are_named(monkeypatch):
    for cores, threads in ((1, 1), (2, 1), (16, 8), (None, 1)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert Settings().threads == threads
    assert Settings(threads_per_child=3).threads == 3


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
    ],
)
def test_whether_only_this_machine_reaches_an_address(host, loopback):
    assert Settings(host=host).is_loopback is loopback


def test_what_is_shown_leaves_the_databases_password_out():
    url = "postgresql://holdout:s3cr3t@db.internal:5432/holdout"
    shown = Settings(database_url=url).printable()
    assert shown["HOLDOUT_DATABASE_URL"] == "postgresql://holdout:***@db.internal:5432/holdout"
    assert set(shown) == {variable(one.name) for one in fields(Settings)}
    odd = Settings(database_url="postgresql://holdout:S3/cret@db.internal/holdout").printable()
    assert "cret" not in odd["HOLDOUT_DATABASE_URL"]
    elsewhere = Settings(database_url="postgresql://db/holdout?user=a&password=s3cr3t").printable()
    assert elsewhere["HOLDOUT_DATABASE_URL"] == "postgresql://db/holdout"


def test_bounds_hold_for_every_number():
    for one in fields(Settings):
        if "low" in one.metadata:
            with pytest.raises(SettingsError, match=variable(one.name)):
                Settings(**{one.name: one.metadata["low"] - 1})
        if "high" in one.metadata:
            with pytest.raises(SettingsError, match=variable(one.name)):
                Settings(**{one.name: one.metadata["high"] + 1})
        if "low" in one.metadata and one.type == "float":
            with pytest.raises(SettingsError, match=variable(one.name)):
                Settings(**{one.name: math.nan})


def test_a_name_that_only_looks_like_loopback_is_not():
    assert Settings(host="127.0.0.53").is_loopback
    assert not Settings(host="127.evil.example").is_loopback
