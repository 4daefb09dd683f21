"""The web application: `create_app` is the only place that wires its parts."""

from __future__ import annotations

from flask import Flask

from service.api import (
    access,
    checkpoints,
    datasets,
    evaluations,
    jobs,
    observability,
    parsing,
    replies,
    sweeps,
    system,
    trainings,
)
from service.api.blueprint import make_api
from service.jobs.watcher import Watcher
from service.operations.services import Services
from service.settings import Settings

BLUEPRINTS = (
    evaluations.blueprint,
    checkpoints.blueprint,
    datasets.blueprint,
    datasets.ingestions,
    trainings.blueprint,
    sweeps.blueprint,
    jobs.blueprint,
    system.blueprint,
)


def create_app(settings: Settings | None = None, *, services: Services | None = None) -> Flask:
    """Build one independent application.

    Args:
        settings: read from the environment if there are none.
        services: opened from the settings if there are none; a test gives its own clock in them.
    """
    services = services or Services.open(settings or Settings.from_env())
    app = Flask("service", static_folder=None)
    app.extensions["holdout"] = services
    app.json.sort_keys = False  # type: ignore[attr-defined]  # answers keep the contract's order
    app.extensions["holdout.watcher"] = Watcher(
        services.database, services.doorbell, places=services.settings.web_threads // 2
    )
    observability.register(app)
    parsing.register(app)
    access.register(app)
    api = make_api(app, version=system.VERSION)
    for blueprint in BLUEPRINTS:
        api.register_blueprint(blueprint)
    system.register(app, api)
    replies.register(app)
    return app
