"""Work for engines under test: each kind of task ends in another way. See `engines.Work`."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from checkpoints.store import LocalStore
from service.jobs import sandbox
from service.jobs.engines import TaskFailed


def devices(name):
    if name in ("auto", "cpu"):
        return ["cpu"]
    if name == "pair":
        return ["cpu", "cuda:1"]
    raise ValueError(f"device {name!r} is not here; here are: cpu")


def open_context(options, device):
    with open(options.data_dir / "starts", "a") as starts:
        starts.write("!")
    if (options.data_dir / "no-start").exists():
        os._exit(5)
    return {"threads": options.threads, "device": device}


def hello(context):
    kinds = {name: name == "long" for name in RUN}
    said = {
        "onnx_policies": {},
        "environment": {},
        "catalog": {},
        "plugins": [],
        "provides": {},
        "kinds": kinds,
    }
    return {"policies": {"cpu": context}, **said}


def run(task, context, report):
    return RUN[task["kind"]](task["payload"], context, report)


def echo(payload, context, report):
    return {"payload": payload, "pid": os.getpid(), "visible": os.environ["CUDA_VISIBLE_DEVICES"]}


def count(payload, context, report):
    for done in (1, 2, 3):
        report({"done": done, "total": 3, "unit": "examples"})
    return context


def refuse(payload, context, report):
    raise TaskFailed("bad_request", "batch_size must be smaller", pointer="/batch_size")


def stumble(payload, context, report):
    raise KeyError("secret")


def exhaust(payload, context, report):
    raise MemoryError


def fill(payload, context, report):
    raise OSError(errno.ENOSPC, "No space left on device")


def misspell(payload, context, report):
    return {"value": float("nan")}


def sleep(payload, context, report):
    report({"done": 0, "total": None, "unit": "naps"})
    time.sleep(payload["seconds"])
    return {}


def exit_(payload, context, report):
    os._exit(3)


def signal_(payload, context, report):
    os.kill(os.getpid(), signal.Signals[payload["name"]])
    return {}


def breed(payload, context, report):
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    grandchild = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    report({"done": grandchild.pid, "total": None, "unit": "pids"})
    return {"status": grandchild.wait()}


def decode(payload, context, report):
    limits = sandbox.Limits(address_space_bytes=2**32, cpu_s=60, file_bytes=2**20, wall_s=60.0)
    with LocalStore(Path(payload["folder"])).draft() as draft:
        return sandbox.run("odd_work:write_slowly", {}, [draft.fileno()], limits)


def write_slowly(request, descriptors):
    os.write(descriptors[0], b"%d\n" % os.getpid())
    time.sleep(60)
    return {}


def babble(payload, context, report):
    report({"type": "hello"})
    return {}


RUN = {
    "echo": echo,
    "long": echo,
    "count": count,
    "refuse": refuse,
    "stumble": stumble,
    "exhaust": exhaust,
    "fill": fill,
    "misspell": misspell,
    "sleep": sleep,
    "exit": exit_,
    "signal": signal_,
    "breed": breed,
    "decode": decode,
    "babble": babble,
}
