"""CSV tables: UTF-8, a header, commas, semicolons or tabs, quotes as RFC 4180 has them.

pyarrow reads blocks of whole rows, several at a time. Where it cannot, the block is looked at
again with care: to take what people write for numbers, or to name the row and the column at fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from models.datasets import tables
from models.datasets.ahead import ahead
from models.datasets.arrays import Source, bad_file
from models.datasets.arrowcolumns import numbers, words
from models.datasets.csvrows import delimiter_of, end_of_rows, row_at
from models.datasets.intake import Found, Intake
from models.datasets.tablecolumns import Roles
from models.datasets.tablerows import Batch
from models.datasets.tables import Texts
from models.spec import SpecError

MAX_ROW_BYTES = 2**22
MISSING = ("", "NA", "N/A", "null", "NULL")
TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")

_BLOCK_BYTES = 2**20  # more leave the cache of the processor, and pyarrow is slower
_HEADERS_A_BLOCK = 1024  # a wide table needs longer blocks, or each column has but a few cells
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_NOT_FINITE = r"^[+-]?(?i:inf|infinity|nan(\([A-Za-z0-9_]*\))?)$"


def take(intake: Intake) -> Found:
    """Make a dataset of such a file; see `models.datasets.intake`."""
    return tables.take(CsvFile(intake.source, threads=intake.processes), intake)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Whole rows of the file; ``flaw`` is what is wrong with the row behind them, if anything."""

    data: bytes
    flaw: str | None = None


class CsvFile:
    """One file.

    Args:
        source: the uploaded file.
        threads: how many blocks are read at a time.

    Raises:
        SpecError: there is no header.
    """

    rows = None

    def __init__(self, source: Source, *, threads: int) -> None:
        self._source = source
        self._threads = threads
        start = len(_BYTE_ORDER_MARK) if source[:3] == _BYTE_ORDER_MARK else 0
        head = source[start : start + MAX_ROW_BYTES]
        blank = len(head) - len(head.lstrip(b"\r\n"))
        self._delimiter = delimiter_of(head[blank:])
        cells, end = row_at(head, blank, self._delimiter) or ([], 0)
        if cells in ([], [b""]) or end == MAX_ROW_BYTES:
            raise bad_file(
                f"there is no header: the first row, of at most {MAX_ROW_BYTES} bytes, names the "
                "columns"
            )
        self._start = start + end
        self._block_bytes = min(max(_BLOCK_BYTES, _HEADERS_A_BLOCK * end), MAX_ROW_BYTES)
        try:
            self.names = [cell.decode() for cell in cells]
        except UnicodeDecodeError:
            raise bad_file("the header is not UTF-8; save the table as CSV in UTF-8") from None

    def batches(self, roles: Roles, texts: Texts) -> Iterator[Batch]:
        """Start reading anew; see `models.datasets.tables.Table`."""
        return _Reading(self.names, self._delimiter, roles, texts).batches(
            self._blocks(), self._threads
        )

    def _blocks(self) -> Iterator[_Block]:
        position, size = self._start, self._block_bytes
        while position < len(self._source):
            data = self._source[position : position + size]
            last = position + len(data) == len(self._source)
            end = end_of_rows(data, self._delimiter, last=last)
            if end == 0 and not last and size < MAX_ROW_BYTES:
                size = min(2 * size, MAX_ROW_BYTES)
                continue
            flaw = None
            if end < len(data) and last:
                flaw = "a quote opens a cell and none closes it"
            elif end == 0:
                flaw = f"it is longer than {MAX_ROW_BYTES} bytes; perhaps a quote is never closed"
            yield _Block(data=data[:end], flaw=flaw)
            if flaw:
                return
            position, size = position + end, self._block_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kinds:
    """How each column is read, by its index in the file: as one of the four types below."""

    types: Mapping[int, pa.DataType]
    options: csv.ConvertOptions


_NUMBERS = pa.float64()
_TRUTHS = pa.bool_()
_NUMBERS_WITH_CARE = pa.string()
_WORDS = pa.dictionary(pa.int32(), pa.string())


class _Reading:
    """One reading of the file from its first row to its last.

    Args:
        names: of all columns.
        delimiter: one byte.
        roles: of the columns.
        texts: the features that are known to hold text.
    """

    def __init__(self, names: list[str], delimiter: bytes, roles: Roles, texts: Texts) -> None:
        self._roles = roles
        self._width = len(names)
        self._delimiter = delimiter
        self._texts = dict(texts)
        self._done = 0
        self._read_options = csv.ReadOptions(
            use_threads=False,
            block_size=MAX_ROW_BYTES + 1,
            column_names=[str(column) for column in range(len(names))],
        )
        self._parse_options = csv.ParseOptions(
            delimiter=delimiter.decode(), newlines_in_values=True
        )
        self._kinds = _kinds(
            dict.fromkeys(roles.numbers, _NUMBERS) | dict.fromkeys((*roles.words, *texts), _WORDS)
        )

    def batches(self, blocks: Iterator[_Block], threads: int) -> Iterator[Batch]:
        """The rows of the blocks, in their order."""
        for block, kinds, arrays in ahead(self._read_ahead, blocks, threads=threads):
            if kinds is not self._kinds:
                arrays = self._read(block.data, self._kinds)
            if arrays is None:
                arrays = self._read_with_care(block.data)
            if arrays:
                yield self._batch(arrays)
                self._done += len(arrays[0])
            if block.flaw is not None:
                raise bad_file(f"row {self._done + 1}: {block.flaw}")

    def _read_ahead(self, block: _Block) -> tuple[_Block, _Kinds, list[pa.Array] | None]:
        kinds = self._kinds  # they may change while other blocks are used
        return block, kinds, self._read(block.data, kinds)

    def _read(self, data: bytes, kinds: _Kinds) -> list[pa.Array] | None:
        """The columns of a block, in the order of the kinds; None where they are of others.

        There are none where the block has no rows.
        """
        if not data.strip(b"\r\n"):
            return []
        try:
            if b"\0" in data or not (data.isascii() or data.decode()):
                return None
            table = csv.read_csv(
                pa.BufferReader(data),
                read_options=self._read_options,
                parse_options=self._parse_options,
                convert_options=kinds.options,
            )
        except (UnicodeDecodeError, pa.ArrowInvalid):
            return None
        (batch,) = table.to_batches()  # of one block
        found: list[pa.Array] = batch.columns
        return found

    def _read_with_care(self, data: bytes) -> list[pa.Array]:
        """The same, with the columns of numbers as text, to find what each of them holds."""
        careful = {
            column: kind if kind == _WORDS else _NUMBERS_WITH_CARE
            for column, kind in self._kinds.types.items()
        }
        arrays = self._read(data, _kinds(careful))
        if arrays is None:
            raise self._flaw(data)
        self._become(
            {
                column: kind
                for (column, before), array in zip(self._kinds.types.items(), arrays, strict=True)
                if before in (_NUMBERS, _TRUTHS) and (kind := _kind_of(array, before)) != before
            }
        )
        return arrays

    def _become(self, types: Mapping[int, pa.DataType]) -> None:
        if types:
            self._kinds = _kinds({**self._kinds.types, **types})

    def _batch(self, arrays: Sequence[pa.Array]) -> Batch:
        found_numbers, found_words, of_text = {}, {}, {}
        for column, array in zip(self._kinds.types, arrays, strict=True):
            if array.type == _NUMBERS_WITH_CARE:
                values, wrong = _as_numbers(array)
                if wrong is None:
                    array = values
                else:
                    of_text[column] = _WORDS
                    self._texts[column] = (self._done + wrong, array[wrong].as_py())
            if array.type == _TRUTHS:
                array = pc.cast(array, _NUMBERS)
            if array.type == _NUMBERS:
                found_numbers[column] = numbers(array)
            else:
                found_words[column] = words(array)
        self._become(of_text)
        for column in self._roles.labels:
            if (seen := self._texts.get(column)) is not None:
                row, text = seen
                raise bad_file(
                    f"{self._roles.place(row, column)} is {text[:100]!r}; a multilabel task's "
                    "labels are 0 and 1, or true and false"
                )
        return Batch(
            rows=len(arrays[0]),
            numbers=found_numbers,
            words=found_words,
            texts=dict(self._texts),
        )

    def _flaw(self, data: bytes) -> SpecError:
        """What is wrong with the first row of a block that is wrong."""
        at, row = 0, self._done
        while at < len(data) and (found := row_at(data, at, self._delimiter)) is not None:
            cells, end = found
            line, at = data[at:end], end
            if not line.strip(b"\r\n"):
                continue
            row += 1
            if b"\0" in line:
                return bad_file(f"row {row} holds a NUL, which no text does; is this UTF-16?")
            try:
                line.decode()
            except UnicodeDecodeError:
                return bad_file(f"row {row} is not UTF-8; save the table as CSV in UTF-8")
            if len(cells) != self._width:
                return bad_file(
                    f"row {row} has {len(cells)} cells where the header has {self._width}; a "
                    "delimiter inside a cell needs quotes around the cell"
                )
        return bad_file(f"row {row + 1} or one of the next cannot be read as CSV")


def _kinds(types: Mapping[int, pa.DataType]) -> _Kinds:
    named = {str(column): kind for column, kind in types.items()}
    options = csv.ConvertOptions(
        column_types=named,
        include_columns=list(named),
        null_values=list(MISSING),
        true_values=list(TRUE),
        false_values=list(FALSE),
        strings_can_be_null=False,
    )
    return _Kinds(types=types, options=options)


def _kind_of(texts: pa.Array, before: pa.DataType) -> pa.DataType:
    """How a column of numbers is to be read, given cells of a block that could not be read."""
    missing = pc.is_in(texts, value_set=pa.array(MISSING))
    plain = _are_numbers(pc.utf8_trim(texts, characters=" \t"))
    if before == _NUMBERS and pc.all(pc.or_(missing, plain)).as_py():
        return _NUMBERS  # another column was at fault
    truths = pc.is_in(texts, value_set=pa.array(TRUE + FALSE))
    return _TRUTHS if pc.all(pc.or_(missing, truths)).as_py() else _NUMBERS_WITH_CARE


def _as_numbers(texts: pa.Array) -> tuple[pa.Array, int | None]:
    """Cells as float64, null where one is missing; and the first that is text, if any."""
    cells = pc.utf8_trim(texts, characters=" \t")
    lower = pc.ascii_lower(cells)
    true, false = pc.equal(lower, "true"), pc.equal(lower, "false")
    missing = pc.is_in(cells, value_set=pa.array(MISSING))
    good = pc.or_(pc.or_(_are_numbers(cells), missing), pc.or_(true, false))
    if not pc.all(good).as_py():
        return None, pc.index(good, False).as_py()
    cells = pc.if_else(missing, pa.scalar(None, pa.string()), cells)
    cells = pc.if_else(true, "1", pc.if_else(false, "0", cells))
    return pc.cast(cells, pa.float64()), None


def _are_numbers(cells: pa.Array) -> pa.Array:
    return pc.or_(
        pc.match_substring_regex(cells, _NUMBER), pc.match_substring_regex(cells, _NOT_FINITE)
    )
