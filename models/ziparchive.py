"""Zip archives of anyone's: their structure checked, their members read as verified streams.

The standard library's ``zipfile`` guesses where a file is odd: leading bytes, members that overlap
or stand twice, a local header that says something else than the directory. Here whatever is odd is
refused, because two readers could take it for two different archives. The layout is that of
PKWARE's APPNOTE 6.3 (https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT), sections 4.3 to
4.5, Zip64 included.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # it needs numpy, and nothing here does
    from models.tensorfile import Readable

CHUNK_BYTES = 2**20
MAX_DIRECTORY_BYTES = 16 * 2**20  # what torch.save writes of some 200,000 tensors
MAX_VERSION = 63  # of the layout, in tenths
STORED, DEFLATED = 0, 8

_END = struct.Struct("<4s4H2LH")
_LOCATOR_64 = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")

_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_SIZES_FOLLOW = 0x0008
_UTF8 = 0x0800
_NOT_HERE = 0xFFFFFFFF  # the 64-bit extra field has the value
_WIDE = _NOT_HERE.to_bytes(4, "little")
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ"}


class ZipError(ValueError):
    """The archive is damaged or of a kind that is not read; the message says so to its sender."""


class ChecksumError(ZipError):
    """A member's bytes are not those of which the archive has the checksum."""


class Member(NamedTuple):
    """One file of an archive; a tuple, because there may be a million.

    Attributes:
        method: `STORED` or `DEFLATED`.
        crc32: of its content, as the directory says.
        start: where its stored bytes begin, counted from the start of the archive.
        stored_bytes: how many they are.
        size_bytes: how many they become.
        mode: type and permissions as Unix has them, 0 where the archive says none.
    """

    name: str
    method: int
    crc32: int
    start: int
    stored_bytes: int
    size_bytes: int
    mode: int


def members(
    data: Readable,
    *,
    max_members: int | None = None,
    max_directory_bytes: int = MAX_DIRECTORY_BYTES,
) -> dict[str, Member]:
    """Every member by name, in the order in which they lie in the file; contents are not read.

    Args:
        data: the whole file; only its directory and the members' headers are touched.
        max_members: bound on their number; None leaves it to the directory's size.

    Raises:
        ZipError: no zip archive, cut off, with bytes around it, in several parts, with more members
            or a larger directory than are taken, or with a member that is encrypted, compressed by
            an unknown method, named twice, overlapping, outside of the file, or described in two
            ways.
    """
    start, end, count = _directory(data, max_directory_bytes)
    if max_members is not None and count > max_members:
        raise ZipError(f"the archive has {count} members; at most {max_members} are taken")
    directory = bytes(data[start:end])
    entries = list(_entries(directory))
    if len(entries) != count:
        raise ZipError(f"the zip directory has {len(entries)} members, but its end says {count}")
    found: dict[str, Member] = {}
    limit = 0
    # In the file's order, so that headers which overlap are never read: they could add up to any
    # amount.
    entries.sort()
    for entry in entries:
        if entry.header < limit:
            raise ZipError(f"the member {_shown(entry.name)} overlaps another member")
        if entry.name in found:
            raise ZipError(f"the member {_shown(entry.name)} stands twice in the archive")
        member = found[entry.name] = _member(data, directory, entry, start)
        limit = member.start + member.stored_bytes
    return found


def content(data: Readable, member: Member) -> bytes:
    """The whole content of a member; errors are those of `stream`."""
    if member.method != STORED:
        return b"".join(stream(data, member))
    stored = bytes(data[member.start : member.start + member.stored_bytes])
    if zlib.crc32(stored) != member.crc32:
        raise ChecksumError(f"the checksum of the member {_shown(member.name)} is wrong")
    return stored


def stream(data: Readable, member: Member) -> Iterator[bytes]:
    """The member's content, decompressed, at most `CHUNK_BYTES` at a time.

    Raises:
        ChecksumError: after the last bytes, which are not those that were announced.
        ZipError: they are damaged, or of another number than announced; it is raised before more
            bytes than announced are given.
    """
    raw = _raw(data, member)
    size, crc32 = 0, 0
    for piece in raw if member.method == STORED else _inflated(raw, member):
        size += len(piece)
        crc32 = zlib.crc32(piece, crc32)
        if size > member.size_bytes:
            break
        yield piece
    if size != member.size_bytes:
        raise ZipError(
            f"the member {_shown(member.name)} does not unpack to the {member.size_bytes} bytes "
            "that the archive announces"
        )
    if crc32 != member.crc32:
        raise ChecksumError(f"the checksum of the member {_shown(member.name)} is wrong")


class _Entry(NamedTuple):
    """What the directory says of a member; not yet compared with the header in front of it.

    Their order is that of their headers.

    Attributes:
        header: where the header starts in the file.
        at: where the entry starts in the directory.
    """

    header: int
    at: int
    name: str
    raw_name: bytes
    flags: int
    method: int
    crc32: int
    stored_bytes: int
    size_bytes: int
    mode: int


def _directory(data: Readable, max_bytes: int) -> tuple[int, int, int]:
    """Start, end and number of entries of the central directory."""
    end = len(data) - _END.size
    fields = _END.unpack(data[end:]) if end >= 0 else (b"",)
    if fields[0] != b"PK\x05\x06" or fields[-1] != 0:
        raise ZipError(
            "the file does not end as a zip archive does: it was cut off, has bytes after its "
            "end, or is no zip archive"
        )
    _, disk, first_disk, here, count, size, start, _ = fields
    locator = data[max(0, end - _LOCATOR_64.size) : end]
    if len(locator) == _LOCATOR_64.size and locator[:4] == b"PK\x06\x07":
        _, disk, at, disks = _LOCATOR_64.unpack(locator)
        end -= _LOCATOR_64.size + _END_64.size
        if at != end:
            raise ZipError("the zip64 end of the archive is not where the archive says")
        narrow = (count, size, start)
        signature, length, _, _, here_64, first_disk, here, count, size, start = _END_64.unpack(
            data[end : end + _END_64.size]
        )
        short = (min(count, 0xFFFF), min(size, _NOT_HERE), min(start, _NOT_HERE))
        if signature != b"PK\x06\x06" or length != _END_64.size - 12 or narrow != short:
            raise ZipError("the zip64 end of the archive is damaged")
        disk = disk or here_64 or disks > 1
    if disk or first_disk or here != count:
        raise ZipError("the archive is one part of several; send it in one file")
    if start + size != end:
        raise ZipError("the zip directory is not where the archive says")
    if size > max_bytes:
        raise ZipError(f"the zip directory has {size} bytes; at most {max_bytes} are taken")
    return start, end, count


def _entries(directory: bytes) -> Iterator[_Entry]:
    """What the directory says, in its order."""
    at, end = 0, len(directory)
    while at < end:
        if not directory.startswith(b"PK\x01\x02", at) or at + _ENTRY.size > end:
            raise ZipError("the zip directory is damaged")
        fields = _ENTRY.unpack_from(directory, at)
        _, _, needed, flags, method, _, _, crc32, stored_bytes, size_bytes = fields[:10]
        name_length, extra_length, comment_length, disk, _, attributes, header = fields[10:]
        extras = at + _ENTRY.size + name_length
        raw_name = directory[extras - name_length : extras]
        extra = directory[extras : extras + extra_length]
        following = extras + extra_length + comment_length
        if following > end:
            raise ZipError("the zip directory is damaged")
        name = raw_name.decode() if raw_name.isascii() else _decoded(raw_name, flags)
        odd = needed & 0xFF > MAX_VERSION or disk or flags & _ENCRYPTED
        if odd or method not in (STORED, DEFLATED) or "\0" in name:
            raise _odd(name, needed, disk, flags, method)
        if extra or _NOT_HERE in (size_bytes, stored_bytes, header):
            numbers = _widened(extra, name, size_bytes, stored_bytes, header)
            size_bytes, stored_bytes, header = numbers
        if method == STORED and stored_bytes != size_bytes:
            raise ZipError(f"the member {_shown(name)} is stored as it is, but has two sizes")
        yield _Entry(
            header,
            at,
            name,
            raw_name,
            flags,
            method,
            crc32,
            stored_bytes,
            size_bytes,
            attributes >> 16,
        )
        at = following


def _decoded(raw_name: bytes, flags: int) -> str:
    """The name of a member. Without the flag for UTF-8 macOS and Linux write that all the same."""
    try:
        return raw_name.decode()
    except UnicodeDecodeError:
        if flags & _UTF8:
            raise ZipError("the name of a member of the archive is not UTF-8") from None
        return raw_name.decode("cp437")


def _odd(name: str, needed: int, disk: int, flags: int, method: int) -> ZipError:
    """Why an entry of the directory is not read."""
    if "\0" in name:  # where some readers end the name
        return ZipError(f"the name {_shown(name)} of a member of the archive has a zero byte")
    if needed & 0xFF > MAX_VERSION:  # the upper byte was for a system, and is unused
        return ZipError(
            f"the member {_shown(name)} needs version {(needed & 0xFF) / 10} of the zip "
            f"format; up to {MAX_VERSION / 10} is read"
        )
    if disk:
        return ZipError("the archive is one part of several; send it in one file")
    if flags & _ENCRYPTED:
        return ZipError(f"the member {_shown(name)} is encrypted; send it unencrypted")
    return ZipError(
        f"the member {_shown(name)} is compressed by "
        f"{_METHODS.get(method, f'method {method}')}; stored and deflated members are read"
    )


def _member(data: Readable, directory: bytes, entry: _Entry, end: int) -> Member:
    """Compare an entry with the header in front of the content; both lie before byte ``end``."""
    header, at, name, raw_name, _, method, crc32, stored_bytes, size_bytes, mode = entry
    extras = header + _LOCAL.size + len(raw_name)
    head = bytes(data[header:extras]) if extras <= end else b""
    if head[:4] != b"PK\x03\x04":
        raise ZipError(f"the member {_shown(name)} is not where the directory says")
    if head[_LOCAL.size :] != raw_name:
        raise _contradicted(name)
    start = extras + head[28] + (head[29] << 8)
    if start + stored_bytes > end:
        raise ZipError(f"the member {_shown(name)} does not lie inside the archive")
    extra = bytes(data[extras:start]) if start > extras else b""
    # From the version to the length of the name both have the same bytes, unless the sizes stand
    # elsewhere; to compare them at once takes a third of the time.
    if head[4:28] != directory[at + 6 : at + 30] or _WIDE in head[18:26]:
        _compare(head, extra, entry)
    elif extra:
        _widened(extra, name)
    return Member(name, method, crc32, start, stored_bytes, size_bytes, mode)


def _compare(head: bytes, extra: bytes, entry: _Entry) -> None:
    """Raise ZipError unless a member's header says, in its own way, what the entry says."""
    fields = _LOCAL.unpack_from(head)
    _, _, flags, method, _, _, crc32, stored_bytes, size_bytes, name_length, _ = fields
    size_bytes, stored_bytes = _widened(extra, entry.name, size_bytes, stored_bytes)
    sizes = (crc32, stored_bytes, size_bytes)
    unsaid = bool(flags & _SIZES_FOLLOW) and sizes == (0, 0, 0)
    agreed = unsaid or sizes == (entry.crc32, entry.stored_bytes, entry.size_bytes)
    local = (flags, method, name_length)
    if not agreed or local != (entry.flags, entry.method, len(entry.raw_name)):
        raise _contradicted(entry.name)


def _contradicted(name: str) -> ZipError:
    return ZipError(f"the member {_shown(name)} contradicts its entry in the directory")


def _widened(extra: bytes, name: str, *numbers: int) -> list[int]:
    """The numbers of an entry, with the 64-bit ones where 32 bits did not do."""
    wide = None
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        position += 4 + length
        if position > len(extra):
            raise ZipError(f"the extra field of the member {_shown(name)} is damaged")
        if kind == 1 and wide is None:
            wide = extra[position - length : position]
    wide = wide or b""
    found = []
    for number in numbers:
        if number == _NOT_HERE:
            if len(wide) < 8:
                raise ZipError(f"the member {_shown(name)} lacks its 64-bit sizes")
            number = int.from_bytes(wide[:8], "little")
            wide = wide[8:]
        found.append(number)
    return found


def _raw(data: Readable, member: Member) -> Iterator[bytes]:
    end = member.start + member.stored_bytes
    for position in range(member.start, end, CHUNK_BYTES):
        yield bytes(data[position : min(position + CHUNK_BYTES, end)])


def _inflated(raw: Iterator[bytes], member: Member) -> Iterator[bytes]:
    """Raw deflate data unpacked; it must end exactly where the stored bytes end."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pending: bytes | None = b""
    while not inflater.eof:
        pending = pending or next(raw, None)
        try:
            piece = inflater.decompress(pending or b"", CHUNK_BYTES)
        except zlib.error:
            raise ZipError(f"the member {_shown(member.name)} is damaged") from None
        if not piece and pending is None and not inflater.eof:
            raise ZipError(f"the member {_shown(member.name)} ends too early")
        pending = inflater.unconsumed_tail
        yield piece
    if inflater.unused_data or next(raw, None) is not None:
        raise ZipError(f"the member {_shown(member.name)} goes on after its compressed data")


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else name[:97] + "...")
