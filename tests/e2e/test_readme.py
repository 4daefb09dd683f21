"""README.md keeps its word: its commands run, its answers look so, its tables are complete.

The blocks marked ``shell`` run in one shell, in their order, in the folder where the demonstration
was started, as a reader would type them; only the port is another.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from service.cli import FLAGS, main
from service.settings import Settings, variable

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHELL = [text for language, text in BLOCKS if language == "shell"]

# One fixture runs them all, which takes a minute on a quiet machine.
pytestmark = pytest.mark.timeout(600)

# Blocks with such a word are not executed; other tests look at them.
NOT_EXECUTED = {
    "make demo": "it is what the service of this test was started with, by its own command",
    "make test": "it would run this test again, and takes minutes",
    "docker": "it needs Docker's engine, and downloads images",
}
EXECUTED = [text for text in SHELL if not any(word in text for word in NOT_EXECUTED)]

# What the reader's shell and CI have, and a curl that says each answer's status.
PRELUDE = """
export HOLDOUT_URL={url} HOLDOUT_TOKEN=unused-while-there-is-none
curl() {{
    command curl --silent --show-error --write-out '%{{stderr}}status %{{http_code}}\\n' "$@"
}}
"""


def test_every_block_says_its_language():
    assert README.count("```") == 2 * len(BLOCKS)
    assert {language for language, _ in BLOCKS} == {"shell", "json", "python", "diff", "text"}


@pytest.fixture(scope="module")
def walk(demo):
    """What each block printed, and the statuses of the answers that its curls got."""
    script = PRELUDE.format(url=demo.url)
    for index, block in enumerate(EXECUTED):
        block = block.replace("http://127.0.0.1:8000", demo.url)
        script += f"echo; echo '@@@ {index}'; echo '@@@ {index}' >&2\n{block}"
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=demo.folder,
        env=demo.plain_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"

    def by_block(text):
        parts = re.split(r"^@@@ (\d+)\n", text, flags=re.MULTILINE)[1:]
        return {
            EXECUTED[int(index)]: printed.strip()
            for index, printed in zip(parts[::2], parts[1::2], strict=True)
        }

    printed, errors = by_block(run.stdout), by_block(run.stderr)
    assert list(printed) == list(errors) == EXECUTED
    return {
        block: (printed[block], [int(one) for one in re.findall(r"status (\d+)", errors[block])])
        for block in EXECUTED
    }


def block_with(text):
    (found,) = [block for block in EXECUTED if text in block]
    return found


def test_every_curl_is_answered_as_the_text_says(walk):
    for block, (_, statuses) in walk.items():
        assert len(statuses) == len(re.findall(r"\bcurl ", block))
        expected = {409} if "/cancel" in block else {200, 201, 202}
        assert set(statuses) <= expected, block


def test_every_evaluation_and_ingestion_succeeded(walk):
    jobs = []
    for block, (printed, _) in walk.items():
        if "?wait" in block and "var/report.json" not in block and "/events" not in block:
            jobs.append(json.loads(printed))
    assert [job["state"] for job in jobs] == ["succeeded"] * len(jobs)
    assert [job["kind"] for job in jobs].count("ingestion") >= 2
    own, as_onnx = (
        job
        for job in jobs
        if job["request"].get("dataset") == "blobs@1" and job.get("verifies", "") is None
    )
    assert as_onnx["result"]["metrics"] == pytest.approx(own["result"]["metrics"], rel=1e-5)
    assert own["result"]["assumed"] == ["classes", "transforms"]
    assert own["result"]["metrics"]["accuracy"] > 0.8
    assert [one["value"] for one in own["result"]["per_group"]] == ["north", "south"]
    (texts,) = (job for job in jobs if job["request"].get("dataset") == "texts@1")
    assert texts["result"]["assumed"] == ["classes"]
    assert texts["result"]["metrics"]["accuracy"] > 0.95


def subset(shown, real):
    """Whether every name that is shown exists, with a value of the same kind."""
    if isinstance(shown, dict):
        return isinstance(real, dict) and all(
            key in real and subset(value, real[key]) for key, value in shown.items()
        )
    if isinstance(shown, list):
        return isinstance(real, list)
    return type(shown) is type(real)


def test_the_answer_shown_is_that_of_the_command_before_it(walk):
    (index,) = [index for index, (language, _) in enumerate(BLOCKS) if language == "json"]
    shown, real = json.loads(BLOCKS[index][1]), json.loads(walk[BLOCKS[index - 1][1]][0])
    assert subset(shown, real)
    assert shown["result"]["assumed"] == real["result"]["assumed"]
    assert shown["cached"] is real["cached"] is True
    for name, value in shown["result"]["metrics"].items():
        assert real["result"]["metrics"][name] == pytest.approx(value, abs=0.05)


def test_events_end_with_the_job(walk):
    printed, _ = walk[block_with("$JOB/events")]
    assert "event: end" in printed
    assert json.loads(printed.splitlines()[-1])["state"] == "succeeded"


def test_a_training_is_watched_and_its_best_checkpoint_has_the_metrics_of_its_epoch(walk):
    printed, _ = walk[block_with("$TRAINING/events")]
    stream, _, table = printed.partition("epoch,train_loss,")
    epochs = [
        json.loads(line[6:])
        for kind, line in zip(stream.splitlines(), stream.splitlines()[1:], strict=False)
        if kind == "event: epoch"
    ]
    assert [row["epoch"] for row in epochs] == list(range(1, len(epochs) + 1))
    assert len(table.strip().splitlines()) == len(epochs) + 1
    judged = json.loads(walk[block_with("$BEST")][0])["result"]
    lowest = min(epochs, key=lambda row: row["loss"])
    assert judged["metrics"] == {name: lowest[name] for name in judged["metrics"]}
    assert judged["metrics"]["accuracy"] > 0.85
    assert judged["leakage"]["status"] == "none"
    assert judged["leakage"]["selected_on"] == ["digits@1"]
    assert judged["assumed"] == []


def test_a_sweep_compares_three_dropouts(walk):
    printed, _ = walk[block_with("format=markdown")]
    (shown,) = [text for language, text in BLOCKS if language == "text" and "Sweep" in text]
    for text in (printed, shown):
        rows = [line for line in text.splitlines() if re.match(r"\| \*{0,2}[123]\*{0,2} \|", line)]
        assert [row.split("|")[2].strip(" *") for row in rows[:3]] == ["0.0", "0.2", "0.5"]
        assert sum("**" in row for row in rows[:3]) == 1
        assert all("succeeded" in row for row in rows[:3])


def test_the_step_for_ci_prints_its_verdict(walk):
    printed, _ = walk[block_with("report.json")]
    assert re.fullmatch(r"accuracy 0\.\d{4} \[0\.\d{4}, \d\.\d{4}\]", printed)


def test_tokens_are_listed_and_revoked(walk):
    printed, _ = walk[block_with("token revoke ci")]
    assert "me\tadmin" in printed
    assert printed.splitlines()[-1] == "ci is revoked"


@pytest.mark.parametrize("block", SHELL)
def test_every_block_is_sound_shell(block):
    run = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=True)
    assert run.stderr == ""


def test_the_blocks_not_executed_name_what_exists():
    blocks = [block for block in SHELL if block not in EXECUTED]
    assert len(blocks) == 7
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE))
    assert targets >= {"demo", "test", "check", "soak", "bench", "serve"}
    assert targets <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    dockerfile = (ROOT / "Dockerfile").read_text()
    for argument in re.findall(r"--build-arg (\w+)=", README):
        assert f"ARG {argument}=" in dockerfile
    compose = (ROOT / "compose.yaml").read_text()
    for secret in set(re.findall(r"\bvar/secrets/\w+", README)):
        assert secret in compose
    for name in re.findall(r"--env (HOLDOUT_\w+)", README):
        assert name in {variable(one.name) for one in fields(Settings)}


def default_shown(value):
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def test_the_table_of_settings_is_that_of_the_code():
    expected = [
        (f"`{variable(one.name)}`", default_shown(one.default), one.metadata["help"])
        for one in fields(Settings)
    ]
    rows = re.findall(r"^\| (`HOLDOUT_\w+`) \| (.*?) ?\| (.*) \|$", README, re.MULTILINE)
    assert rows == expected


def test_the_first_seven_settings_have_a_flag():
    assert "for the first seven," in README
    assert list(FLAGS) == [one.name for one in fields(Settings)][:7]


def test_the_table_of_commands_is_complete():
    def paths(command, before):
        for name, one in command.commands.items():
            if hasattr(one, "commands"):
                yield from paths(one, f"{before} {name}")
            else:
                yield f"{before} {name}"

    listed = re.findall(r"^\| `(holdout [a-z ]*[a-z])", README, re.MULTILINE)
    assert sorted(listed) == sorted(paths(main, "holdout"))


def test_the_worked_architecture_passes_the_tests_of_the_catalog(tmp_path):
    """In a copy of the sources, made as the README says."""
    for name in ("models", "tests/models"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for text in (text for language, text in BLOCKS if language == "python"):
        path = text.splitlines()[0].removeprefix("# ")
        (tmp_path / path).write_text(text.partition("\n")[2])
    (patch,) = [text for language, text in BLOCKS if language == "diff"]
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=patch, text=True, check=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/models/test_architectures.py",
            "-k",
            "linear or catalog",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    strict = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", "models"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert strict.returncode == 0, strict.stdout


def test_the_decisions_are_numbered_and_in_one_form():
    decisions = sorted((ROOT / "docs/adr").glob("*.md"))
    for number, file in enumerate(decisions, start=1):
        text = file.read_text()
        assert file.name.startswith(f"{number:04}-")
        assert text.startswith(f"# {number}. ")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
            "Context",
            "Decision",
            "Consequences",
        ]
