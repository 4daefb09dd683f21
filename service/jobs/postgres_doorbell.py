"""The doorbell on PostgreSQL: LISTEN and NOTIFY, on connections of their own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from service.jobs.doorbell import Listener

_CONNECT_TIMEOUT_S = 3
_RETRY_S = 1.0


class PostgresDoorbell:
    """NOTIFY on one connection kept for it, LISTEN on one for each listener.

    Args:
        parameters: what `psycopg.connect` takes.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._parameters = parameters
        self._lock = threading.Lock()
        self._connection: psycopg.Connection | None = None

    def ring(self, topic: str) -> None:
        """Notify; if the connection was lost since the last ring, on a new one."""
        with self._lock:
            had_one = self._connection is not None
            if not self._notified(topic) and had_one:
                self._notified(topic)

    def listen(self, topic: str) -> Listener:
        """Listen on a connection of its own, which is made again when it is lost."""
        return _PostgresListener(self._connect, _channel(topic))

    def close(self) -> None:
        """Close the notifying connection."""
        with self._lock:
            self._drop()

    def _notified(self, topic: str) -> bool:
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.execute("SELECT pg_notify(%s, '')", [_channel(topic)])
        except psycopg.Error:
            self._drop()
            return False
        return True

    def _connect(self) -> psycopg.Connection:
        defaults = {
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "keepalives_idle": 30,  # else a peer that vanished is noticed after two hours
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 5000,
        }
        return psycopg.connect(autocommit=True, **{**defaults, **self._parameters})

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _PostgresListener:
    def __init__(self, connect: Callable[[], psycopg.Connection], channel: str) -> None:
        self._connect = connect
        self._channel = channel
        # Stands in for the connection while there is none: its other end never writes.
        self._silence, self._writer = os.pipe()
        self._connection: psycopg.Connection | None = None
        self._next_try = 0.0
        self._listen()

    def fileno(self) -> int:
        if self._connection is None and time.monotonic() >= self._next_try:
            self._listen()
        return self._silence if self._connection is None else self._connection.fileno()

    def drain(self) -> None:
        if self._connection is None:
            return
        try:
            for _ in self._connection.notifies(timeout=0):
                pass
        except psycopg.Error:  # also how a lost connection shows: readable, with nothing in it
            self._drop()

    def close(self) -> None:
        self._drop()
        os.close(self._silence)
        os.close(self._writer)

    def _listen(self) -> None:
        try:
            self._connection = self._connect()
            self._connection.execute(f'LISTEN "{self._channel}"')
        except psycopg.Error:
            self._drop()
            self._next_try = time.monotonic() + _RETRY_S

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _channel(topic: str) -> str:
    return f"holdout_{topic}"
