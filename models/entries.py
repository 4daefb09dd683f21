"""What a catalog is made of: entries by name, those that are built in and those of plug-ins."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from models import parameters as declared
from models.layouts import Layout, OpenShape, Shape, TokenLimits
from models.parameters import Parameters
from models.spec import SpecError


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
        provider: the distribution that a plug-in's entry comes from; None for what is built in.
    """

    target: str
    summary: str
    parameters: type[Parameters] = NoParameters
    provider: str | None = None

    def load(self) -> Any:
        """Import the module of the target and return the object; for workers."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)

    def build(self, given: Mapping[str, Any]) -> Any:
        """What is given as an instance of `parameters`; SpecError as `models.parameters.build`."""
        return declared.build(self.parameters, given)

    def describe(self) -> dict[str, Any]:
        """Summary, JSON Schema and provider as ``GET /v1/catalog`` shows them."""
        shown = {"summary": self.summary, "parameters": declared.json_schema(self.parameters)}
        return shown if self.provider is None else {**shown, "provider": self.provider}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedEntry(Entry):
    """A plug-in's entry where its code is not: all that is known is what `describe` said there.

    Attributes:
        schema: the JSON Schema of its parameters.
    """

    schema: Mapping[str, Any]

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> PublishedEntry:
        """From what `Entry.describe` gave."""
        return cls(
            target="",
            summary=described["summary"],
            schema=described["parameters"],
            provider=described["provider"],
        )

    def build(self, given: Mapping[str, Any]) -> Any:
        """See `Entry.build`; the worker checks what the schema cannot say."""
        return declared.Foreign.build(self.schema, given)

    def describe(self) -> dict[str, Any]:
        """See `Entry.describe`."""
        shown = {"summary": self.summary, "parameters": dict(self.schema)}
        return {**shown, "provider": self.provider}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitectureEntry(Entry):
    """An architecture, which also says its tensors (see `models.layouts`).

    Attributes:
        renames: says what tensors are to be called that other code wrote: from leading segments of
            the names in a file to those of the layout. Empty where they are not to be renamed;
            SpecError where such a network is none of this architecture.
        tokens: of one that takes sequences of token ids, which of them, by its parameters; None
            for one that takes numbers, float32.
    """

    layout: Layout
    renames: Callable[[Mapping[str, Shape]], dict[str, str]] | None = None
    tokens: Callable[[Any], TokenLimits] | None = None

    def head(self, parameters: Any, input_shape: OpenShape, outputs: int) -> set[str]:
        """The tensors whose shapes depend on the number of outputs."""
        one, other = (
            self.layout.tensors(parameters, input_shape, count) for count in (outputs, outputs + 1)
        )
        return {name for name in one if one[name] != other[name]}


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatEntry(Entry):
    """A dataset format; its target is called as `models.datasets.intake` says.

    Attributes:
        signature: pattern that the first bytes of such a file match.
        kind: what such a file holds, a name of `models.datasets.kinds.KINDS`.
    """

    signature: bytes
    kind: str


E_co = TypeVar("E_co", bound=Entry, covariant=True)

_MOST_NAMED = 60  # in an error; a plug-in may add a thousand


class Catalog(Generic[E_co]):
    """The names of one kind.

    Args:
        kind: what one of them is called in a sentence.
        entries: by name.
    """

    def __init__(self, kind: str, entries: Mapping[str, E_co]) -> None:
        self.kind = kind
        self._built_in = dict(entries)
        self._added: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[str]:
        """The names that are built in."""
        return iter(self._built_in)

    def __getitem__(self, name: str) -> E_co:
        """The entry of that name that is built in; SpecError that lists the known ones if none."""
        if name not in self._built_in:
            raise self._unknown(name)
        return self._built_in[name]

    def find(self, name: str) -> Entry:
        """The entry of that name, built in or added; SpecError that lists the known ones if none.

        Of an added one nothing is known but what every `Entry` has.
        """
        found = self._built_in.get(name) or self._added.get(name)
        if found is None:
            raise self._unknown(name)
        return found

    @property
    def added(self) -> Mapping[str, Entry]:
        """What is not built in."""
        return self._added

    def replace_added(self, entries: Mapping[str, Entry]) -> None:
        """From now on these are what is added; names that are built in stay what they are."""
        self._added = {name: one for name, one in entries.items() if name not in self._built_in}

    def describe(self) -> list[dict[str, Any]]:
        """Name, summary and JSON Schema of each, for ``GET /v1/catalog``."""
        entries: dict[str, Entry] = {**self._built_in, **self._added}
        return [{"name": name, **entry.describe()} for name, entry in entries.items()]

    def _unknown(self, name: str) -> SpecError:
        names = [*self._built_in, *self._added]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f", perhaps {near[0]!r}" if near else ""
        more = f", and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        known = ", ".join(names[:_MOST_NAMED])
        return SpecError(f"unknown {self.kind} {name[:100]!r}{hint}; known: {known}{more}")
