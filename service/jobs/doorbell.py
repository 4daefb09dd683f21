"""A doorbell wakes other processes at once: workers for "work", the web for "news".

A ring carries nothing and may be lost: who listens looks into the database when it rings, and each
second anyway. So ringing never fails, and ring only after the transaction has committed.

Beside SQLite the bells are Unix datagram sockets in the data folder, one a listener; on PostgreSQL
they are LISTEN and NOTIFY, which reach every machine.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from service.db.connection import parse_url

_BIND_S = 60.0  # longer than any live process takes between naming a socket and binding it
_SOCKET_PATH_BYTES = 100  # Linux takes 108, macOS 104


class Listener(Protocol):
    """Hears one topic; for one thread. Wait for it with `select` and the like."""

    def fileno(self) -> int:
        """What becomes readable at a ring. Ask before each wait: it may change between two."""
        ...

    def drain(self) -> None:
        """Forget the rings so far, so that only later ones wake; never blocks."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


class Doorbell(Protocol):
    """Reaches the listeners in all processes on one database; for any number of threads."""

    def ring(self, topic: str) -> None:
        """Wake who listens to ``topic``."""
        ...

    def listen(self, topic: str) -> Listener:
        """Hear the rings of ``topic`` from now on."""
        ...

    def close(self) -> None:
        """Give back what ringing needed; listeners are closed by who opened them."""
        ...


def open_doorbell(database_url: str, data_dir: Path) -> Doorbell:
    """The doorbell that goes with this database."""
    url = parse_url(database_url)
    if url.get_backend_name() == "sqlite":
        return SocketDoorbell(data_dir / "bells")
    from service.jobs.postgres_doorbell import PostgresDoorbell  # its driver is an extra

    _, parameters = url.get_dialect()().create_connect_args(url)
    return PostgresDoorbell(parameters)


class SocketDoorbell:
    """Unix datagram sockets in one folder, named ``<topic>-<pid>-<random>.sock``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder.absolute()
        self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        self._sender = _datagram_socket()

    def ring(self, topic: str) -> None:
        """Send to each socket of the topic; one whose process is gone is removed."""
        for name in os.listdir(self._descriptor):
            if name.startswith("."):
                self._remove_unbound(name)
            if not name.startswith(f"{topic}-"):
                continue
            try:
                self._sender.sendto(b"!", self._address(name))
            except ConnectionRefusedError:
                with suppress(OSError):
                    os.unlink(name, dir_fd=self._descriptor)
            except OSError:
                continue  # its buffer is full, so it has rung already; or it was closed just now

    def listen(self, topic: str) -> Listener:
        """Bind a socket of our own."""
        name = f"{topic}-{os.getpid()}-{secrets.token_hex(4)}.sock"
        bell = _datagram_socket()
        # A socket that is named but not bound yet refuses connections as a dead one does, so it
        # gets the name that others look for when it is ready.
        bell.bind(self._address(f".{name}"))
        os.rename(f".{name}", name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        return _SocketListener(bell, self._folder / name)

    def close(self) -> None:
        """Close the sending socket."""
        self._sender.close()
        os.close(self._descriptor)

    def _remove_unbound(self, name: str) -> None:
        """Remove what a process left that died in `listen`."""
        with suppress(OSError):  # another process was quicker
            if os.stat(name, dir_fd=self._descriptor).st_mtime < time.time() - _BIND_S:
                os.unlink(name, dir_fd=self._descriptor)

    def _address(self, name: str) -> str:
        path = str(self._folder / name)
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
            return path
        return f"/proc/self/fd/{self._descriptor}/{name}"


class _SocketListener:
    def __init__(self, bell: socket.socket, path: Path) -> None:
        self._bell = bell
        self._path = path

    def fileno(self) -> int:
        return self._bell.fileno()

    def drain(self) -> None:
        with suppress(BlockingIOError):
            while True:
                self._bell.recv(16)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        self._bell.close()


def _datagram_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made
