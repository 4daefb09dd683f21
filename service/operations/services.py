"""What every use case works with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from checkpoints.store import LocalStore
from service.db.connection import open_database
from service.jobs.doorbell import Doorbell, open_doorbell
from service.jobs.sandbox import ForkServer
from service.settings import Settings

READER_PRELOAD = ("checkpoints.reading",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts that a use case needs, made once a process.

    Attributes:
        reader: forks the children that read uploaded checkpoints.
        clock: POSIX seconds.
    """

    settings: Settings
    database: Engine
    store: LocalStore
    reader: ForkServer
    doorbell: Doorbell
    clock: Callable[[], float] = time.time

    @classmethod
    def open(cls, settings: Settings) -> Services:
        """Open everything that the settings name; nothing is created but folders."""
        return cls(
            settings=settings,
            database=open_database(settings.database),
            store=LocalStore(settings.data_dir),
            reader=ForkServer(preload=READER_PRELOAD),
            doorbell=open_doorbell(settings.database, settings.data_dir),
        )

    def close(self) -> None:
        """End the reader's processes and every connection."""
        self.doorbell.close()
        self.reader.close()
        self.database.dispose()


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: a token's name and role."""

    name: str
    role: str
