"""A running service, measured from outside, on whatever machine this is."""

import http.client
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from models.catalog import ARCHITECTURES
from tests.e2e.conftest import ROOT

pytestmark = pytest.mark.benchmark

TRANSFORMS = json.dumps([{"name": "to_float", "scale": 1 / 16}])
ROUNDS, WARM_UP = 100, 10
CLIENTS, LOAD_S = 8, 30.0
BARE = Path(__file__).with_name("bare.py")


def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[1437:]
    return x[order].astype(np.uint8), y[order].astype(np.int64)


def weights(seed):
    random = torch.Generator().manual_seed(seed)  # its own: several clients make weights at once
    return {
        "layers.0.weight": torch.randn(128, 64, generator=random) / 8,
        "layers.0.bias": torch.randn(128, generator=random) / 8,
        "layers.1.weight": torch.randn(10, 128, generator=random) / 11,
        "layers.1.bias": torch.randn(10, generator=random) / 11,
    }


def as_safetensors(seed):
    return save_safetensors(weights(seed))


def as_pt(seed):
    buffer = io.BytesIO()
    torch.save(weights(seed), buffer)
    return buffer.getvalue()


class Form:
    """One connection that is kept, sending the multipart request that CI sends."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def evaluate(
        self,
        content,
        dataset="digits",
        architecture="mlp",
        path="/v1/evaluations?wait",
        batch_size=256,
    ):
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Disposition: form-data; name="
        body = b"".join(
            [
                f'{head}"architecture"\r\n\r\n{architecture}\r\n'.encode(),
                f'{head}"dataset"\r\n\r\n{dataset}\r\n'.encode(),
                f'{head}"batch_size"\r\n\r\n{batch_size}\r\n'.encode(),
                f'{head}"checkpoint"; filename="a"\r\n\r\n'.encode(),
                content,
                f"\r\n--{boundary}--\r\n".encode(),
            ]
        )
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        self.connection.request("POST", path, body, headers)
        answer = self.connection.getresponse()
        job = json.loads(answer.read())
        while answer.status == 202 and "wait" in path:  # longer than the service holds an answer
            self.connection.request("GET", f"{job['links']['self']}?wait")
            answer = self.connection.getresponse()
            job = json.loads(answer.read())
            if job["state"] in ("queued", "running"):
                answer.status = 202
        assert answer.status in (200, 202), job
        return job

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()


def register(client, folder, name, arrays, **fields):
    path = folder / f"{name}.npz"
    np.savez(path, **arrays)
    answer = client.upload("/v1/datasets?wait", {"file": path}, name=name, **fields)
    path.unlink()
    assert answer.body["state"] == "succeeded", answer.text


@pytest.fixture(scope="module")
def service(commands):
    """One warm worker with digits; the first is how long it took to be ready."""
    began = time.monotonic()
    running, client = commands.start_web("serve", data_dir=commands.folder / "bench", children=2)
    ready_s = time.monotonic() - began
    x, y = digits()
    fields = {"split": "validation", "transforms": TRANSFORMS}
    register(client, commands.folder, "digits", {"x": x, "y": y}, **fields)
    running.port = int(client.url.rsplit(":", 1)[1])
    running.ready_s = ready_s
    return running, client


def processes_below(pid):
    """Pids of a process and of all its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += parents.get(one, [])
    return found


def memory_bytes(pid, name):
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)


def is_web(pid):
    return (
        b"holdout web" in Path(f"/proc/{pid}/cmdline").read_bytes()
        or b"\0web" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


def test_a_service_is_ready_soon_small_and_quiet(service, figure):
    running, _client = service
    figure("serve to /readyz", running.ready_s, 6.0, "s")
    with Form(running.port) as form:
        form.evaluate(as_pt(1))
    web = [pid for pid in processes_below(running.pid) if is_web(pid)]
    resident = max(memory_bytes(pid, "VmRSS:") for pid in web)
    figure("web process, resident", resident / 1e6, 90.0, "MB")
    everyone = processes_below(running.pid)
    before, began = sum(map(cpu_s, everyone)), time.monotonic()
    time.sleep(10)
    share = (sum(map(cpu_s, everyone)) - before) / (time.monotonic() - began)
    figure("idle service, of one core", 100 * share, 2.0, "%")


def cpu_s(pid):
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("kind", "make", "median_ms"), [("safetensors", as_safetensors, 40.0), (".pt", as_pt, 100.0)]
)
def test_one_request_has_its_metrics_soon(service, figure, kind, make, median_ms):
    running, _ = service
    contents = [make(1000 * len(kind) + seed) for seed in range(ROUNDS + WARM_UP)]
    taken, own = [], []
    with Form(running.port) as form:
        for content in contents:
            began = time.perf_counter()
            job = form.evaluate(content)
            taken.append(1000 * (time.perf_counter() - began))
            assert not job["cached"]
            timings = job["result"]["timings"]
            own.append(1000 * (timings["total_s"] - timings["queued_s"] - timings["forward_s"]))
    taken, own = taken[WARM_UP:], own[WARM_UP:]
    figure(f"{kind}, new each time, median", statistics.median(taken), median_ms, "ms")
    figure(f"{kind}, 95th percentile", statistics.quantiles(taken, n=20)[-1], 100.0, "ms")
    figure(f"{kind}, the job's own time, median", statistics.median(own), 15.0, "ms")


def test_eight_clients_at_once_lose_nothing_and_get_nothing_wrong(service, figure):
    running, _ = service
    x, y = digits()
    inputs = torch.from_numpy(x).float() / 16
    finished, wrong = [], []
    stop_at = time.monotonic() + LOAD_S

    def work(number):
        seed = 100_000 * (number + 1)
        with Form(running.port) as form:
            while time.monotonic() < stop_at:
                seed += 1
                job = form.evaluate(as_safetensors(seed))
                finished.append((seed, job["result"]["metrics"]["accuracy"]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(finished) / (time.monotonic() - began)
    for seed, accuracy in finished:
        w = weights(seed)
        hidden = torch.relu(inputs @ w["layers.0.weight"].T + w["layers.0.bias"])
        logits = hidden @ w["layers.1.weight"].T + w["layers.1.bias"]
        if abs((logits.argmax(1).numpy() == y).mean() - accuracy) > 1e-9:
            wrong.append(seed)
    assert wrong == []
    figure("8 clients for 30 s", rate, 30.0, "evaluations/s", at_least=True)


def test_a_long_forward_pass_is_nearly_all_of_its_job(service, figure, commands):
    running, client = service
    random = np.random.default_rng(0)
    x = random.integers(0, 256, size=(4000, 3, 32, 32), dtype=np.uint8)
    y = random.integers(0, 10, size=4000)
    fields = {"split": "validation", "transforms": '[{"name": "to_float"}]'}
    register(client, commands.folder, "pictures", {"x": x, "y": y}, **fields)
    widths = [3, 64, 128, 256]
    torch.manual_seed(0)
    state = {}
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        state[f"convs.{index}.weight"] = torch.randn(after, before, 3, 3) / 30
        norm = torch.nn.BatchNorm2d(after).state_dict()
        state |= {f"norms.{index}.{name}": value for name, value in norm.items()}
    state["head.weight"], state["head.bias"] = torch.randn(10, widths[-1]), torch.zeros(10)
    shares = []
    with Form(running.port) as form:
        for seed in range(3):
            state["head.bias"] = torch.full((10,), float(seed))
            job = form.evaluate(save_safetensors(state), "pictures", "convnet")
            timings = job["result"]["timings"]
            own_s = timings["total_s"] - timings["queued_s"] - timings["forward_s"]
            shares.append(100 * own_s / timings["forward_s"])
    figure("4,000 images through convnet, forward", timings["forward_s"], 1.0, "s", at_least=True)
    figure("the job's own time, of the forward pass", statistics.median(shares), 5.0, "%")


def test_a_resnet18_takes_hardly_longer_than_its_bare_forward_pass(service, figure, commands):
    """With the stem for images so small; each request uploads its weights, 45 MB."""
    running, client = service
    random = np.random.default_rng(1)
    x = random.integers(0, 256, size=(4000, 3, 32, 32), dtype=np.uint8)
    y = np.arange(4000) % 10
    fields = {"split": "validation", "transforms": '[{"name": "to_float"}]'}
    register(client, commands.folder, "thumbnails", {"x": x, "y": y}, **fields)
    images, weights = commands.folder / "thumbnails.npz", commands.folder / "resnet18.safetensors"
    np.savez(images, x=x)
    torch.manual_seed(0)
    entry = ARCHITECTURES["resnet18"]
    state = entry.load()(entry.parameters(stem="cifar"), (3, 32, 32), 10).state_dict()
    save_file(state, weights)

    def request():
        state["fc.bias"] += 0.001  # of all classes: other bytes, the same predictions
        content = save_safetensors(state)
        began = time.perf_counter()
        with Form(running.port) as form:  # the service has closed the one before, idle for long
            job = form.evaluate(content, "thumbnails", "resnet18", batch_size=128)
        taken_s = time.perf_counter() - began
        assert not job["cached"]
        return taken_s, job["result"]

    _, result = request()
    threads = str(result["evidence"]["environment"]["threads"])
    command = [sys.executable, BARE, threads, weights, images, "128"]
    ratios, passes = [], []
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT) as bare:
        for _ in range(3):  # in turns, so that whatever else the machine does slows both
            print(file=bare.stdin, flush=True)
            alone = json.loads(bare.stdout.readline())
            taken_s, result = request()
            predicted = np.sum(result["confusion_matrix"], axis=0).tolist()
            assert predicted == alone["predicted"]
            passes.append(alone["seconds"])
            ratios.append(taken_s / alone["seconds"])
        bare.stdin.close()
    figure("resnet18, 4,000 images, bare forward", statistics.median(passes), 1, "s", at_least=True)
    figure("resnet18, the whole request", statistics.median(ratios), 1.05, "times the bare forward")


def test_memory_does_not_grow_with_the_dataset(service, figure, commands):
    running, client = service
    peaks = {}
    for name, examples in (("small", 2_000), ("large", 200_000)):
        x = np.zeros((examples, 2500), dtype=np.float32)
        x[:, 0] = np.arange(examples) % 10
        fields = {"split": "validation"}
        register(client, commands.folder, name, {"x": x, "y": np.arange(examples) % 10}, **fields)
        torch.manual_seed(0)
        layer = torch.nn.Linear(2500, 10)
        state = {"layers.0.weight": layer.weight.detach(), "layers.0.bias": layer.bias.detach()}
        peak, done = {}, threading.Event()

        def watch(peak=peak, done=done):
            while not done.is_set():
                for pid in processes_below(running.pid):
                    peak[pid] = max(peak.get(pid, 0), memory_bytes(pid, "RssAnon:"))
                time.sleep(0.01)

        thread = threading.Thread(target=watch)
        thread.start()
        with Form(running.port) as form:
            form.evaluate(save_safetensors(state), name)
        done.set()
        thread.join()
        peaks[name] = max(peak.values())
    size = 200_000 * 2500 * 4
    logits = 200_000 * 10 * 4
    grown = peaks["large"] - peaks["small"]
    # 100 times the data; beside the logits a few numbers an example are kept while scoring.
    figure(
        f"anonymous memory beyond that of 1/100 of {size / 1e9:.0f} GB",
        grown / 1e6,
        (logits * 10) / 1e6,
        "MB",
    )
