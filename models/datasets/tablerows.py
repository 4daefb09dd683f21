"""The rows of a table as they come, checked and laid aside in the scratch file.

How many rows there are, and which classes, values and categories, is known only after the last of
them. So each batch is written column by column, which is also how the columns are summed up, and
read back when the decoded form is laid out.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.datasets.ahead import ahead
from models.datasets.arrays import Source, bad_file
from models.datasets.intake import Intake, check_examples
from models.datasets.labels import MAX_NAME_LETTERS, MAX_VALUES
from models.datasets.tablecolumns import Roles
from models.transforms.tables import MAX_CATEGORIES

MAX_TEXTS_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """The cells of a column of numbers.

    Attributes:
        values: float64 ``(n,)``; NaN where a cell is missing.
        missing: bool ``(n,)``, which cells are; None where none is.
    """

    values: np.ndarray[Any, Any]
    missing: np.ndarray[Any, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The cells of a column of text.

    Attributes:
        codes: int64 ``(n,)``, indices into ``texts``; -1 where a cell is missing.
        texts: distinct, in the order of their first cells.
        first: of each text the index of its first cell.
    """

    codes: np.ndarray[Any, Any]
    texts: list[str]
    first: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some consecutive rows; columns are named by their index in the file.

    Attributes:
        rows: how many.
        numbers: the columns of numbers, as far as the file was read.
        words: the columns of text, and those that are read as text.
        texts: the columns of text, each with the row and the text that first showed it to be one,
            or None where the file says so itself.
    """

    rows: int
    numbers: Mapping[int, Numbers]
    words: Mapping[int, Words]
    texts: Mapping[int, tuple[int, str] | None]


@dataclass(slots=True)
class Vocabulary:
    """The distinct texts of one column.

    Attributes:
        codes: of each text, in the order of their first rows.
        first: row in which each first stands.
        counts: number of rows with each.
    """

    codes: dict[str, int] = field(default_factory=dict)
    first: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def add(self, words: Words, row: int) -> np.ndarray[Any, Any]:
        """Take in the cells of the rows from ``row`` on: their codes, -1 where one is missing."""
        table = np.full(len(words.texts) + 1, -1)  # the last entry is what -1 finds
        counts = np.bincount(words.codes + 1, minlength=len(table))[1:].tolist()
        for index, text in enumerate(words.texts):
            code = self.codes.setdefault(text, len(self.codes))
            if code == len(self.first):
                self.first.append(row + words.first[index])
                self.counts.append(0)
            self.counts[code] += counts[index]
            table[index] = code
        found: np.ndarray[Any, Any] = table[words.codes]
        return found


class Rows:
    """All rows of a table: `add` them, `finish`, then read them as often as needed.

    Args:
        intake: its scratch file takes the rows, and its bounds hold.
        roles: of the columns.
        texts: the feature columns that hold text.

    Attributes:
        count: number of rows.
        vocabularies: of the columns that hold text or are read as text.
        missing: of each feature that has missing cells their number and the row of the first.
        not_finite: of each feature that has such a cell the row and the value of the first.
    """

    def __init__(self, intake: Intake, roles: Roles, texts: frozenset[int]) -> None:
        self.roles = roles
        self.texts = texts
        self.count = 0
        self.vocabularies = {
            column: Vocabulary()
            for column in (*roles.words, *(one for one in roles.features if one in texts))
        }
        self.missing: dict[int, tuple[int, int]] = {}
        self.not_finite: dict[int, tuple[int, float]] = {}
        self._intake = intake
        self._texts_bytes = 0
        self._lengths: list[int] = []
        self._matrix_bytes = len(roles.labels) if roles.multilabel else 0
        self._row_bytes = 8 * len(roles.features) + self._matrix_bytes + 4 * len(roles.words)
        self._scratch = io.FileIO(intake.scratch, "wb", closefd=False)
        self._scratch.seek(0)

    def add(self, batch: Batch) -> None:
        """Check some rows and lay them aside.

        Raises:
            SpecError: a bound is passed, a label or group is missing or no name, or a label of a
                multilabel task is neither 0 nor 1; names row and column.
        """
        count = self.count + batch.rows
        check_examples(count, self._intake)
        if count * decoded_row_bytes(self.roles) > self._intake.max_bytes:
            raise bad_file(
                f"the first {count} rows take more than {self._intake.max_bytes} bytes decoded, "
                "which is the most that is taken"
            )
        self._write(self._features_of(batch))
        if self.roles.multilabel:
            self._write(self._matrix_of(batch))
        for column in self.roles.words:
            self._write(self._names(batch.words[column], column).astype(np.int32))
        self._lengths.append(batch.rows)
        self.count = count

    def finish(self) -> None:
        """Say that there are no more rows."""
        self._scratch.close()
        self._laid_aside = Source(self._intake.scratch)

    def features(self) -> Iterator[np.ndarray[Any, Any]]:
        """The features, float64 ``(n, F)`` at a time, in the order of the rows."""
        width = len(self.roles.features)

        def read(place: tuple[int, int]) -> np.ndarray[Any, Any]:
            data = self._read(*place, 0, 8 * width)
            return np.ascontiguousarray(np.frombuffer(data).reshape(width, -1).T)

        return ahead(read, self._places(), threads=1)

    def columns(self, first: int, last: int) -> np.ndarray[Any, Any]:
        """The features ``first`` to before ``last``, float64 ``(last - first, N)``."""
        found = np.empty((last - first, self.count))
        done = 0
        for start, rows in self._places():
            data = self._read(start, rows, 8 * first, 8 * (last - first))
            found[:, done : done + rows] = np.frombuffer(data).reshape(-1, rows)
            done += rows
        return found

    def matrix(self) -> Iterator[np.ndarray[Any, Any]]:
        """The labels of a multilabel task, uint8 ``(n, L)`` at a time."""
        before = 8 * len(self.roles.features)
        for start, rows in self._places():
            data = self._read(start, rows, before, self._matrix_bytes)
            yield np.frombuffer(data, np.uint8).reshape(rows, -1)

    def codes(self, column: int) -> Iterator[np.ndarray[Any, Any]]:
        """Of a column that is read as text, int32 ``(n,)`` at a time."""
        before = 8 * len(self.roles.features) + self._matrix_bytes
        before += 4 * self.roles.words.index(column)
        for start, rows in self._places():
            yield np.frombuffer(self._read(start, rows, before, 4), np.int32)

    def _places(self) -> Iterator[tuple[int, int]]:
        """Where each batch starts in the scratch file, and how many rows it has."""
        start = 0
        for rows in self._lengths:
            yield start, rows
            start += self._row_bytes * rows

    def _read(self, start: int, rows: int, before: int, width: int) -> bytes:
        """Of a batch, ``width`` bytes a row behind the first ``before``."""
        return self._laid_aside.read(start + before * rows, width * rows)

    def _write(self, values: np.ndarray[Any, Any]) -> None:
        rest = values.reshape(-1).view(np.uint8).data
        while rest:  # a write may take a part
            rest = rest[self._scratch.write(rest) :]

    def _features_of(self, batch: Batch) -> np.ndarray[Any, Any]:
        """The features, float64 ``(F, n)``, as the decoded form has them."""
        found = np.empty((len(self.roles.features), batch.rows))
        for values, column in zip(found, self.roles.features, strict=True):
            if column in self.texts:
                values[:] = self._texts_of(batch.words[column], column)
                self._put_missing(values < 0, column, values)
            else:
                values[:] = batch.numbers[column].values
                if (missing := batch.numbers[column].missing) is not None:
                    self._put_missing(missing, column, values)
        found += 0.0  # -0.0, which equals 0.0, becomes it
        finite = np.isfinite(found)
        if not finite.all():
            for index in np.flatnonzero(~finite.all(axis=1)).tolist():
                column = self.roles.features[index]
                if column not in self.texts:
                    self._note_not_finite(batch.numbers[column], column)
        return found

    def _note_not_finite(self, numbers: Numbers, column: int) -> None:
        wrong = ~np.isfinite(numbers.values)
        if numbers.missing is not None:
            wrong &= ~numbers.missing
        if wrong.any():
            at = int(wrong.argmax())
            self.not_finite.setdefault(column, (self.count + at, float(numbers.values[at])))

    def _texts_of(self, words: Words, column: int) -> np.ndarray[Any, Any]:
        """The codes of a feature's texts, -1 where a cell is missing."""
        vocabulary = self.vocabularies[column]
        known = len(vocabulary.codes)
        codes = vocabulary.add(words, self.count)
        if len(vocabulary.codes) == known:
            return codes
        for text, row in zip(list(vocabulary.codes)[known:], vocabulary.first[known:], strict=True):
            self._texts_bytes += len(text.encode())
            if "\0" in text:
                raise bad_file(f"{self.roles.place(row, column)} holds a NUL, which no text does")
        if len(vocabulary.codes) > MAX_CATEGORIES:
            raise bad_file(
                f"column {self.roles.names[column][:100]!r} holds more than {MAX_CATEGORIES} "
                "distinct texts; is it an identifier? Leave it out of features"
            )
        if self._texts_bytes > MAX_TEXTS_BYTES:
            raise bad_file(
                f"the distinct texts of all columns take more than {MAX_TEXTS_BYTES} bytes, of "
                f"which column {self.roles.names[column][:100]!r} brings the last; leave columns "
                "of prose and identifiers out of features"
            )
        return codes

    def _put_missing(
        self, missing: np.ndarray[Any, Any], column: int, out: np.ndarray[Any, Any]
    ) -> None:
        times = int(np.count_nonzero(missing))
        if times:
            out[missing] = np.nan  # of one fixed pattern of bits
            before, first = self.missing.get(column, (0, self.count + int(missing.argmax())))
            self.missing[column] = (before + times, first)

    def _names(self, words: Words, column: int) -> np.ndarray[Any, Any]:
        """The codes of labels or of a group's values, each checked to be a name."""
        what = "label" if column in self.roles.labels else "group"
        vocabulary = self.vocabularies[column]
        known = len(vocabulary.codes)
        codes = vocabulary.add(words, self.count)
        if (codes < 0).any():
            row = self.count + int((codes < 0).argmax())
            raise bad_file(f"{self.roles.place(row, column)} is empty; every row needs its {what}")
        for text, row in zip(list(vocabulary.codes)[known:], vocabulary.first[known:], strict=True):
            if len(text) > MAX_NAME_LETTERS or not text.isprintable():
                raise bad_file(
                    f"{self.roles.place(row, column)} is {text[:100]!r}; the name of a {what} is 1 "
                    f"to {MAX_NAME_LETTERS} printable characters"
                )
        if len(vocabulary.codes) > MAX_VALUES:
            raise bad_file(
                f"column {self.roles.names[column][:100]!r} has more than {MAX_VALUES} distinct "
                "values, which is too many to tell apart; is it an identifier of the row?"
            )
        return codes

    def _matrix_of(self, batch: Batch) -> np.ndarray[Any, Any]:
        found = np.empty((batch.rows, len(self.roles.labels)), np.uint8)
        for index, column in enumerate(self.roles.labels):
            values = batch.numbers[column].values
            wrong = (values != 0) & (values != 1)  # also where the cell is missing
            if wrong.any():
                at = int(wrong.argmax())
                shown = "is empty" if np.isnan(values[at]) else f"is {values[at]:g}"
                raise bad_file(
                    f"{self.roles.place(self.count + at, column)} {shown}; a multilabel task's "
                    "labels are 0 and 1"
                )
            found[:, index] = values
        return found


def decoded_row_bytes(roles: Roles) -> int:
    """Bytes that a row takes in the decoded form."""
    y_bytes = len(roles.labels) if roles.multilabel else 8
    return 8 * len(roles.features) + y_bytes + 8 + 4 * len(roles.groups)
