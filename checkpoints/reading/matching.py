"""Which network the tensors are of, from what is declared, what the file states and the shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from checkpoints.errors import FILE, CheckpointError, listed, quoted
from checkpoints.manifest import Manifest
from checkpoints.reading.claims import Claims, refused, stated_classes, stated_transforms
from models import catalog
from models import parameters as declared
from models.entries import ArchitectureEntry, Entry
from models.layouts import OpenShape, Shape, Shown, TensorSpec
from models.onnx import ARCHITECTURE as ONNX
from models.spec import SpecError, check_classes

# Hyperparameters that weights do not show and that no evaluation depends on.
WITHOUT_EFFECT = frozenset({"dropout"})


def own_names(claims: Claims, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """What the architecture renames by itself, in the form of a ``key_map``.

    Raises:
        CheckpointError: such a network is none of this architecture.
    """
    if claims.architecture not in set(catalog.ARCHITECTURES):
        return {}
    renames = catalog.ARCHITECTURES[claims.architecture].renames
    try:
        return {} if renames is None else renames(shapes)
    except SpecError as error:
        raise CheckpointError(error.detail) from None


def match(
    claims: Claims, shapes: Mapping[str, Shape]
) -> tuple[Manifest, dict[str, TensorSpec] | None]:
    """Decide what the network is and compare every name and shape with it.

    Returns:
        The manifest, and the tensors that the network has, whose names are those of ``shapes``;
        None for a plug-in's architecture, whose tensors the worker compares that evaluates it.

    Raises:
        CheckpointError: no architecture is said, something is claimed that cannot be, or names or
            shapes differ.
    """
    if claims.architecture is None:
        raise CheckpointError(
            f"say which architecture this is; known: {', '.join(catalog.ARCHITECTURES)}."
            + _that_fit(shapes),
            pointer="/architecture",
        )
    if claims.architecture == ONNX:
        raise CheckpointError(
            "the file is not ONNX, and only what torch.onnx.export writes is of that architecture: "
            f"upload the .onnx file, or say one of {', '.join(catalog.ARCHITECTURES)}",
            pointer="/architecture",
        )
    given = claims.hyperparameters or {}
    try:
        found = catalog.ARCHITECTURES.find(claims.architecture)
        if found.provider is not None:
            return _of_plugin(claims.architecture, claims, found, given), None
        entry = catalog.ARCHITECTURES[claims.architecture]
    except SpecError as error:
        raise refused(error, "/architecture") from None
    try:
        shown = entry.layout.shown(shapes)
    except SpecError as error:
        _build(entry, given)
        there = listed([quoted(name) for name in shapes])
        raise CheckpointError(
            f"{error.detail}; the file has {there} (key_map renames what only differs in name)."
            + _that_fit(shapes),
        ) from None
    parameters = _build(entry, {**_acceptable(entry, shown), **given})
    try:
        expected = entry.layout.tensors(parameters, shown.input_shape, shown.outputs)
    except SpecError as error:
        pointer = f"/hyperparameters{error.pointer}" if error.pointer else FILE
        raise CheckpointError(error.detail, pointer=pointer) from None
    _compare(claims.architecture, entry, given, shown, expected, shapes)
    if 0 in (shown.outputs, *shown.input_shape):
        raise CheckpointError("the network has no inputs or no outputs")
    classes = stated_classes(claims.classes, shown.outputs)
    transforms = stated_transforms(claims.transforms)
    manifest = Manifest(
        architecture=claims.architecture,
        hyperparameters=declared.to_json(parameters),
        input_shape=_input_shape(claims.input_shape, shown.input_shape),
        outputs=shown.outputs,
        classes=classes,
        transforms=transforms,
        assumed=_assumed(parameters, {*given, *shown.parameters}, classes, transforms),
    )
    return manifest, expected


def _of_plugin(
    architecture: str, claims: Claims, entry: Entry, given: Mapping[str, Any]
) -> Manifest:
    """The manifest for an architecture of which this process knows nothing but its parameters."""
    parameters = _build(entry, given)
    if claims.classes is not None:
        try:
            check_classes(claims.classes, pointer="/classes", least=1)
        except SpecError as error:
            raise refused(error, "") from None
    transforms = stated_transforms(claims.transforms)
    return Manifest(
        architecture=architecture,
        hyperparameters=declared.to_json(parameters),
        input_shape=None,
        outputs=None,
        classes=claims.classes,
        transforms=transforms,
        assumed=_assumed(parameters, given, claims.classes, transforms),
    )


def _assumed(
    parameters: Any, said: Collection[str], classes: object, transforms: object
) -> tuple[str, ...]:
    """What an evaluation depends on and nobody stated."""
    unsaid = [
        name
        for name in declared.to_json(parameters)
        if name not in said and name not in WITHOUT_EFFECT
    ]
    unsaid += ["classes"] if classes is None else []
    unsaid += ["transforms"] if transforms is None else []
    return tuple(unsaid)


def _build(entry: Entry, given: Mapping[str, Any]) -> Any:
    try:
        return entry.build(given)
    except SpecError as error:
        raise refused(error, "/hyperparameters") from None


def _acceptable(entry: ArchitectureEntry, shown: Shown) -> Mapping[str, Any]:
    """What the shapes show, once it is known to be something that the architecture takes."""
    try:
        declared.build(entry.parameters, shown.parameters)
    except SpecError as error:
        raise CheckpointError(
            f"the shapes in the file show {_written(shown.parameters)}, but {error.detail}",
        ) from None
    return shown.parameters


def _fits(entry: ArchitectureEntry, shapes: Mapping[str, Shape]) -> Shown | None:
    """What the shapes show if this architecture has exactly these tensors."""
    try:
        shapes = _renamed(entry, shapes)
        shown = entry.layout.shown(shapes)
        parameters = declared.build(entry.parameters, shown.parameters)
        expected = entry.layout.tensors(parameters, shown.input_shape, shown.outputs)
    except SpecError:
        return None
    return shown if {name: spec.shape for name, spec in expected.items()} == shapes else None


def _renamed(entry: ArchitectureEntry, shapes: Mapping[str, Shape]) -> Mapping[str, Shape]:
    names = {} if entry.renames is None else entry.renames(shapes)
    if not names:
        return shapes
    found = {}
    for name, shape in shapes.items():
        module, _, tensor = name.rpartition(".")
        found[f"{names.get(module, module)}.{tensor}" if module else name] = shape
    return found


def _that_fit(shapes: Mapping[str, Shape]) -> str:
    """A sentence naming the architectures that have exactly these tensors, or nothing."""
    fitting = []
    for name in catalog.ARCHITECTURES:
        shown = _fits(catalog.ARCHITECTURES[name], shapes)
        if shown is not None:
            fitting.append(_named(name, shown.parameters))
    return f" The tensors in the file fit {', or '.join(fitting)}." if fitting else ""


def _named(architecture: str, parameters: Mapping[str, Any]) -> str:
    return f"{architecture} with {_written(parameters)}" if parameters else architecture


def _written(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items())


def _compare(
    architecture: str,
    entry: ArchitectureEntry,
    given: Mapping[str, Any],
    shown: Shown,
    expected: Mapping[str, TensorSpec],
    shapes: Mapping[str, Shape],
) -> None:
    """Raise one error with all differences between the expected tensors and those of the file."""
    groups = {
        "missing": [quoted(name) for name in expected if name not in shapes],
        "unexpected": [quoted(name) for name in shapes if name not in expected],
        "misshapen": [
            f"{quoted(name)} has shape {list(shapes[name])}, expected {list(spec.shape)}"
            for name, spec in expected.items()
            if name in shapes and shapes[name] != spec.shape
        ],
    }
    if not any(groups.values()):
        return
    contradicted = [
        (
            f"/hyperparameters/{name}",
            f"{name} is stated as {_short(given[name])}, but the shapes show {_short(value)}",
        )
        for name, value in shown.parameters.items()
        if name in given and _comparable(given[name]) != _comparable(value)
    ]
    if contradicted and _fits(entry, shapes):
        raise CheckpointError(
            f"the stated hyperparameters of {architecture} do not fit the tensors; those that fit "
            f"are {_written(shown.parameters)}",
            errors=contradicted,
        )
    differences = [
        (FILE, f"{kind} ({len(names)}): {listed(names)}") for kind, names in groups.items() if names
    ]
    summary = "; ".join(text for _, text in differences)
    # what is cut off, where there is too much to say, is differences
    fit = _that_fit(shapes)
    raise CheckpointError(
        f"the tensors are not those of {_named(architecture, shown.parameters)}"
        f"{f'.{fit} Differences' if fit else ''}: {summary}.",
        errors=differences + contradicted,
    )


def _comparable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    text = repr(_comparable(value))
    return text if len(text) <= 200 else text[:197] + "..."


def _input_shape(stated: OpenShape | None, shown: OpenShape) -> OpenShape:
    """The file's word where it says more than the weights do."""
    if stated is None:
        return shown
    if len(stated) != len(shown) or any(
        (there is not None and one != there) or (one is not None and one < 1)
        for one, there in zip(stated, shown, strict=True)
    ):
        raise CheckpointError(
            f"the manifest states input shape {list(stated)[:10]}, but the tensors show "
            f"{list(shown)}",
        )
    return stated
