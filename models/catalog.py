"""Every name that a request may write, what it takes, and where its code stands.

Nothing registers itself: the tables below are the catalog, and only a worker resolves a target to
the object it names, so that reading the catalog imports no torch.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from models import parameters as declared
from models.layouts import Layout, convnet, mlp
from models.parameters import Parameters
from models.spec import Component, SpecError
from models.transforms import ExampleType, Flatten, Normalize, ToFloat, Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class NoParameters:
    """For names that take none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One name.

    Attributes:
        target: ``module:object`` that does the work.
        parameters: what a request may set, a dataclass of `models.parameters`.
        summary: one line for the reader of the catalog.
    """

    target: str
    summary: str
    parameters: type[Parameters] = NoParameters

    def load(self) -> Any:
        """Import the module of the target and return the object; for workers."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureEntry(Entry):
    """An architecture, which also says its tensors (see `models.layouts`)."""

    layout: Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatEntry(Entry):
    """A dataset format; its target takes a `models.datasets.arrays.Source` and has ``arrays``.

    Attributes:
        signature: pattern that the first bytes of such a file match.
    """

    signature: bytes


E_co = TypeVar("E_co", bound=Entry, covariant=True)


class Catalog(Generic[E_co]):
    """The names of one kind.

    Args:
        kind: what one of them is called in a sentence.
        entries: by name.
    """

    def __init__(self, kind: str, entries: Mapping[str, E_co]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __getitem__(self, name: str) -> E_co:
        """The entry of that name; SpecError that lists the known ones if there is none."""
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f", perhaps {near[0]!r}" if near else ""
            known = ", ".join(self._entries)
            raise SpecError(f"unknown {self.kind} {name[:100]!r}{hint}; known: {known}")
        return self._entries[name]

    def describe(self) -> list[dict[str, Any]]:
        """Name, summary and JSON Schema of each, for ``GET /v1/catalog``."""
        return [
            {
                "name": name,
                "summary": entry.summary,
                "parameters": declared.json_schema(entry.parameters),
            }
            for name, entry in self._entries.items()
        ]


ARCHITECTURES = Catalog(
    "architecture",
    {
        "mlp": ArchitectureEntry(
            target="models.architectures.mlp:MLP",
            summary="Multilayer perceptron for examples of one axis.",
            parameters=mlp.MLPParameters,
            layout=mlp,
        ),
        "convnet": ArchitectureEntry(
            target="models.architectures.convnet:ConvNet",
            summary="Small convolutional network with batch normalization, for images.",
            parameters=convnet.ConvNetParameters,
            layout=convnet,
        ),
    },
)

TRANSFORMS = Catalog(
    "transform",
    {
        "to_float": Entry(
            target="models.transforms.elementwise:to_float",
            summary="Convert to float32 and scale; uint8 is divided by 255 unless told otherwise.",
            parameters=ToFloat,
        ),
        "normalize": Entry(
            target="models.transforms.elementwise:normalize",
            summary="Subtract a mean and divide by a deviation.",
            parameters=Normalize,
        ),
        "flatten": Entry(
            target="models.transforms.elementwise:flatten",
            summary="Make one axis of all axes of an example.",
            parameters=Flatten,
        ),
    },
)

FORMATS = Catalog(
    "format",
    {
        "npz": FormatEntry(
            target="models.datasets.npz:NpzFile",
            summary="A NumPy archive with the arrays x and y, and optionally groups.",
            signature=rb"PK(\x03\x04|\x05\x06)",
        ),
        "safetensors": FormatEntry(
            target="models.datasets.safetensors:SafetensorsFile",
            summary="A safetensors file with the tensors x and y, and optionally groups.",
            signature=rb"(?s).{3}[\x00\x01]\x00{4}\{",  # the length of the header, its first byte
        ),
    },
)

METRICS = Catalog(
    "metric",
    {
        "loss": Entry(
            target="models.metrics:losses",
            summary="Mean cross-entropy over all examples, in nats; lower is better.",
        ),
        "accuracy": Entry(
            target="models.metrics:ratios", summary="Share of examples predicted right."
        ),
        "precision": Entry(
            target="models.metrics:ratios",
            summary="Of the positive class if binary, else the mean over the classes.",
        ),
        "recall": Entry(
            target="models.metrics:ratios",
            summary="Of the positive class if binary, else the mean over the classes.",
        ),
        "f1": Entry(
            target="models.metrics:ratios",
            summary="Of the positive class if binary, else the mean over the classes.",
        ),
    },
)

CATALOGS: dict[str, Catalog[Entry]] = {
    "architectures": ARCHITECTURES,
    "transforms": TRANSFORMS,
    "formats": FORMATS,
    "metrics": METRICS,
}


def transforms(components: Sequence[Component], *, pointer: str) -> list[Transform]:
    """Check each component's name and parameters.

    Raises:
        SpecError: pointing below ``pointer`` at the component at fault.
    """
    found = []
    for index, component in enumerate(components):
        try:
            entry = TRANSFORMS[component.name]
        except SpecError as error:
            raise SpecError(error.detail, pointer=f"{pointer}/{index}/name") from None
        try:
            found.append(declared.build(entry.parameters, component.parameters))
        except SpecError as error:
            raise error.under(f"{pointer}/{index}") from None
    return found  # type: ignore[return-value]  # the table holds Transform's members only


def resolved(components: Sequence[Component], *, pointer: str) -> list[dict[str, Any]]:
    """The components on the wire's form with every default filled in."""
    checked = transforms(components, pointer=pointer)
    return [
        {"name": component.name, **declared.to_json(parameters)}
        for component, parameters in zip(components, checked, strict=True)
    ]


def output_of(
    components: Sequence[Component], example: ExampleType, *, pointer: str
) -> ExampleType:
    """What the chain makes of one example.

    Raises:
        SpecError: a link cannot take what the one before gives.
    """
    for index, transform in enumerate(transforms(components, pointer=pointer)):
        try:
            example = transform.output(example)
        except SpecError as error:
            raise error.under(f"{pointer}/{index}") from None
    return example
