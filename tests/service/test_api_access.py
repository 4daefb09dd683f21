import re
import time

import pytest
from sqlalchemy.exc import OperationalError

from models.spec import SpecError
from service.app import create_app
from service.operations import tokens
from tests.service.conftest import Client, assert_problem, open_services, pt

# Which role each endpoint needs; an endpoint that stands nowhere here fails the sweep.
NEEDED = {
    "open": ["/healthz", "/readyz"],
    "viewer": [
        "GET /v1/evaluations",
        "GET /v1/evaluations/<job_id>",
        "GET /v1/ingestions",
        "GET /v1/ingestions/<job_id>",
        "GET /v1/trainings",
        "GET /v1/trainings/<job_id>",
        "GET /v1/trainings/<job_id>/history",
        "GET /v1/sweeps",
        "GET /v1/sweeps/<sweep_id>",
        "GET /v1/jobs",
        "GET /v1/jobs/<job_id>",
        "GET /v1/jobs/<job_id>/events",
        "GET /v1/checkpoints",
        "GET /v1/checkpoints/<ref>",
        "GET /v1/checkpoints/<ref>/content",
        "GET /v1/datasets",
        "GET /v1/datasets/<ref>",
        "GET /v1/datasets/<name>/versions",
        "GET /v1/catalog",
        "GET /v1/catalog/<kind>",
        "GET /v1/workers",
        "GET /v1/datasets/<ref>/examples/<index>",
        "GET /v1/datasets/<ref>/overlap",
        "GET /v1/version",
        "GET /metrics",
        "GET /openapi.json",
        "GET /docs",
        "GET /docs/start.js",
        "GET /docs/assets/<name>",
    ],
    "evaluator": [
        "POST /v1/evaluations",
        "POST /v1/evaluations/<job_id>/verify",
        "POST /v1/checkpoints",
        "POST /v1/jobs/<job_id>/cancel",
    ],
    "trainer": [
        "POST /v1/datasets",
        "POST /v1/datasets/<ref>/split",
        "POST /v1/trainings",
        "POST /v1/trainings/<job_id>/resume",
        "POST /v1/sweeps",
    ],
    "admin": ["DELETE /v1/checkpoints/<ref>", "DELETE /v1/datasets/<ref>"],
}


@pytest.fixture
def alone(tmp_path):
    services = open_services(tmp_path)
    client = Client(create_app(services=services))
    client.services = services
    yield client
    services.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    services = open_services(tmp_path_factory.mktemp("guarded"))
    client = Client(create_app(services=services))
    client.services = services
    client.tokens = {
        role: tokens.create(
            services.database, name=f"a-{role}", role=role, created_by="test", now=time.time()
        )
        for role in tokens.ROLES
    }
    yield client
    services.close()


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_the_table_of_roles_names_every_endpoint(guarded):
    known = {
        f"{method} {rule.rule}"
        for rule in guarded.app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    listed = [line for role, lines in NEEDED.items() if role != "open" for line in lines]
    assert known == set(listed) | {f"GET {path}" for path in NEEDED["open"]}


@pytest.mark.parametrize(
    ("needed", "line"),
    [(role, line) for role, lines in NEEDED.items() if role != "open" for line in lines],
)
def test_an_endpoint_denies_every_role_below_its_own(guarded, needed, line):
    method, path = line.split()
    path = re.sub(r"<\w+>", "x", path.replace("<int:index>", "1"))
    assert_problem(guarded.http.open(path, method=method), 401, "Bearer")
    for role in tokens.ROLES:
        answer = guarded.http.open(path, method=method, headers=bearer(guarded.tokens[role]))
        if tokens.allows(role, needed):
            assert answer.status_code not in (401, 403), (role, answer.text)
        else:
            assert_problem(answer, 403, needed)


def test_health_needs_no_token_and_an_unknown_address_tells_nothing(guarded):
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/readyz").status_code == 503
    assert guarded.get("/nothing").status_code in (401, 404)


def test_the_probes_answer_when_the_database_does_not(alone, monkeypatch):
    def fail(*_):
        raise OperationalError("SELECT", {}, Exception("away"))

    monkeypatch.setattr("service.api.access.tokens.any_made", fail)
    monkeypatch.setattr("service.operations.workers.live", fail)
    assert alone.get("/healthz").status_code == 200
    answer = alone.get("/readyz")
    assert answer.status_code == 503
    assert answer.json["checks"]["database"] == "cannot be reached"
    assert answer.json["checks"]["store"] == "ok"
    assert_problem(alone.get("/v1/jobs"), 503)


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer nonsense", "Bearer a b", "Bearer é"]
)
def test_what_is_no_token_is_refused(guarded, header):
    answer = guarded.get("/v1/jobs", headers={"Authorization": header})
    assert_problem(answer, 401)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_revoked_token_is_refused_at_once_and_its_name_is_not_given_again(alone):
    database = alone.services.database
    token = tokens.create(database, name="ci", role="viewer", created_by="test", now=1.0)
    assert alone.get("/v1/jobs", headers=bearer(token)).status_code == 200
    tokens.revoke(database, "ci", now=2.0)
    assert_problem(alone.get("/v1/jobs", headers=bearer(token)), 401, "revoked")
    # Revoking the last token does not open the service again.
    assert_problem(alone.get("/v1/jobs"), 401)
    with pytest.raises(Exception, match="exists already"):
        tokens.create(database, name="ci", role="viewer", created_by="test", now=3.0)


def test_a_token_is_kept_as_a_hash_only(alone):
    token = tokens.create(
        alone.services.database, name="ci", role="admin", created_by="test", now=1.0
    )
    alone.services.database.dispose()
    for file in alone.services.settings.data_dir.rglob("*"):
        if file.is_file():
            assert token.encode() not in file.read_bytes()
    assert tokens.search(alone.services.database)[0]["name"] == "ci"


def test_jobs_say_whose_token_made_them(guarded):
    answer = guarded.upload(
        "/v1/checkpoints",
        content=pt(),
        architecture="mlp",
        headers=bearer(guarded.tokens["evaluator"]),
    )
    assert answer.json["created_by"] == "a-evaluator"


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "localhost:5000", "[::1]:8000", "127.5.5.5"]
)
def test_without_tokens_this_machine_may_do_everything(alone, host):
    answer = alone.get("/v1/jobs", headers={"Host": host})
    assert answer.status_code == 200
    origin = {"Host": host, "Origin": f"http://{host}"}
    assert alone.get("/v1/jobs", headers=origin).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "10.0.0.5:8000"},
        {"Host": "localhost", "Origin": "http://evil.example"},
        {"Host": "localhost:8000", "Origin": "http://localhost:9000"},
        {"Host": "localhost", "Origin": "null"},
    ],
)
def test_without_tokens_a_foreign_host_or_origin_is_turned_away(alone, headers):
    for path in ("/v1/jobs", "/docs", "/openapi.json"):
        assert_problem(alone.get(path, headers=headers), 403)
    answer = alone.http.post("/v1/jobs/x/cancel", headers=headers)
    assert_problem(answer, 403)


def test_without_tokens_another_machine_is_turned_away(alone):
    answer = alone.get("/v1/jobs", environ_base={"REMOTE_ADDR": "10.0.0.7"})
    assert_problem(answer, 403, "token create")


def test_metrics_can_be_opened_by_a_setting(tmp_path):
    services = open_services(tmp_path, open_metrics=True)
    client = Client(create_app(services=services))
    tokens.create(services.database, name="a", role="admin", created_by="test", now=1.0)
    assert client.get("/metrics").status_code == 200
    assert_problem(client.get("/v1/jobs"), 401)
    services.close()


@pytest.mark.parametrize("content", [b"", b"short", b"with a blank in the middle", b"\xff" * 40])
def test_a_token_file_without_a_usable_token_is_refused(alone, tmp_path, content):
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(SpecError):
        tokens.install_admin(alone.services.database, file, now=1.0)


def test_a_token_file_gives_an_empty_database_its_first_admin_once(alone, tmp_path):
    file = tmp_path / "token"
    file.write_text("0123456789abcdef0123456789abcdef\n")
    database = alone.services.database
    assert tokens.install_admin(database, file, now=1.0) is True
    assert tokens.install_admin(database, file, now=2.0) is False
    caller = tokens.authenticate(database, "0123456789abcdef0123456789abcdef")
    assert (caller.name, caller.role) == ("admin", "admin")
