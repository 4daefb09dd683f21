"""What a Parquet file says of its own layout, read without pyarrow and before it.

The footer says how large each column is, and each page says so again; pyarrow believes both, takes
the memory that they ask for, and ends the process over some footers. So they are checked first.
The format: https://parquet.apache.org/docs/file-format/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.datasets.arrays import Source

MAX_FOOTER_BYTES = 2**24

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_HEADER_BYTES = (2**10, 2**14, 2**18, 2**22)  # tried one after the other; a long one is rare
_MAX_DEPTH = 16


class LayoutError(ValueError):
    """The file is not laid out as Parquet is; the message says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The cells of one column in one row group.

    Attributes:
        rows: of the row group.
        cells: that its pages hold: as many, or for a column of lists all their items.
        start: first byte of its pages.
        end: one past the last.
        unpacked_bytes: what the footer says that its pages take together.
    """

    rows: int
    cells: int
    start: int
    end: int
    unpacked_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All row groups of a file.

    Attributes:
        rows: of the whole file.
        chunks: of each column that is not nested, by its name.
        nested: of each column that is, by its name, for all that is nested in it.
    """

    rows: int
    chunks: dict[str, list[Chunk]]
    nested: dict[str, list[Chunk]]


def layout(source: Source) -> Layout:
    """Read the footer.

    Raises:
        LayoutError: it is damaged, encrypted, too long or contradicts itself.
    """
    if _ENCRYPTED in (source[:4], source[-4:]):
        raise LayoutError("it is encrypted; write it without encryption")
    if len(source) < 12 or (source[:4], source[-4:]) != (_MAGIC, _MAGIC):
        raise LayoutError("it is cut off, or is none: such a file starts and ends with PAR1")
    footer_bytes = int.from_bytes(source[-8:-4], "little")
    start = len(source) - 8 - footer_bytes
    if start < 4:
        raise LayoutError(f"it announces a footer of {footer_bytes} bytes, and has {len(source)}")
    if footer_bytes > MAX_FOOTER_BYTES:
        raise LayoutError(
            f"its footer takes {footer_bytes} bytes; at most {MAX_FOOTER_BYTES} are taken. Write "
            "larger row groups"
        )
    try:
        footer = _Struct(_Cursor(source.read(start, footer_bytes)).struct(), "the footer")
        _check_schema(footer.list(2))
        groups = [_Struct(one, "a row group") for one in footer.list(4)]
        found = Layout(rows=footer.integer(3), chunks={}, nested={})
        for group in groups:
            _add(group, found, start)
    except IndexError:
        raise LayoutError("its footer does not end") from None
    total = sum(group.integer(3) for group in groups)
    if total != found.rows:
        raise LayoutError(
            f"its footer announces {found.rows} rows, and row groups of {total} together"
        )
    return found


def check_pages(source: Source, chunk: Chunk, most_bytes: int) -> None:
    """Walk the pages of a chunk by their headers, and unpack none.

    Args:
        most_bytes: that they may take together once they are unpacked.

    Raises:
        LayoutError: a header is damaged, its page passes the chunk's end, or the pages together
            take more bytes, or hold other cells, than they should.
    """
    start, cells, size_bytes = chunk.start, 0, chunk.unpacked_bytes
    unpacked_bytes = 0
    while start < chunk.end and size_bytes <= most_bytes:
        fields, length = _page_header(source, start, chunk.end)
        header = _Struct(fields, f"the page at byte {start}")
        start += length + header.integer(3)
        if start > chunk.end:
            raise LayoutError("its last page does not end within it")
        unpacked_bytes += header.integer(2)
        size_bytes = max(size_bytes, unpacked_bytes)
        for kind in (5, 8):  # data pages of the first and of the second version
            if header.has(kind):
                cells += _Struct(header.struct(kind), "the header of a page").integer(1)
    if size_bytes > most_bytes:
        raise LayoutError(
            f"it unpacks to {size_bytes} bytes or more, and {chunk.cells} cells of it may take "
            f"{most_bytes}"
        )
    if cells != chunk.cells:
        raise LayoutError(f"its pages hold {cells} cells, and the footer announces {chunk.cells}")


def _check_schema(elements: Sequence[Any]) -> None:
    """Refuse a schema whose nesting would take all of a stack."""
    open_children: list[int] = []
    for element in (_Struct(one, "the schema") for one in elements):
        while open_children and open_children[-1] == 0:
            open_children.pop()
        if open_children:
            open_children[-1] -= 1
        if len(open_children) > _MAX_DEPTH:
            raise LayoutError(f"its columns are nested in more than {_MAX_DEPTH} levels")
        if element.has(5):
            open_children.append(element.integer(5))


def _add(group: _Struct, found: Layout, end: int) -> None:
    """Put the columns of a row group, whose pages end before byte ``end``, into the layout."""
    rows = group.integer(3)
    for column in group.list(1) if rows else ():  # without rows there need be no pages
        one = _Struct(_Struct(column, "a column").struct(3), "a column")
        path = one.list(3)
        if not path or not isinstance(path[0], bytes):
            continue
        name, cells = path[0].decode(errors="replace"), one.integer(5)
        if cells < rows or (cells > rows and len(path) == 1):
            raise LayoutError(
                f"its footer announces a row group of {rows} rows, and {cells} cells of "
                f"column {name[:100]!r} in it"
            )
        start = one.integer(9)
        if one.has(11):  # of the dictionary, which some writers give as 0 where there is none
            start = min(start, one.integer(11) or start)
        chunk = Chunk(
            rows=rows,
            cells=cells,
            start=start,
            end=start + one.integer(7),
            unpacked_bytes=one.integer(6),
        )
        if not 4 <= chunk.start <= chunk.end <= end:
            raise LayoutError(f"column {name[:100]!r} does not lie within the file")
        columns = found.chunks if len(path) == 1 else found.nested
        columns.setdefault(name, []).append(chunk)


def _page_header(source: Source, start: int, end: int) -> tuple[dict[int, Any], int]:
    """The fields of the header at ``start`` by their numbers, and its length in bytes."""
    for size in _HEADER_BYTES:
        cursor = _Cursor(source[start : min(start + size, end)])
        try:
            return cursor.struct(), cursor.at
        except IndexError:  # it goes on behind these bytes
            continue
    raise LayoutError(f"the page header at byte {start} does not end")


class _Struct:
    """The fields of a struct by their numbers; LayoutError where one is not as it has to be."""

    def __init__(self, fields: Any, name: str) -> None:
        if not isinstance(fields, dict):
            raise LayoutError(f"{name} is damaged")
        self._fields: dict[int, Any] = fields
        self._name = name

    def has(self, number: int) -> bool:
        return number in self._fields

    def integer(self, number: int) -> int:
        found = self._fields.get(number)
        if type(found) is not int or found < 0:
            raise LayoutError(f"{self._name} is damaged: its field {number} is no size or count")
        return found

    def list(self, number: int) -> Sequence[Any]:
        found = self._fields.get(number)
        if not isinstance(found, list):
            raise LayoutError(f"{self._name} is damaged: its field {number} is no list")
        return found

    def struct(self, number: int) -> Any:
        return self._fields.get(number)


class _Cursor:
    """Reads Thrift's compact protocol; IndexError where the data does not suffice.

    https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

    Args:
        data: from the first byte of a struct on.

    Attributes:
        at: the next byte.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The values of a struct by the numbers of their fields."""
        found: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            if number in found:
                raise LayoutError("its headers say a thing twice")
            found[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise LayoutError("its headers are nested too deeply")
        if kind in (1, 2, 3):  # booleans in a list, and bytes
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._varint())
        if kind in (9, 10):
            head = self._byte()
            count = self._varint() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind == 12:
            return self.struct(depth + 1)
        raise LayoutError(f"its headers hold a value of the unknown kind {kind}")

    def _byte(self) -> int:
        found = self._data[self.at]
        self.at += 1
        return found

    def _varint(self) -> int:
        found = shift = 0
        while True:
            byte = self._byte()
            found |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return found
            if shift > 63:
                raise LayoutError("its headers hold a number beyond 64 bits")

    def _integer(self) -> int:
        found = self._varint()
        return (found >> 1) ^ -(found & 1)

    def _bytes(self, count: int) -> bytes:
        if self.at + count > len(self._data):
            raise IndexError
        self.at += count
        return self._data[self.at - count : self.at]
