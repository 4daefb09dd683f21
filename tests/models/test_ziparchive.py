"""Zip archives of every sound layout are read as ``zipfile`` reads them, and all others refused."""

import io
import mmap
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest

from models import ziparchive
from models.datasets.arrays import Source
from models.ziparchive import ChecksumError, ZipError

CONTENTS = {"a.txt": b"first" * 50, "empty": b"", "dir/ü.bin": bytes(range(256))}


class Pipe(io.RawIOBase):
    """What cannot seek gets sizes behind the data instead of before it."""

    def __init__(self):
        self.data = b""

    def writable(self):
        return True

    def write(self, data):
        self.data += bytes(data)
        return len(data)


def zipped(members, *, compression=zipfile.ZIP_STORED, force_zip64=False, stream=None, **options):
    stream = stream or io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression, **options) as file:
        for name, data in dict(members).items():
            with file.open(name, "w", force_zip64=force_zip64) as member:
                member.write(data)
    return stream.data if isinstance(stream, Pipe) else stream.getvalue()


def read(data):
    """Name and content of every member."""
    found = ziparchive.members(data)
    assert all(name == member.name for name, member in found.items())
    return {name: b"".join(ziparchive.stream(data, member)) for name, member in found.items()}


def patched(data, at, layout, *values):
    changed = bytearray(data)
    struct.pack_into(layout, changed, at, *values)
    return bytes(changed)


def directory_entry(data, name):
    """Where the directory's entry of a member starts."""
    at = data.index(name, data.index(b"PK\x01\x02")) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    return at


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("force_zip64", [False, True])
@pytest.mark.parametrize("limit", [100, 2**31])  # the lower as if beyond 2 GiB
def test_every_layout_that_zipfile_writes_is_read(compression, force_zip64, limit, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2 if limit == 100 else 2**16)
    options = {"compression": compression, "force_zip64": force_zip64 or limit == 100}
    for data in (zipped(CONTENTS, **options), zipped(CONTENTS, stream=Pipe(), **options)):
        assert (b"PK\x06\x06" in data) == (limit == 100)
        assert read(data) == CONTENTS


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read_from_files_and_pipes(save):
    arrays = {"x": np.arange(500.0), "y": np.arange(3)}
    stream, pipe = io.BytesIO(), Pipe()
    save(stream, **arrays)
    save(pipe, **arrays)
    for data in (stream.getvalue(), pipe.data):
        found = {name: np.load(io.BytesIO(content)) for name, content in read(data).items()}
        assert list(found) == ["x.npy", "y.npy"]
        np.testing.assert_array_equal(found["x.npy"], arrays["x"])


def test_whatever_can_be_sliced_is_read(tmp_path):
    data = zipped(CONTENTS, compression=zipfile.ZIP_DEFLATED)
    (tmp_path / "z").write_bytes(data)
    with open(tmp_path / "z", "rb") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert read(mapped) == CONTENTS
        assert read(Source(file.fileno())) == CONTENTS
    assert read(memoryview(data)) == CONTENTS


def test_names_are_utf8_where_they_can_be_and_of_the_first_pc_elsewhere():
    data = zipped({"aaaa": b"1"})
    assert list(read(data.replace(b"aaaa", b"\x81ber"))) == ["über"]
    # macOS and the zip command of Linux write UTF-8 and set no flag.
    assert list(read(data.replace(b"aaaa", "üb".encode() + b"r"))) == ["übr"]
    flagged = patched(data, 6, "<H", 0x0800)
    flagged = patched(flagged, directory_entry(data, b"aaaa") + 8, "<H", 0x0800)
    assert list(read(flagged.replace(b"aaaa", "üb".encode() + b"r"))) == ["übr"]
    with pytest.raises(ZipError, match="not UTF-8"):
        read(flagged.replace(b"aaaa", b"\x81ber"))


def test_type_and_permissions_are_those_that_unix_gave():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, mode in (("link", 0o120777), ("plain", 0o100644), ("none", 0)):
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16 | 0x20
            file.writestr(info, b"x")
    found = ziparchive.members(stream.getvalue())
    modes = {name: member.mode for name, member in found.items()}
    assert modes == {"link": 0o120777, "plain": 0o100644, "none": 0}


def test_too_many_members_are_refused_before_they_are_listed():
    data = zipped(CONTENTS)
    assert len(ziparchive.members(data, max_members=3)) == 3
    broken = patched(data, data.index(b"PK\x01\x02"), "<B", 0)
    with pytest.raises(ZipError, match="has 3 members; at most 2"):
        ziparchive.members(broken, max_members=2)
    size = len(data) - 22 - data.index(b"PK\x01\x02")
    assert len(ziparchive.members(data, max_directory_bytes=size)) == 3
    with pytest.raises(ZipError, match=f"has {size} bytes; at most {size - 1}"):
        ziparchive.members(broken, max_directory_bytes=size - 1)


@pytest.mark.parametrize("stream", [io.BytesIO, Pipe])
def test_every_bit_of_a_header_counts_but_those_of_version_and_time(stream):
    data = zipped({"a.txt": b"first" * 50}, compression=zipfile.ZIP_DEFLATED, stream=stream())
    for at in range(30 + len("a.txt")):
        for bit in range(8):
            flipped = patched(data, at, "<B", data[at] ^ 1 << bit)
            if at in (4, 5, 10, 11, 12, 13):
                assert read(flipped) == {"a.txt": b"first" * 50}
            else:
                with pytest.raises(ZipError):
                    read(flipped)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_whole_content_is_what_the_stream_gives_or_its_error(compression):
    data = zipped(CONTENTS, compression=compression)
    for name, member in ziparchive.members(data).items():
        assert ziparchive.content(data, member) == CONTENTS[name]
    at = ziparchive.members(data)["a.txt"].start
    damaged = patched(data, at, "<B", data[at] ^ 1)
    with pytest.raises(ZipError, match="member 'a"):
        ziparchive.content(damaged, ziparchive.members(damaged)["a.txt"])


def test_a_name_with_a_zero_byte_is_refused_because_readers_cut_it_there():
    data = zipped({"aaaa": b"1"}).replace(b"aaaa", b"a\0aa")
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.namelist() == ["a"]
    with pytest.raises(ZipError, match="zero byte"):
        read(data)


def test_a_later_version_of_the_format_is_refused():
    data = zipped({"a": b"1"})
    at = directory_entry(data, b"a") + 6
    assert read(patched(data, at, "<B", 63)) == {"a": b"1"}
    with pytest.raises(ZipError, match=r"'a' needs version 6\.4 .* up to 6\.3"):
        read(patched(data, at, "<B", 64))


def test_sizes_beyond_four_gibibytes_are_read_where_the_64_bit_field_has_them():
    # The local header says that its sizes follow; none of these bytes has to exist for the check.
    class Sparse:
        def __init__(self, parts, length):
            self.parts, self.length = parts, length

        def __len__(self):
            return self.length

        def __getitem__(self, part):
            start, stop, _ = part.indices(self.length)
            for first, data in self.parts.items():
                if first <= start and stop <= first + len(data):
                    return data[start - first : stop - first]
            raise AssertionError(f"bytes {start} to {stop} are not needed")

    size = 5 * 2**30
    heads = [struct.pack("<4s5H3L2H", b"PK\x03\x04", 45, 8, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"]
    heads.append(heads[0][:-1] + b"b")
    second, directory = 31 + size, 2 * (31 + size)
    full = 0xFFFFFFFF
    entries = b""
    for name, offset, numbers in ((b"a", 0, (size, size)), (b"b", full, (size, size, second))):
        extra = struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers)
        entries += struct.pack(
            "<4s6H3L5H2L",
            *(b"PK\x01\x02", 45, 45, 8, 0, 0, 0, 7, full, full),
            *(1, len(extra), 0, 0, 0, 0, offset),
        ) + (name + extra)
    ends = [
        struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, len(entries), directory),
        struct.pack("<4sLQL", b"PK\x06\x07", 0, directory + len(entries), 1),
        struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(entries), full, 0),
    ]
    tail = entries + b"".join(ends)
    parts = {0: heads[0], second: heads[1], directory: tail}
    found = ziparchive.members(Sparse(parts, directory + len(tail)))
    assert [(member.start, member.size_bytes) for member in found.values()] == [
        (31, size),
        (second + 31, size),
    ]


def test_the_end_of_a_64_bit_archive_must_agree_with_itself(monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    data = zipped(CONTENTS)
    record = data.index(b"PK\x06\x06")
    locator, end = record + 56, record + 76
    assert read(data) == CONTENTS
    for at, layout, value, words in [
        (record, "<B", 0, "zip64 end of the archive is damaged"),
        (record + 4, "<Q", 45, "zip64 end of the archive is damaged"),
        (record + 16, "<L", 1, "one part of several"),
        (record + 20, "<L", 1, "one part of several"),
        (record + 24, "<Q", 2, "one part of several"),
        (record + 32, "<Q", 2**63, "zip64 end of the archive is damaged"),
        (record + 40, "<Q", 0, "zip64 end of the archive is damaged"),
        (locator + 4, "<L", 1, "one part of several"),
        (locator + 8, "<Q", 2**63, "zip64 end of the archive is not where"),
        (locator + 16, "<L", 2, "one part of several"),
        (end + 10, "<H", 2, "zip64 end of the archive is damaged"),
        (end + 12, "<L", 0, "zip64 end of the archive is damaged"),
        (end + 16, "<L", 0, "zip64 end of the archive is damaged"),
    ]:
        with pytest.raises(ZipError, match=words):
            read(patched(data, at, layout, value))


def test_a_64_bit_field_that_is_missing_or_cut_off_is_refused():
    data = zipped({"a.npy": b"12345"}, force_zip64=True)
    assert data[30 + 5 : 30 + 5 + 4] == struct.pack("<HH", 1, 16)
    for at, layout, value, words in [
        (35, "<H", 2, "lacks its 64-bit sizes"),
        (37, "<H", 17, "extra field of the member 'a.npy' is damaged"),
        (39, "<Q", 6, "contradicts"),
        (directory_entry(data, b"a.npy") + 20, "<L", 0xFFFFFFFF, "lacks its 64-bit sizes"),
    ]:
        with pytest.raises(ZipError, match=words):
            read(patched(data, at, layout, value))


def test_a_header_whose_sizes_follow_says_nothing_or_the_same():
    data = zipped({"a": b"12345"}, stream=Pipe())
    crc32 = zlib.crc32(b"12345")
    assert data[14:26] == bytes(12)
    assert read(patched(data, 14, "<3L", crc32, 5, 5)) == {"a": b"12345"}
    for values in ((1, 0, 0), (crc32, 5, 0), (crc32, 4, 4), (0, 5, 5)):
        with pytest.raises(ZipError, match="contradicts"):
            read(patched(data, 14, "<3L", *values))


def test_an_archive_shorter_than_its_records_is_refused():
    empty = zipped({})
    assert read(empty) == {}
    for data in (b"", b"PK", empty[:-1], empty[1:]):
        with pytest.raises(ZipError, match="cut off"):
            read(data)
    for length in range(1, 77):
        with pytest.raises(ZipError, match=r"zip64|not where"):
            read((b"PK\x06\x07" * 19)[-length:].rjust(length) + empty)
        with pytest.raises(ZipError, match=r"zip64|not where"):
            read(b"PK\x06\x07".ljust(length, b"\0") + empty)


def test_a_comment_is_refused_as_bytes_after_the_end_are():
    data = zipped(CONTENTS)
    for more in (b"x", bytes(22), data):
        with pytest.raises(ZipError, match=r"bytes after its end|not where the archive says"):
            read(data + more)
    with pytest.raises(ZipError, match="bytes after its end"):
        read(patched(data, len(data) - 2, "<H", 3) + b"abc")


def test_a_huge_directory_is_refused_unread():
    class Unread(bytes):
        def __getitem__(self, part):
            found = super().__getitem__(part)
            assert len(found) <= 22
            return found

    size = ziparchive.MAX_DIRECTORY_BYTES + 1
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, size, 0, 0)
    with pytest.raises(ZipError, match=f"zip directory has {size} bytes; at most {size - 1}"):
        ziparchive.members(Unread(bytes(size) + end))


def test_members_that_share_a_header_are_refused_before_it_is_read_again():
    data = zipped({"a": b"1"})
    start = data.index(b"PK\x01\x02")
    entry = data[start:-22]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, 2 * len(entry), start, 0)
    with pytest.raises(ZipError, match="'a' overlaps another member"):
        read(data[:start] + entry + entry + end)


def test_a_member_that_unpacks_to_more_than_announced_stops_there():
    bomb = zipped({"x": bytes(10**8)}, compression=zipfile.ZIP_DEFLATED)
    for at in (22, directory_entry(bomb, b"x") + 24):
        bomb = patched(bomb, at, "<L", 5 * 2**20)
    member = ziparchive.members(bomb)["x"]
    given = 0
    with pytest.raises(ZipError, match="does not unpack to"):  # noqa: PT012
        for piece in ziparchive.stream(bomb, member):
            assert len(piece) <= ziparchive.CHUNK_BYTES
            given += len(piece)
    assert given <= 5 * 2**20


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wrong_checksum_is_told_from_other_damage(compression):
    data = zipped({"x": b"12345" * 9}, compression=compression)
    for at in (14, directory_entry(data, b"x") + 16):
        data = patched(data, at, "<L", 7)
    with pytest.raises(ChecksumError, match="checksum of the member 'x' is wrong"):
        read(data)


def test_deflate_data_of_every_shape_is_unpacked_as_zlib_does():
    random_ = random.Random(7)
    for size in (0, 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20):
        for plain in (bytes(size), random_.randbytes(size)):
            data = zipped({"x": plain}, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
            assert ziparchive.members(data)["x"].crc32 == zlib.crc32(plain)
            assert read(data) == {"x": plain}


@pytest.mark.parametrize("ending", [b"", b"\0", b"\x03\x00"])
def test_deflate_data_that_ends_early_or_goes_on_is_refused(ending):
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(b"12345") + packer.flush()
    packed = packed + ending if ending else packed[:-1]
    data = zipped({"x": packed})
    entry = directory_entry(data, b"x")
    for at, layout, value in [
        (8, "<H", 8),
        (22, "<L", 5),
        (14, "<L", zlib.crc32(b"12345")),
        (entry + 10, "<H", 8),
        (entry + 24, "<L", 5),
        (entry + 16, "<L", zlib.crc32(b"12345")),
    ]:
        data = patched(data, at, layout, value)
    with pytest.raises(ZipError, match="goes on after" if ending else "ends too early"):
        read(data)


def test_a_name_that_goes_on_and_on_is_cut_in_the_message():
    data = zipped({"n" * 60_000: b"1"})
    with pytest.raises(ZipError, match="contradicts") as caught:
        read(patched(data, 8, "<H", 8))
    assert len(str(caught.value)) < 200
