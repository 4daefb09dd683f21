"""Chains of transforms and of augmentations: checks, and what becomes of an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models import parameters as declared
from models.augmentations import Augmentation
from models.catalog import ARCHITECTURES, FORMATS, TRANSFORMS
from models.entries import Catalog, Entry
from models.recipes import AUGMENTATIONS
from models.spec import Component, SpecError
from models.transforms import ExampleType, Transform
from models.transforms.tables import TakesConstants, missing_constants


def transforms(components: Sequence[Component], *, pointer: str) -> list[Transform]:
    """Check each component's name and parameters.

    Raises:
        SpecError: pointing below ``pointer`` at the component at fault.
    """
    advice = {
        name: f"{name} is a random augmentation: only a training can name it, because an "
        "evaluation must give the same numbers each time; deterministic transforms: "
        + ", ".join(TRANSFORMS)
        for name in AUGMENTATIONS
    }
    return _built(TRANSFORMS, components, advice, pointer)


def augmentations(components: Sequence[Component], *, pointer: str) -> list[Augmentation]:
    """Check each component's name and parameters.

    Raises:
        SpecError: pointing below ``pointer`` at the component at fault.
    """
    advice = {
        name: f"{name} is a deterministic transform: it belongs to the transforms of the dataset, "
        "which a training applies after its augmentations; random augmentations: "
        + ", ".join(AUGMENTATIONS)
        for name in TRANSFORMS
    }
    return _built(AUGMENTATIONS, components, advice, pointer)


def check_constants(components: Sequence[Component], *, pointer: str, own: bool = False) -> None:
    """Raise SpecError if a transform lacks constants that nobody will give it.

    Args:
        own: it may take them from the very dataset that it transforms.
    """
    for index, one in enumerate(transforms(components, pointer=pointer)):
        if not isinstance(one, TakesConstants) or not one.needs_constants:
            continue
        if one.dataset is not None or not own:
            error = missing_constants(components[index].name, one.dataset)
            raise error.under(f"{pointer}/{index}")


def resolved(components: Sequence[Component], *, pointer: str) -> list[dict[str, Any]]:
    """The components on the wire's form with every default filled in."""
    checked = transforms(components, pointer=pointer)
    return [
        {"name": component.name, **declared.to_json(parameters)}
        for component, parameters in zip(components, checked, strict=True)
    ]


def output_of(
    components: Sequence[Component], example: ExampleType, *, pointer: str
) -> ExampleType | None:
    """What the chain of transforms makes of one example.

    Returns:
        None where a transform is a plug-in's, whose code is not here.

    Raises:
        SpecError: a link cannot take what the one before gives, or what belongs to the preparation
            of a dataset stands behind what is done on each batch.
    """
    prepared = False
    for index, transform in enumerate(transforms(components, pointer=pointer)):
        name = components[index].name
        if isinstance(transform, declared.Foreign):
            return None
        try:
            if prepared and transform.on_host:
                raise SpecError(
                    f"{name} works on what the dataset holds: put it before "
                    f"{components[index - 1].name}",
                    pointer="/name",
                )
            if not transform.on_host and not prepared:
                example, prepared = example.prepared(), True
            example = transform.output(example)
        except SpecError as error:
            raise error.under(f"{pointer}/{index}") from None
    try:
        return example if prepared else example.prepared()
    except SpecError as error:
        raise error.under(pointer) from None


def check_prepared(
    components: Sequence[Component],
    example: ExampleType,
    *,
    examples: int,
    most_bytes: int,
    pointer: str,
) -> None:
    """Raise SpecError if the prepared form of a dataset takes more than that.

    Args:
        example: one of the dataset's, before the transforms.
        examples: how many it has.
    """
    on_host = [
        components[i]
        for i, one in enumerate(transforms(components, pointer=pointer))
        if one.on_host
    ]
    made = output_of(on_host, example, pointer=pointer) if on_host else None
    if made is not None and examples * made.size_bytes > most_bytes:
        raise SpecError(
            f"prepared by these transforms the dataset takes {examples * made.size_bytes} bytes; "
            f"at most {most_bytes} are taken (HOLDOUT_PREPARED_BYTES): make the examples smaller",
            pointer=pointer,
        )


def divided(
    components: Sequence[Component], *, pointer: str
) -> tuple[list[Transform], list[Transform]]:
    """The chain's transforms that prepare a dataset, and those that are done on each batch."""
    chain = transforms(components, pointer=pointer)
    return [one for one in chain if one.on_host], [one for one in chain if not one.on_host]


def augmented(
    components: Sequence[Component], example: ExampleType, *, pointer: str
) -> ExampleType:
    """What the chain of augmentations makes of one example, before any transform.

    Raises:
        SpecError: a link cannot take what the one before gives.
    """
    for index, link in enumerate(augmentations(components, pointer=pointer)):
        try:
            example = link.output(example)
        except SpecError as error:
            raise error.under(f"{pointer}/{index}") from None
    return example


def providers(
    components: Sequence[Component], *, architecture: str = "", format: str = ""
) -> set[str]:
    """The distributions whose code a job runs that names these transforms, and one of the others.

    A name that is unknown here counts as built in; whoever resolves it says that it is unknown.
    """
    named = [
        ARCHITECTURES.added.get(architecture),
        FORMATS.added.get(format),
        *(TRANSFORMS.added.get(one.name) for one in components),
    ]
    return {one.provider for one in named if one is not None and one.provider is not None}


def _built(
    known: Catalog[Entry],
    components: Sequence[Component],
    advice: Mapping[str, str],
    pointer: str,
) -> list[Any]:
    """The parameters of each component; ``advice`` answers names that belong elsewhere."""
    found = []
    for index, component in enumerate(components):
        if component.name in advice:
            raise SpecError(advice[component.name], pointer=f"{pointer}/{index}/name")
        try:
            entry = known.find(component.name)
        except SpecError as error:
            raise SpecError(error.detail, pointer=f"{pointer}/{index}/name") from None
        try:
            found.append(entry.build(component.parameters))
        except SpecError as error:
            raise error.under(f"{pointer}/{index}") from None
    return found


def references(components: Sequence[Component]) -> dict[int, str]:
    """The training datasets that components take constants from, by the component's index."""
    return {
        index: one.dataset
        for index, one in enumerate(transforms(components, pointer="/transforms"))
        if isinstance(one, TakesConstants) and one.needs_constants and one.dataset is not None
    }


def filled(
    components: Sequence[Component], columns: Sequence[Mapping[str, Any]], *, pointer: str
) -> list[Component]:
    """The components, those without constants with the constants of a dataset.

    Args:
        components: a chain, or part of one.
        columns: `models.datasets.intake.Found.columns` of the training dataset.

    Raises:
        SpecError: the dataset cannot give one of the constants.
    """
    found = []
    for index, one in enumerate(transforms(components, pointer=pointer)):
        component = components[index]
        if isinstance(one, TakesConstants) and one.needs_constants:
            try:
                constants = one.filled(columns)
            except SpecError as error:
                raise error.under(f"{pointer}/{index}") from None
            component = Component(name=component.name, parameters=declared.to_json(constants))
        found.append(component)
    return found
