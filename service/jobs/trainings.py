"""A training in its child: build everything, go on where it stood, store and tell each epoch."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch._dynamo  # which optimizers import at their first step: here children inherit it
from torch import nn

from checkpoints.fitting import check_fit
from checkpoints.manifest import Manifest
from checkpoints.reading.conversion import NOT_LEARNED
from checkpoints.store import Store
from models import catalog, chains, feeding, losses, plugins, spec
from models.datasets import Dataset
from models.evaluation import EvaluationError
from models.losses import functions
from models.optimization import optimizers, stopping
from models.optimization.schedules import Schedule
from models.recipes import LOSSES
from models.spec import Component, SpecError
from models.training import (
    Diverged,
    EpochReport,
    Recipe,
    TooFewExamples,
    Trainee,
    batch_sizes,
    derived_seed,
    train,
)
from service.jobs import networks, states
from service.jobs.engines import ChildOptions, Message, TaskFailed
from service.jobs.judging import Judge, Payload, Sides
from service.jobs.materials import Materials
from service.jobs.progress import Progress, Report


def run(
    payload: Payload,
    *,
    options: ChildOptions,
    store: Store,
    materials: Materials,
    device: str,
    policy: Mapping[str, Any],
    environment: Mapping[str, Any],
    report: Report,
) -> dict[str, Any]:
    """Train to the end; every epoch is reported as soon as it is stored.

    Args:
        payload: of the job, and as ``saved`` what was stored of it before, or None.
        policy: the numeric one, of the device.
        environment: for the record.

    Returns:
        ``{"stopped": {"reason", "epoch"}}``; all else was reported with the epochs.

    Raises:
        TaskFailed: ``diverged``, ``bad_request``, ``missing_blob`` or ``damaged_blob``.
    """
    report = _one_at_a_time(report)
    with _said():
        sides = Sides.open(payload, materials, report)
    saved: states.Saved | None = payload["saved"]
    model, manifest, adjustments = _network(payload, sides, materials)
    model.to(device)
    if device != "cpu":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainee, recipe = _prepared(payload, sides, model, device)
    if saved is not None:
        states.restore(store, saved, trainee)
    source = feeding.open_source(
        sides.x,
        sides.training.y,
        sides.transforms,
        device=device,
        most_bytes=_resident_bytes(options, device),
        augmented=bool(recipe.augmentations),
    )
    judge = Judge(payload, sides, manifest, trainee.model, device)
    about = _about(payload, manifest, trainee.model, adjustments, policy, environment)
    clock = _Clock(saved)

    def keep(item: tuple[EpochReport, states.Snapshot, dict[str, float]]) -> None:
        nonlocal saved
        row, snapshot, timings = item
        saved = {
            **snapshot.write(store, manifest, saved),
            **about,
            "timings": timings,
        }
        report({"type": "epoch", "row": row.to_json(), "saved": saved})

    examples = len(sides.training)
    done = examples * trainee.epoch
    progress = Progress(report, examples * recipe.epochs, "examples", first=done)
    plugin = payload["architecture"] if manifest.outputs is None else None
    with _said(plugin=plugin), states.Saver(keep) as saver:
        for row in train(
            trainee, source, examples, recipe, judge=judge, device=device, progress=progress
        ):
            snapshot = states.Snapshot.of(trainee, row.metrics[recipe.monitor])
            saver.save((row, snapshot, clock.read(judge.spent_s, source.waited_s)))
    return {"stopped": {"reason": trainee.stopped, "epoch": trainee.epoch}}


def _one_at_a_time(report: Report) -> Report:
    """The same for several threads."""
    lock = threading.Lock()

    def locked(message: Message) -> None:
        with lock:
            report(message)

    return locked


@contextlib.contextmanager
def _said(*, plugin: str | None = None) -> Iterator[None]:
    """Say what ends a training in the words of a failed task.

    Args:
        plugin: the architecture, if its code is a plug-in's, whose failures are not ours.
    """
    try:
        yield
    except (TaskFailed, OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Diverged as error:
        raise TaskFailed("diverged", str(error), pointer="/optimizer/lr") from error
    except TooFewExamples as error:
        raise TaskFailed("bad_request", str(error), pointer="/batch_size") from error
    except EvaluationError as error:
        raise TaskFailed(error.reason, error.detail) from error
    except SpecError as error:
        raise TaskFailed("bad_request", error.detail, pointer=error.pointer) from error
    except Exception as error:
        if plugin is None or "DefaultCPUAllocator" in str(error):  # memory, reported as such
            raise
        raise TaskFailed(
            "network_failed", f"{plugin} failed in training: {plugins.in_one_line(error)}"
        ) from error


def _network(
    payload: Payload, sides: Sides, materials: Materials
) -> tuple[nn.Module, Manifest, list[str]]:
    """The network before its first step, what its checkpoints say, and what was replaced in it."""
    name, classes, task = payload["architecture"], sides.training.classes, payload["task"]
    given = Component.from_json(payload["loss"])
    with _said():
        entry = catalog.ARCHITECTURES.find(name)
        parameters = entry.build(payload["hyperparameters"])
        loss = LOSSES[given.name].build(given.parameters)
        outputs = losses.outputs_for(loss, task=task, classes=len(classes))
    torch.manual_seed(derived_seed("weights", payload["seed"]))
    model = networks.untrained(entry, name, parameters, shape=sides.shape, outputs=outputs)
    known = entry.provider is None
    manifest = Manifest.of_trained(
        name,
        parameters,
        {key: tuple(one.shape) for key, one in model.state_dict().items()} if known else None,
        outputs=outputs if known else None,
        classes=classes,
        transforms=payload["transforms"],
    )
    with _said():
        check_fit(
            manifest,
            dataset=payload["validation_dataset"],
            task=task,
            classes=sides.validation.classes,
            example=sides.validation.example,
            transforms=[Component.from_json(one) for one in payload["transforms"]],
        )
    if payload["saved"] is not None:
        return model, manifest, payload["saved"]["adjustments"]
    adjustments = []
    if payload["initial_checkpoint"] is not None:
        before, arrays = materials.checkpoint(payload["initial_checkpoint"])
        adjustments = networks.start_from(model, manifest, before, arrays)
    return model, manifest, adjustments


def _prepared(
    payload: Payload, sides: Sides, model: nn.Module, device: str
) -> tuple[Trainee, Recipe]:
    """Everything around the network."""
    monitor = payload["monitor"]
    early = payload["early_stopping"]
    with _said():
        optimizer = optimizers.build(Component.from_json(payload["optimizer"]), model)
        scheduler = payload["scheduler"]
        trainee = Trainee(
            model=model,
            optimizer=optimizer,
            schedule=Schedule(
                optimizer,
                None if scheduler is None else Component.from_json(scheduler),
                lower_is_better=stopping.lower_is_better(monitor),
                warmup_epochs=payload["warmup_epochs"],
                epochs=payload["epochs"],
                steps_per_epoch=len(batch_sizes(len(sides.training), payload["batch_size"])),
            ),
            best=stopping.Best(monitor),
            stopping=stopping.EarlyStopping(
                None if early is None else spec.EarlyStopping(**early), monitor
            ),
        )
        augmentations = [Component.from_json(one) for one in payload["augmentations"]]
        recipe = Recipe(
            epochs=payload["epochs"],
            batch_size=payload["batch_size"],
            seed=payload["seed"],
            loss=functions.build(
                Component.from_json(payload["loss"]),
                task=payload["task"],
                classes=sides.training.classes,
                counts=_counts(sides.training),
                device=device,
            ),
            augmentations=chains.augmentations(augmentations, pointer="/augmentations"),
            gradient_clip_norm=payload["gradient_clip_norm"],
            precision=payload["precision"],
            monitor=monitor,
        )
    return trainee, recipe


def _counts(dataset: Dataset) -> list[int]:
    """See `models.losses.weights`."""
    if dataset.y.ndim == 2:
        return [*dataset.y.sum(axis=0, dtype=np.int64).tolist(), len(dataset)]
    counts: list[int] = np.bincount(dataset.y, minlength=len(dataset.classes)).tolist()
    return counts


def _resident_bytes(options: ChildOptions, device: str) -> int:
    """What a dataset may take where it is trained on."""
    if device == "cpu":
        return options.resident_bytes
    free, _ = torch.cuda.mem_get_info(device)
    return min(options.resident_bytes, free // 2)


def _about(
    payload: Payload,
    manifest: Manifest,
    model: nn.Module,
    adjustments: Sequence[str],
    policy: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """What the result of a training and the rows of its checkpoints say beside its epochs."""
    warnings, before = list(payload["warnings"]), payload["saved"]
    if before is not None:
        warnings = list(before["warnings"])
        changed = [name for name in policy if before["environment"].get(name) != policy[name]]
        if changed:
            warnings.append(
                f"it went on after epoch {before['epoch']} where {', '.join(changed)} differ: an "
                "undisturbed run need not end with the same bytes"
            )
    tensors = model.state_dict()
    learned = sum(
        one.numel()
        for name, one in tensors.items()
        if one.is_floating_point() and name.rsplit(".", 1)[-1] not in NOT_LEARNED
    )
    return {
        "manifest": manifest.to_json(),
        "details": {"parameters": learned, "tensors": len(tensors), "warnings": []},
        "adjustments": list(adjustments),
        "environment": dict(environment),
        "warnings": warnings,
    }


class _Clock:
    """Where the time went, those of earlier attempts up to their last stored epoch included."""

    def __init__(self, saved: Mapping[str, Any] | None) -> None:
        self._before: dict[str, float] = dict(saved["timings"]) if saved else {}
        self._began = time.perf_counter()

    def read(self, judged_s: float, waited_s: float) -> dict[str, float]:
        """Seconds in all, in validation, and waiting for data."""
        now = {
            "total_s": time.perf_counter() - self._began,
            "validation_s": judged_s,
            "waited_s": waited_s,
        }
        return {name: value + self._before.get(name, 0.0) for name, value in now.items()}
