"""What is said of a checkpoint: by the request that brings it, and by the file itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from checkpoints.errors import CheckpointError, counted, listed, quoted
from checkpoints.manifest import Manifest
from models import catalog, chains
from models.entries import Entry
from models.layouts import OpenShape
from models.spec import Component, SpecError, check_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What one side says of a checkpoint: the request that brings it, or the file itself."""

    architecture: str | None = None
    hyperparameters: Mapping[str, Any] | None = None
    input_shape: OpenShape | None = None
    classes: tuple[str, ...] | None = None
    transforms: tuple[Component, ...] | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Claims:
        """From JSON values, by the names that an upload uses; others are ignored.

        Raises:
            CheckpointError: a value of the wrong type, with a pointer to it.
        """
        architecture = values.get("architecture")
        hyperparameters = values.get("hyperparameters")
        classes = values.get("classes")
        transforms = values.get("transforms")
        if architecture is not None and not isinstance(architecture, str):
            raise CheckpointError("architecture must be a string", pointer="/architecture")
        if hyperparameters is not None and not isinstance(hyperparameters, Mapping):
            raise CheckpointError("hyperparameters must be an object", pointer="/hyperparameters")
        if classes is not None and not _all_are(str, classes):
            raise CheckpointError("classes must be a list of strings", pointer="/classes")
        if transforms is not None and not _all_are(Mapping, transforms):
            raise CheckpointError("transforms must be a list of objects", pointer="/transforms")
        components = []
        for index, one in enumerate(transforms or ()):
            try:
                components.append(Component.from_json(one))
            except SpecError as error:
                raise refused(error, f"/transforms/{index}") from None
        return cls(
            architecture=architecture,
            hyperparameters=hyperparameters,
            classes=None if classes is None else tuple(classes),
            transforms=None if transforms is None else tuple(components),
        )

    @classmethod
    def of_manifest(cls, manifest: Manifest) -> Claims:
        """What a canonical file states: not what was only assumed when it was made."""
        stated = {
            "architecture": manifest.architecture,
            "hyperparameters": {
                name: value
                for name, value in manifest.hyperparameters.items()
                if name not in manifest.assumed
            },
            "classes": manifest.classes,
            "transforms": manifest.transforms,
        }
        return replace(cls.of(stated), input_shape=manifest.input_shape)


def combined(said: Claims, stated: Claims) -> tuple[Claims, list[str]]:
    """What the request says and what the file states, where the request's word counts more.

    Hyperparameters are taken one by one. Of the file's only those count that the architecture has:
    training scripts save a learning rate beside them.

    Returns:
        Both together, and sentences about what was left out.
    """
    architecture = said.architecture or stated.architecture
    hyperparameters: dict[str, Any] = {}
    left_out: list[str] = []
    entry = _known(architecture)
    if stated.architecture in (None, architecture) and entry is not None:
        known = set(entry.describe()["parameters"]["properties"])
        for name, value in (stated.hyperparameters or {}).items():
            if name in known:
                hyperparameters[name] = value
            else:
                left_out.append(quoted(name))
    together = Claims(
        architecture=architecture,
        hyperparameters={**hyperparameters, **(said.hyperparameters or {})},
        input_shape=stated.input_shape,
        classes=stated.classes if said.classes is None else said.classes,
        transforms=stated.transforms if said.transforms is None else said.transforms,
    )
    if not left_out:
        return together, []
    return together, [f"left out hyperparameters that {architecture} has not: {listed(left_out)}"]


def stated_classes(classes: tuple[str, ...] | None, outputs: int) -> tuple[str, ...] | None:
    """The classes, once they are known to be as many as the outputs; None if nobody states any."""
    if classes is None:
        return None
    try:
        check_classes(classes, pointer="/classes", least=1)
    except SpecError as error:
        raise refused(error, "") from None
    if len(classes) != outputs and not (outputs == 1 and len(classes) == 2):
        has = f"{counted(outputs, 'output')} has {outputs} class{'' if outputs == 1 else 'es'}"
        also = ", or 2 for a binary task" if outputs == 1 else ""
        raise CheckpointError(
            f"a network with {has}{also}, but {len(classes)} are stated", pointer="/classes"
        )
    return classes


def stated_transforms(
    components: tuple[Component, ...] | None,
) -> tuple[dict[str, Any], ...] | None:
    """The transforms with every default filled in; None if nobody states any."""
    if components is None:
        return None
    try:
        chains.check_constants(components, pointer="/transforms")
        return tuple(chains.resolved(components, pointer="/transforms"))
    except SpecError as error:
        raise refused(error, "") from None


def refused(error: SpecError, prefix: str) -> CheckpointError:
    """The complaint of a spec about something that stands under ``prefix`` in the upload."""
    return CheckpointError(error.detail, pointer=prefix + error.pointer)


def _known(architecture: str | None) -> Entry | None:
    try:
        return None if architecture is None else catalog.ARCHITECTURES.find(architecture)
    except SpecError:
        return None


def _all_are(kind: type, values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(isinstance(one, kind) for one in values)
