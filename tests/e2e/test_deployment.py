"""Dockerfile and compose.yaml, as far as that can be judged without Docker's engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path

import yaml

from service.settings import Settings, variable

ROOT = Path(__file__).parents[2]
VARIABLES = {variable(one.name) for one in fields(Settings)}


def instructions(text):
    """The Dockerfile's instructions in order, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines()]


DOCKERFILE = instructions((ROOT / "Dockerfile").read_text())
STAGES = [index for index, (word, _) in enumerate(DOCKERFILE) if word == "FROM"]
BUILDER, IMAGE = DOCKERFILE[: STAGES[1]], DOCKERFILE[STAGES[1] :]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
OURS = ("upgrade", "web", "worker")


def all_of(stage, word):
    return [rest for first, rest in stage if first == word]


def environment_of(stage):
    return dict(pair.split("=", 1) for rest in all_of(stage, "ENV") for pair in rest.split())


def test_the_build_has_two_stages_and_copies_only_the_virtual_environment():
    assert len(STAGES) == 2
    assert all_of(IMAGE, "COPY") == ["--from=builder /opt/holdout /opt/holdout"]


def test_torch_comes_from_an_index_that_an_argument_names_and_versions_are_pinned():
    assert "TORCH_INDEX=https://download.pytorch.org/whl/cpu" in all_of(BUILDER, "ARG")
    installs = [run for run in all_of(BUILDER, "RUN") if "pip install" in run]
    assert len(installs) == 2
    for run in installs:
        assert "-c constraints.txt" in run
        assert '--extra-index-url "$TORCH_INDEX"' in run
    assert re.search(r"^torch==[\d.]+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_the_image_does_not_run_as_root_and_owns_its_data_folder():
    (user,) = all_of(IMAGE, "USER")
    uid = user.partition(":")[0]
    setup = " ".join(all_of(IMAGE, "RUN"))
    assert uid.isdigit()
    assert f"--uid {uid}" in setup
    assert int(uid) > 0
    (volume,) = all_of(IMAGE, "VOLUME")
    assert volume == environment_of(IMAGE)["HOLDOUT_DATA_DIR"] == all_of(IMAGE, "WORKDIR")[0]
    assert f"install -d -o holdout -g holdout -m 0700 {volume}" in setup
    words = [word for word, _ in IMAGE]
    assert words.index("RUN") < words.index("USER") < words.index("CMD")


def test_the_images_variables_are_settings_and_its_port_is_exposed():
    given = {name: text for name, text in environment_of(IMAGE).items() if "HOLDOUT" in name}
    settings = Settings.from_env(given, dotenv=None)
    assert not settings.is_loopback
    assert all_of(IMAGE, "EXPOSE") == [str(settings.port)]


def test_the_images_command_is_an_exec_form_so_that_signals_reach_it():
    assert json.loads(all_of(IMAGE, "CMD")[0]) == ["holdout", "serve"]
    assert not all_of(IMAGE, "ENTRYPOINT")


def test_the_images_health_check_tells_a_service_from_none(commands, tmp_path):
    (check,) = all_of(IMAGE, "HEALTHCHECK")
    _, *arguments = json.loads(check.partition("CMD ")[2])
    assert commands.run("db", "upgrade", data_dir=tmp_path).returncode == 0
    _, client = commands.start_web("web", ready="/healthz", data_dir=tmp_path)

    def status(port):
        env = {"HOLDOUT_PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=env, capture_output=True, check=False).returncode

    assert status(client.url.rpartition(":")[2]) == 0
    assert status(1) == 1


def test_the_build_context_holds_what_is_copied_and_nothing_private():
    rules = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in "#"
    ]
    assert rules[0] == "*"
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    copied = [name for rest in all_of(BUILDER, "COPY") for name in rest.split()[:-1]]
    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / name).exists() for name in copied)
    for private in ("var", ".env", ".git", ".venv"):
        assert not any(fnmatch(private, rule) for rule in allowed)


def test_every_variable_of_the_compose_file_is_a_setting():
    text = (ROOT / "compose.yaml").read_text()
    assert set(re.findall(r"\bHOLDOUT_\w+", text)) <= VARIABLES


def test_the_processes_are_those_of_the_command_line():
    assert {name: SERVICES[name]["command"] for name in OURS} == {
        "upgrade": ["db", "upgrade"],
        "web": ["web"],
        "worker": ["worker"],
    }


def test_web_and_worker_share_the_one_data_folder():
    for name in OURS:
        assert SERVICES[name]["volumes"] == ["data:/data"]
    assert set(COMPOSE["volumes"]) == {"data", "database"}
    # From version 18 on, the image's volume is this folder and not the data folder in it.
    assert SERVICES["database"]["image"] == "postgres:18"
    assert SERVICES["database"]["volumes"] == ["database:/var/lib/postgresql"]


def test_the_database_is_there_and_upgraded_before_web_and_worker_start():
    assert "pg_isready" in SERVICES["database"]["healthcheck"]["test"]
    ready = {"database": {"condition": "service_healthy"}}
    done = {"upgrade": {"condition": "service_completed_successfully"}}
    assert SERVICES["upgrade"]["depends_on"] == ready
    assert SERVICES["web"]["depends_on"] == SERVICES["worker"]["depends_on"] == ready | done


def test_secrets_are_files_that_only_those_get_who_need_them():
    holders = {
        name: {one for one in SERVICES if name in SERVICES[one].get("secrets", [])}
        for name in COMPOSE["secrets"]
    }
    assert holders == {"admin_token": {"web"}, "database_password": {"database", *OURS}}
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"var/secrets/{name}"}
    assert "var/" in (ROOT / ".gitignore").read_text().splitlines()


def test_only_the_web_process_is_published_and_on_this_machine_only():
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert published == {"web": ["127.0.0.1:8000:8000"]}


def test_containers_have_time_to_stop_and_no_privileges():
    for name in OURS:
        assert SERVICES[name]["init"] is True
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > 10


def test_the_entrypoint_gives_the_command_the_database_with_its_password(tmp_path):
    secrets, commands = tmp_path / "secrets", tmp_path / "bin"
    secrets.mkdir()
    commands.mkdir()
    (commands / "holdout").write_text('#!/bin/sh\necho "$HOLDOUT_DATABASE_URL"\necho "$@"\n')
    (commands / "holdout").chmod(0o755)
    web = SERVICES["web"]
    # Compose makes $ of $$, and mounts the secrets.
    command = [
        part.replace("$$", "$").replace("/run/secrets", str(secrets))
        for part in (*web["entrypoint"], *web["command"], "--host", "a b")
    ]
    env = {"PATH": f"{commands}:/usr/bin:/bin"}
    missing = subprocess.run(command, env=env, capture_output=True, check=False)
    assert missing.returncode != 0
    (secrets / "database_password").write_text("5ecret\n")
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    url, arguments = run.stdout.splitlines()
    assert url == "postgresql://holdout:5ecret@database/holdout"
    assert arguments == "web --host a b"
    assert "5ecret" not in " ".join(Settings(database_url=url).printable().values())
