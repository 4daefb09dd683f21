"""The two datasets of a training, and how each epoch is judged on them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from checkpoints.fitting import output_order
from checkpoints.manifest import Manifest
from models import chains
from models.datasets import Dataset
from models.evaluation import evaluate
from models.spec import EVALUATION_BATCH_SIZE, Component
from models.transforms import Transform
from service.jobs import networks
from service.jobs.materials import Array, Materials
from service.jobs.progress import Report

Payload = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Both datasets, and the examples of both as the chain of transforms prepares them.

    Attributes:
        x: of the training dataset, before ``transforms``.
        shape: of an example after them.
    """

    training: Dataset
    validation: Dataset
    x: Array
    validation_x: Array
    transforms: Sequence[Transform]
    shape: tuple[int | None, ...]

    @classmethod
    def open(cls, payload: Payload, materials: Materials, report: Report) -> Sides:
        """Fetch and prepare them; SpecError or TaskFailed if they cannot be."""
        chain = payload["transforms"]
        training = materials.dataset(payload["dataset_digest"])
        validation = materials.dataset(payload["validation_digest"])
        x, transforms = materials.examples(payload["dataset_digest"], chain, report)
        validation_x, _ = materials.examples(payload["validation_digest"], chain, report)
        components = [Component.from_json(one) for one in chain]
        made = chains.output_of(components, training.example, pointer="/transforms")
        assert made is not None  # noqa: S101 - here is the code of every transform
        return cls(
            training=training,
            validation=validation,
            x=x,
            validation_x=validation_x,
            transforms=transforms,
            shape=made.shape,
        )


class Judge:
    """Judges a network as an evaluation of its checkpoint would: a copy of it, in float32.

    Attributes:
        spent_s: seconds that it took in all.
    """

    def __init__(
        self, payload: Payload, sides: Sides, manifest: Manifest, model: nn.Module, device: str
    ) -> None:
        self._payload = payload
        self._sides = sides
        self._device = device
        task = payload["task"]
        self._order = output_order(manifest, task=task, classes=sides.validation.classes)
        weights = {name: one.detach().cpu().numpy() for name, one in model.state_dict().items()}
        self._copy = networks.build(
            manifest,
            weights,
            shape=sides.shape,
            classes=len(sides.training.classes),
            task=task,
            device=device,
        )
        self._targets: dict[str, Tensor] = networks.tensors_of(self._copy)
        self.spent_s = 0.0

    def __call__(self, model: nn.Module) -> tuple[dict[str, float], dict[str, float] | None]:
        """See `models.training.Judge`."""
        began = time.perf_counter()
        with torch.no_grad():
            for name, one in model.state_dict().items():
                self._targets[name].copy_(one)
        sides = self._sides
        found = self._metrics(sides.validation_x, sides.validation, self._order)
        training = None
        if self._payload["train_metrics"]:
            training = self._metrics(sides.x, sides.training, None)
        self.spent_s += time.perf_counter() - began
        return found, training

    def _metrics(
        self, x: Array, dataset: Dataset, order: tuple[int, ...] | None
    ) -> dict[str, float]:
        batches = networks.Batches(x, self._sides.transforms, EVALUATION_BATCH_SIZE, self._device)
        return evaluate(
            self._copy,
            batches,
            dataset.y,
            task=self._payload["task"],
            classes=dataset.classes,
            positive_class=self._payload["positive_class"],
            threshold=None,
            order=order,
            metrics_only=True,
        ).metrics
