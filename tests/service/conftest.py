"""A whole service in this process: the web application, and a worker that runs jobs inline."""

import io
import itertools
import threading
import time
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch

from service.app import create_app
from service.db.identity import make_identity
from service.db.migrations import upgrade
from service.jobs.engines.inline import InlineEngine
from service.jobs.worker import Worker, WorkerOptions
from service.operations import datasets, tokens, workers
from service.operations.services import Services
from service.settings import Settings
from service.work import child_options

FEATURES, HIDDEN, CLASSES = 6, 5, 3


def npz(*, seed=0, examples=40, classes=CLASSES, features=FEATURES, **more):
    """The bytes of a dataset; labels follow the first features, so that a network can be right."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(examples, features)).astype(np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, x=x, y=np.argmax(x[:, :classes], axis=1), **more)
    return buffer.getvalue()


def state_dict(*, seed=0, hidden=(HIDDEN,), features=FEATURES, outputs=CLASSES):
    """Random weights of an mlp."""
    random = torch.Generator().manual_seed(seed)
    widths = [features, *hidden, outputs]
    found = {}
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        found[f"layers.{index}.weight"] = torch.randn(after, before, generator=random)
        found[f"layers.{index}.bias"] = torch.randn(after, generator=random)
    return found


def pt(**options):
    """The bytes of a checkpoint file as torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(state_dict(**options), buffer)
    return buffer.getvalue()


def open_services(folder, **settings):
    """Services on a new SQLite database."""
    services = Services.open(Settings(data_dir=folder, max_wait_s=20.0, **settings))
    upgrade(services.database)
    make_identity(services.database, folder)
    return services


@contextmanager
def working(services, *, conclude=datasets.conclude):
    """A worker beside, until the block ends."""
    worker = Worker(
        database=services.database,
        store=services.store,
        doorbell=services.doorbell,
        engine=InlineEngine(child_options(services.settings)),
        options=WorkerOptions(),
        conclude=partial(conclude, services.store),
    )
    thread = threading.Thread(target=worker.run)
    thread.start()
    while thread.is_alive() and workers.readiness(services)["worker"] != "ok":
        time.sleep(0.01)
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(30)


class Client:
    """Speaks the contract to an application in this process."""

    def __init__(self, app):
        self.app = app
        self.http = app.test_client()

    def get(self, path, **options):
        return self.http.get(path, **options)

    def upload(self, path, *, part="file", content=b"", headers=None, **fields):
        """POST a multipart form with one file."""
        form = {**fields, part: (io.BytesIO(content), "upload.bin")}
        return self.http.post(path, data=form, content_type="multipart/form-data", headers=headers)

    def register(self, name="points", *, content=None, split="validation", **fields):
        """Register a dataset and wait for it."""
        answer = self.upload(
            "/v1/datasets?wait", content=content or npz(), name=name, split=split, **fields
        )
        assert answer.status_code == 200, answer.text
        assert answer.json["state"] == "succeeded", answer.json["error"]
        return answer.json["result"]["datasets"][0]

    def store(self, content=None, **fields):
        """Upload a checkpoint."""
        answer = self.upload(
            "/v1/checkpoints", content=content or pt(), **{"architecture": "mlp", **fields}
        )
        assert answer.status_code in (200, 201), answer.text
        return answer.json

    def evaluate(self, *, wait="?wait", headers=None, **request):
        """POST an evaluation as JSON."""
        return self.http.post(f"/v1/evaluations{wait}", json=request, headers=headers)


def assert_problem(answer, status, *parts, pointer=None):
    """One helper checks the shape of every error."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.content_type == "application/problem+json"
    problem = answer.json
    assert problem["status"] == status
    assert problem["type"].startswith("/problems/")
    assert problem["title"]
    for part in parts:
        assert part in problem["detail"], problem["detail"]
    if pointer is not None:
        assert pointer in [one["pointer"] for one in problem["errors"]], problem
    assert "Traceback" not in answer.text
    return problem


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    services = open_services(tmp_path_factory.mktemp("data"))
    with working(services):
        yield services
    services.close()


@pytest.fixture(scope="module")
def app(services):
    app = create_app(services=services)
    yield app
    app.extensions["holdout.watcher"].close()


@pytest.fixture(scope="module")
def client(app):
    return Client(app)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A service with tokens: one client a role, each with its own application."""
    services = open_services(tmp_path_factory.mktemp("guarded"))
    app = create_app(services=services)

    class As(Client):
        def __init__(self, role):
            super().__init__(app)
            token = tokens.create(
                services.database, name=role, role=role, created_by="test", now=1.0
            )
            self.http.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"

    with working(services):
        yield {role: As(role) for role in ("viewer", "evaluator", "trainer", "admin")}
    app.extensions["holdout.watcher"].close()
    services.close()
