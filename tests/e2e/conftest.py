"""Real processes: each command as a user starts it, on a free port, in a temporary folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
HOLDOUT = Path(sys.executable).with_name("holdout")
LONGEST_S = 60  # whatever is waited for takes a few seconds; a busy machine gets more


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(**settings: Any) -> dict[str, str]:
    """This process's variables, with no settings of Holdout but these."""
    plain = {name: text for name, text in os.environ.items() if not name.startswith("HOLDOUT_")}
    return plain | {f"HOLDOUT_{name.upper()}": str(value) for name, value in settings.items()}


def until(condition: Any, *, what: str, within_s: float = LONGEST_S) -> Any:
    """The first true value of ``condition()``."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {within_s} s: {what}")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


class Client:
    """What curl does, in a few lines."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self.token = token

    def get(self, path: str) -> Answer:
        return self.send("GET", path)

    def post(self, path: str, body: Any = None) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        return self.send("POST", path, data, "application/json")

    def upload(self, path: str, files: dict[str, Path], **fields: str) -> Answer:
        boundary = uuid.uuid4().hex
        parts = [f'name="{name}"\r\n\r\n{text}'.encode() for name, text in fields.items()] + [
            f'name="{name}"; filename="{file.name}"\r\n\r\n'.encode() + file.read_bytes()
            for name, file in files.items()
        ]
        head = f"--{boundary}\r\nContent-Disposition: form-data; ".encode()
        data = b"".join(head + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
        return self.send("POST", path, data, f"multipart/form-data; boundary={boundary}")

    def send(
        self, method: str, path: str, data: bytes | None = None, content_type: str | None = None
    ) -> Answer:
        headers = {"Content-Type": content_type} if data is not None else {}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=LONGEST_S) as reply:
                return Answer(reply.status, reply.headers, reply.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read().decode())

    def reaches(self, path: str, status: int) -> bool:
        """Whether something listens and answers so."""
        try:
            return self.get(path).status == status
        except OSError:
            return False


class Running:
    """One started command; its standard error is kept."""

    def __init__(self, command: list[Any], folder: Path, env: dict[str, str]) -> None:
        self.log_file = folder / f"{uuid.uuid4().hex}.log"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A suite that runs in the background ignores Ctrl-C, and what it starts would too.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self.pid = self.process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def events(self) -> list[dict[str, Any]]:
        """The lines of the log that are whole JSON objects."""
        return [json.loads(line) for line in self.log.splitlines() if line.endswith("}")]

    def ended(self) -> int:
        """The exit status, once it has ended by itself or by a signal sent before."""
        return self.process.wait(LONGEST_S)

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM; the exit status and how many seconds it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.ended(), time.monotonic() - began


class Commands:
    """Starts commands and ends those that are left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[Running] = []

    def run(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """A command that ends by itself."""
        return subprocess.run(
            [HOLDOUT, *arguments],
            cwd=self.folder,
            env=environment(**settings),
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )

    def refusal(self, *arguments: str, **settings: Any) -> str:
        """The one sentence that a command ends with."""
        run = self.run(*arguments, **settings)
        assert run.returncode == 2, run.stderr
        (sentence,) = [line for line in run.stderr.splitlines() if not line.startswith("{")]
        return sentence

    def start(self, *arguments: str, program: Path = HOLDOUT, **settings: Any) -> Running:
        return self.start_any([program, *arguments], environment(**settings))

    def start_any(self, command: list[Any], env: dict[str, str]) -> Running:
        running = Running(command, self.folder, env)
        self._running.append(running)
        return running

    def start_web(self, *arguments: str, ready: str = "/readyz", **settings: Any) -> Any:
        """Start a command that serves HTTP; it and a client, once ``ready`` answers 200."""
        port = free_port()
        running = self.start(*arguments, port=port, **settings)
        client = Client(f"http://127.0.0.1:{port}")
        until(
            lambda: running.process.poll() is not None or client.reaches(ready, 200),
            what=f"{arguments} answers {ready}",
        )
        assert running.process.poll() is None, running.log
        return running, client

    def end(self) -> None:
        for running in self._running:
            running.process.terminate()
        for running in self._running:
            try:
                running.process.wait(15)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    made = Commands(tmp_path_factory.mktemp("commands"))
    yield made
    made.end()


@dataclass(frozen=True)
class Material:
    """Files to send.

    Attributes:
        small: 200 examples of 20 numbers, 3 classes; ``mlp`` fits it.
        large: 600 images; ``convnet`` takes a second or more for it.
    """

    small: Path
    mlp: Path
    large: Path
    convnet: Path


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    made = Material(
        folder / "small.npz", folder / "mlp.pt", folder / "large.npz", folder / "convnet.pt"
    )
    random = np.random.default_rng(0)
    np.savez(
        made.small,
        x=random.normal(size=(200, 20)).astype(np.float32),
        y=np.arange(200, dtype=np.int64) % 3,
    )
    np.savez(
        made.large,
        x=random.integers(0, 256, (600, 3, 64, 64), dtype=np.uint8),
        y=np.arange(600, dtype=np.int64) % 10,
    )
    torch.manual_seed(0)
    linear = [nn.Linear(20, 128), nn.Linear(128, 3)]
    torch.save(
        {f"layers.{key}": v for key, v in nn.ModuleList(linear).state_dict().items()}, made.mlp
    )
    blocks = nn.ModuleDict(
        {
            "convs": nn.ModuleList(
                nn.Conv2d(a, b, 3, bias=False) for a, b in ((3, 32), (32, 64), (64, 128))
            ),
            "norms": nn.ModuleList(nn.BatchNorm2d(width) for width in (32, 64, 128)),
            "head": nn.Linear(128, 10),
        }
    )
    torch.save(blocks.state_dict(), made.convnet)
    return made


@pytest.fixture(scope="session")
def register():
    """Register the material's two datasets and upload its two checkpoints."""

    def act(client: Client, material: Material) -> tuple[dict[str, Any], dict[str, Any]]:
        found = []
        for name, transforms in (("small", []), ("large", [{"name": "to_float"}])):
            answer = client.upload(
                "/v1/datasets?wait",
                {"file": getattr(material, name)},
                name=name,
                split="validation",
                transforms=json.dumps(transforms),
            )
            assert answer.body["state"] == "succeeded", answer.text
        for name, dataset in (("mlp", "small"), ("convnet", "large")):
            file = {"file": getattr(material, name)}
            answer = client.upload("/v1/checkpoints", file, architecture=name)
            assert answer.status == 201, answer.text
            found.append({"checkpoint": answer.body["digest"], "dataset": dataset, "fresh": True})
        return found[0], found[1]

    return act


@pytest.fixture(scope="session")
def wait_until():
    return until


@pytest.fixture(scope="session")
def client_of():
    return Client


@dataclass(frozen=True)
class Demo:
    """`make demo`, once it leaves the service running; ``folder`` is where it was started."""

    running: Running
    folder: Path
    client: Client
    command: list[str]
    environment: dict[str, str]

    @property
    def url(self) -> str:
        return self.client.url

    @property
    def plain_environment(self) -> dict[str, str]:
        """That of a second terminal."""
        return environment()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demonstration in a folder that looks like a clone, so that relative paths hold."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("examples", "Makefile"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    port = free_port()
    commands = Commands(folder)
    command = [str(folder / ".venv/bin/python"), "examples/demo.py"]
    env = environment(port=port)
    running = commands.start_any(command, env)
    try:
        until(
            lambda: running.process.poll() is not None or "Ctrl-C ends it" in running.log,
            what="the demonstration leaves the service running",
        )
        assert running.process.poll() is None, running.log
        yield Demo(running, folder, Client(f"http://127.0.0.1:{port}"), command, env)
        running.process.send_signal(signal.SIGINT)
        assert (running.ended(), running.log.splitlines()[-1]) == (0, "stopping")
    finally:
        commands.end()
