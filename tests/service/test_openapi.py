import json

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service.app import create_app
from service.operations import tokens
from tests.service.conftest import Client, open_services, pt, working


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json").json


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield f"{method.upper()} {path}", operation


def test_every_operation_documents_its_errors_as_problems(document):
    for name, operation in operations(document):
        responses = operation["responses"]
        assert "default" in responses, name
    default = document["components"]["responses"]["DEFAULT_ERROR"]
    assert set(default["content"]) == {"application/problem+json"}


def test_every_post_documents_its_key_and_probes_are_open(document):
    for name, operation in operations(document):
        headers = [one["name"] for one in operation.get("parameters", []) if one["in"] == "header"]
        assert ("Idempotency-Key" in headers) == name.startswith("POST"), name
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert "security" not in document["paths"]["/metrics"]["get"]


def test_every_operation_says_what_it_does(document):
    for name, operation in operations(document):
        assert operation.get("summary"), name


def test_bodies_are_documented_with_their_media_types(document):
    posted = document["paths"]["/v1/evaluations"]["post"]["requestBody"]["content"]
    assert set(posted) == {"application/json", "multipart/form-data", "application/octet-stream"}
    file = document["components"]["schemas"]["CheckpointUpload"]["properties"]["file"]
    assert (file["type"], file["format"]) == ("string", "binary")


def test_the_docs_page_needs_nothing_from_elsewhere(client):
    page = client.get("/docs")
    assert "http" not in page.text.replace("http-equiv", "")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    for path in ("/docs/assets/swagger-ui.css", "/docs/assets/swagger-ui-bundle.js"):
        asset = client.get(path)
        assert asset.status_code == 200
        asset.close()
    assert "/openapi.json" in client.get("/docs/start.js").text
    assert client.get("/docs/assets/..%2f__init__.py").status_code == 404


@pytest.fixture(scope="module")
def prodded(tmp_path_factory):
    """A service with something in it, for requests that are made up."""
    services = open_services(tmp_path_factory.mktemp("prodded"))
    app = create_app(services=services)
    client = Client(app)
    with working(services):
        client.register()
        digest = client.store(pt())["digest"]
        client.evaluate(checkpoint=digest, dataset="points")
        token = tokens.create(
            services.database, name="prod", role="admin", created_by="test", now=1.0
        )
        bearer = {"Authorization": f"Bearer {token}"}
        yield schemathesis.openapi.from_wsgi("/openapi.json", app, headers=bearer), bearer
    app.extensions["holdout.watcher"].close()
    services.close()


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize(
    "examples", [20, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_made_up_requests_never_break_the_contract(prodded, mode, examples):
    """schemathesis: no 5xx, documented statuses and media types, answers that fit their schema."""
    schema, bearer = prodded
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def prod(case):
            if case.query and "wait" in case.query:
                case.query["wait"] = "0.01"
            # What an empty list or object would make wrong does not get into a query at all.
            assume(all(value not in ([], {}) for value in (case.query or {}).values()))
            # A schema cannot say that a made-up file is no checkpoint, or a digest none of ours.
            case.call_and_validate(headers=bearer, excluded_checks=[positive_data_acceptance])

        try:
            prod()
        except Unsatisfiable:
            assert mode == GenerationMode.NEGATIVE  # nothing about it can be wrong


def test_the_document_is_one_json_object_and_the_same_each_time(client):
    text = client.get("/openapi.json").text
    assert json.loads(text)["openapi"] == "3.0.3"
    assert client.get("/openapi.json").text == text
