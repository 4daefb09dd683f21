"""Trainings over HTTP beside loops over tensors in memory, on whatever machine this is."""

import json
import statistics
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from models import chains, feeding, runtime
from models.catalog import ARCHITECTURES
from models.losses import functions
from models.optimization import optimizers, stopping
from models.optimization.schedules import Schedule
from models.spec import Component
from models.training import Recipe, Trainee, batch_sizes, train
from tests.benchmarks.test_service import register
from tests.e2e.conftest import ROOT

pytestmark = pytest.mark.benchmark

BARE = Path(__file__).with_name("bare_training.py")
TO_FLOAT = json.dumps([{"name": "to_float"}])
AUGMENTED = [{"name": "random_crop", "size": 32, "padding": 4}, {"name": "random_horizontal_flip"}]


@pytest.fixture(scope="module")
def service(commands):
    data_dir = commands.folder / "training"
    return commands.start_web("serve", data_dir=data_dir, children=2, threads_per_child=1)


@contextmanager
def bare(data, network, epochs):
    """A function that trains the bare loop in its process and returns the seconds."""
    command = [sys.executable, BARE, "1", data, network, str(epochs)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT) as process:

        def run(kind="tensors"):
            print(kind, file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())["seconds"]

        yield run
        process.stdin.close()


def trained(client, **spec):
    """A training that has ended, and the seconds from its claim to its end."""
    job = client.post("/v1/trainings", {"early_stopping": None, **spec}).body
    assert "links" in job, job
    while job["state"] in ("queued", "running"):
        job = client.get(f"{job['links']['self']}?wait").body
    assert job["state"] == "succeeded", job["error"]
    at = [datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at")]
    return job, (at[1] - at[0]).total_seconds()


def images(seed, count):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), np.arange(count) % 10


def test_a_small_training_takes_hardly_longer_than_its_bare_loop(service, figure, commands):
    """Digits, 64-128-10 with dropout, AdamW, plateau; state, events and validation included."""
    _, client = service
    x, y = load_digits(return_X_y=True)
    x, y = x.astype(np.float32), y.astype(np.int64)
    parts = {"digits-train": slice(1437), "digits": slice(1437, None)}
    for name, part in parts.items():
        fields = {"split": "train" if name == "digits-train" else "validation"}
        fields["transforms"] = json.dumps([{"name": "to_float", "scale": 1 / 16}])
        register(client, commands.folder, name, {"x": x[part], "y": y[part]}, **fields)
    data = commands.folder / "digits.npz"
    np.savez(data, x=x[:1437] / 16, y=y[:1437], vx=x[1437:] / 16, vy=y[1437:])
    spec = {
        "architecture": "mlp",
        "hyperparameters": {"hidden": [128], "dropout": 0.2},
        "dataset": "digits-train",
        "validation_dataset": "digits",
        "epochs": 30,
    }
    ratios, loaders = [], []
    with bare(data, "mlp", 30) as run:
        run()  # imports what optimizers import at their first step
        for seed in range(7):
            alone_s = run()
            _, taken_s = trained(client, seed=seed, **spec)
            ratios.append(taken_s / alone_s)
            loaders.append(run("loader") / alone_s)
    figure("digits, DataLoader loop", statistics.median(loaders), 1, "x bare", at_least=True)
    figure("digits, 30 epochs, the whole job", statistics.median(ratios), 1.25, "x bare loop")


def test_a_resnet18_with_augmentation_takes_hardly_longer_than_a_bare_loop_without(
    service, figure, commands
):
    _, client = service
    x, y = images(0, 2000)
    vx, vy = images(1, 64)
    for name, arrays in (("thumbs-train", (x, y)), ("thumbs", (vx, vy))):
        fields = {"split": "train" if name == "thumbs-train" else "validation"}
        named = dict(zip("xy", arrays, strict=True))
        register(client, commands.folder, name, named, transforms=TO_FLOAT, **fields)
    data = commands.folder / "thumbs.npz"
    np.savez(data, x=x.astype(np.float32) / 255, y=y, vx=vx.astype(np.float32) / 255, vy=vy)
    spec = {
        "architecture": "resnet18",
        "hyperparameters": {"stem": "cifar"},
        "dataset": "thumbs-train",
        "validation_dataset": "thumbs",
        "augmentations": AUGMENTED,
        "epochs": 1,
    }
    ratios = []
    with bare(data, "resnet18", 1) as run:
        for seed in range(3):
            alone_s = run()
            _, taken_s = trained(client, seed=seed, **spec)
            ratios.append(taken_s / alone_s)
    figure("resnet18, 2,000 images, bare loop", alone_s, 1, "s", at_least=True)
    figure("resnet18, flip and crop", statistics.median(ratios), 1.05, "x bare loop")


def test_what_does_not_fit_is_there_before_it_is_needed(commands, figure):
    settings = {"children": 2, "threads_per_child": 1, "resident_bytes": 0}
    _, client = commands.start_web("serve", data_dir=commands.folder / "streamed", **settings)
    for name, seed, count in (("many-train", 0, 20_000), ("many", 1, 500)):
        x, y = images(seed, count)
        fields = {"split": "train" if seed == 0 else "validation", "transforms": TO_FLOAT}
        register(client, commands.folder, name, {"x": x, "y": y}, **fields)
    job, _ = trained(
        client,
        architecture="convnet",
        hyperparameters={"widths": [16, 32]},
        dataset="many-train",
        validation_dataset="many",
        epochs=2,
    )
    timings = job["result"]["timings"]
    share = 100 * timings["waited_s"] / (timings["total_s"] - timings["validation_s"])
    figure("waiting for data that is read as it goes", share, 5, "% of training")


def test_an_epoch_is_heard_of_at_once(service, figure, commands):
    """From its row in the database to a client; what comes before is the storing of its state."""
    _, client = service
    random = np.random.default_rng(0)
    for name, count in (("points-train", 20_000), ("points", 200)):
        x = random.normal(size=(count, 64)).astype(np.float32)
        fields = {"split": "train" if count > 1000 else "validation"}
        register(client, commands.folder, name, {"x": x, "y": np.arange(count) % 10}, **fields)
    body = {
        "architecture": "mlp",
        "dataset": "points-train",
        "validation_dataset": "points",
        "epochs": 20,
        "early_stopping": None,
    }
    job = client.post("/v1/trainings", body).body
    late_ms = []
    with urllib.request.urlopen(f"{client.url}{job['links']['events']}", timeout=120) as stream:
        kind = None
        for line in stream:
            name, _, text = line.decode().rstrip("\n").partition(": ")
            kind = text if name == "event" else kind
            if name == "data" and kind == "epoch":
                at = datetime.fromisoformat(json.loads(text)["at"])
                late_ms.append(1000 * (time.time() - at.timestamp()))
    assert len(late_ms) == 20
    figure("an epoch's event, the slowest of 20", max(late_ms), 100, "ms")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
def test_a_card_is_kept_busy(figure):
    """resnet18 on 50,000 images, bfloat16, channels last, flip and crop, beside a bare loop."""
    device = "cuda:0"
    runtime.configure(device, 4)
    x, y = images(0, 50_000)
    entry = ARCHITECTURES["resnet18"]

    def built():
        torch.manual_seed(0)
        model = entry.load()(entry.parameters(stem="cifar"), (3, 32, 32), 10).to(device)
        return model.to(memory_format=torch.channels_last)

    def ours(epochs):
        model = built()
        optimizer = optimizers.build(Component(name="AdamW"), model)
        steps = len(batch_sizes(len(x), 512))
        trainee = Trainee(
            model=model,
            optimizer=optimizer,
            schedule=Schedule(
                optimizer,
                None,
                lower_is_better=True,
                warmup_epochs=0,
                epochs=epochs,
                steps_per_epoch=steps,
            ),
            best=stopping.Best("loss"),
            stopping=stopping.EarlyStopping(None, "loss"),
        )
        recipe = Recipe(
            epochs=epochs,
            batch_size=512,
            seed=0,
            loss=functions.build(
                Component(name="cross_entropy"),
                task="multiclass",
                classes=[str(index) for index in range(10)],
                counts=[5000] * 10,
                device=device,
            ),
            augmentations=chains.augmentations(
                [Component.from_json(one) for one in AUGMENTED], pointer=""
            ),
            precision="bfloat16",
        )
        source = feeding.open_source(
            x,
            y,
            chains.transforms([Component(name="to_float")], pointer=""),
            device=device,
            most_bytes=2**33,
            augmented=True,
        )
        names = ("loss", "accuracy", "precision", "recall", "f1")
        metrics = dict.fromkeys(names, 0.0)
        rows = train(
            trainee, source, len(x), recipe, judge=lambda _: (metrics, None), device=device
        )
        torch.cuda.synchronize()
        return [row.duration_s for row in rows]

    def bare_loop(epochs):
        model = built()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
        inputs = torch.from_numpy(x).to(device).float() / 255
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        targets = torch.from_numpy(y).to(device)
        taken = []
        for _ in range(epochs):
            began = time.perf_counter()
            model.train()
            for indices in torch.randperm(len(x), device=device).split(512):
                with torch.autocast("cuda", torch.bfloat16):
                    logits = model(inputs[indices])
                loss = torch.nn.functional.cross_entropy(logits.float(), targets[indices])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            torch.cuda.synchronize()
            taken.append(time.perf_counter() - began)
        return taken

    alone_s, with_all_s = bare_loop(4)[-1], ours(4)[-1]
    figure("resnet18, bfloat16, bare loop", len(x) / alone_s, 1, "images/s", at_least=True)
    figure("resnet18, bfloat16, flip and crop", len(x) / with_all_s, 1, "images/s", at_least=True)
    figure("resnet18, bfloat16, flip and crop", with_all_s / alone_s, 1.3, "x bare loop")
    began = time.perf_counter()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        ours(1)
    wall_us = 1e6 * (time.perf_counter() - began)
    busy_us = sum(event.self_device_time_total for event in profile.key_averages())
    figure("the card idles", 100 * (1 - busy_us / wall_us), 50, "% of the time")
