"""Plug-ins that are installed for real, beside one that fails in each way that it can."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

README = (Path(__file__).parents[2] / "README.md").read_text()
PLUGINS = Path(__file__).parents[1] / "plugins"


def of_readme(folder):
    """The package that README.md shows."""
    blocks = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    files = {name: text for name, text in blocks if "/" not in name}
    assert set(files) == {"my_networks.py", "pyproject.toml"}
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def holdout(tmp_path_factory):
    """The command ``holdout`` of an environment that has plug-ins beside everything of this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python*/site-packages")
    ours = sysconfig.get_paths()["purelib"]
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    sources = folder / "sources"  # a build writes beside its source
    shutil.copytree(PLUGINS, sources)
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    of_readme(sources / "readme")
    packages = (sources / "wide", sources / "broken", sources / "readme")
    subprocess.run([python, "-m", "pip", "install", *options, *packages], check=True)
    command = folder / "bin" / "holdout"
    command.write_text(
        f"#!{python}\nfrom service.cli import main\nif __name__ == '__main__':\n    main()\n"
    )
    command.chmod(0o755)
    return command


@pytest.fixture(scope="module")
def service(commands, holdout, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    return commands.start_web("serve", data_dir=data, device="cpu", program=holdout)


@pytest.fixture(scope="module")
def client(service):
    return service[1]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Weights of a `wide` of width 5 for 3 numbers and 3 classes: the file and the module."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3, 5), nn.Hardtanh(), nn.Linear(5, 3)).eval()
    file = tmp_path_factory.mktemp("weights") / "wide.pt"
    torch.save(module.state_dict(), file)
    return file, module


@pytest.fixture(scope="module")
def pairs(client, tmp_path_factory):
    """A dataset in a format that only the plug-in reads; what it holds."""
    random = np.random.default_rng(5)
    x, y = random.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 3
    names = np.array(["ant", "bee", "cat"])[y]
    file = tmp_path_factory.mktemp("datasets") / "animals.pairs"
    lines = [f"{name}: {' '.join(map(str, row))}" for name, row in zip(names, x, strict=True)]
    file.write_text("\n".join(lines))
    answer = client.upload(
        "/v1/datasets?wait", {"file": file}, name="animals", split="validation", format="pairs"
    )
    assert answer.body["state"] == "succeeded", answer.text
    return x, y


def evaluate(client, **request):
    return client.post("/v1/evaluations?wait", {"dataset": "animals", "fresh": True, **request})


def test_a_network_a_transform_and_a_format_of_a_plugin_are_judged(client, network, pairs):
    file, module = network
    stored = client.upload(
        "/v1/checkpoints",
        {"file": file},
        architecture="wide",
        hyperparameters='{"width": 5}',
        classes='["ant", "bee", "cat"]',
    )
    assert stored.status == 201, stored.text
    assert stored.body["hyperparameters"] == {"width": 5}
    assert (stored.body["outputs"], stored.body["input_shape"]) == (None, None)
    assert "checked when it is first evaluated" in stored.body["warnings"][0]
    transforms = [{"name": "square_root", "offset": 0.5}]
    answer = evaluate(client, checkpoint=stored.body["digest"], transforms=transforms)
    assert answer.body["state"] == "succeeded", answer.text
    x, y = pairs
    with torch.inference_mode():
        logits = module(torch.sqrt(torch.abs(torch.from_numpy(x)) + 0.5))
    result = answer.body["result"]
    assert result["metrics"]["accuracy"] == np.mean(logits.argmax(1).numpy() == y)
    loss = nn.functional.cross_entropy(logits.double(), torch.from_numpy(y))
    assert result["metrics"]["loss"] == pytest.approx(loss.item(), rel=1e-6)
    evidence = result["evidence"]
    assert evidence["policy"]["plugins"] == {"holdout-wide": "1.2.0"}
    assert evidence["transforms"] == transforms
    again = client.post(f"/v1/evaluations/{answer.body['id']}/verify?wait")
    assert again.body["result"]["verification"]["outcome"] == "identical", again.text
    cached = evaluate(client, checkpoint=stored.body["digest"], transforms=transforms, fresh=False)
    assert (cached.status, cached.body["cached"]) == (200, True)


def test_a_network_of_a_plugin_is_trained_and_what_comes_out_is_judged_alike(
    client, pairs, tmp_path
):
    x, y = pairs
    file = tmp_path / "train.pairs"
    names = np.array(["ant", "bee", "cat"])[y]
    rows = np.random.default_rng(6).normal(size=x.shape) + 2 * np.eye(3)[y]
    lines = [f"{name}: {' '.join(map(str, row))}" for name, row in zip(names, rows, strict=True)]
    file.write_text("\n".join(lines))
    transforms = '[{"name": "square_root", "offset": 0.5}]'
    fields = {"name": "animals-train", "split": "train", "format": "pairs"}
    answer = client.upload("/v1/datasets?wait", {"file": file}, transforms=transforms, **fields)
    assert answer.body["state"] == "succeeded", answer.text
    spec = {
        "architecture": "wide",
        "hyperparameters": {"width": 6},
        "dataset": "animals-train",
        "validation_dataset": "animals",
        "epochs": 4,
    }
    job = client.post("/v1/trainings?wait", spec).body
    assert job["state"] == "succeeded", job["error"]
    result = job["result"]
    judged = evaluate(client, checkpoint=result["checkpoint"]).body
    assert judged["state"] == "succeeded", judged["error"]
    row = result["history"][result["best"]["epoch"] - 1]
    assert judged["result"]["metrics"] == {name: row[name] for name in judged["result"]["metrics"]}
    assert judged["result"]["leakage"]["status"] == "none"
    again = client.post("/v1/trainings?wait", {**spec, "initial_checkpoint": result["checkpoint"]})
    assert again.body["state"] == "succeeded", again.text
    assert again.body["result"]["adjustments"] == []
    failed = client.post(
        "/v1/trainings?wait", {**spec, "architecture": "clumsy", "hyperparameters": {}}
    )
    assert (failed.body["state"], failed.body["reason"]) == ("failed", "network_failed")
    assert "/etc/secret" not in failed.text
    wrong = client.post("/v1/trainings", {**spec, "hyperparameters": {"width": 0}})
    assert wrong.status == 422
    assert wrong.body["errors"][0]["pointer"] == "/hyperparameters/width"


def test_the_catalog_shows_what_plugins_add_and_workers_say_which_failed(client):
    shown = {
        kind: {one["name"]: one for one in client.get(f"/v1/catalog/{kind}").body["items"]}
        for kind in ("architectures", "transforms", "formats")
    }
    assert shown["architectures"]["wide"]["provider"] == "holdout-wide"
    schema = shown["architectures"]["wide"]["parameters"]
    assert schema["properties"]["width"]["default"] == 8
    assert schema["additionalProperties"] is False
    assert {"square_root", "pairs"} <= {*shown["transforms"], *shown["formats"]}
    assert "provider" not in shown["architectures"]["mlp"]
    (worker,) = client.get("/v1/workers").body["items"]
    said = {one["name"]: one for one in worker["plugins"]}
    assert set(said) == {"broken", "leaving", "my_networks", "thief", "wide"}
    assert said["wide"]["adds"]["architectures"] == ["absent", "wide", "clumsy"]
    assert said["broken"]["error"].startswith("AttributeError: module 'holdout_broken' has no")
    assert said["leaving"]["error"].startswith("SystemExit: usage: leaving.py FILE; see ...")
    assert said["thief"]["error"] == "architecture 'mlp' is there already; choose another name"
    assert all("trace" not in one for one in worker["plugins"])
    versions = {"holdout-wide": "1.2.0", "my-networks": "1.0"}
    assert worker["provides"] == {**versions, "onnxruntime": version("onnxruntime")}


def test_a_plugin_that_fails_is_in_the_log_with_its_trace(service):
    running, _ = service
    failed = [one for one in running.events() if one.get("event") == "plugin_failed"]
    assert {one["name"] for one in failed} == {"broken", "leaving", "thief"}
    assert all("Traceback" in one["trace"] for one in failed)


def test_what_is_wrong_with_a_request_is_said_at_once(client, network, pairs):
    file, _ = network
    wrong = client.upload(
        "/v1/checkpoints", {"file": file}, architecture="wide", hyperparameters='{"width": 0}'
    )
    assert wrong.status == 422
    assert wrong.body["errors"] == [
        {"pointer": "/hyperparameters/width", "detail": "width must be at least 1, got 0"}
    ]
    unknown = client.upload("/v1/checkpoints", {"file": file}, architecture="wied")
    assert "perhaps 'wide'" in unknown.body["detail"]
    digest = client.upload("/v1/checkpoints", {"file": file}, architecture="wide").body["digest"]
    missing = evaluate(client, checkpoint=digest, transforms=[{"name": "square_root"}])
    assert (missing.status, missing.body["errors"][0]["pointer"]) == (422, "/transforms/0/offset")


def test_what_only_the_worker_knows_fails_the_job_with_both_sides(client, network, pairs):
    file, _ = network
    digest = client.upload("/v1/checkpoints", {"file": file}, architecture="wide").body["digest"]
    failed = evaluate(client, checkpoint=digest).body
    assert (failed["state"], failed["reason"]) == ("failed", "bad_request")
    assert "'1.weight' has shape [5, 3], expected [8, 3]" in failed["error"]["detail"]


def test_a_network_that_fails_says_why_but_not_where_it_stands(client, pairs, tmp_path):
    file = tmp_path / "clumsy.pt"
    torch.save(nn.Linear(3, 3).state_dict(), file)
    stored = client.upload("/v1/checkpoints", {"file": file}, architecture="clumsy")
    failed = evaluate(client, checkpoint=stored.body["digest"]).body
    assert (failed["state"], failed["reason"]) == ("failed", "network_failed")
    assert failed["error"]["detail"] == (
        "clumsy failed on a batch of shape [40, 3]: RuntimeError: cannot read ..."
    )


def test_a_plugins_own_fault_names_the_plugin(service, client, pairs, tmp_path):
    running, _ = service
    file = tmp_path / "absent.pt"
    torch.save(nn.Linear(3, 3).state_dict(), file)
    stored = client.upload("/v1/checkpoints", {"file": file}, architecture="absent")
    failed = evaluate(client, checkpoint=stored.body["digest"]).body
    assert failed["error"]["detail"].endswith("its target gave a NoneType and no nn.Module")
    file.write_bytes(b"cat: \xff\n")
    failed = client.upload(
        "/v1/datasets?wait", {"file": file}, name="bad", split="validation", format="pairs"
    ).body
    assert (failed["reason"], failed["error"]["status"]) == ("plugin_failed", 422)
    assert failed["error"]["detail"].startswith(
        "the plug-in holdout-wide, which reads such files, failed: UnicodeDecodeError:"
    )
    logged = [one for one in running.events() if one.get("reason") == "plugin_failed"]
    assert "Traceback" in logged[-1]["traceback"]


def test_a_format_of_a_plugin_refuses_its_files_as_any_other(client, tmp_path):
    file = tmp_path / "bad.pairs"
    file.write_text("cat: 1\ndog 2\n")
    failed = client.upload(
        "/v1/datasets?wait", {"file": file}, name="bad", split="validation", format="pairs"
    ).body
    assert (failed["state"], failed["reason"]) == ("failed", "bad_request")
    assert failed["error"]["detail"] == "line 2 has no colon"
    unknown = client.upload(
        "/v1/datasets", {"file": file}, name="bad", split="validation", format="peers"
    )
    assert unknown.status == 422
    assert unknown.body["errors"][0]["pointer"] == "/format"
    assert "pairs" in unknown.body["errors"][0]["detail"]


def test_the_readmes_plugin_is_judged(client, pairs, tmp_path):
    module = nn.Sequential(nn.Linear(3, 14), nn.GLU(), nn.Linear(7, 3)).eval()
    file = tmp_path / "gated.pt"
    torch.save(module.state_dict(), file)
    stored = client.upload(
        "/v1/checkpoints", {"file": file}, architecture="gated", hyperparameters='{"width": 7}'
    )
    judged = evaluate(client, checkpoint=stored.body["digest"]).body
    x, y = pairs
    with torch.inference_mode():
        predicted = module(torch.from_numpy(x)).argmax(1).numpy()
    assert judged["result"]["metrics"]["accuracy"] == np.mean(predicted == y)
