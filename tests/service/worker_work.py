"""Handlers for workers under test: the payload says how the job ends. See `engines.Work`."""

import os
import signal
import time

from checkpoints.store import LocalStore
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
    later = end == "crash later" and payload["saved"]
    if end == "crash" or later or (end == "crash once" and task["attempt"] == 1):
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
    return train(payload, LocalStore(context.data_dir), report)


def train(payload, store, report):
    """Store and report epochs as `service.jobs.trainings` does; crash after some, once each."""

    def kept(content, **about):
        with store.draft() as draft:
            draft.write(f"{content} of {payload['name']}".encode())
            about |= {"digest": draft.sha256, "size_bytes": draft.size_bytes}
            return {**about, "file": draft.keep()}

    saved = payload["saved"]
    for epoch in range(saved["epoch"] + 1 if saved else 1, payload["epochs"] + 1):
        last = kept(f"epoch {epoch}", epoch=epoch, value=1 / epoch)
        improved = epoch <= payload.get("best", 10**6)
        saved = {
            "epoch": epoch,
            "state": kept(f"state {epoch}"),
            "last": last,
            "best": last if improved else saved["best"],
            "manifest": {"architecture": "mlp"},
            "details": {"parameters": 1},
            "adjustments": [],
            "environment": {"os": "any"},
            "warnings": [],
            "timings": {},
        }
        report({"type": "epoch", "row": {"epoch": epoch, "loss": 1 / epoch}, "saved": saved})
        if epoch in payload.get("crash_after", ()):
            os.kill(os.getpid(), signal.SIGKILL)
        if epoch == payload.get("diverge_after"):
            raise TaskFailed("diverged", "the loss was not finite", pointer="/optimizer/lr")
        time.sleep(payload.get("pause_s", 0.0))
    return {"stopped": {"reason": "completed", "epoch": saved["epoch"]}}
