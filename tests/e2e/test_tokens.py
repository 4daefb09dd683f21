"""Tokens and roles, on a real web process that every address reaches."""

from __future__ import annotations

import pytest


def test_an_open_address_is_refused_while_there_is_no_token(commands, tmp_path):
    assert commands.run("db", "upgrade", data_dir=tmp_path).returncode == 0
    for command in ("web", "serve"):
        sentence = commands.refusal(command, "--host", "0.0.0.0", "--port", "0", data_dir=tmp_path)
        assert "no token exists, so 0.0.0.0 would be open to everyone" in sentence


@pytest.fixture(scope="module")
def guarded(commands, client_of, tmp_path_factory):
    """A web process on every address, and one token of each role."""
    folder = tmp_path_factory.mktemp("guarded")
    assert commands.run("db", "upgrade", data_dir=folder).returncode == 0
    made = {}
    for role in ("viewer", "evaluator", "trainer", "admin"):
        run = commands.run(
            "token", "create", "--name", f"a-{role}", "--role", role, data_dir=folder
        )
        made[role] = run.stdout.strip()
    _, client = commands.start_web("web", ready="/healthz", host="0.0.0.0", data_dir=folder)
    callers = {role: client_of(client.url, token) for role, token in made.items()}
    return folder, client, callers


def test_with_a_token_everything_but_health_needs_one(guarded):
    _, client, callers = guarded
    assert client.get("/healthz").status == 200
    assert client.get("/readyz").status == 503  # open, and no worker lives
    for path in ("/v1/jobs", "/v1/version", "/v1/catalog", "/openapi.json", "/docs", "/metrics"):
        assert client.get(path).status == 401
        assert callers["viewer"].get(path).status == 200
    wrong = type(client)(client.url, callers["viewer"].token[:-1])
    assert wrong.get("/v1/jobs").status == 401


# What answers beyond the role: there is no body, or nothing of that name.
NEEDS = [
    ("GET", "/v1/checkpoints", "viewer", 200),
    ("POST", "/v1/evaluations", "evaluator", 415),
    ("POST", "/v1/checkpoints", "evaluator", 415),
    ("POST", "/v1/datasets", "trainer", 415),
    ("DELETE", "/v1/datasets/none@1", "admin", 404),
    ("DELETE", f"/v1/checkpoints/{'0' * 64}", "admin", 404),
]


@pytest.mark.parametrize(("method", "path", "needed", "beyond"), NEEDS)
def test_each_role_contains_the_one_before(guarded, method, path, needed, beyond):
    _, _, callers = guarded
    roles = list(callers)
    statuses = [callers[role].send(method, path).status for role in roles]
    allowed = roles.index(needed)
    assert statuses == [403] * allowed + [beyond] * (len(roles) - allowed)


def test_a_revoked_token_ends_at_once_and_lists_show_no_secrets(commands, guarded, client_of):
    folder, client, callers = guarded
    made = commands.run("token", "create", "--name", "leaver", "--role", "viewer", data_dir=folder)
    leaver = client_of(client.url, made.stdout.strip())
    assert leaver.get("/v1/jobs").status == 200
    assert commands.run("token", "revoke", "leaver", data_dir=folder).returncode == 0
    assert leaver.get("/v1/jobs").status == 401
    listed = commands.run("token", "list", data_dir=folder).stdout
    assert [line.split("\t")[0] for line in listed.splitlines()] == [
        "a-viewer",
        "a-evaluator",
        "a-trainer",
        "a-admin",
        "leaver",
    ]
    assert not any(one.token in listed for one in (*callers.values(), leaver))
    database = b"".join(file.read_bytes() for file in folder.glob("holdout.db*"))
    assert not any(one.token.encode() in database for one in (*callers.values(), leaver))


def test_the_admin_token_file_opens_an_empty_database(commands, client_of, tmp_path):
    secret = tmp_path / "admin_token"
    secret.write_text("0123456789abcdef0123456789abcdef\n")
    settings = {"data_dir": tmp_path / "data", "admin_token_file": secret, "host": "0.0.0.0"}
    assert commands.run("db", "upgrade", data_dir=settings["data_dir"]).returncode == 0
    running, client = commands.start_web("web", ready="/healthz", **settings)
    assert client.get("/v1/jobs").status == 401
    admin = client_of(client.url, secret.read_text().strip())
    assert admin.send("DELETE", "/v1/datasets/none@1").status == 404
    assert secret.read_text().strip() not in running.log
    assert running.stop()[0] == 0


def test_an_unreadable_admin_token_file_is_refused(commands, tmp_path):
    data_dir = tmp_path / "data"
    assert commands.run("db", "upgrade", data_dir=data_dir).returncode == 0
    (tmp_path / "short").write_text("secret")
    for name in ("short", "missing"):
        sentence = commands.refusal(
            "web", data_dir=data_dir, admin_token_file=tmp_path / name, port=0
        )
        assert "HOLDOUT_ADMIN_TOKEN_FILE" in sentence
