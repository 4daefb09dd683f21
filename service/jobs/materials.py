"""What evaluations work with: datasets, their prepared forms, checkpoints, earlier predictions.

A child fetches each from the store and keeps the mapped files that it used last.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from checkpoints.cache import FileCache
from checkpoints.errors import CheckpointError, DamagedBlob, MissingBlob
from checkpoints.manifest import Manifest
from checkpoints.store import Store
from models import chains, tensorfile
from models.datasets import Dataset, prepared
from models.onnx.graph import Graph, GraphError
from models.spec import Component, SpecError
from models.tensorfile import TensorFileError
from models.transforms import Transform
from service.jobs.engines import ChildOptions, TaskFailed
from service.jobs.progress import Progress, Report

Array = np.ndarray[Any, Any]
T = TypeVar("T")

_KEPT = 4


class Materials:
    """What one child has fetched; for one thread.

    Every method raises TaskFailed (``missing_blob``, ``damaged_blob``) where the store does not
    have it any more.
    """

    def __init__(self, store: Store, options: ChildOptions) -> None:
        self._store = store
        self._prepared_bytes = options.prepared_bytes
        self._prepared = FileCache(options.data_dir / "prepared", max_bytes=options.prepared_bytes)
        self.datasets: OrderedDict[str, Dataset] = OrderedDict()
        self._examples: OrderedDict[str, Array] = OrderedDict()

    def dataset(self, digest: str) -> Dataset:
        """A decoded dataset, mapped."""

        def fetch() -> Dataset:
            with _readable("the dataset"):
                self._store.verify(digest)  # once a child: equal keys promise equal answers
                return Dataset(self._store.path(digest))

        return _kept(self.datasets, digest, fetch)

    def hashes(self, digest: str) -> Array | None:
        """Those of a dataset's examples, mapped; None if it is gone. Nothing else of it is read."""
        try:
            return Dataset(self._store.path(digest)).hashes
        except (MissingBlob, FileNotFoundError, TensorFileError):
            return None

    def examples(
        self, digest: str, transforms: Sequence[Mapping[str, Any]], report: Report
    ) -> tuple[Array, list[Transform]]:
        """The examples of a dataset as its prepared form has them, made now if nobody did before.

        Args:
            transforms: the whole chain, on the wire's form with every default filled in.

        Returns:
            ``(N, ...)``, mapped, and what of the chain is left to be done on each batch.

        Raises:
            TaskFailed: as all, and ``bad_request`` for a value that cannot be transformed.
        """
        dataset = self.dataset(digest)
        components = [Component.from_json(one) for one in transforms]
        on_host, on_device = chains.divided(components, pointer="/transforms")
        if prepared.is_prepared(dataset, on_host):
            return dataset.x, on_device
        first = len(on_host)
        key = prepared.key(digest, transforms[:first])

        made = chains.output_of(components[:first], dataset.example, pointer="/transforms")
        assert made is not None  # noqa: S101 - no plug-in's transform prepares a dataset

        def make(descriptor: int) -> None:
            prepared.prepare(
                dataset,
                on_host,
                made,
                descriptor,
                progress=Progress(report, len(dataset), "examples prepared"),
            )

        def fetch() -> Array:
            return self._prepared.get(key, make, prepared.open_prepared)

        try:
            chains.check_prepared(
                components,
                dataset.example,
                examples=len(dataset),
                most_bytes=self._prepared_bytes,
                pointer="/transforms",
            )
            return _kept(self._examples, key, fetch), on_device
        except SpecError as error:
            raise TaskFailed("bad_request", error.detail, pointer="/transforms") from error

    def checkpoint(self, digest: str) -> tuple[Manifest, dict[str, Array]]:
        """A checkpoint's manifest and tensors, mapped."""
        with _readable("the checkpoint"):
            self._store.verify(digest)
            arrays, metadata = tensorfile.open_arrays(self._store.path(digest))
            manifest = Manifest.from_metadata(metadata)
            if manifest is None:
                raise TensorFileError("it has no manifest")
        return manifest, arrays

    def graph(self, digest: str) -> Graph:
        """The graph of a checkpoint that came as ONNX."""
        with _readable("the checkpoint"):
            _, metadata = tensorfile.open_arrays(self._store.path(digest))
            return Graph.from_metadata(metadata)

    def predictions(self, digest: str) -> dict[str, Array] | None:
        """What an evaluation kept of each example; None if it is gone."""
        try:
            return tensorfile.open_arrays(self._store.path(digest))[0]
        except (MissingBlob, FileNotFoundError):
            return None


def _kept(kept: OrderedDict[str, T], key: str, fetch: Callable[[], T]) -> T:
    """What was fetched before under this key, or now; the longest unused is let go."""
    if key not in kept:
        kept[key] = fetch()
        if len(kept) > _KEPT:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (MissingBlob, FileNotFoundError):
        raise TaskFailed("missing_blob", f"{what} is not in the store any more") from None
    except (DamagedBlob, TensorFileError, CheckpointError, GraphError) as error:
        raise TaskFailed(
            "damaged_blob", f"{what} is damaged in the store; send the file again"
        ) from error
