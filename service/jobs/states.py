"""The files of a training: after each epoch its weights, as a checkpoint, and all else it needs.

They are uploads of the store, under names that nothing else has, until the database names those of
a later epoch: two equal trainings side by side never share one. The checkpoint is whole and
canonical; that of the best epoch is published by another name when the training ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from checkpoints.errors import MissingBlob
from checkpoints.manifest import Manifest
from checkpoints.store import CHUNK_BYTES, Draft, Store
from models import tensorfile
from models.optimization import optimizers
from models.tensorfile import TensorFileError, TensorSource
from models.training import Trainee
from service.jobs.engines import TaskFailed

_KEY = "training"

Saved = dict[str, Any]
"""What `jobs.saved` holds: ``epoch``, ``state`` {file, digest}, ``last`` and ``best`` (or null)
{epoch, value, file, digest, size_bytes}, and what the training's child adds for its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A trainee between two epochs, copied to the host.

    Attributes:
        weights: by name, as a checkpoint holds them.
        optimizer: see `optimizers.state`.
        rest: JSON values.
        value: the monitored metric's.
        is_best: of all epochs so far.
    """

    epoch: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    rest: dict[str, Any]
    value: float
    is_best: bool

    @classmethod
    def of(cls, trainee: Trainee, value: float) -> Snapshot:
        """Take one."""
        tensors, groups = optimizers.state(trainee.optimizer)
        return cls(
            epoch=trainee.epoch,
            weights=_copied(trainee.model.state_dict()),
            optimizer=_copied(tensors),
            rest={
                "groups": groups,
                "schedule": trainee.schedule.state_dict(),
                "best": trainee.best.state_dict(),
                "stopping": trainee.stopping.state_dict(),
                "stopped": trainee.stopped,
            },
            value=value,
            is_best=trainee.best.epoch == trainee.epoch,
        )

    def write(self, store: Store, manifest: Manifest, before: Saved | None) -> Saved:
        """Keep it, and return the part of `Saved` that names its files."""
        weights = _kept(store, self.weights, manifest.to_metadata())
        state = _kept(store, self.optimizer, {_KEY: json.dumps(self.rest)})
        last = {"epoch": self.epoch, "value": self.value, **weights}
        best = last if self.is_best else before and before["best"]
        return {"epoch": self.epoch, "state": state, "last": last, "best": best}


def restore(store: Store, saved: Mapping[str, Any], trainee: Trainee) -> None:
    """Bring a trainee that was built alike to where a snapshot was taken.

    Raises:
        TaskFailed: its files are gone or damaged.
    """
    weights, _ = _opened(store, saved["last"])
    tensors, metadata = _opened(store, saved["state"])
    rest = json.loads(metadata[_KEY])
    trainee.model.load_state_dict({name: torch.from_numpy(one) for name, one in weights.items()})
    state = {name: torch.from_numpy(one).clone() for name, one in tensors.items()}
    optimizers.restore(trainee.optimizer, state, rest["groups"])
    trainee.schedule.load_state_dict(rest["schedule"])
    trainee.best.load_state_dict(rest["best"])
    trainee.stopping.load_state_dict(rest["stopping"])
    trainee.epoch, trainee.stopped = saved["epoch"], rest["stopped"]


class Saver:
    """Writes snapshots in a thread of its own, one at a time and in order.

    A context manager: leaving it waits for the last one. An error of the thread is raised by the
    next call, or on leaving.

    Args:
        write: keeps one and tells the supervisor of it.
    """

    def __init__(self, write: Callable[[Any], None]) -> None:
        self._write = write
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._settle()
        elif self._thread is not None:
            self._thread.join()

    def save(self, item: Any) -> None:
        """Have an item written; waits for the one before."""
        self._settle()
        self._thread = threading.Thread(target=self._run, args=[item], daemon=True)
        self._thread.start()

    def _settle(self) -> None:
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, item: Any) -> None:
        try:
            self._write(item)
        except Exception as error:
            self._error = error


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the host, contiguous, and apart from what goes on being changed."""
    return {
        name: one.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, one in tensors.items()
    }


class _Stream:
    """A draft as what `tensorfile.write` takes; the draft hashes on the way."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def write(self, data: bytes | memoryview) -> int:
        self._draft.write(cast(bytes, data))
        return len(data)


def _kept(
    store: Store, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Write one file; returns its name, digest and size."""
    sources = {name: TensorSource.of(one.numpy()) for name, one in tensors.items()}
    try:
        with store.draft() as draft:
            size = tensorfile.write(cast(BinaryIO, _Stream(draft)), sources, metadata=metadata)
            return {"digest": draft.sha256, "size_bytes": size, "file": draft.keep()}
    except FileNotFoundError:
        detail = "the service's data folder cannot be reached: its folders are not there"
        raise TaskFailed("store_unreachable", detail) from None


def _opened(
    store: Store, file: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """What `_kept` wrote."""
    with _readable():
        path = store.upload_path(file["file"])
        found = hashlib.sha256()
        with open(path, "rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                found.update(chunk)
        if found.hexdigest() != file["digest"]:
            raise TensorFileError("its bytes have changed")
        return tensorfile.open_arrays(os.fspath(path))


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (MissingBlob, FileNotFoundError):
        raise TaskFailed(
            "missing_blob", "the stored state of the training is not there any more"
        ) from None
    except TensorFileError as error:
        raise TaskFailed(
            "damaged_blob", f"the stored state of the training is damaged: {error}"
        ) from error
