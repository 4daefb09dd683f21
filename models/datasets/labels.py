"""The arrays ``y`` and groups: integers or names that become codes, in two passes over each.

The first pass (`survey`) finds the distinct values, the second (`codes`) writes a code for each
example, so that no more than a chunk is ever held.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.datasets.arrays import Array, bad_file
from models.spec import SpecError

MAX_VALUES = 32_768
MAX_NAME_LETTERS = 256

INTEGER = re.compile(r"0|-?[1-9][0-9]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The distinct values of one array, sorted: integers by value, strings by code points.

    Attributes:
        name: of the array.
        values: int64, or the array's own string dtype.
        names: the values as people read them, in the same order.
        first: int64, index of the first example with each.
        counts: int64, number of examples with each.
        of_rows: the examples are the rows of a table, which people count from 1.
    """

    name: str
    values: np.ndarray[Any, Any]
    names: tuple[str, ...]
    first: np.ndarray[Any, Any]
    counts: np.ndarray[Any, Any]
    of_rows: bool = False

    def place(self, index: int) -> str:
        """Where the label of an example stands, for a sentence."""
        if self.of_rows:
            return f"row {index + 1}, column {self.name[:100]!r}"
        return f"{self.name[:100]}[{index}]"


def check(array: Array, *, examples: int) -> None:
    """Raise SpecError unless the array holds an integer or a name an example; reads no element."""
    name, shape = array.name[:100], array.shape
    if shape != (examples,):
        advice = f"give one value an example, shape ({examples},)"
        if shape == (examples, 1):
            advice += f", such as {name}[:, 0]"
        elif len(shape) == 2:
            advice += f"; one-hot rows become that by {name}.argmax(axis=1)"
        raise bad_file(f"{name} has shape {list(shape)}, but x holds {examples} examples: {advice}")
    kind = array.dtype.kind
    if kind == "f":
        raise bad_file(
            f"{name} has dtype {array.dtype}; give integers or strings, such as "
            f"{name}.astype('int64')"
        )
    if kind not in "biuUS":
        raise bad_file(f"{name} has dtype {array.dtype}; give integers or strings")
    if kind in "US" and not 0 < array.dtype.itemsize <= 4 * MAX_NAME_LETTERS:
        raise bad_file(
            f"{name} has dtype {array.dtype}; a name has 1 to {MAX_NAME_LETTERS} characters, so "
            f"the dtype is at most U{MAX_NAME_LETTERS} or S{4 * MAX_NAME_LETTERS}"
        )


def survey(array: Array) -> Survey:
    """Find the distinct values of an array that passed `check`.

    Raises:
        SpecError: an integer beyond 64 bits, text that is not Unicode, a name that is empty, not
            printable or too long (with the index of the example), or more than `MAX_VALUES`
            distinct values.
    """
    values, first, counts = (np.empty(0, dtype) for dtype in (_held(array), np.int64, np.int64))
    done = 0
    for chunk in _labels(array):
        new, at, times = np.unique(chunk, return_index=True, return_counts=True)
        values, index, place = np.unique(
            np.concatenate([values, new]), return_index=True, return_inverse=True
        )
        if len(values) > MAX_VALUES:
            raise bad_file(
                f"{array.name[:100]} has more than {MAX_VALUES} distinct values, which is too "
                "many to tell apart; is it an identifier of the example?"
            )
        first = np.concatenate([first, at + done])[index]
        everything = np.concatenate([counts, times])
        counts = np.zeros(len(values), np.int64)
        np.add.at(counts, place, everything)
        done += len(chunk)
    names = tuple(_name(array, v, int(i)) for v, i in zip(values.tolist(), first, strict=True))
    return Survey(name=array.name, values=values, names=names, first=first, counts=counts)


def codes(
    array: Array, found: Survey, order: np.ndarray[Any, Any], *, dtype: str
) -> Iterator[memoryview]:
    """The array as codes, piece by piece; reads it a second time.

    Args:
        array: the array that was surveyed.
        found: its survey.
        order: int64, the code of each of the survey's values.
        dtype: numpy's name of the integers to write.
    """
    table = order.astype(np.dtype(dtype).newbyteorder("<"))
    for chunk in _labels(array):
        yield table[np.searchsorted(found.values, chunk)].view(np.uint8).data


def check_matrix(array: Array, *, examples: int) -> None:
    """Raise SpecError unless the array can be a multilabel task's labels; reads no element."""
    name, shape = array.name[:100], array.shape
    if len(shape) != 2 or shape[0] != examples or shape[1] == 0:
        raise bad_file(
            f"{name} has shape {list(shape)}, but a multilabel task of {examples} examples has one "
            f"column a label, shape ({examples}, labels)"
        )
    if shape[1] > MAX_VALUES:
        raise bad_file(f"{name} has {shape[1]} labels; at most {MAX_VALUES} are taken")
    if array.dtype.kind not in "biu":
        raise bad_file(f"{name} has dtype {array.dtype}; give 0 and 1 as integers or booleans")


def names_of_labels(array: Array, given: Sequence[str] | None) -> tuple[str, ...]:
    """The names of a multilabel task's labels: those that are given, else their indices.

    Raises:
        SpecError: other names are given than there are labels.
    """
    count = array.shape[1]
    if given is None:
        return tuple(map(str, range(count)))
    if len(given) != count:
        raise SpecError(
            f"classes names {len(given)} labels, but {array.name[:100]} has {count} columns",
            pointer="/classes",
        )
    return tuple(given)


def matrix(array: Array) -> Iterator[np.ndarray[Any, Any]]:
    """A multilabel task's labels, uint8 ``(n, L)`` at a time.

    Raises:
        SpecError: an element is neither 0 nor 1; names it.
    """
    width, done, rest = array.shape[1], 0, np.empty(0, np.uint8)
    for chunk in array.chunks():
        values = np.not_equal(chunk.view(np.uint8), 0) if array.dtype.kind == "b" else chunk
        wrong = np.logical_and(values != 0, values != 1)
        if wrong.any():
            at = done + int(wrong.argmax())
            raise bad_file(
                f"{array.name[:100]}[{at // width}, {at % width}] is {values[at - done]}; a "
                "multilabel task's labels are 0 and 1"
            )
        done += len(values)
        joined = np.concatenate([rest, values.astype(np.uint8)])
        whole = len(joined) - len(joined) % width
        rest = joined[whole:]
        yield joined[:whole].reshape(-1, width)


def classes_of(
    found: Survey, given: Sequence[str] | None
) -> tuple[tuple[str, ...], np.ndarray[Any, Any]]:
    """The class names, and the index of the class of each distinct label.

    Args:
        found: the survey of the labels.
        given: the classes in index order; None takes the distinct labels. Integer labels match
            given classes that all read as integers, and are their indices otherwise.

    Raises:
        SpecError: a label is not among the classes, or the labels show fewer than 2 of them.
    """
    if given is None:
        if len(found.names) < 2:
            raise SpecError(
                f"every label in {found.name} is {found.names[0]!r}, and a classifier needs at "
                "least 2 classes; give classes, all of them in index order",
                pointer="/classes",
            )
        return found.names, np.arange(len(found.names))
    if found.values.dtype.kind == "i" and not all(map(INTEGER.fullmatch, given)):
        known = {str(index): index for index in range(len(given))}
        right = f"0 to {len(given) - 1}, an index into classes"
    else:
        known = {name: index for index, name in enumerate(given)}
        right = "one of the classes " + ", ".join(given[:20]) + (", ..." * (len(given) > 20))
    for name, first in zip(found.names, found.first, strict=True):
        if name not in known:
            raise SpecError(
                f"{found.place(int(first))} is {name!r}; it must be {right}", pointer="/classes"
            )
    return tuple(given), np.array([known[name] for name in found.names], np.int64)


def _held(array: Array) -> np.dtype[Any]:
    return array.dtype.newbyteorder("=") if array.dtype.kind in "US" else np.dtype(np.int64)


def _labels(array: Array) -> Iterator[np.ndarray[Any, Any]]:
    """The array's chunks as `_held` says, each value checked to be one."""
    held, done = _held(array), 0
    for chunk in array.chunks():
        if array.dtype.kind == "b":
            # Any byte may stand where a bool is announced.
            chunk = np.not_equal(chunk.view(np.uint8), 0)
        elif array.dtype.kind == "u":
            _refuse(array, done, np.greater(chunk, np.iinfo(np.int64).max), "is beyond int64")
        elif array.dtype.kind == "U":
            letters = chunk.view(np.dtype("u4").newbyteorder(array.dtype.byteorder))
            surrogates = np.equal(letters >> 11, 0xD800 >> 11)
            bad = np.logical_or(letters > 0x10FFFF, surrogates).reshape(len(chunk), -1)
            _refuse(array, done, np.any(bad, axis=1), "is not Unicode text")
        done += len(chunk)
        yield chunk.astype(held)


def _refuse(array: Array, done: int, wrong: np.ndarray[Any, Any], words: str) -> None:
    if wrong.any():
        raise bad_file(f"{array.name[:100]}[{done + int(wrong.argmax())}] {words}")


def _name(array: Array, value: Any, first: int) -> str:
    if isinstance(value, int):
        return str(value)
    try:
        name = value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        raise bad_file(f"{array.name[:100]}[{first}] is not UTF-8 text") from None
    if not name or len(name) > MAX_NAME_LETTERS or not name.isprintable():
        raise bad_file(
            f"{array.name[:100]}[{first}] is {name[:100]!r}; a name is 1 to {MAX_NAME_LETTERS} "
            "printable characters"
        )
    return name
