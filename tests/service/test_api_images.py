"""Images over HTTP: archives of class folders, preparation once for all, and what is refused."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from models.architectures.convnet import ConvNet
from models.layouts.convnet import ConvNetParameters
from tests.service.conftest import assert_problem

RANDOM = np.random.default_rng(9)
CHAIN = [{"name": "resize", "size": [12, 10]}, {"name": "to_float"}]


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pictures(count=12, *, sizes=((16, 20), (24, 8))):
    """Names in folders of two classes, and pixels (H, W, 3)."""
    found = {}
    for index in range(count):
        height, width = sizes[index % len(sizes)]
        pixels = RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)
        found[f"{('cat', 'dog')[index % 2]}/{index:02}.png"] = pixels
    return found


def zipped(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files, mode="w:gz"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"wrapper/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture(scope="module")
def drawn():
    return pictures()


@pytest.fixture(scope="module")
def pets(client, drawn):
    files = {name: png(pixels) for name, pixels in drawn.items()}
    client.register("pets", content=zipped(files), transforms=json.dumps(CHAIN))
    return client.get("/v1/datasets/pets").json


def checkpoint(seed):
    torch.manual_seed(seed)
    network = ConvNet(ConvNetParameters(widths=(4, 6)), (3, 12, 10), 2)
    stream = io.BytesIO()
    torch.save(network.state_dict(), stream)
    return stream.getvalue(), network.eval()


def evaluate(client, content, dataset="pets", **fields):
    return client.upload(
        "/v1/evaluations?wait",
        part="checkpoint",
        content=content,
        architecture="convnet",
        dataset=dataset,
        **fields,
    ).json


def test_an_archive_of_class_folders_becomes_a_dataset(pets):
    assert (pets["format"], pets["examples"], pets["classes"]) == ("images", 12, ["cat", "dog"])
    assert pets["input"] == {"kind": "image", "shape": [3, None, None], "dtype": "uint8"}


def test_a_network_sees_what_pillow_resizes(client, pets, drawn):
    content, network = checkpoint(1)
    job = evaluate(client, content)
    assert job["state"] == "succeeded", job["error"]
    resized = [
        np.asarray(Image.fromarray(drawn[name]).resize((10, 12), Image.Resampling.BILINEAR))
        for name in sorted(drawn)
    ]
    x = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
    target = torch.tensor([0] * 6 + [1] * 6)
    with torch.inference_mode():
        loss = torch.nn.functional.cross_entropy(network(x).double(), target).item()
    assert job["result"]["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)


def test_a_dataset_is_prepared_once_for_a_chain_and_again_for_another(client, services, pets):
    def files():
        folder = services.settings.data_dir / "prepared"
        return {path.name: path.stat().st_ino for path in folder.iterdir() if not path.suffix}

    content, _ = checkpoint(2)
    evaluate(client, content)
    before = files()
    assert before
    first = evaluate(client, content, fresh="true")["result"]["evidence"]["logits_sha256"]
    assert files() == before
    larger = [{"name": "resize", "size": [16, 16]}, {"name": "to_float"}]
    other = evaluate(client, content, transforms=json.dumps(larger))
    assert other["state"] == "succeeded", other["error"]
    assert len(files()) == len(before) + 1
    for name in before:
        (services.settings.data_dir / "prepared" / name).unlink()  # as if others had needed room
    again = evaluate(client, content, fresh="true")["result"]["evidence"]["logits_sha256"]
    assert again == first


def test_the_same_images_packed_otherwise_are_the_same_dataset(client, pets, drawn):
    files = {name: png(drawn[name]) for name in reversed(drawn)}
    answer = client.upload(
        "/v1/datasets?wait",
        content=tarred(files),
        name="pets",
        split="validation",
        transforms=json.dumps(CHAIN),
    )
    assert answer.json["result"] == {"datasets": ["pets@1"], "known": True}


def test_an_example_is_a_picture(client, pets, drawn):
    answer = client.get("/v1/datasets/pets/examples/7")
    assert answer.content_type == "image/png"
    shown = np.asarray(Image.open(io.BytesIO(answer.data)))
    np.testing.assert_array_equal(shown, drawn[sorted(drawn)[7]])
    described = client.get("/v1/datasets/pets/examples/7?format=json").json
    assert described["target"] == "dog"


def test_images_of_different_size_need_a_resize(client, drawn):
    files = {name: png(pixels) for name, pixels in drawn.items()}
    answer = client.upload(
        "/v1/datasets?wait", content=zipped(files), name="uneven", split="validation"
    )
    assert answer.json["state"] == "failed"
    assert "resize" in answer.json["error"]["detail"]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"cat/00.png": b"no picture"}, ["cat/00.png"]),
        ({"cat/00.png": None, "../escape.png": b"x"}, ["escape.png"]),
        ({"cat/notes.txt": b"x"}, ["cat/notes.txt"]),
        ({"cat/more.zip": b"PK"}, ["cat/more.zip"]),
    ],
)
def test_a_bad_entry_fails_the_ingestion_with_its_name_and_leaves_nothing(
    client, services, drawn, change, parts
):
    def everything():
        folders = [services.settings.data_dir / name for name in ("blobs", "tmp", "uploads")]
        return {path for folder in folders for path in folder.rglob("*") if path.is_file()}

    before = everything()
    files = {name: png(pixels) for name, pixels in drawn.items()} | change
    files = {name: content for name, content in files.items() if content is not None}
    answer = client.upload(
        "/v1/datasets?wait",
        content=zipped(files),
        name="bad",
        split="validation",
        transforms=json.dumps(CHAIN),
    )
    assert answer.json["state"] == "failed"
    assert answer.json["error"]["status"] == 422
    for part in parts:
        assert part in answer.json["error"]["detail"]
    assert everything() == before


def test_transforms_that_do_not_fit_the_network_say_both_sides(client, pets):
    content, _ = checkpoint(3)
    grey = [{"name": "resize", "size": [12, 10]}, {"name": "grey"}, {"name": "to_float"}]
    answer = client.upload(
        "/v1/evaluations",
        part="checkpoint",
        content=content,
        architecture="convnet",
        dataset="pets",
        transforms=json.dumps(grey),
    )
    assert_problem(answer, 422, "(3, any, any)", "(1, 12, 10)", pointer="/transforms")
    late = [{"name": "to_float"}, {"name": "resize", "size": [12, 10]}]
    answer = client.upload(
        "/v1/evaluations",
        part="checkpoint",
        content=content,
        architecture="convnet",
        dataset="pets",
        transforms=json.dumps(late),
    )
    assert_problem(answer, 422, "resize")


def test_a_division_of_images_of_different_size_keeps_their_pixels(client, pets):
    request = {"train": "pets-a", "validation": "pets-b", "fraction": 0.34}
    job = client.http.post("/v1/datasets/pets/split?wait", json=request).json
    assert job["state"] == "succeeded", job["error"]
    shared = client.get("/v1/datasets/pets-b/overlap?with=pets").json
    assert (shared["examples"], shared["of"]) == (4, 4)
    index = shared["indices"][0]
    part = client.get(f"/v1/datasets/pets-b/examples/{index}").data
    others = [client.get(f"/v1/datasets/pets/examples/{number}").data for number in range(12)]
    assert part in others


def test_transforms_that_blow_a_dataset_up_are_refused_before_anything_is_made(client, pets):
    content, _ = checkpoint(3)
    big = json.dumps([{"name": "resize", "size": [8192, 8192]}, {"name": "to_float"}])
    files = {
        f"{'ab'[i % 2]}/{i}.png": png(np.full((1, 1, 3), i % 256, np.uint8)) for i in range(300)
    }
    client.register("blown", content=zipped(files), transforms=json.dumps(CHAIN))
    answer = client.upload(
        "/v1/evaluations?wait",
        part="checkpoint",
        content=content,
        architecture="convnet",
        dataset="blown",
        transforms=big,
    )
    size = 300 * 3 * 8192**2
    assert_problem(answer, 422, f"takes {size} bytes", "HOLDOUT_PREPARED_BYTES")
