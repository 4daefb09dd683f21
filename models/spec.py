"""Frozen values that say what to do, and the one error that says why it cannot be done.

A value that exists is valid: each class checks itself on construction and raises `SpecError`.
Nothing here imports torch, so that the web process can build these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

TASKS = ("multiclass", "binary", "multilabel")
SPLITS = ("train", "validation", "test")
MODES = ("rgb", "grey")
DEFAULT_LABEL = "label"
METRICS = ("loss", "accuracy", "precision", "recall", "f1")
PRECISIONS = ("float32", "bfloat16")
MOST_EPOCHS = 10_000
EVALUATION_BATCH_SIZE = 256
DEVICE_PATTERN = r"^(auto|cpu|cuda|cuda:[0-9]{1,3})$"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"


class SpecError(ValueError):
    """What was asked for cannot be run as written.

    Args:
        detail: what was wrong and what would be right, for the person who sent it.
        pointer: JSON pointer of the field at fault in the request; empty for the whole.
    """

    def __init__(self, detail: str, *, pointer: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer

    def under(self, prefix: str) -> SpecError:
        """The same complaint about a field that stands deeper in the request."""
        return SpecError(self.detail, pointer=prefix + self.pointer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A name of the catalog with its parameters, as a request writes it.

    On the wire: ``{"name": "normalize", "mean": [0.5], "std": [0.2]}``.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Component:
        """Build from the wire's form; SpecError if there is no name."""
        name = value.get("name")
        if not isinstance(name, str):
            raise SpecError("name must be a string naming an entry of the catalog", pointer="/name")
        return cls(name=name, parameters={k: v for k, v in value.items() if k != "name"})

    def to_json(self) -> dict[str, Any]:
        """The wire's form."""
        return {"name": self.name, **self.parameters}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """How an uploaded file becomes a dataset.

    Attributes:
        classes: class names in index order, or of the labels of a multilabel task; None derives
            them from the labels, sorted, or from the columns.
        positive_class: for a binary task; None means the second class.
        label: of a table, the column of the labels, or those of a multilabel task; None is
            `DEFAULT_LABEL`.
        features: of a table, the columns that make an example, in this order; None is all that are
            neither label nor group, in the file's order.
        groups: names of the arrays or columns that define slices; None takes the array ``groups``
            if the file has one, and no column.
        mode: of images, what their pixels are converted to, one of `MODES`; None is the first.
        transforms: the deterministic transforms that evaluation applies unless told otherwise.
        sealed: whether single examples are for admins only.
    """

    name: str
    split: str
    task: str = "multiclass"
    format: str | None = None
    classes: tuple[str, ...] | None = None
    positive_class: str | None = None
    label: str | tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    mode: str | None = None
    transforms: tuple[Component, ...] = ()
    sealed: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(NAME_PATTERN, self.name):
            raise SpecError(
                "name must start with a letter or digit and hold only letters, digits, '.', '_' "
                f"and '-', at most 128 of them; got {self.name!r}",
                pointer="/name",
            )
        _one_of(self.split, SPLITS, pointer="/split")
        _one_of(self.task, TASKS, pointer="/task")
        if self.mode is not None:
            _one_of(self.mode, MODES, pointer="/mode")
        if isinstance(self.label, tuple) and self.task != "multilabel":
            raise SpecError(
                "several label columns belong to task 'multilabel'; name one", pointer="/label"
            )
        self._check_features()
        if self.classes is not None:
            least = 1 if self.task == "multilabel" else 2
            check_classes(self.classes, pointer="/classes", least=least)
            if self.task == "binary" and len(self.classes) != 2:
                raise SpecError(
                    f"a binary task has exactly 2 classes, got {len(self.classes)}",
                    pointer="/classes",
                )
        if self.positive_class is not None:
            if self.task != "binary":
                raise SpecError(
                    "positive_class belongs to task 'binary' only", pointer="/positive_class"
                )
            if self.classes is not None:
                _one_of(self.positive_class, self.classes, pointer="/positive_class")

    def _check_features(self) -> None:
        """Refuse a column that has another role already."""
        labels = self.label if isinstance(self.label, tuple) else (self.label or DEFAULT_LABEL,)
        taken = {**dict.fromkeys(self.groups or (), "groups"), **dict.fromkeys(labels, "label")}
        for index, name in enumerate(self.features or ()):
            if name in taken:
                raise SpecError(
                    f"column {name[:100]!r} stands in {taken[name]} already; a column has one "
                    "role, once",
                    pointer=f"/features/{index}",
                )
            taken[name] = "features"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DatasetSpec:
        """Build from what `to_json` gave."""
        known = dict(value)
        for name in ("classes", "groups", "features", "label"):
            if isinstance(known.get(name), list):
                known[name] = tuple(known[name])
        known["transforms"] = tuple(map(Component.from_json, known.get("transforms", ())))
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """JSON values by field name, transforms on the wire's form."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["transforms"] = [one.to_json() for one in self.transforms]
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSpec:
    """Which checkpoint is evaluated on which dataset, and how.

    Attributes:
        checkpoint: digest of a stored checkpoint.
        dataset: ``name@version`` of a stored dataset.
        transforms: None means the checkpoint's, else the dataset's.
        threshold: of the positive class's probability, for a binary task, or of every class's,
            for a multilabel one; no other task has one. None is the arg max for a binary task
            with two outputs, else 0.5.
    """

    checkpoint: str
    dataset: str
    batch_size: int = EVALUATION_BATCH_SIZE
    device: str = "auto"
    transforms: tuple[Component, ...] | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= 65536:
            raise SpecError(
                f"batch_size must be between 1 and 65536, got {self.batch_size}",
                pointer="/batch_size",
            )
        _check_device(self.device)
        if self.threshold is not None and not 0.0 < self.threshold < 1.0:
            raise SpecError(
                f"threshold must lie between 0 and 1, both excluded, got {self.threshold}",
                pointer="/threshold",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopping:
    """When a training ends before its last epoch.

    Attributes:
        patience: epochs in a row without improvement after which it ends.
        min_delta: the least change of the monitored metric that is an improvement.
    """

    patience: int = 5
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        _in_range(self.patience, 1, MOST_EPOCHS, pointer="/patience")
        _in_range(self.min_delta, 0, 1e9, pointer="/min_delta")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """What is trained on which dataset, how, and what chooses the best epoch.

    Attributes:
        dataset: ``name`` or ``name@version`` of the training dataset, of the split ``train``.
        validation_dataset: likewise, that which every epoch is judged on.
        hyperparameters: of the architecture.
        loss: None is that of the dataset's task, see `models.losses.DEFAULTS`.
        scheduler: None for a constant rate.
        warmup_epochs: epoch e of these has e / (warmup_epochs + 1) of the rate that the scheduler
            starts from after them.
        monitor: one of `METRICS`, of the validation dataset.
        augmentations: of the training dataset's examples, before its transforms.
        gradient_clip_norm: largest norm of all gradients together.
        initial_checkpoint: where the weights start; None draws them.
        allow_overlap: train although the two datasets share examples.
        train_metrics: judge every epoch on the training dataset as well.
    """

    architecture: str
    dataset: str
    validation_dataset: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 50
    batch_size: int = 64
    seed: int = 0
    loss: Component | None = None
    optimizer: Component = field(default_factory=lambda: Component(name="AdamW"))
    scheduler: Component | None = field(default_factory=lambda: Component(name="ReduceLROnPlateau"))
    warmup_epochs: int = 0
    early_stopping: EarlyStopping | None = field(default_factory=EarlyStopping)
    monitor: str = "loss"
    augmentations: tuple[Component, ...] = ()
    gradient_clip_norm: float | None = None
    precision: str = "float32"
    initial_checkpoint: str | None = None
    allow_overlap: bool = False
    train_metrics: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        _in_range(self.epochs, 1, MOST_EPOCHS, pointer="/epochs")
        _in_range(self.batch_size, 1, 65536, pointer="/batch_size")
        _in_range(self.seed, 0, 2**63 - 1, pointer="/seed")
        _in_range(self.warmup_epochs, 0, self.epochs - 1, pointer="/warmup_epochs")
        if self.gradient_clip_norm is not None and not 0 < self.gradient_clip_norm <= 1e9:
            raise SpecError(
                f"gradient_clip_norm must lie above 0, at most 1e9; got {self.gradient_clip_norm}",
                pointer="/gradient_clip_norm",
            )
        _one_of(self.monitor, METRICS, pointer="/monitor")
        _one_of(self.precision, PRECISIONS, pointer="/precision")
        _check_device(self.device)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """How many batches an epoch of training has.

    An example that would be left over alone goes into the batch before it: batch normalization
    cannot measure a single one.

    Args:
        examples: at least 1.
    """
    whole, rest = divmod(examples, batch_size)
    return max(whole + (rest > 1), 1)


def check_classes(classes: Sequence[str], *, pointer: str, least: int = 2) -> None:
    """Raise SpecError unless these are ``least`` or more distinct non-empty class names."""
    if len(classes) < least:
        raise SpecError(
            f"a classifier needs at least {least} classes, got {len(classes)}", pointer=pointer
        )
    seen: set[str] = set()
    for index, name in enumerate(classes):
        if name in seen:
            raise SpecError(f"class names must be distinct; {name!r} stands twice", pointer=pointer)
        seen.add(name)
        if not name or len(name) > 256 or not name.isprintable():
            raise SpecError(
                "a class name is 1 to 256 printable characters", pointer=f"{pointer}/{index}"
            )


def _check_device(device: str) -> None:
    if not re.fullmatch(DEVICE_PATTERN, device):
        raise SpecError(
            f"device must be auto, cpu, cuda or cuda:N, got {device!r}", pointer="/device"
        )


def _in_range(value: float, low: float, high: float, *, pointer: str) -> None:
    if not low <= value <= high:
        raise SpecError(
            f"{pointer.rsplit('/', 1)[-1]} must be between {low} and {high}, got {value}",
            pointer=pointer,
        )


def _one_of(value: str, known: Sequence[str], *, pointer: str) -> None:
    if value not in known:
        raise SpecError(
            f"{pointer.rsplit('/', 1)[-1]} must be one of {', '.join(known)}; got {value!r}",
            pointer=pointer,
        )
