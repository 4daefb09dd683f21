"""What other packages add to the catalog: loaded by workers' children, and by no other process.

A plug-in is a distribution with an entry point in the group `GROUP`, which names an `Additions`.
torchvision and timm are offered in the same way where they can be imported.
"""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any

from models import parameters as declared
from models.catalog import CATALOGS
from models.entries import Entry

GROUP = "holdout.catalog"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
COLLECTIONS = ("torchvision", "timm")

_PATH = re.compile(r"(?:/[^\s/'\"():,]+){2,}")


class PluginError(Exception):
    """What a plug-in adds cannot be taken; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Additions:
    """What one plug-in adds, by the name that requests write.

    Attributes:
        architectures: each target is called with its parameters, the shape of an example and the
            number of outputs, and returns an ``nn.Module`` that takes a batch and gives logits.
        transforms: each target is called with a batch ``(N, ...)`` and its parameters, and returns
            the batch that comes of it: the same for the same example, in any batch. The parameters
            offer what `models.transforms.Transform` says, and ``on_host`` is false.
        formats: each target is called as `models.datasets.intake` says, in a limited process
            that imports its module and nothing else of the plug-in.
    """

    architectures: Mapping[str, Entry] = field(default_factory=dict)
    transforms: Mapping[str, Entry] = field(default_factory=dict)
    formats: Mapping[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What came of it.

    Attributes:
        plugins: for each entry point ``name``, ``distribution``, ``version`` and either ``adds``
            (names by kind) or ``error``, a sentence, and ``trace``, which is for the log.
        provides: version by distribution of all whose entries are in the catalog now.
    """

    plugins: list[dict[str, Any]]
    provides: dict[str, str]


def load() -> Loaded:
    """Make what is installed here the added part of the catalog.

    No plug-in can stop this, however it fails; one that does adds nothing and is reported.
    """
    found: dict[str, dict[str, Entry]] = {one.name: {} for one in fields(Additions)}
    plugins, provides = [], {}
    for point in sorted(entry_points(group=GROUP), key=lambda one: (one.name, one.value)):
        report, added = _plugin(point, found)
        plugins.append(report)
        if added:
            provides[report["distribution"]] = report["version"]
        for kind, entries in added.items():
            found[kind] |= entries
    for name in COLLECTIONS:
        with suppress(BaseException):  # whatever is wrong with it, it is not offered here
            module = importlib.import_module(f"models.architectures.{name}")
            entries, provides[name] = module.entries(), version(name)
            found["architectures"] |= entries
    for kind, entries in found.items():
        CATALOGS[kind].replace_added(entries)
    return Loaded(plugins=plugins, provides=provides)


def in_one_line(error: BaseException) -> str:
    """What a plug-in's error says to people who may not see this machine: no path, no trace."""
    first, *_ = f"{type(error).__name__}: {error}".splitlines()
    return without_paths(first)


def without_paths(text: str) -> str:
    """The start of a text, for people who may not see this machine's folders."""
    return _PATH.sub("...", text)[:300]


def _plugin(
    point: EntryPoint, taken: Mapping[str, Mapping[str, Entry]]
) -> tuple[dict[str, Any], dict[str, dict[str, Entry]]]:
    """What one entry point adds, and the report on it."""
    distribution = point.dist.name if point.dist else point.value
    report: dict[str, Any] = {
        "name": point.name,
        "distribution": distribution,
        "version": point.dist.version if point.dist else "",
    }
    try:
        added = _checked(point.load(), distribution, taken)
    except BaseException as error:  # a plug-in may raise anything, and stops nobody
        said = str(error) if isinstance(error, PluginError) else in_one_line(error)
        trace = "".join(traceback.format_exception(error))
        return {**report, "error": said, "trace": trace}, {}
    return {**report, "adds": {kind: list(names) for kind, names in added.items() if names}}, added


def _checked(
    additions: object, provider: str, taken: Mapping[str, Mapping[str, Entry]]
) -> dict[str, dict[str, Entry]]:
    """The entries by kind, each with its provider.

    Raises:
        PluginError: a name or an entry cannot be taken.
    """
    if not isinstance(additions, Additions):
        raise PluginError(
            f"the entry point names a {type(additions).__name__}; it must name an instance of "
            "models.plugins.Additions"
        )
    found: dict[str, dict[str, Entry]] = {}
    for one in fields(Additions):
        entries = getattr(additions, one.name)
        kind = CATALOGS[one.name].kind
        for name, entry in entries.items():
            _check_name(name, kind, [*CATALOGS[one.name], *taken[one.name]])
            _check_entry(name, entry, kind)
        found[one.name] = {n: replace(entry, provider=provider) for n, entry in entries.items()}
    return found


def _check_name(name: object, kind: str, taken: Iterable[str]) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise PluginError(
            f"{str(name)[:100]!r} is no name for {kind}s: letters, digits, '.', '_', '-' and '/', "
            "at most 128"
        )
    if name in taken:
        raise PluginError(f"{kind} {name!r} is there already; choose another name")


def _check_entry(name: str, entry: object, kind: str) -> None:
    if not isinstance(entry, Entry):
        raise PluginError(f"{kind} {name!r} is no models.entries.Entry")
    declared.json_schema(entry.parameters)
    target: Callable[..., Any] = entry.load()
    if not callable(target):
        raise PluginError(f"the target of {kind} {name!r} cannot be called")
    if kind == "transform":
        offered = getattr(entry.parameters, "on_host", None) is False
        if not offered or not callable(getattr(entry.parameters, "output", None)):
            raise PluginError(
                f"the parameters of transform {name!r} must have on_host = False and a method "
                "output(example), as models.transforms.Transform says"
            )
