"""What the tests of the sandbox run in its children: each function misbehaves in one way."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import sys
import time
from typing import Any

Request = dict[str, Any]


def echo(request: Request, descriptors: list[int]) -> Request:
    return {"request": request, "contents": [os.pread(one, 100, 0).decode() for one in descriptors]}


def write(request: Request, descriptors: list[int]) -> Request:
    return {"written": os.write(descriptors[0], b"x" * request["bytes"])}


def surroundings(request: Request, descriptors: list[int]) -> Request:
    with open("/proc/self/environ", "rb") as file:
        environment = file.read().decode().split("\0")
    links = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            links[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one that listed them
            continue
    return {
        "environment": environment,
        "os_environ": dict(os.environ),
        "descriptors": [[number, link] for number, link in sorted(links.items())],
        "torch": "torch" in sys.modules,
        "parent": os.getppid(),
        "pid": os.getpid(),
    }


def die(request: Request, descriptors: list[int]) -> Request:
    os.kill(os.getpid(), getattr(signal, request["signal"]))
    return {}


def segfault(request: Request, descriptors: list[int]) -> Request:
    ctypes.string_at(0)
    return {}


def leave(request: Request, descriptors: list[int]) -> Request:
    os._exit(request["code"])


def exit_politely(request: Request, descriptors: list[int]) -> Request:
    sys.exit(0)


def hog(request: Request, descriptors: list[int]) -> Request:
    kept = []
    while True:
        kept.append(bytearray(2**24))


def spin(request: Request, descriptors: list[int]) -> Request:
    while True:
        pass


def sleep(request: Request, descriptors: list[int]) -> Request:
    time.sleep(request["seconds"])
    return {"pid": os.getpid()}


def ignore_the_alarm(request: Request, descriptors: list[int]) -> Request:
    signal.setitimer(signal.ITIMER_REAL, 0)
    return sleep(request, descriptors)


def fail(request: Request, descriptors: list[int]) -> Request:
    raise KeyError("a secret detail")


def find_no_space(request: Request, descriptors: list[int]) -> Request:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def answer_hugely(request: Request, descriptors: list[int]) -> Request:
    return {"text": request["letter"] * request["letters"]}


def answer_a_list(request: Request, descriptors: list[int]) -> Any:
    return [1, 2]


def answer_what_is_no_json(request: Request, descriptors: list[int]) -> Request:
    return {"value": float("nan"), "object": object()}


def answer_garbage(request: Request, descriptors: list[int]) -> Request:
    for name in range(3, 16):
        if not os.path.lexists(f"/proc/self/fd/{name}"):
            continue
        if not os.readlink(f"/proc/self/fd/{name}").startswith("socket"):
            continue
        with socket.socket(fileno=os.dup(name)) as channel:
            channel.sendall(b'{"answer": {"x": NaN}}\xff')
    os._exit(0)
