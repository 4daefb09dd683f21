"""Start the service, judge a checkpoint that plain PyTorch trained a moment ago, stay up.

Everything goes over HTTP, as any client would do it; the files that it sends stay in the data
folder, so that the commands it prints work as they stand.
"""

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
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from service.settings import Settings, SettingsError

TRAIN_EXAMPLES = 1437
READY_S = 60
SCALE = {"name": "to_float", "scale": 1 / 16}  # the pixels of scikit-learn's digits count to 16


def main() -> int:
    """Run the demonstration; 0 after Ctrl-C, 2 where it cannot start."""
    try:
        settings = Settings.from_env()
    except SettingsError as error:
        return refuse(str(error))
    url = f"http://{settings.host}:{settings.port}"
    if is_taken(settings.host, settings.port):
        return refuse(
            f"port {settings.port} of {settings.host} is taken; stop what uses it, or choose "
            "another: HOLDOUT_PORT=8001 make demo"
        )
    files = settings.data_dir / "demo"
    files.mkdir(parents=True, exist_ok=True)
    with (files / "service.log").open("wb") as log:
        service = subprocess.Popen(
            [Path(sys.executable).with_name("holdout"), "serve"],
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches this script alone, which then ends it
        )
    try:
        print(f"starting the service on {url} (log: {log.name})", flush=True)
        wait_until_ready(url, service)
        demonstrate(url, files)
        print(f"\nThe service stays up on {url}; its contract is at {url}/docs. Ctrl-C ends it.")
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return service.wait()
    except KeyboardInterrupt:
        print("\nstopping")
        return 0
    except RuntimeError as error:
        return refuse(str(error))
    finally:
        service.terminate()
        service.wait()


def demonstrate(url: str, files: Path) -> None:
    """Register digits, upload, evaluate; then the boundary and the broken case."""
    x, y = load_digits(return_X_y=True)
    x, y = x.astype(np.uint8), y.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    train, validation = order[:TRAIN_EXAMPLES], order[TRAIN_EXAMPLES:]
    np.savez(files / "digits-train.npz", x=x[train], y=y[train])
    np.savez(files / "digits.npz", x=x[validation], y=y[validation])
    np.savez(files / "one.npz", x=x[validation[:1]], y=y[validation[:1]])

    transforms = json.dumps([SCALE])
    for name, split in (("digits-train", "train"), ("digits", "validation")):
        fields = {"name": name, "split": split, "transforms": transforms}
        answer = post(f"{url}/v1/datasets?wait", {"file": files / f"{name}.npz"}, fields)
        print(f"registered {answer['result']['datasets'][0]}")

    train_network(x[train], y[train], files / "best.pt")
    evaluation = f"{url}/v1/evaluations?wait"
    answer = post(
        evaluation, {"checkpoint": files / "best.pt"}, {"architecture": "mlp", "dataset": "digits"}
    )
    print(f"evaluated best.pt on {answer['request']['dataset']}, {answer['links']['self']}:")
    for name, value in answer["result"]["metrics"].items():
        low, high = answer["result"]["intervals"][name]
        print(f"  {name:9} {value:.4f}   [{low:.4f}, {high:.4f}]")

    print("\nThe boundary: a dataset of one example")
    classes = json.dumps([str(digit) for digit in range(10)])
    fields = {"name": "one", "split": "validation", "transforms": transforms, "classes": classes}
    answer = post(f"{url}/v1/datasets?wait", {"file": files / "one.npz"}, fields)
    stored = {"architecture": "mlp", "dataset": "one"}
    answer = post(evaluation, {"checkpoint": files / "best.pt"}, stored)
    print(json.dumps({k: answer["result"][k] for k in ("metrics", "warnings")}, indent=2))

    print("\nThe broken case: a checkpoint cut in half")
    whole = (files / "best.pt").read_bytes()
    (files / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    answer = post(
        evaluation,
        {"checkpoint": files / "truncated.pt"},
        {"architecture": "mlp", "dataset": "digits"},
        refused=True,
    )
    print(json.dumps(answer, indent=2))

    print(f"""
The same with curl:
  H={url}
  curl -F file=@{files}/digits.npz -F name=digits -F split=validation \\
       -F 'transforms={transforms}' "$H/v1/datasets?wait"
  curl -F checkpoint=@{files}/best.pt -F architecture=mlp -F dataset=digits \\
       "$H/v1/evaluations?wait"
  curl -F file=@{files}/one.npz -F name=one -F split=validation \\
       -F 'transforms={transforms}' \\
       -F 'classes={classes}' "$H/v1/datasets?wait"
  curl -F checkpoint=@{files}/truncated.pt -F architecture=mlp -F dataset=digits \\
       "$H/v1/evaluations?wait\"""")


def train_network(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], path: Path) -> None:
    """Train 64-128-10 for a second and save its state dict, as any script would."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more of them slow so small a network down
    layers = nn.ModuleList([nn.Linear(64, 128), nn.Linear(128, 10)])
    network = nn.Sequential(layers[0], nn.ReLU(), nn.Dropout(0.2), layers[1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    inputs, targets = torch.from_numpy(x).float() / 16, torch.from_numpy(y)
    for _ in range(30):
        for batch in torch.randperm(len(inputs)).split(64):
            loss = nn.functional.cross_entropy(
                network(inputs[batch]), targets[batch], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save({f"layers.{name}": value for name, value in layers.state_dict().items()}, path)
    print(f"trained a network with PyTorch and saved {path}")


def post(
    url: str, files: dict[str, Path], fields: dict[str, str], *, refused: bool = False
) -> dict[str, Any]:
    """Send a multipart form; the answer's JSON, which must be the kind that is expected."""
    boundary = uuid.uuid4().hex
    body = bytearray()
    for name, text in fields.items():
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        body += text.encode() + b"\r\n"
    for name, path in files.items():
        body += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; '
            f'filename="{path.name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        ).encode()
        body += path.read_bytes() + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    if "HOLDOUT_TOKEN" in os.environ:
        headers["Authorization"] = f"Bearer {os.environ['HOLDOUT_TOKEN']}"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, bytes(body), headers), timeout=120
        ) as reply:
            answer: dict[str, Any] = json.load(reply)
    except urllib.error.HTTPError as error:
        answer = json.load(error)
        if refused:
            return answer
        hint = ""
        if error.code == HTTPStatus.UNAUTHORIZED:
            hint = "; the service under var/ has tokens: set HOLDOUT_TOKEN to one of a trainer"
        raise RuntimeError(f"{url} answered {error.code}: {answer['detail']}{hint}") from None
    if answer["state"] != "succeeded":
        raise RuntimeError(f"{answer['links']['self']} {answer['state']}: {answer['error']}")
    return answer


def wait_until_ready(url: str, service: subprocess.Popen[bytes]) -> None:
    """Return once the service can work; RuntimeError if it ends or takes too long."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise RuntimeError(f"the service ended with status {service.returncode}; see its log")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the service was not ready within {READY_S} s; see its log")


def is_taken(host: str, port: int) -> bool:
    """Whether something listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def refuse(detail: str) -> int:
    """Say in one sentence why it ends."""
    print(f"demo: {detail}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
