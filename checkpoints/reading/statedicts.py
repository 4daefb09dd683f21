"""Finding the state dict in what was saved, and giving its tensors their own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkpoints.errors import CheckpointError, counted, listed, quoted
from checkpoints.reading.references import Opaque
from checkpoints.reading.tensors import StoredTensor

NESTS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.", "model.")
STATED = ("architecture", "hyperparameters", "classes", "transforms")
MAX_DEPTH = 16
MAX_NAME = 1000
MAX_NODES = 500_000

Tensors = dict[str, StoredTensor]


def find(value: Any) -> tuple[Tensors, dict[str, Any], list[str]]:
    """Descend to the state dict.

    Returns:
        Tensors by name; what the file states of itself beside it (keys of `STATED`, as read); and
        what was adjusted, in sentences.

    Raises:
        CheckpointError: there is none, there are several, or it holds something else than tensors.
    """
    if not isinstance(value, dict):
        raise CheckpointError(
            f"the file holds {_kind(value)}, not a state dict; save model.state_dict()"
        )
    stated = {
        key: value[key]
        for key in STATED
        if value.get(key) is not None and not isinstance(value[key], StoredTensor)
    }
    level: dict[Any, Any] = {
        key: one for key, one in value.items() if key not in STATED or isinstance(one, StoredTensor)
    }
    adjustments: list[str] = []
    for _ in range(MAX_DEPTH):
        key = _nest(level)
        if key is None:
            return _tensors(level), stated, adjustments
        level = level[key]
        adjustments.append(f"took the state dict under {quoted(key)}")
    raise CheckpointError("state dicts are nested in each other without end; save the inner one")


def _nest(level: dict[Any, Any]) -> str | None:
    """The key under which the state dict stands, or None if this is it."""
    inside = [key for key in NESTS if isinstance(level.get(key), dict) and level[key]]
    if len(inside) > 1:
        inside = [key for key in inside if _holds_tensors(level[key])]
        if len(inside) != 1:
            raise CheckpointError(
                f"the file may hold a state dict under {listed([quoted(key) for key in NESTS])}; "
                "save only one of them"
            )
    return inside[0] if inside else None


def _holds_tensors(value: dict[Any, Any]) -> bool:
    return any(isinstance(one, StoredTensor) for one in value.values())


def _tensors(level: dict[Any, Any]) -> Tensors:
    others = [
        f"{quoted(key) if isinstance(key, str) else 'a key that is no text'} ({_kind(one)})"
        for key, one in level.items()
        if not isinstance(key, str) or not isinstance(one, StoredTensor)
    ]
    if others and not _holds_tensors(level):
        raise CheckpointError(
            "the file holds no state dict: neither it nor what stands in it under "
            f"{', '.join(NESTS)} maps names to tensors; it holds {listed(others)}"
        )
    if others:
        raise CheckpointError(
            f"beside its tensors the state dict holds {listed(others)}; save "
            '{"state_dict": model.state_dict(), ...} and put everything else beside it'
        )
    if not level:
        raise CheckpointError("the file holds no tensors; save model.state_dict()")
    for name in level:
        if len(name) > MAX_NAME:
            raise CheckpointError(f"{quoted(name)} is a name of more than {MAX_NAME} characters")
    return level


def strip(tensors: Tensors) -> tuple[Tensors, list[str]]:
    """Take away what wrappers put in front of every name, and say so."""
    adjustments = []
    for _ in range(MAX_DEPTH):
        prefix = next((one for one in PREFIXES if _all_carry(tensors, one)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        adjustments.append(f"stripped prefix '{prefix}' from {counted(len(tensors), 'name')}")
    return tensors, adjustments


def _all_carry(tensors: Tensors, prefix: str) -> bool:
    return all(name.startswith(prefix) and len(name) > len(prefix) for name in tensors)


def missing_counters(tensors: Tensors) -> list[str]:
    """Names of the batch norms' counters of batches that a file lacks beside their statistics.

    PyTorch before 0.4.1 had none, and loads such files itself.
    """
    norms = [name.removesuffix("running_mean") for name in tensors if name.endswith("running_mean")]
    names = [f"{prefix}num_batches_tracked" for prefix in norms]
    return [name for name in names if name not in tensors]


def without_prefixes(key_map: Mapping[str, str], tensors: Tensors) -> dict[str, str]:
    """The entries for names as `strip` left them; people copy them as the file has them."""
    found = {}
    for key, replacement in key_map.items():
        bare = key
        while not any(_longest(name, {bare: ""}) for name in tensors):
            prefix = next((one for one in PREFIXES if bare.startswith(one)), None)
            if prefix is None or len(bare) == len(prefix):
                bare = key
                break
            bare = bare.removeprefix(prefix)
        found[bare] = replacement
    return found


def rename(tensors: Tensors, key_map: Mapping[str, str]) -> tuple[Tensors, list[str]]:
    """Replace leading segments of names, the longest entry that matches a name first.

    Args:
        tensors: by name.
        key_map: from dotted prefixes, whole segments of a name, to what replaces them; an empty
            replacement takes the prefix away.

    Raises:
        CheckpointError: an entry matches nothing, or two names become one.
    """
    used = dict.fromkeys(key_map, 0)
    origin: dict[str, str] = {}
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        key = _longest(name, key_map)
        new = name
        if key is not None:
            used[key] += 1
            rest = name[len(key) :]
            new = key_map[key] + rest if key_map[key] else rest.removeprefix(".")
        if new in renamed or not new:
            what = f"both become {quoted(new)}" if new else "is left without a name"
            others = f"{quoted(origin[new])} and " if new else ""
            raise CheckpointError(
                f"under key_map {others}{quoted(name)} {what}", pointer="/key_map"
            )
        renamed[new] = tensor
        origin[new] = name
    there = listed([quoted(name) for name in tensors])
    unused = [
        (f"/key_map/{_escaped(key)}", f"no name starts with {quoted(key)}; the file has {there}")
        for key, times in used.items()
        if not times
    ]
    if unused:
        raise CheckpointError(unused[0][1], errors=unused[:20])
    adjustments = [
        f"renamed {quoted(key)} to {quoted(key_map[key])} ({counted(times, 'tensor')})"
        for key, times in used.items()
    ]
    return renamed, adjustments


def _longest(name: str, key_map: Mapping[str, str]) -> str | None:
    """The longest key that is made of the first segments of a name."""
    end = len(name)
    while end > 0:
        if name[:end] in key_map:
            return name[:end]
        end = name.rfind(".", 0, end)
    return None


def _escaped(key: str) -> str:
    """As a segment of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def plain(value: Any, *, field: str) -> Any:
    """What a file states as JSON values.

    Raises:
        CheckpointError: it holds something that JSON does not have, or is too large or too deep.
    """
    remaining = MAX_NODES

    def convert(value: Any, depth: int) -> Any:
        nonlocal remaining
        remaining -= 1
        if depth > MAX_DEPTH or remaining < 0:
            raise _not_plain(field, "is nested too deeply or too large")
        if value is None or type(value) in (bool, float, str):
            return value
        if type(value) is int and -(2**63) <= value < 2**63:
            return value
        if isinstance(value, (list, tuple)):
            return [convert(one, depth + 1) for one in value]
        if isinstance(value, dict):
            if not all(type(key) is str and key.isprintable() for key in value):
                raise _not_plain(field, "has a key that is no plain text")
            return {key: convert(one, depth + 1) for key, one in value.items()}
        raise _not_plain(field, f"holds {_kind(value)}")

    return convert(value, 0)


def _not_plain(field: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"what the file states as {field} {why}; state {field} with the upload, or save it as "
        "plain lists, numbers and texts",
        pointer=f"/{field}",
    )


def _kind(value: Any) -> str:
    """What a value is called in a sentence."""
    if isinstance(value, StoredTensor):
        return "a tensor"
    if isinstance(value, Opaque):
        return f"a {value.name.rpartition('.')[2]}"
    names: dict[type, str] = {dict: "a dictionary", list: "a list", tuple: "a tuple", str: "a text"}
    return names.get(type(value), f"a {type(value).__name__}")
