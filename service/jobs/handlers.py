"""What each kind of job does: the one module that joins models, checkpoints and torch.

It runs in children and offers what `service.jobs.engines.Work` asks for. A payload holds all that a
handler needs, so that no child talks to the database.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from checkpoints.errors import CheckpointError, DamagedBlob, MissingBlob
from checkpoints.fitting import check_fit
from checkpoints.manifest import Manifest
from checkpoints.store import LocalStore
from models import catalog, runtime, tensorfile
from models import parameters as declared
from models.datasets import Dataset
from models.evaluation import EvaluationError, EvaluationReport, evaluate
from models.evaluation_key import evaluation_key
from models.spec import Component, SpecError
from models.tensorfile import TensorFileError, TensorSource
from models.transforms import ExampleType, Transform, elementwise
from service.jobs import sandbox
from service.jobs.engines import ChildOptions, Message, Task, TaskFailed

Report = Callable[[Message], None]
Array = np.ndarray[Any, Any]

_PROGRESS_S = 0.5
_KEPT_DATASETS = 4


@dataclass(kw_only=True)
class Context:
    """What a child keeps between tasks.

    Attributes:
        device: torch's name of the child's own device.
        datasets: mapped files by digest, the last used last.
        environments: what `models.runtime` says of each device that was used.
    """

    options: ChildOptions
    store: LocalStore
    device: str
    datasets: OrderedDict[str, Dataset] = field(default_factory=OrderedDict)
    environments: dict[str, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)

    def environment(self, device: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Numeric policy and environment of a device."""
        if device not in self.environments:
            found = (runtime.policy(device), runtime.environment(device))
            self.environments[device] = found
        return self.environments[device]


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """What one kind of job does.

    Attributes:
        run: takes payload, context and a way to report progress; returns the result.
        long: it runs for hours: it never takes the last free child, and its child is replaced
            after it.
    """

    run: Callable[[Mapping[str, Any], Context, Report], dict[str, Any]]
    long: bool = False


def devices(name: str) -> list[str]:
    """See `service.jobs.engines.Work.devices`."""
    return runtime.resolve_device(name)


def open_context(options: ChildOptions, device: str) -> Context:
    """See `service.jobs.engines.Work.open_context`."""
    runtime.configure(device, options.threads)
    return Context(options=options, store=LocalStore(options.data_dir), device=device)


def hello(context: Context) -> Message:
    """See `service.jobs.engines.Work.hello`."""
    _warm_up(context.device)
    own = context.environment(context.device)
    usable = dict.fromkeys(("cpu", context.device))
    return {
        "policies": {device.partition(":")[0]: context.environment(device)[0] for device in usable},
        "environment": own[1],
        "catalog": {name: entries.describe() for name, entries in catalog.CATALOGS.items()},
        "kinds": {kind: handler.long for kind, handler in HANDLERS.items()},
    }


def run(task: Task, context: Context, report: Report) -> Message:
    """See `service.jobs.engines.Work.run`."""
    return HANDLERS[task["kind"]].run(task["payload"], context, report)


def _evaluation(payload: Mapping[str, Any], context: Context, report: Report) -> dict[str, Any]:
    """Judge a checkpoint on a dataset; returns api.md's result of an evaluation.

    What the supervisor alone knows (``queued_s``, ``total_s``) it adds to ``timings``.
    """
    began = time.perf_counter()
    device = "cpu" if payload["device"] == "cpu" else context.device
    dataset = _dataset(payload["dataset_digest"], context)
    opened = time.perf_counter()
    with _memory_watched(payload, device):
        manifest, arrays = _checkpoint(payload["checkpoint"], context)
        transforms = _transforms(manifest, dataset, payload)
        model = _network(manifest, arrays, device)
        loaded = time.perf_counter()
        batches = _Batches(dataset.x, transforms, payload["batch_size"], device)
        try:
            judged = evaluate(
                model,
                batches,
                dataset.y,
                task=payload["task"],
                classes=dataset.classes,
                positive_class=payload["positive_class"],
                threshold=payload["threshold"],
                groups=dataset.groups,
                progress=_Progress(report, len(dataset)),
            )
        except EvaluationError as error:
            raise TaskFailed(error.reason, error.detail) from error
    policy, environment = context.environment(device)
    evidence = {
        "key": evaluation_key(
            checkpoint=payload["checkpoint"],
            dataset_digest=payload["dataset_digest"],
            task=payload["task"],
            positive_class=payload["positive_class"],
            threshold=payload["threshold"],
            transforms=payload["transforms"],
            batch_size=payload["batch_size"],
            policy=policy,
        ),
        "logits_sha256": judged.logits_sha256,
        **{name: payload[name] for name in _EVIDENCE},
        "policy": policy,
        "environment": environment,
    }
    return {
        **judged.to_json(),
        "evidence": evidence,
        "assumed": list(payload["assumed"]),
        "timings": {
            "prepare_s": opened - began + batches.spent_s,
            "load_s": loaded - opened,
            "forward_s": judged.forward_s,
            "metrics_s": judged.metrics_s,
        },
        "predictions": _stored_predictions(judged, context.store),
    }


_EVIDENCE = (
    "checkpoint",
    "dataset",
    "dataset_digest",
    "transforms",
    "transforms_from",
    "batch_size",
    "threshold",
)


def _ingestion(payload: Mapping[str, Any], context: Context, report: Report) -> dict[str, Any]:
    """Turn an upload into a prepared dataset in the store, in a limited process."""
    options = context.options
    request = {
        "spec": payload["spec"],
        "max_examples": options.max_dataset_examples,
        "max_bytes": options.max_dataset_bytes,
    }
    try:
        upload = open(context.store.upload_path(payload["upload"]), "rb")  # noqa: SIM115
    except (MissingBlob, FileNotFoundError):
        raise TaskFailed("missing_blob", "the uploaded file is gone; send it again") from None
    with upload, context.store.draft() as draft:
        descriptors = [upload.fileno(), draft.fileno()]
        try:
            answer = sandbox.run("models.datasets:ingest", request, descriptors, options.ingestion)
        except sandbox.SandboxError as error:
            if error.trace:  # a fault of the decoder, not of the file
                error.add_note(error.trace)
                raise
            detail = f"the file could not be read: {error.detail}"
            raise TaskFailed("bad_request", detail, pointer="/file") from error
        if "error" in answer:
            refusal = answer["error"]
            raise TaskFailed("bad_request", refusal["detail"], pointer=refusal["pointer"])
        blob = draft.publish()
    found = {**answer["dataset"], "digest": blob.digest, "size_bytes": blob.size_bytes}
    return {"dataset": found}


HANDLERS: dict[str, Handler] = {
    "evaluation": Handler(run=_evaluation),
    "ingestion": Handler(run=_ingestion),
}


class _Batches:
    """Examples as a network takes them; counts the seconds spent on making them.

    A batch is copied out of the mapping, so that its memory is aligned alike each time and no
    more than one batch of a large dataset is held.
    """

    def __init__(
        self, x: Array, transforms: Sequence[Transform], batch_size: int, device: str
    ) -> None:
        self._x = x
        self._transforms = transforms
        self._batch_size = batch_size
        self._device = device
        self.spent_s = 0.0

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self._x), self._batch_size):
            began = time.perf_counter()
            batch = _copied(self._x[start : start + self._batch_size]).to(self._device)
            batch = elementwise.apply(self._transforms, batch)
            self.spent_s += time.perf_counter() - began
            yield batch


class _Progress:
    """Reports how many examples are done, at most twice a second."""

    def __init__(self, report: Report, total: int) -> None:
        self._report = report
        self._total = total
        self._next = time.monotonic() + _PROGRESS_S

    def __call__(self, done: int) -> None:
        if (now := time.monotonic()) >= self._next:
            self._next = now + _PROGRESS_S
            self._report({"done": done, "total": self._total, "unit": "examples"})


@contextlib.contextmanager
def _memory_watched(payload: Mapping[str, Any], device: str) -> Iterator[None]:
    """Say of any kind of memory that ran out that it did, and at which batch size."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        host = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
        card = isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)
        if not host and not card:
            raise
        where = device if card else "the host"
        raise TaskFailed(
            "out_of_memory",
            f"{where} ran out of memory at batch_size {payload['batch_size']}; a smaller one "
            "needs less",
            pointer="/batch_size",
        ) from error


def _dataset(digest: str, context: Context) -> Dataset:
    kept = context.datasets
    if digest not in kept:
        with _readable("the dataset"):
            context.store.verify(digest)  # once a child: equal keys promise equal answers
            kept[digest] = Dataset(context.store.path(digest))
        while len(kept) > _KEPT_DATASETS:
            kept.popitem(last=False)
    kept.move_to_end(digest)
    return kept[digest]


def _checkpoint(digest: str, context: Context) -> tuple[Manifest, dict[str, Array]]:
    with _readable("the checkpoint"):
        context.store.verify(digest)
        arrays, metadata = tensorfile.open_arrays(context.store.path(digest))
        manifest = Manifest.from_metadata(metadata)
        if manifest is None:
            raise TensorFileError("it has no manifest")
    return manifest, arrays


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (MissingBlob, FileNotFoundError):
        raise TaskFailed("missing_blob", f"{what} is not in the store any more") from None
    except (DamagedBlob, TensorFileError, CheckpointError) as error:
        raise TaskFailed(
            "damaged_blob", f"{what} is damaged in the store; send the file again"
        ) from error


def _transforms(
    manifest: Manifest, dataset: Dataset, payload: Mapping[str, Any]
) -> list[Transform]:
    """Whoever queued the job checked the fit by what the database says; this goes by the files."""
    components = [Component.from_json(one) for one in payload["transforms"]]
    try:
        check_fit(
            manifest,
            dataset=payload["dataset"],
            task=payload["task"],
            classes=dataset.classes,
            example=ExampleType(shape=dataset.x.shape[1:], dtype=dataset.x.dtype.name),
            transforms=components,
        )
    except SpecError as error:
        raise TaskFailed("bad_request", error.detail, pointer=error.pointer) from error
    return catalog.transforms(components, pointer="/transforms")


def _network(manifest: Manifest, arrays: Mapping[str, Array], device: str) -> nn.Module:
    """The network of a checkpoint, in evaluation mode on its device."""
    entry = catalog.ARCHITECTURES[manifest.architecture]
    parameters = declared.build(entry.parameters, manifest.hyperparameters)
    with torch.device("meta"):  # nothing is initialized that the weights replace
        model: nn.Module = entry.load()(parameters, manifest.input_shape, manifest.outputs)
    weights = {name: _copied(array) for name, array in arrays.items()}
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().to(device)


def _copied(array: Array) -> Tensor:
    """A tensor in torch's own memory: how a view is aligned can show in a result's last bit."""
    return torch.from_numpy(array).clone(memory_format=torch.contiguous_format)


def _stored_predictions(judged: EvaluationReport, store: LocalStore) -> str:
    """Keep what each example was predicted as; returns the digest of the blob."""
    tensors = {
        "logits": TensorSource.of(judged.logits),
        "predicted": TensorSource.of(judged.predicted),
        "confidence": TensorSource.of(judged.confidence),
    }
    with store.draft() as draft:
        with os.fdopen(draft.fileno(), "wb", closefd=False) as stream:
            tensorfile.write(stream, tensors, metadata={})
        return draft.publish().digest


def _warm_up(device: str) -> None:
    """Pay for what torch does at its first use, before the first request does."""
    shapes: Sequence[tuple[str, dict[str, Any], tuple[int, ...]]] = (
        ("mlp", {"hidden": [8], "batch_norm": True}, (8,)),
        ("convnet", {"widths": [8]}, (1, 8, 8)),
    )
    for name, hyperparameters, shape in shapes:
        entry = catalog.ARCHITECTURES[name]
        parameters = declared.build(entry.parameters, hyperparameters)
        manifest = Manifest(
            architecture=name,
            hyperparameters=declared.to_json(parameters),
            input_shape=shape,
            outputs=10,
            classes=None,
            transforms=None,
            assumed=(),
        )
        tensors = entry.layout.tensors(parameters, shape, 10)
        arrays = {key: np.ones(one.shape, one.dtype) for key, one in tensors.items()}
        components = [Component(name="to_float")]
        transforms = catalog.transforms(components, pointer="")
        evaluate(
            _network(manifest, arrays, device),
            _Batches(np.zeros((20, *shape), np.uint8), transforms, 16, device),
            np.arange(20) % 10,
            task="multiclass",
            classes=[str(index) for index in range(10)],
            positive_class=None,
            threshold=None,
        )
