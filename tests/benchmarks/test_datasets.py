"""What it costs to make a dataset and to use it, beside peers in the same run on the same cores."""

import hashlib
import io
import json
import os
import threading
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import csv as arrow_csv
from safetensors.torch import save as save_safetensors

from checkpoints.store import LocalStore
from models.architectures.convnet import ConvNet
from models.datasets import Dataset, decoded
from models.layouts.convnet import ConvNetParameters
from models.tensorfile import Placer
from service.jobs import handlers, ingestion
from service.settings import Settings
from service.work import child_options
from tests.benchmarks.test_service import Form, memory_bytes, processes_below, register

pytestmark = pytest.mark.benchmark

IMAGES, ROWS, COLUMNS = 40_000, 200_000, 50
CORES = len(os.sched_getaffinity(0))


def png(index):
    random = np.random.default_rng(index)
    pixels = random.integers(0, 60, (32, 32, 3)) + 4 * np.arange(32)[:, None, None]
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def decode(pictures):
    """What a loop without any of our care does."""
    for content in pictures:
        np.asarray(Image.open(io.BytesIO(content)))
    return len(pictures)


@pytest.fixture(scope="module")
def pictures():
    return [png(index) for index in range(IMAGES)]


@pytest.fixture(scope="module")
def archive(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("archives") / "pictures.zip"
    with zipfile.ZipFile(path, "w") as file:
        for index, content in enumerate(pictures):
            file.writestr(f"class-{index % 10}/{index:05}.png", content)
    return path


class Ingester:
    """Runs ingestions as a child of a worker does, durable write and digest included."""

    def __init__(self, folder):
        self.options = child_options(Settings(data_dir=folder))
        self.store = LocalStore(folder)

    def seconds(self, path, **spec):
        with self.store.draft() as draft:
            draft.write(path.read_bytes())
            upload = draft.keep()
        spec = {"name": "d", "split": "validation", "transforms": [], **spec}
        began = time.perf_counter()
        (made,) = ingestion.run({"upload": upload, "spec": spec}, self.options, self.store)[
            "datasets"
        ]
        taken_s = time.perf_counter() - began
        self.store.drop_upload(upload)
        self.store.delete(made["digest"])
        return taken_s, made


@pytest.fixture(scope="module")
def ingester(tmp_path_factory):
    return Ingester(tmp_path_factory.mktemp("ingested"))


def best(measure, rounds=3):
    """The least of several, which other work on the machine disturbed least."""
    return min(measure() for _ in range(rounds))


def timed(function, *arguments):
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def test_images_are_ingested_about_as_fast_as_pillow_decodes_them(
    ingester, archive, pictures, tmp_path, figure
):
    few = tmp_path / "few.zip"
    with zipfile.ZipFile(few, "w") as file:
        for index in range(2):
            file.writestr(f"class-{index}/0.png", pictures[index])
    start_s = best(lambda: ingester.seconds(few)[0])
    ours_s = best(lambda: ingester.seconds(archive)[0]) - start_s
    alone_s = best(lambda: timed(decode, pictures))
    with ProcessPoolExecutor(CORES) as pool:
        shares = [pictures[index::CORES] for index in range(CORES)]
        list(pool.map(decode, [share[:10] for share in shares]))  # the processes are there now
        together_s = best(lambda: timed(lambda: list(pool.map(decode, shares))))
    figure("40,000 PNGs in a zip, beside one process of Pillow", ours_s / alone_s, 1.3, "times")
    print(f"  beside {CORES} processes of Pillow, which send the images: {ours_s / together_s:.2f}")


def test_a_table_is_ingested_in_few_times_what_pyarrow_reads_it(ingester, tmp_path, figure):
    random = np.random.default_rng(0)
    path = tmp_path / "table.csv"
    values = random.normal(size=(ROWS, COLUMNS - 1)).astype(np.float32)
    head = ",".join([*(f"f{index}" for index in range(COLUMNS - 1)), "label"])
    with open(path, "w") as file:
        file.write(head + "\n")
        for row, label in zip(values.tolist(), random.integers(0, 3, ROWS).tolist(), strict=True):
            file.write(",".join(f"{value:.7g}" for value in row) + f",{label}\n")
    few = tmp_path / "few.csv"
    few.write_text("\n".join(path.read_text().split("\n", 5)[:5]) + "\n")
    spec = {"classes": ["0", "1", "2"]}
    start_s = best(lambda: ingester.seconds(few, **spec)[0])
    ours_s = best(lambda: ingester.seconds(path, **spec)[0]) - start_s
    theirs_s = best(lambda: timed(arrow_csv.read_csv, path))
    figure("200,000 x 50 CSV, beside pyarrow's read_csv", ours_s / theirs_s, 4.0, "times")


def convnet(seed):
    torch.manual_seed(seed)
    return save_safetensors(ConvNet(ConvNetParameters(), (3, 32, 32), 10).state_dict())


@pytest.fixture(scope="module")
def service(commands):
    running, client = commands.start_web("serve", data_dir=commands.folder / "sets", children=2)
    running.port = int(client.url.rsplit(":", 1)[1])
    return running, client


def test_a_prepared_dataset_costs_next_to_nothing_beside_the_forward_pass(service, archive, figure):
    running, client = service
    transforms = '[{"name": "resize", "size": [32, 32]}, {"name": "to_float"}]'
    fields = {"name": "pictures", "split": "validation", "transforms": transforms}
    answer = client.upload("/v1/datasets?wait", {"file": archive}, **fields)
    assert answer.body["state"] == "succeeded", answer.text
    with Form(running.port) as form:
        first = form.evaluate(convnet(0), "pictures", "convnet")["result"]["timings"]
        timings = form.evaluate(convnet(1), "pictures", "convnet")["result"]["timings"]
    assert first["prepare_s"] > timings["prepare_s"]
    own_s = timings["total_s"] - timings["queued_s"] - timings["forward_s"]
    share = 100 * own_s / timings["forward_s"]
    figure("40,000 images through convnet, forward", timings["forward_s"], 1.0, "s", at_least=True)
    figure("everything else of the second evaluation, of it", share, 3.0, "%")


def test_a_child_that_just_started_maps_what_was_prepared(archive, tmp_path, figure):
    options = child_options(Settings(data_dir=tmp_path))
    context = handlers.open_context(options, "cpu")
    (made,) = Ingester(tmp_path).seconds(archive)[1:]
    with context.store.draft() as draft:
        draft.write(archive.read_bytes())
        upload = draft.keep()
    spec = {"name": "d", "split": "validation", "transforms": []}
    ingestion.run({"upload": upload, "spec": spec}, options, context.store)
    chain = [
        {"name": "resize", "size": [24, 24], "interpolation": "bilinear", "antialias": True},
        {"name": "to_float", "scale": None},
    ]
    fetch = (made["digest"], chain, lambda _: None)
    built_s = timed(context.materials.examples, *fetch)
    other = handlers.open_context(options, "cpu")
    other.materials.dataset(made["digest"])
    read = io_bytes()
    mapped_s = timed(other.materials.examples, *fetch)
    figure("prepared data in a new child, of building it", 100 * mapped_s / built_s, 1.0, "%")
    figure("bytes read for it", io_bytes() - read, 100_000, "bytes")


def io_bytes():
    """What this process read through system calls so far."""
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])


def test_twenty_gigabytes_are_evaluated_in_little_memory(service, figure, commands):
    running, client = service
    examples, width = 1_000_000, 20_000
    random = np.random.default_rng(0)
    small = {"x": random.integers(0, 9, (10, width)).astype(np.uint8), "y": np.arange(10) % 2}
    fields = {"split": "validation", "transforms": '[{"name": "to_float"}]'}
    register(client, commands.folder, "wide", small, **fields)
    digest = client.get("/v1/datasets/wide").body["digest"]
    path = commands.folder / "sets" / "blobs" / digest[:2] / digest
    planned = decoded.plan(
        x=("U8", (examples, width)), y=(examples,), classes=["0", "1"], groups={}
    )
    large = commands.folder / "sets" / "large"
    with open(large, "w+b") as file:
        Placer(file.fileno(), planned)
        file.truncate(planned.size_bytes)  # zeros that take no space
        file.seek(0)
        made = hashlib.file_digest(file, "sha256").hexdigest()
    assert len(Dataset(large)) == examples
    folder = path.parent.parent / made[:2]
    large.rename(folder / made)
    move_dataset(commands.folder / "sets" / "holdout.db", digest, made, examples)
    torch.manual_seed(0)
    layer = torch.nn.Linear(width, 2)
    state = {"layers.0.weight": layer.weight.detach(), "layers.0.bias": layer.bias.detach()}
    peak, done = {}, threading.Event()

    def watch():
        while not done.is_set():
            for pid in processes_below(running.pid):
                peak[pid] = max(peak.get(pid, 0), memory_bytes(pid, "RssAnon:"))
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    with Form(running.port) as form:
        form.connection.timeout = 900
        job = form.evaluate(save_safetensors(state), "wide", path="/v1/evaluations")
        while job["state"] not in ("succeeded", "failed"):
            job = client.get(f"/v1/evaluations/{job['id']}?wait").body
    done.set()
    thread.join()
    assert job["state"] == "succeeded", job["error"]
    logits = examples * 2 * 4
    most = (max(peak.values()) - logits) / 1e6
    figure(f"anonymous memory for {examples * width / 1e9:.0f} GB", most, 1000.0, "MB")


def move_dataset(database, before, after, examples):
    """Let a registered dataset be another file: no upload of 20 GB is needed to evaluate it."""
    import sqlite3

    with sqlite3.connect(database) as db:
        (details,) = db.execute(
            "SELECT details FROM datasets WHERE digest = ?", [before]
        ).fetchone()
        changed = json.dumps({**json.loads(details), "examples": examples})
        db.execute(
            "UPDATE datasets SET digest = ?, details = ? WHERE digest = ?", [after, changed, before]
        )
