"""The web process: gunicorn with one worker process of many threads."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from service.app import create_app
from service.settings import Settings

GRACE_S = 8
READ_S = 30  # longest silence of a client in the middle of a request


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A threaded worker that answers open waits and event streams before it goes."""

    def handle(self, conn: Any) -> Any:
        """Answer one request in its own thread, and there also part from the client.

        A client that stalls is given up after `READ_S`. gunicorn would close on its main thread,
        which waits up to 2 s for a client that keeps its end open, and nobody is accepted then.
        """
        limit = struct.pack("@ll", READ_S, 0)
        conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        kept = super().handle(conn)
        if not kept:
            with contextlib.suppress(OSError):
                conn.close(graceful=True)
            conn.close = lambda graceful=False: None
        return kept

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop taking requests, and let those that only wait end now."""
        watcher = self.wsgi.extensions["holdout.watcher"]
        watcher.close()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Do the same at Ctrl-C, which reaches this process beside gunicorn's first one."""
        self.handle_exit(sig, frame)


class Web(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn, configured by our settings instead of its own files and variables."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Set what differs from gunicorn's defaults."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        for name, value in {
            "bind": [f"{host}:{self.settings.port}"],
            "workers": 1,
            "worker_class": "service.web.Worker",
            "threads": self.settings.web_threads,
            "worker_connections": self.settings.web_threads + 1000,
            "timeout": 120,
            "graceful_timeout": GRACE_S,
            "keepalive": 30,
            "control_socket_disable": True,
            "loglevel": "warning",
            "proc_name": "holdout web",
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Build the application, in the worker process."""
        return create_app(self.settings)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; open requests are finished first."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Web(settings).run()
