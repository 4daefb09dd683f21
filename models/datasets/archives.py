"""Archives of files: zip, tar and tar.gz, listed as a whole and read one file at a time.

Nothing is extracted: a file is a stretch of the archive, found by headers of which every one is
checked. Whatever two readers could take for two different things is refused, and so is what could
do harm if somebody extracted it: names that lead elsewhere, links, devices. The standard library's
``tarfile`` passes over much of that. The layout of tar is that of POSIX.1-2017 (pax,
https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html), with GNU's long names.
"""

from __future__ import annotations

import re
import stat
import zlib
from collections.abc import Iterator
from typing import Protocol

from models import ziparchive
from models.datasets.arrays import CHUNK_BYTES, Source, bad_file
from models.spec import SpecError
from models.ziparchive import Member, ZipError

GZIP = b"\x1f\x8b\x08"
MAX_ZIP_DIRECTORY_BYTES = 2**28  # what zip writes of some two million images
MAX_EXPANSION = 30  # images hardly shrink in an archive, tar's own headers by a factor of 20
FREE_EXPANSION_BYTES = 2**28  # up to here no ratio counts

_BLOCK = 512
_MAX_EXTENSION_BYTES = 2**20
_MAGICS = (b"ustar\x0000", b"ustar  \x00")  # of POSIX and of GNU
_NUMBER = re.compile(rb" *([0-7]*)[ \0]*")
_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ([^=\n]+)=")
_TYPES = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"K": "a link",
    b"S": "a sparse file",
}
_KIND = 0o170000  # the bits of a mode that stat.S_IFMT keeps
_MODES = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


class Archive(Protocol):
    """The files of one archive, in its order; folders are left out.

    Attributes:
        names: relative paths with ``/``, which may start with ``./``, as the archive has them.
        sizes_bytes: of each file.
    """

    names: list[str]
    sizes_bytes: list[int]

    def read(self, index: int) -> bytes:
        """The content of one file; SpecError if it is damaged."""
        ...


def open_archive(source: Source, *, scratch: int, max_bytes: int, max_entries: int) -> Archive:
    """List a zip, tar or tar.gz.

    Args:
        source: the file.
        scratch: descriptor of an empty file, for what a tar.gz unpacks to.
        max_bytes: bound on that.
        max_entries: bound on the entries, folders included.

    Raises:
        SpecError: another kind of file; damaged, ambiguous or dangerous; too many entries; or
            unpacking to more than `MAX_EXPANSION` times its size and `FREE_EXPANSION_BYTES`.
    """
    head = source[:_BLOCK]
    if head.startswith(b"PK"):
        return ZipArchive(source, max_entries=max_entries)
    if head.startswith(GZIP):
        _gunzip(source, scratch, min(max_bytes, _max_expanded_bytes(source)))
        source = Source(scratch)
    elif not is_tar(head):
        raise bad_file("the file is no zip, tar or tar.gz archive")
    return TarArchive(source, max_entries=max_entries)


def is_tar(head: bytes) -> bool:
    """Whether a file that starts with these 512 bytes is a tar archive."""
    return head[257:265] in _MAGICS


def shown(name: str) -> str:
    """A name as error messages write it."""
    return repr(name if len(name) <= 200 else name[:197] + "...")


class ZipArchive:
    """A zip archive; see `Archive` and `open_archive`."""

    def __init__(self, source: Source, *, max_entries: int) -> None:
        self._data = source.mapped()
        try:
            found = ziparchive.members(
                self._data, max_members=max_entries, max_directory_bytes=MAX_ZIP_DIRECTORY_BYTES
            )
        except ZipError as error:
            raise bad_file(str(error)) from None
        self._members: list[Member] = []
        self.names: list[str] = []
        self.sizes_bytes: list[int] = []
        for name, member in found.items():
            _check_path(name)
            kind = member.mode & _KIND
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _special(name, _MODES.get(kind, "of an unknown kind"))
            if kind == stat.S_IFDIR or name.endswith("/"):
                _check_folder(name, member.size_bytes)
                continue
            self._members.append(member)
            self.names.append(name)
            self.sizes_bytes.append(member.size_bytes)
        if (total := sum(self.sizes_bytes)) > (most := _max_expanded_bytes(source)):
            raise bad_file(
                f"the archive unpacks to {total} bytes; an archive of its size is taken for "
                f"images if it unpacks to at most {most}"
            )

    def read(self, index: int) -> bytes:
        """See `Archive`."""
        try:
            return ziparchive.content(self._data, self._members[index])
        except ZipError as error:
            raise bad_file(str(error)) from None


class TarArchive:
    """A tar archive; see `Archive` and `open_archive`."""

    def __init__(self, source: Source, *, max_entries: int) -> None:
        self._source = source
        self._starts: list[int] = []
        self.names: list[str] = []
        self.sizes_bytes: list[int] = []
        for count, (name, start, size_bytes) in enumerate(_tar_entries(source)):
            if count == max_entries:
                raise bad_file(f"the archive has more than {max_entries} entries")
            _check_path(name)
            if name.endswith("/"):
                _check_folder(name, size_bytes)
                continue
            self._starts.append(start)
            self.names.append(name)
            self.sizes_bytes.append(size_bytes)

    def read(self, index: int) -> bytes:
        """See `Archive`."""
        return self._source.read(self._starts[index], self.sizes_bytes[index])


def _check_path(name: str) -> None:
    """Refuse what is no plain path, with or without ``./`` before it and ``/`` behind it."""
    plain = name
    if name[:1] == "." or "/." in name or "//" in name or name[-1:] in ("", "/"):
        plain = name.removeprefix("./").removesuffix("/")
        if name != "./" and not {"", ".", ".."}.isdisjoint(plain.split("/")):
            raise _elsewhere(name)
    if plain[:1] == "/" or plain[1:2] == ":" or "\\" in plain:
        raise _elsewhere(name)


def _elsewhere(name: str) -> SpecError:
    return bad_file(
        f"the entry {shown(name)} could lead out of the archive: a name must be a relative path, "
        "with '/' between folders and without '.' and '..'"
    )


def _special(name: str, what: str) -> SpecError:
    return bad_file(
        f"the entry {shown(name)} is {what}; an archive of images holds plain files and folders"
    )


def _check_folder(name: str, size_bytes: int) -> None:
    if size_bytes:
        raise bad_file(f"the entry {shown(name)} is a folder, but has content")


def _max_expanded_bytes(source: Source) -> int:
    return FREE_EXPANSION_BYTES + MAX_EXPANSION * len(source)


def _gunzip(source: Source, scratch: int, max_bytes: int) -> None:
    """Unpack a tar.gz into the scratch file."""
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    size_bytes = 0
    with open(scratch, "wb", closefd=False) as out:
        for data in _inflated(source, inflater):
            if size_bytes == 0 and not is_tar(data):
                raise bad_file("what the gzip file holds is no tar archive")
            size_bytes += len(data)
            if size_bytes > max_bytes:
                raise bad_file(
                    f"the gzip file unpacks to more than {max_bytes} bytes, which is too much for "
                    "images in an archive of its size"
                )
            out.write(data)
    if not inflater.eof:
        raise bad_file("the gzip file is cut off")
    if size_bytes == 0:
        raise bad_file("the gzip file is empty")


def _inflated(source: Source, inflater: zlib._Decompress) -> Iterator[bytes]:
    """What the file unpacks to, at most `CHUNK_BYTES` at a time and never empty."""
    end = len(source)
    for start in range(0, end, CHUNK_BYTES):
        pending = source.read(start, min(CHUNK_BYTES, end - start))
        while not inflater.eof:
            try:
                data = inflater.decompress(pending, CHUNK_BYTES)
            except zlib.error:
                raise bad_file("the gzip file is damaged") from None
            pending = inflater.unconsumed_tail
            if data:
                yield data
            elif not pending:
                break
        if inflater.eof and (inflater.unused_data or start + CHUNK_BYTES < end):
            raise bad_file("the gzip file has bytes after its end")


def _tar_entries(source: Source) -> Iterator[tuple[str, int, int]]:
    """Name (ending in ``/`` if it is a folder), start and size of each entry."""
    at = 0
    longer: str | None = None  # the next entry's name, where GNU's field is too short for it
    records: dict[bytes, bytes] | None = None  # of the next entry, where pax says more of it
    while any(block := source.read(at, _BLOCK)):
        name, kind, size_bytes = _header(block, at)
        start, at = at + _BLOCK, at + _BLOCK + (size_bytes + _BLOCK - 1) // _BLOCK * _BLOCK
        if at > len(source):
            raise bad_file(f"the archive ends inside the entry {shown(name)}")
        if kind == b"L" and longer is None:
            longer = _text(_extension(source, start, size_bytes).rstrip(b"\0"))
        elif kind == b"x" and records is None:
            records = _records(_extension(source, start, size_bytes))
        elif kind == b"g":
            for key in _records(_extension(source, start, size_bytes)):
                if key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse."):
                    raise bad_file("the tar archive gives all of its entries one name or size")
        elif kind in (b"0", b"\0", b"5"):
            if longer is not None:
                name, longer = longer, None
            if records is not None:
                name, records = _renamed(name, size_bytes, records), None
            if "\0" in name:
                raise bad_file(f"the name {shown(name)} of an entry has a zero byte")
            yield name + "/" * (kind == b"5" and not name.endswith("/")), start, size_bytes
        else:
            raise _special(longer or name, _TYPES.get(kind, "of an unknown kind"))
    if longer is not None or records is not None:
        raise bad_file("the tar archive ends after a header that belongs to a further entry")
    source.read(at, 2 * _BLOCK)  # the end is two blocks of zeros
    for piece in source.pieces(at, len(source)):
        if piece.strip(b"\0"):
            raise bad_file("the tar archive has bytes after its end")


def _header(block: bytes, at: int) -> tuple[str, bytes, int]:
    """Name, type and size that a header says."""
    size, checksum = _NUMBER.fullmatch(block, 124, 136), _NUMBER.fullmatch(block, 148, 156)
    if (
        block[257:265] not in _MAGICS
        or checksum is None
        or int(checksum[1] or b"0", 8) != sum(block) - sum(block[148:156]) + 8 * ord(" ")
    ):
        raise bad_file(f"the header at byte {at} of the tar archive is damaged, or of an old kind")
    name, prefix = block[:100].split(b"\0", 1)[0], b""
    if block[257:265] == _MAGICS[0]:
        prefix = block[345:500].split(b"\0", 1)[0]
    elif any(block[345:500]):
        raise _special(_text(name), "part of an incremental or sparse archive")
    text = _text(prefix + b"/" + name if prefix else name)
    if size is None:  # written in binary, from 8 GiB on
        raise bad_file(f"the size of the entry {shown(text)} is damaged, or 8 GiB and more")
    return text, block[156:157], int(size[1] or b"0", 8)


def _extension(source: Source, start: int, size_bytes: int) -> bytes:
    """What stands between a header of more to say and the header that it belongs to."""
    if size_bytes > _MAX_EXTENSION_BYTES:
        raise bad_file(
            f"a header of the tar archive has {size_bytes} bytes; at most {_MAX_EXTENSION_BYTES} "
            "are taken"
        )
    return source.read(start, size_bytes)


def _records(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax header."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise bad_file("a pax header of the tar archive is damaged")
        if match[2] in found:
            raise bad_file(f"a pax header of the tar archive says {_text(match[2])!r} twice")
        found[match[2]] = data[match.end() : end - 1]
        at = end
    return found


def _renamed(name: str, size_bytes: int, records: dict[bytes, bytes]) -> str:
    """An entry's name as its pax header has it; what the two say must agree."""
    path = _text(records[b"path"]) if b"path" in records else name
    if any(key.startswith(b"GNU.sparse.") or key == b"SCHILY.realsize" for key in records):
        raise _special(path, "a sparse file")
    # Whoever knows pax and whoever does not must see the same entry, unless ustar cannot hold it.
    fits = path.isascii() and len(path) <= 100
    if (fits and path != name) or records.get(b"size", b"%d" % size_bytes) != b"%d" % size_bytes:
        raise bad_file(
            f"the entry {shown(name)} has another name or size in its pax header: {shown(path)}"
        )
    return path


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise bad_file(f"the name {raw[:100]!r} of an entry is not UTF-8") from None
