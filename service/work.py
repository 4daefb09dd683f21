"""The worker process: wires the queue, an engine of child processes and the store."""

from __future__ import annotations

import os
import signal
from functools import partial

from checkpoints.store import LocalStore
from service.db.connection import open_database
from service.jobs.doorbell import open_doorbell
from service.jobs.engines import ChildOptions
from service.jobs.engines.process import ProcessEngine
from service.jobs.worker import Worker, WorkerOptions
from service.operations import datasets
from service.settings import Settings


def child_options(settings: Settings) -> ChildOptions:
    """What the settings say about children."""
    return ChildOptions(
        data_dir=settings.data_dir,
        threads=settings.threads,
        decoding={
            "max_examples": settings.max_examples,
            "max_bytes": settings.max_dataset_bytes,
            "max_columns": settings.max_columns,
            "max_pixels": settings.max_image_pixels,
            "processes": len(os.sched_getaffinity(0)),
        },
        decoder_memory_bytes=settings.reader_memory_bytes,
        decoder_s=settings.decoder_s,
        prepared_bytes=settings.prepared_bytes,
        onnx_memory_bytes=settings.onnx_memory_bytes,
        resident_bytes=settings.resident_bytes,
    )


def work(settings: Settings) -> None:
    """Run jobs until SIGTERM or SIGINT, then give the running ones back to the queue.

    Raises:
        EngineError: the engine cannot start, such as for a device that is not there.
    """
    database = open_database(settings.database)
    store = LocalStore(settings.data_dir)
    worker = Worker(
        database=database,
        store=store,
        doorbell=open_doorbell(settings.database, settings.data_dir),
        engine=ProcessEngine(
            child_options(settings), device=settings.device, children=settings.children
        ),
        options=WorkerOptions(
            lease_s=settings.lease_s,
            heartbeat_s=min(5.0, settings.lease_s / 4),
            crash_limit=settings.crash_limit,
        ),
        conclude=partial(datasets.conclude, store),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
    database.dispose()
