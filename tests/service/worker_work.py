"""Handlers for workers under test: the payload says how the job ends. See `engines.Work`."""

import os
import signal
import time

from service.jobs.engines import TaskFailed


def devices(name):
    return ["cpu"]


def open_context(options, device):
    return options


def hello(context):
    kinds = {"evaluation": False, "ingestion": False, "training": True}
    policies = {"cpu": {"device": "cpu", "threads": context.threads}}
    said = {"onnx_policies": {}, "catalog": {}, "plugins": [], "provides": {}, "kinds": kinds}
    return {"policies": policies, "environment": {"os": "any"}, **said}


def run(task, context, report):
    payload = task["payload"]
    end = payload.get("end", "succeed")
    if end == "crash" or (end == "crash once" and task["attempt"] == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "refuse":
        raise TaskFailed("bad_request", "that cannot be", pointer="/dataset")
    if end == "stumble":
        raise KeyError(payload["missing"])
    if end == "sleep":
        report({"done": 1, "total": 2, "unit": "naps"})
        time.sleep(payload["seconds"])
    if task["kind"] == "ingestion":
        return {"dataset": {"digest": payload["upload"]}}
    if task["kind"] == "evaluation":
        timings = {"prepare_s": 0.0, "load_s": 0.0, "forward_s": 0.25, "metrics_s": 0.0}
        return {"evidence": {"key": payload.get("key", "key")}, "timings": timings}
    return {"pid": os.getpid()}
