"""The web process: gunicorn with one worker process of many threads."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import uuid
from http import HTTPStatus
from typing import Any

from flask import Flask, Response
from gunicorn.app.base import BaseApplication
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.gthread import ThreadWorker

from models.canonical import canonical_json
from service.api.problems import MALFORMED, MEDIA_TYPE, Kind, problem
from service.app import create_app
from service.settings import Settings

GRACE_S = 8
READ_S = 30  # longest silence of a client in the middle of a request
LINE_BYTES = 8190  # as long as gunicorn allows: the fields of a raw upload stand there

# What gunicorn refuses before there is a request, and what it is on the wire.
UNREADABLE: tuple[tuple[type[Exception], Kind], ...] = (
    (
        LimitRequestLine,
        Kind(
            slug="address-too-long",
            status=414,
            title=f"The address is longer than {LINE_BYTES} bytes: send the fields as a form",
        ),
    ),
    (
        LimitRequestHeaders,
        Kind(slug="headers-too-large", status=431, title="The headers are too many or too long"),
    ),
    (ParseException, MALFORMED),
)

_current = threading.local()


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

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer one request, and remember it for `part`."""
        _current.request = req
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer what no request could be made of as every other error is answered."""
        kind = next((kind for one, kind in UNREADABLE if isinstance(exc, one)), None)
        if kind is None:
            super().handle_error(req, client, addr, exc)
            return
        detail = f"the request cannot be read: {exc}" if kind is MALFORMED else kind.title
        body = canonical_json(problem(kind, detail))
        head = (
            f"HTTP/1.1 {kind.status} {HTTPStatus(kind.status).phrase}\r\n"
            f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
            f"X-Request-Id: {uuid.uuid4().hex}\r\nConnection: close\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            client.sendall(head.encode() + body)

    def is_parent_alive(self) -> bool:
        """Whether gunicorn's first process is there; without it, give up the port at once."""
        alive: bool = super().is_parent_alive()
        if not alive:
            self.wsgi.extensions["holdout.watcher"].close()
            self.set_accept_enabled(False)
            for listener in self.sockets:
                listener.close()
        return alive

    def run(self) -> None:
        """Serve; an orphan does not stay for the threads of clients that stall."""
        super().run()
        if os.getppid() != self.ppid:
            os._exit(1)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop taking requests, and let those that only wait end now."""
        watcher = self.wsgi.extensions["holdout.watcher"]
        watcher.close()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Do the same at Ctrl-C, which reaches this process beside gunicorn's first one."""
        self.handle_exit(sig, frame)


def part(response: Response) -> Response:
    """Close the connection after an answer that says so; gunicorn goes by its own mark alone."""
    if response.headers.get("Connection") == "close" and hasattr(_current, "request"):
        _current.request.force_close()
    return response


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
            "limit_request_line": LINE_BYTES,
            "control_socket_disable": True,
            "loglevel": "warning",
            "proc_name": "holdout web",
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Build the application, in the worker process."""
        app = create_app(self.settings)
        app.after_request(part)
        return app


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; open requests are finished first."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Web(settings).run()
