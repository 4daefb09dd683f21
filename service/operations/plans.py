"""The parts of a training, each checked, and for whether they fit each other; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Row

from checkpoints.fitting import check_fit
from checkpoints.manifest import Manifest
from models import catalog, chains, losses, recipes
from models import parameters as declared
from models.entries import ArchitectureEntry, Catalog, Entry
from models.layouts import OpenShape, TensorSpec
from models.losses import Loss
from models.optimization import (
    SGD,
    CosineAnnealingLR,
    OneCycleLR,
    Optimizer,
    ReduceLROnPlateau,
    RMSprop,
    Scheduler,
)
from models.spec import Component, SpecError, TrainingSpec, steps_per_epoch
from models.transforms import ExampleType
from service.operations import budget, datasets
from service.operations.services import Services


def to_json(name: str, parameters: Any) -> dict[str, Any]:
    """A component on the wire's form, every parameter filled in."""
    return {"name": name, **declared.to_json(parameters)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A training whose parts are good and fit each other.

    Attributes:
        hyperparameters: as the architecture's entry built them.
        outputs: None for a plug-in's architecture.
        augmentations: on the wire's form, every default filled in.
    """

    hyperparameters: Any
    loss_name: str
    loss: Loss
    outputs: int | None
    optimizer: Optimizer
    scheduler: Scheduler | None
    augmentations: list[dict[str, Any]]
    warnings: list[str]

    @classmethod
    def of(
        cls,
        services: Services,
        spec: TrainingSpec,
        training: Row[Any],
        validation: Row[Any],
        initial: tuple[str, Manifest] | None,
    ) -> Plan:
        """Check everything.

        Args:
            training: row of the training dataset.
            validation: of the other one.
            initial: digest and manifest of the checkpoint to start from.

        Raises:
            SpecError: naming the field.
        """
        task, classes = training.spec["task"], training.details["classes"]
        loss_component = spec.loss or Component(name=losses.DEFAULTS[task])
        loss: Loss = _built(recipes.LOSSES, loss_component, "/loss")
        counts = [training.details["class_counts"][name] for name in classes]
        if task == "multilabel":
            counts.append(training.details["examples"])
        try:
            outputs = losses.outputs_for(loss, task=task, classes=len(classes))
            losses.weights(loss, task=task, classes=classes, counts=counts)
        except SpecError as error:
            raise error.under("/loss") from None
        optimizer: Optimizer = _built(recipes.OPTIMIZERS, spec.optimizer, "/optimizer")
        steps = spec.epochs * steps_per_epoch(training.details["examples"], spec.batch_size)
        scheduler = _scheduler(spec, steps)
        given = {**(initial[1].hyperparameters if initial else {}), **spec.hyperparameters}
        try:
            entry = catalog.ARCHITECTURES.find(spec.architecture)
        except SpecError as error:
            raise SpecError(error.detail, pointer="/architecture") from None
        try:
            hyperparameters = entry.build(given)
        except SpecError as error:
            raise error.under("/hyperparameters") from None
        network = _Network(
            architecture=spec.architecture,
            entry=entry,
            hyperparameters=hyperparameters,
            outputs=outputs,
            transforms=training.spec["transforms"],
            classes=classes,
        )
        if initial is None:
            _check_tokens(network, training)
        try:
            shape = network.shape(datasets.example(training))
            tensors = None if shape is None else network.tensors(shape)
        except SpecError as error:
            raise SpecError(error.detail, pointer="/dataset") from None
        for row, pointer in ((training, "/dataset"), (validation, "/validation_dataset")):
            network.check(services, row, tensors, pointer)
        augmentations, largest = _augmentations(spec, training, network)
        if tensors is not None and shape is not None:
            if initial is not None:
                _check_initial(network, tensors, shape, initial[1])
            budget.check_memory(
                tensors,
                optimizer,
                ExampleType(shape=shape, dtype="float32"),
                augmented=largest or ExampleType(shape=shape, dtype="float32"),
                batch_size=spec.batch_size,
                most_bytes=services.settings.training_memory_bytes,
            )
        budget.check_epochs(
            spec.epochs,
            training.details["examples"],
            most_examples=services.settings.training_examples,
        )
        return cls(
            hyperparameters=hyperparameters,
            loss_name=loss_component.name,
            loss=loss,
            outputs=outputs if network.is_known else None,
            optimizer=optimizer,
            scheduler=scheduler,
            augmentations=augmentations,
            warnings=_warnings(spec, optimizer, scheduler, training),
        )


def _built(known: Catalog[Entry], component: Component, pointer: str) -> Any:
    try:
        entry = known.find(component.name)
    except SpecError as error:
        raise SpecError(error.detail, pointer=f"{pointer}/name") from None
    try:
        return entry.build(component.parameters)
    except SpecError as error:
        raise error.under(pointer) from None


def _scheduler(spec: TrainingSpec, steps: int) -> Scheduler | None:
    """With what it counts towards fixed, so that it survives a resume.

    Args:
        steps: of the whole training.
    """
    if spec.scheduler is None:
        return None
    found: Scheduler = _built(recipes.SCHEDULERS, spec.scheduler, "/scheduler")
    if isinstance(found, CosineAnnealingLR) and found.T_max is None:
        return replace(found, T_max=spec.epochs - spec.warmup_epochs)
    if isinstance(found, OneCycleLR):
        _check_one_cycle(found, spec, steps)
    return found


def _check_one_cycle(given: OneCycleLR, spec: TrainingSpec, steps: int) -> None:
    if spec.warmup_epochs:
        raise SpecError(
            "OneCycleLR has a warm-up of its own, pct_start: leave warmup_epochs at 0",
            pointer="/warmup_epochs",
        )
    if given.pct_start * steps == 1:  # torch divides by the steps in which it rises, less one
        raise SpecError(
            f"the rate would rise in {given.pct_start} x {steps} steps, which is one: OneCycleLR "
            "takes less or more than one",
            pointer="/scheduler/pct_start",
        )


def _warnings(
    spec: TrainingSpec, optimizer: Optimizer, scheduler: Scheduler | None, training: Row[Any]
) -> list[str]:
    found, examples = [], training.details["examples"]
    if spec.batch_size > examples:
        found.append(
            f"a batch holds all {examples} training examples: with a batch_size of "
            f"{spec.batch_size} every epoch is a single step"
        )
    cycles = isinstance(scheduler, OneCycleLR) and scheduler.cycle_momentum
    if cycles and isinstance(optimizer, (SGD, RMSprop)) and not optimizer.momentum:
        found.append(
            f"OneCycleLR cycles the momentum, so that {spec.optimizer.name} has one, although it "
            "was given none: cycle_momentum set to false leaves it at 0"
        )
    stopping = spec.early_stopping
    if (
        isinstance(scheduler, ReduceLROnPlateau)
        and stopping is not None
        and scheduler.patience >= stopping.patience
    ):
        found.append(
            f"the rate will never drop: the patience of ReduceLROnPlateau ({scheduler.patience}) "
            f"is not below that of early_stopping ({stopping.patience}), which ends the training "
            "first"
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Network:
    """What will be trained, as far as it is known without its code."""

    architecture: str
    entry: Entry
    hyperparameters: Any
    outputs: int
    transforms: list[dict[str, Any]]
    classes: Sequence[str]

    @property
    def is_known(self) -> bool:
        """Whether its tensors are, which those of a plug-in are not."""
        return self.entry.provider is None

    @property
    def components(self) -> list[Component]:
        """The chain of transforms."""
        return [Component.from_json(one) for one in self.transforms]

    def shape(self, example: ExampleType) -> OpenShape | None:
        """Of an example after the transforms; None where only a worker knows it."""
        made = chains.output_of(self.components, example, pointer="")
        return None if made is None else made.shape

    def tensors(self, shape: OpenShape) -> dict[str, TensorSpec] | None:
        """By name; None where only a worker knows them."""
        if not self.is_known:
            return None
        layout = catalog.ARCHITECTURES[self.architecture].layout
        return layout.tensors(self.hyperparameters, shape, self.outputs)

    def check(
        self,
        services: Services,
        row: Row[Any],
        tensors: dict[str, TensorSpec] | None,
        pointer: str,
    ) -> None:
        """Raise SpecError unless it takes the examples of a dataset and has its classes.

        Args:
            tensors: that it has, built for the training dataset.
        """
        example, name = datasets.example(row), f"{row.name}@{row.version}"
        try:
            chains.check_prepared(
                self.components,
                example,
                examples=row.details["examples"],
                most_bytes=services.settings.prepared_bytes,
                pointer="",
            )
        except SpecError as error:
            raise SpecError(error.detail, pointer=pointer) from None
        try:
            check_fit(
                self._manifest(tensors),
                dataset=name,
                task=row.spec["task"],
                classes=row.details["classes"],
                example=example,
                transforms=self.components,
            )
        except SpecError as error:
            raise SpecError(
                f"the checkpoints of this training would not fit {name}: {error.detail}",
                pointer=pointer,
            ) from None

    def _manifest(self, tensors: dict[str, TensorSpec] | None) -> Manifest:
        """What its checkpoints will say."""
        return Manifest.of_trained(
            self.architecture,
            self.hyperparameters,
            None if tensors is None else {name: one.shape for name, one in tensors.items()},
            outputs=self.outputs if self.is_known else None,
            classes=self.classes,
            transforms=self.transforms,
        )


def _check_tokens(network: _Network, training: Row[Any]) -> None:
    """Raise SpecError if a hyperparameter is too small for the sequences to learn from."""
    entry, example = network.entry, datasets.example(training)
    if not isinstance(entry, ArchitectureEntry) or entry.tokens is None or not example.vocabulary:
        return
    limits, name = entry.tokens(network.hyperparameters), f"{training.name}@{training.version}"
    longest = example.shape[0] or 0
    if example.vocabulary > limits.vocabulary:
        raise SpecError(
            f"{name} holds token ids up to {example.vocabulary - 1}: vocabulary must be at least "
            f"{example.vocabulary}, got {limits.vocabulary}",
            pointer="/hyperparameters/vocabulary",
        )
    if limits.max_length is not None and longest > limits.max_length:
        raise SpecError(
            f"the longest sequence of {name} holds {longest} token ids: max_length must be at "
            f"least {longest}, got {limits.max_length}",
            pointer="/hyperparameters/max_length",
        )


def _augmentations(
    spec: TrainingSpec, training: Row[Any], network: _Network
) -> tuple[list[dict[str, Any]], ExampleType | None]:
    """With every default filled in, if the network can take what comes out of them.

    Also the largest example that is made on the way, if there are any.
    """
    at = "/augmentations"
    checked = chains.augmentations(spec.augmentations, pointer=at)
    found = [
        to_json(component.name, parameters)
        for component, parameters in zip(spec.augmentations, checked, strict=True)
    ]
    plain = network.shape(datasets.example(training))
    if not found or plain is None:
        return found, None
    on_host = len(chains.divided(network.components, pointer="")[0])
    before, after = network.components[:on_host], network.components[on_host:]
    prepared = chains.output_of(before, datasets.example(training), pointer="")
    assert prepared is not None  # noqa: S101 - `plain` is not
    steps = [
        chains.augmented(spec.augmentations[:count], prepared, pointer=at)
        for count in range(len(found) + 1)
    ]
    augmented = steps[-1]
    try:
        made = chains.output_of(after, augmented, pointer="")
        assert made is not None  # noqa: S101 - likewise
        same = network.tensors(made.shape) == network.tensors(plain)
    except SpecError as error:
        raise SpecError(error.detail, pointer=at) from None
    if not same:
        raise SpecError(
            f"they make examples of shape {list(made.shape)}, for which {network.architecture} has "
            f"other tensors than for those of validation, {list(plain)}: choose a size that keeps "
            "the shape",
            pointer=at,
        )
    return found, max(steps, key=lambda one: one.size_bytes)


def _check_initial(
    network: _Network, tensors: dict[str, TensorSpec], shape: OpenShape, before: Manifest
) -> None:
    """Raise SpecError if a checkpoint has other tensors, its head aside, which is replaced."""
    entry = catalog.ARCHITECTURES[network.architecture]
    theirs = entry.layout.tensors(
        network.entry.build(before.hyperparameters),
        before.input_shape or shape,
        before.outputs or 1,
    )
    head = entry.head(network.hyperparameters, shape, network.outputs)
    wrong = [
        f"{name} ({_size(tensors.get(name))}, in the checkpoint {_size(theirs.get(name))})"
        for name in dict.fromkeys([*tensors, *theirs])
        if name not in head and tensors.get(name) != theirs.get(name)
    ]
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise SpecError(
            f"the checkpoint's tensors are not those of this training: {shown}. It takes the "
            "checkpoint's own hyperparameters, which are the default, and a dataset of examples "
            "as it was trained on",
            pointer="/initial_checkpoint",
        )


def _size(tensor: TensorSpec | None) -> str:
    return "none" if tensor is None else " x ".join(map(str, tensor.shape)) or "a single number"
