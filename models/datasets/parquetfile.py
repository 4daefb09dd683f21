"""Parquet tables: columns of integers, floats, booleans and strings, or one of lists of integers.

pyarrow reads them. What the file says of its layout is checked first (see
`models.datasets.parquetlayout`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from models.datasets import tables, tokentables
from models.datasets.arrays import Source, bad_file
from models.datasets.arrowcolumns import ListError, lists, numbers, words
from models.datasets.intake import Found, Intake, check_examples, check_size
from models.datasets.parquetlayout import Chunk, LayoutError, check_pages, layout
from models.datasets.sequences import Run
from models.datasets.tablecolumns import Roles, roles_of
from models.datasets.tablerows import Batch, Words, decoded_row_bytes
from models.datasets.tables import Texts
from models.spec import SpecError

MAX_NUMBER_BYTES = 64  # a cell of numbers, on average; 8 for itself, the rest for small pages
MAX_TEXT_BYTES = 1024  # a cell of text, on average
MAX_ITEM_BYTES = 16  # an item of a list, likewise
MAX_SPARE_BYTES = 2**22  # and for what each column of a row group has once, such as a dictionary

_BATCH_ROWS = 2**16
_BATCH_BYTES = 2**24
_BUFFER_BYTES = 2**16


def take(intake: Intake) -> Found:
    """Make a dataset of such a file; see `models.datasets.intake`."""
    file = ParquetFile(intake.source, threads=intake.processes)
    roles = roles_of(file.names, intake)
    column = file.sequences(roles)
    if column is None:
        return tables.take(file, intake)
    check_examples(file.rows, intake)
    beside = replace(roles, features=())
    check_size(4 * file.items(column) + file.rows * decoded_row_bytes(beside), intake)
    return tokentables.take(file, roles, partial(file.runs, roles, column), intake)


class ParquetFile:
    """One file.

    Args:
        source: the uploaded file.
        threads: more than one lets pyarrow read columns at the same time.

    Raises:
        SpecError: the footer is damaged, encrypted or too long.
    """

    def __init__(self, source: Source, *, threads: int) -> None:
        self._source = source
        self._use_threads = threads > 1
        with _refusals():
            self._layout = layout(source)
            self._schema = self._open([]).schema_arrow
            self.names = list(self._schema.names)
        self.rows = self._layout.rows

    def batches(self, roles: Roles, texts: Texts) -> Iterator[Batch]:
        """Start reading anew; see `models.datasets.tables.Table`."""
        texts = {
            column: texts.get(column)
            for column in roles.features
            if column in texts or _kind(self._type(column)) == "text"
        }
        of_text = {*texts, *roles.words}
        columns = sorted({*roles.numbers, *roles.words})
        for column in columns:
            self._check_type(column, roles, of_text)
        for column in columns:
            self._check_pages(column, of_text=column in of_text)
        done = 0
        with _refusals():
            dictionaries = [self.names[one] for one in of_text if _kind(self._type(one)) == "text"]
            size = max(1, min(_BATCH_ROWS, _BATCH_BYTES // (8 * len(columns))))
            for found in self._open(dictionaries).iter_batches(
                size, columns=[self.names[one] for one in columns], use_threads=self._use_threads
            ):
                arrays = dict(zip(found.schema.names, found.columns, strict=True))
                yield Batch(
                    rows=found.num_rows,
                    numbers={
                        one: numbers(_as_numbers(arrays[self.names[one]]))
                        for one in columns
                        if one not in of_text
                    },
                    words={
                        one: self._words(arrays[self.names[one]], roles, one, done)
                        for one in of_text
                    },
                    texts=texts,
                )
                done += found.num_rows
        if done != self.rows:
            raise bad_file(f"the Parquet footer announces {self.rows} rows, and there are {done}")

    def sequences(self, roles: Roles) -> int | None:
        """The column whose lists of integers are the examples; None if no feature is such a one.

        Raises:
            SpecError: it is not the only feature.
        """
        found = [one for one in roles.features if _holds_ids(self._type(one))]
        if found and len(roles.features) > 1:
            column = found[0]
            other = next(one for one in roles.features if one != column)
            raise bad_file(
                f"column {self.names[column][:100]!r} holds {str(self._type(column))[:100]}; lists "
                "of token ids must be the only feature, and column "
                f"{self.names[other][:100]!r} is another one. Name in features either the one "
                "column of lists, or columns of integers, floats, booleans or strings"
            )
        return found[0] if found else None

    def items(self, column: int) -> int:
        """How many items the lists of a column hold together, as the file announces it.

        Raises:
            SpecError: the column would unpack to more than they can need.
        """
        chunks = self._layout.nested.get(self.names[column], [])
        self._check_chunks(column, chunks, [MAX_ITEM_BYTES * one.cells for one in chunks])
        return sum(chunk.cells for chunk in chunks)

    def runs(self, roles: Roles, column: int) -> Iterator[Run]:
        """Start reading the lists of a column anew.

        Raises:
            SpecError: a list is missing or empty, or lacks an item; names its row.
        """
        items, done = max(1, self.items(column)), 0
        size = max(1, min(_BATCH_ROWS, _BATCH_BYTES * self.rows // (8 * items)))
        name = self.names[column]
        with _refusals():
            for found in self._open([]).iter_batches(
                size, columns=[name], use_threads=self._use_threads
            ):
                array = found.column(found.schema.names.index(name))
                try:
                    yield lists(array)
                except ListError as error:
                    raise bad_file(
                        f"{roles.place(done + error.row, column)} {error.words}"
                    ) from None
                done += found.num_rows
        if done != self.rows:
            raise bad_file(f"the Parquet footer announces {self.rows} rows, and there are {done}")

    def _open(self, dictionaries: Sequence[str]) -> parquet.ParquetFile:
        return parquet.ParquetFile(
            pa.PythonFile(_Stream(self._source), mode="r"),
            read_dictionary=dictionaries,  # so that a text that stands in many cells is held once
            buffer_size=_BUFFER_BYTES,  # a page at a time, and not a row group
        )

    def _type(self, column: int) -> pa.DataType:
        return self._schema.field(column).type

    def _check_type(self, column: int, roles: Roles, of_text: set[int]) -> None:
        if column in roles.words:
            right = "a label or group holds integers, booleans or strings"
        elif column in roles.labels:
            right = "a multilabel task's label holds 0 and 1 as integers or booleans"
        elif column in of_text:
            right = "a column that one_hot or impute treats as text holds strings or integers"
        else:
            right = (
                "a feature holds integers, floats, booleans or strings, or is the only one and "
                "holds lists of integers; leave it out of features"
            )
        kind = self._type(column)
        either = "text" if column in of_text else "float"
        if _kind(kind) not in ("integer", "boolean", "nothing", either):
            raise bad_file(f"column {self.names[column][:100]!r} holds {str(kind)[:100]}; {right}")

    def _check_pages(self, column: int, *, of_text: bool) -> None:
        """Refuse a column that would unpack to more than its cells can need, or to others."""
        chunks = self._layout.chunks.get(self.names[column], [])
        cell_bytes = MAX_TEXT_BYTES if of_text else MAX_NUMBER_BYTES
        self._check_chunks(column, chunks, [cell_bytes * chunk.rows for chunk in chunks])

    def _check_chunks(
        self, column: int, chunks: Sequence[Chunk], most_bytes: Sequence[int]
    ) -> None:
        name = self.names[column]
        if sum(chunk.rows for chunk in chunks) != self.rows:
            raise bad_file(f"the Parquet footer does not say where column {name[:100]!r} lies")
        for chunk, most in zip(chunks, most_bytes, strict=True):
            try:
                check_pages(self._source, chunk, most + MAX_SPARE_BYTES)
            except LayoutError as error:
                raise bad_file(f"column {name[:100]!r} of the Parquet file: {error}") from None

    def _words(self, array: pa.Array, roles: Roles, column: int, done: int) -> Words:
        """Of a column that holds text or is read as text, in the rows behind the first ``done``."""
        if pa.types.is_dictionary(array.type):
            codes = pc.min_max(array.indices).as_py()
            if codes["min"] is not None and not (
                0 <= codes["min"] <= codes["max"] < len(array.dictionary)
            ):
                raise bad_file(f"column {self.names[column][:100]!r} is damaged: a text is missing")
        if _kind(array.type) != "text":
            array = pc.cast(_plain(array), pa.string())
        try:
            return words(array)
        except UnicodeDecodeError:
            row = next(row for row, cell in enumerate(array) if not _is_unicode(cell))
            raise bad_file(f"{roles.place(done + row, column)} is not UTF-8 text") from None


class _Stream(io.RawIOBase):
    """The uploaded file as pyarrow reads it."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._source)}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = len(self._source) if size < 0 else min(self._at + size, len(self._source))
        data = self._source[self._at : end]
        self._at += len(data)
        return data


@contextmanager
def _refusals() -> Iterator[None]:
    """What is raised over a damaged file becomes a refusal."""
    try:
        yield
    except SpecError:
        raise
    except LayoutError as error:
        raise bad_file(f"the Parquet file is refused: {error}") from None
    except MemoryError:
        raise bad_file(
            "a row group of the Parquet file takes more memory than there is; write smaller ones, "
            "such as pyarrow.parquet.write_table(table, path, row_group_size=10_000)"
        ) from None
    except (pa.ArrowException, OSError, KeyError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk fails, and not the file
        words = str(error).strip().split("\n")[0][:300]
        if "crypt" in words:
            raise bad_file("the Parquet file is encrypted; write it without encryption") from None
        raise bad_file(
            f"the Parquet file is damaged, or not as pyarrow reads it: {words}"
        ) from None


def _kind(found: pa.DataType) -> str | None:
    """What a type holds: ``integer``, ``float``, ``boolean`` or ``text``, or None for others."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    for name, holds in (
        ("text", (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)),
        ("integer", (pa.types.is_integer,)),
        ("float", (pa.types.is_floating,)),
        ("boolean", (pa.types.is_boolean,)),
        ("nothing", (pa.types.is_null,)),
    ):
        if any(one(found) for one in holds):
            return name
    return None


def _holds_ids(found: pa.DataType) -> bool:
    of_lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(one(found) for one in of_lists) and _kind(found.value_type) == "integer"


def _plain(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _as_numbers(array: pa.Array) -> pa.Array:
    if array.type == pa.float64():
        return array
    # Integers beyond 2**53 become the nearest float64, as they do where a CSV says them.
    return pc.cast(_plain(array), pa.float64(), safe=False)


def _is_unicode(cell: pa.Scalar) -> bool:
    try:
        cell.as_py()
    except UnicodeDecodeError:
        return False
    return True
