"""`make demo`, as a new user sees it."""

from __future__ import annotations

import json
import re
import subprocess

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, precision_recall_fscore_support


@pytest.fixture(scope="module")
def printed(demo):
    return demo.running.log


def printed_json(printed, heading):
    """The JSON document that follows a heading."""
    text = printed.partition(heading)[2]
    return json.JSONDecoder().raw_decode(text, text.index("{"))[0]


def test_make_demo_runs_the_demonstration(demo):
    # Without what installs: in this clone everything is there.
    makefile = (demo.folder / "Makefile").read_text()
    recipe = re.search(r"^demo: .*\n\t(.*)$", makefile, re.MULTILINE)[1]
    assert recipe.replace("$(BIN)", ".venv/bin") == ".venv/bin/python examples/demo.py"


def test_it_registers_both_parts_of_the_digits(demo, printed):
    assert "registered digits-train@1" in printed
    assert "registered digits@1" in printed
    sizes = {
        name: demo.client.get(f"/v1/datasets/{name}").body["examples"]
        for name in ("digits-train", "digits")
    }
    assert sizes == {"digits-train": 1437, "digits": 360}


def test_it_prints_the_metrics_that_scikit_learn_finds(demo, printed):
    weights = torch.load(demo.folder / "var/demo/best.pt", weights_only=True)
    data = np.load(demo.folder / "var/demo/digits.npz")
    x = torch.from_numpy(data["x"]).double() / 16
    first, second = (
        (weights[f"layers.{index}.weight"].double(), weights[f"layers.{index}.bias"].double())
        for index in (0, 1)
    )
    logits = torch.relu(x @ first[0].T + first[1]) @ second[0].T + second[1]
    predicted = logits.argmax(dim=1).numpy()
    precision, recall, f1, _ = precision_recall_fscore_support(
        data["y"], predicted, average="macro"
    )
    expected = {
        "loss": log_loss(data["y"], torch.softmax(logits, dim=1).numpy()),
        "accuracy": accuracy_score(data["y"], predicted),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }
    lines = re.findall(r"^  (\w+) +([\d.]+) +\[([\d.]+), ([\d.]+)\]$", printed, re.MULTILINE)
    shown = {name: float(value) for name, value, _, _ in lines}
    assert shown == pytest.approx(expected, abs=6e-5)
    assert shown["accuracy"] > 0.95
    assert all(float(low) <= float(value) <= float(high) for _, value, low, high in lines)


def test_it_shows_the_boundary_and_the_broken_case(printed):
    boundary = printed_json(printed, "The boundary")
    assert boundary["metrics"]["accuracy"] in (0.0, 1.0)
    assert any("need 2 examples" in warning for warning in boundary["warnings"])
    broken = printed_json(printed, "The broken case")
    assert broken["status"] == 422
    assert "cut off" in broken["detail"]


def test_the_commands_that_it_prints_do_the_same(demo, printed):
    commands = printed.partition("The same with curl:\n")[2].partition("\n\nThe service")[0]
    assert commands.count("curl ") == 4
    script = commands.replace("  curl ", "  echo; curl ")
    run = subprocess.run(
        ["bash", "-euc", script], cwd=demo.folder, capture_output=True, text=True, check=True
    )
    answers = [json.loads(line) for line in run.stdout.splitlines() if line]
    known, evaluated, one, broken = answers
    assert known["result"] == {"datasets": ["digits@1"], "known": True}
    assert (evaluated["state"], evaluated["cached"]) == ("succeeded", True)
    assert one["result"] == {"datasets": ["one@1"], "known": True}
    assert broken == printed_json(printed, "The broken case")


def test_a_taken_port_is_said_in_one_sentence(demo):
    port = demo.url.rpartition(":")[2]
    run = subprocess.run(
        demo.command,
        cwd=demo.folder,
        env=demo.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"demo: port {port} of 127.0.0.1 is taken; ")
    assert len(run.stderr.splitlines()) == 1
