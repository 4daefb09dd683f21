"""What each kind of job does: the one module that joins models, checkpoints and torch.

It runs in children and offers what `service.jobs.engines.Work` asks for. A payload holds all that a
handler needs, so that no child talks to the database.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from checkpoints.fitting import check_fit, output_order
from checkpoints.manifest import Manifest
from checkpoints.store import LocalStore
from models import catalog, chains, plugins, runtime, tensorfile
from models import parameters as declared
from models.datasets import Dataset
from models.evaluation import EvaluationError, EvaluationReport, evaluate
from models.evaluation_key import METRIC_VERSION, evaluation_key, with_plugins
from models.onnx import ARCHITECTURE as ONNX
from models.sections import merged_groups
from models.spec import Component, SpecError
from models.tensorfile import TensorSource
from models.transforms import ExampleType
from models.verification import verified
from service.jobs import ingestion, leakage, networks, onnxnetworks, trainings
from service.jobs.engines import ChildOptions, Message, Task, TaskFailed
from service.jobs.materials import Array, Materials
from service.jobs.progress import Progress, Report


@dataclass(kw_only=True)
class Context:
    """What a child keeps between tasks.

    Attributes:
        materials: datasets and checkpoints, fetched from the store.
        device: torch's name of the child's own device.
        plugins: what was added to the catalog.
        environments: what `models.runtime` says of each device that was used.
    """

    options: ChildOptions
    store: LocalStore
    materials: Materials
    device: str
    plugins: plugins.Loaded
    environments: dict[str, tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=dict)

    @property
    def provides(self) -> dict[str, str]:
        """Versions by distribution of what a job may need."""
        return {**self.plugins.provides, **onnxnetworks.provides()}

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
    loaded = plugins.load()
    runtime.configure(device, options.threads)  # after them: what they set does not count
    store = LocalStore(options.data_dir)
    return Context(
        options=options,
        store=store,
        materials=Materials(store, options),
        device=device,
        plugins=loaded,
    )


def hello(context: Context) -> Message:
    """See `service.jobs.engines.Work.hello`."""
    _warm_up(context.device)
    own = context.environment(context.device)
    usable = dict.fromkeys(("cpu", context.device))
    return {
        "policies": {device.partition(":")[0]: context.environment(device)[0] for device in usable},
        "onnx_policies": onnxnetworks.policies(context.device),
        "environment": own[1],
        "catalog": {name: entries.describe() for name, entries in catalog.CATALOGS.items()},
        "plugins": context.plugins.plugins,
        "provides": context.provides,
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
    dataset = context.materials.dataset(payload["dataset_digest"])
    manifest, arrays = context.materials.checkpoint(payload["checkpoint"])
    device = _device(manifest, payload["device"], context)
    with _memory_watched(payload, device):
        made = _fitting(manifest, dataset, payload)
        x, transforms = context.materials.examples(
            payload["dataset_digest"], payload["transforms"], report
        )
        prepare_s = time.perf_counter() - began
        batches = networks.Batches(x, transforms, payload["batch_size"], device)
        loading = time.perf_counter()
        with _opened(manifest, arrays, dataset, made, payload, context, device) as model:
            load_s = time.perf_counter() - loading
            try:
                judged = evaluate(
                    model,
                    batches,
                    dataset.y,
                    task=payload["task"],
                    classes=dataset.classes,
                    positive_class=payload["positive_class"],
                    threshold=payload["threshold"],
                    groups=merged_groups(dataset.groups, least=leakage.SMALLEST_GROUP)
                    if payload.get("sealed")
                    else dataset.groups,
                    order=output_order(manifest, task=payload["task"], classes=dataset.classes),
                    progress=Progress(report, len(dataset), "examples"),
                )
            except EvaluationError as error:
                raise TaskFailed(error.reason, error.detail) from error
    policy, environment = context.environment(device)
    if manifest.architecture == ONNX:
        policy = onnxnetworks.policies(device)[device.partition(":")[0]]
        environment = environment | policy
    policy = with_plugins(policy, payload.get("needs", ()), context.provides)
    key = evaluation_key(**{name: payload[name] for name in _KEY}, policy=policy)
    evidence = {
        "key": key,
        "logits_sha256": judged.logits_sha256,
        **{name: payload[name] for name in (*_KEY, "dataset", "transforms_from")},
        "metric_version": METRIC_VERSION,
        "policy": policy,
        "environment": environment,
    }
    result = {
        **judged.to_json(),
        "evidence": evidence,
        "assumed": list(payload["assumed"]),
        "timings": {
            "prepare_s": prepare_s + batches.spent_s,
            "load_s": load_s,
            "forward_s": judged.forward_s,
            "metrics_s": judged.metrics_s,
        },
        "predictions": _stored_predictions(judged, context.store),
    }
    result["leakage"] = leakage.of(payload, dataset, judged, context.materials, result["warnings"])
    if "verifies" in payload:
        before = context.materials.predictions(payload["verifies"]["predictions"])
        result["verification"] = verified(payload["verifies"], before, judged, result)
    return result


# What the payload holds of the evaluation key.
_KEY = (
    "checkpoint",
    "dataset_digest",
    "task",
    "positive_class",
    "threshold",
    "transforms",
    "batch_size",
)


def _ingestion(payload: Mapping[str, Any], context: Context, report: Report) -> dict[str, Any]:
    """See `service.jobs.ingestion`."""
    return ingestion.run(payload, context.options, context.store)


def _training(payload: Mapping[str, Any], context: Context, report: Report) -> dict[str, Any]:
    """See `service.jobs.trainings`."""
    device = "cpu" if payload["device"] == "cpu" else context.device
    policy, environment = context.environment(device)
    with _memory_watched(payload, device):
        return trainings.run(
            payload,
            options=context.options,
            store=context.store,
            materials=context.materials,
            device=device,
            policy=policy,
            environment=environment,
            report=report,
        )


HANDLERS: dict[str, Handler] = {
    "evaluation": Handler(run=_evaluation),
    "ingestion": Handler(run=_ingestion),
    "training": Handler(run=_training, long=True),
}


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


def _fitting(manifest: Manifest, dataset: Dataset, payload: Mapping[str, Any]) -> ExampleType:
    """What the network gets of an example.

    Whoever queued the job checked the fit by what the database says; this goes by the files.
    """
    transforms = [Component.from_json(one) for one in payload["transforms"]]
    try:
        check_fit(
            manifest,
            dataset=payload["dataset"],
            task=payload["task"],
            classes=dataset.classes,
            example=dataset.example,
            transforms=transforms,
        )
        made = chains.output_of(transforms, dataset.example, pointer="/transforms")
    except SpecError as error:
        raise TaskFailed("bad_request", error.detail, pointer=error.pointer) from error
    assert made is not None  # noqa: S101 - here is the code of every transform
    return made


def _device(manifest: Manifest, wanted: str, context: Context) -> str:
    """Where a request for this device is computed in this child."""
    if manifest.architecture == ONNX:
        return onnxnetworks.device(wanted, context.device)
    return "cpu" if wanted == "cpu" else context.device


@contextlib.contextmanager
def _opened(
    manifest: Manifest,
    arrays: Mapping[str, Array],
    dataset: Dataset,
    made: ExampleType,
    payload: Mapping[str, Any],
    context: Context,
    device: str,
) -> Iterator[nn.Module]:
    """The network of a checkpoint, whatever it came as, until the block ends."""
    if manifest.architecture == ONNX:
        graph = context.materials.graph(payload["checkpoint"])
        tokens = made.vocabulary is not None
        with onnxnetworks.opened(
            manifest, graph, arrays, context.options, device, tokens=tokens
        ) as model:
            yield model
        return
    yield networks.build(
        manifest,
        arrays,
        shape=made.shape,
        classes=len(dataset.classes),
        task=payload["task"],
        device=device,
    )


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
        transforms = chains.transforms(components, pointer="")
        evaluate(
            networks.build(
                manifest, arrays, shape=shape, classes=10, task="multiclass", device=device
            ),
            networks.Batches(np.zeros((20, *shape), np.uint8), transforms, 16, device),
            np.arange(20) % 10,
            task="multiclass",
            classes=[str(index) for index in range(10)],
            positive_class=None,
            threshold=None,
        )
