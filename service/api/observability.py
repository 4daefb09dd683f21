"""One log line a request, a request id, and Prometheus metrics."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator

import structlog
from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.operations import statistics
from service.operations.services import Services

log = structlog.get_logger("holdout.web")

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
QUIET = ("/healthz", "/readyz", "/metrics")


class JobsCollector(Collector):
    """Jobs, as the database counts them at the moment of the scrape."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def describe(self) -> list[Metric]:
        """Nothing: a description must not need the database at the start."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The present counts."""
        found = statistics.of_jobs(self._services)
        ended = CounterMetricFamily(
            "holdout_jobs_ended", "Jobs that ended.", labels=("kind", "state")
        )
        seconds = CounterMetricFamily(
            "holdout_job_seconds", "Seconds from start to end of ended jobs.", labels=("kind",)
        )
        forward = CounterMetricFamily(
            "holdout_forward_seconds", "Seconds spent in forward passes.", labels=("kind",)
        )
        by_kind: dict[str, tuple[float, float]] = {}
        for total in found.totals:
            ended.add_metric([total.kind, total.state], total.count)
            before = by_kind.get(total.kind, (0.0, 0.0))
            by_kind[total.kind] = (before[0] + total.seconds, before[1] + total.forward_s)
        for kind, (all_s, forward_s) in by_kind.items():
            seconds.add_metric([kind], all_s)
            forward.add_metric([kind], forward_s)
        present = GaugeMetricFamily(
            "holdout_jobs", "Jobs that have not ended.", labels=("kind", "state")
        )
        for (kind, state), count in found.present.items():
            present.add_metric([kind, state], count)
        age = GaugeMetricFamily(
            "holdout_queue_age_seconds", "How long the oldest queued job has waited."
        )
        age.add_metric([], found.queue_age_s)
        alive = GaugeMetricFamily("holdout_workers", "Workers that are alive.")
        alive.add_metric([], found.workers)
        yield from (ended, seconds, forward, present, age, alive)


class Metrics:
    """What this process counts, and what the database does."""

    def __init__(self, services: Services) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "holdout_requests",
            "Requests.",
            ("method", "endpoint", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "holdout_request_seconds",
            "Seconds from a request to its answer, waits included.",
            ("method", "endpoint"),
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "holdout_requests_in_flight", "Requests being handled.", registry=self.registry
        )
        self.registry.register(JobsCollector(services))

    def page(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


def register(app: Flask) -> None:
    """Log and count every request of this application."""
    metrics = Metrics(app.extensions["holdout"])
    app.extensions["holdout.metrics"] = metrics

    def begin() -> None:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if SANE_ID.fullmatch(given) else uuid.uuid4().hex
        g.began = time.perf_counter()
        metrics.in_flight.inc()
        g.counted = True

    def end(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id", "")
        taken_s = time.perf_counter() - g.get("began", time.perf_counter())
        endpoint = request.endpoint or "unknown"
        # Whatever word a client sends as its method, the series stay few.
        method = request.method if request.method in METHODS else "other"
        metrics.requests.labels(method, endpoint, response.status_code).inc()
        metrics.seconds.labels(method, endpoint).observe(taken_s)
        if request.path not in QUIET:
            log.info(
                "request",
                id=g.get("request_id"),
                method=request.method,
                path=request.path,
                status=response.status_code,
                duration_s=round(taken_s, 6),
                caller=g.caller.name if "caller" in g else None,
            )
        return response

    def finish(_error: BaseException | None) -> None:
        if g.pop("counted", False):
            metrics.in_flight.dec()

    app.before_request(begin)
    app.after_request(end)
    app.teardown_request(finish)
