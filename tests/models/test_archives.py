"""Archives are listed and read as ``zipfile`` and ``tarfile`` do, or refused with the entry."""

import contextlib
import gzip
import io
import os
import random
import shutil
import stat
import struct
import subprocess
import tarfile
import tempfile
import zipfile

import pytest

from models.datasets import archives
from models.datasets.archives import open_archive
from models.datasets.arrays import Source
from models.spec import SpecError
from tests.models.image_files import END, WRITERS, block, entry, pax, tarred, zipped
from tests.models.test_datasets_hostile import mutated

FILES = {
    "cats/1.png": b"first" * 300,
    "cats/Zoë.png": b"",
    "dogs/" + "n" * 90 + "/" + "m" * 90 + ".png": bytes(512),
    "dogs/2.png": bytes(range(256)) * 5,
}


@contextlib.contextmanager
def opened(data, *, max_bytes=10**8, max_entries=1000):
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as scratch:
        file.write(data)
        file.flush()
        bounds = {"max_bytes": max_bytes, "max_entries": max_entries}
        yield open_archive(Source(file.fileno()), scratch=scratch.fileno(), **bounds)


def read(data, **bounds):
    with opened(data, **bounds) as archive:
        found = {name: archive.read(index) for index, name in enumerate(archive.names)}
    assert [len(one) for one in found.values()] == archive.sizes_bytes
    assert len(found) == len(archive.names)
    return found


def refused(data, *words, **bounds):
    with pytest.raises(SpecError) as caught:
        read(data, **bounds)
    assert caught.value.pointer == "/file"
    for word in words:
        assert word in caught.value.detail
    assert len(caught.value.detail) < 600
    return caught.value.detail


# --- what honest programs write


@pytest.mark.parametrize("writer", WRITERS)
def test_the_files_of_an_archive_are_those_that_were_packed(writer):
    files = {"cats/": b"", **FILES}
    found = read(WRITERS[writer](files))
    assert found == {name: data for name, data in files.items() if name != "cats/"}


def test_what_the_commands_of_a_system_write_is_read(tmp_path):
    expected = {}
    for name, data in FILES.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        expected[name] = data
    commands = {
        "z.zip": "zip -q -r ../z.zip .",
        "folder.zip": "zip -q -r ../folder.zip cats dogs",
        "t.tar": "tar cf ../t.tar .",
        "pax.tar": "tar --format=posix -cf ../pax.tar cats dogs",
        "t.tgz": "tar czf ../t.tgz .",
    }
    for file, command in commands.items():
        if shutil.which(command.split()[0]) is None:
            pytest.skip(f"needs the command {command.split()[0]}")
        environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
        subprocess.run(["sh", "-c", command], cwd=tmp_path / "in", env=environment, check=True)
        found = read((tmp_path / file).read_bytes())
        assert {name.removeprefix("./"): data for name, data in found.items()} == expected, file


def test_a_leading_dot_is_taken_and_names_stay_as_they_are_written():
    assert list(read(tarred({"./cats/1.png": b"x"}))) == ["./cats/1.png"]
    assert list(read(zipped({"./": b"", "./cats/": b"", "./cats/1.png": b"x"}))) == ["./cats/1.png"]
    assert list(read(entry(b"./", kind=b"5") + entry(b"./a/b") + END)) == ["./a/b"]


def test_an_archive_without_files_is_empty():
    for data in (zipped({}), zipped({"a/": b""}), tarred({"a/": b""})):
        assert read(data) == {}
    refused(END, "no zip, tar or tar.gz")


@pytest.mark.parametrize(
    "data", [b"", b"x", b"x" * 1000, b"\x89PNG\r\n\x1a\n", b"PK", b"PK\x07\x08"]
)
def test_another_file_is_no_archive(data):
    refused(data, "zip archive" if data[:2] == b"PK" else "no zip, tar or tar.gz")


# --- names that lead elsewhere

ESCAPES = [
    "/etc/passwd.png",
    "../1.png",
    "cats/../../1.png",
    "cats/..",
    "./../1.png",
    "././1.png",
    "cats/./1.png",
    "cats//1.png",
    "C:/1.png",
    "c:1.png",
    "\\\\server\\1.png",
    "cats\\1.png",
    "..\\1.png",
    "//1.png",
    "..",
    ".",
    "/",
]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("writer", ["zip", "tar"])
def test_a_name_that_could_lead_out_is_refused(name, writer):
    data = zipped({name: b"x"}) if writer == "zip" else entry(name.encode(), b"x") + END
    refused(data, "could lead out of the archive", repr(name), "relative path")


def test_an_empty_name_is_refused():
    data = bytearray(zipped({"x": b""}))
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, 26, 0)
    struct.pack_into("<H", data, at + 28, 0)
    struct.pack_into("<LL", data, len(data) - 10, 46, at - 1)
    refused(bytes(data[:30] + data[31 : at + 46] + data[at + 47 :]), "could lead out", "''")
    refused(entry(b"") + END, "could lead out", "''")


def test_what_pax_and_gnu_say_of_a_name_is_checked_too():
    refused(pax((b"path", b"../1.png")) + entry(b"PaxFile") + END, "another name or size")
    long = b"../" * 40 + b"1.png"
    refused(pax((b"path", long)) + entry(b"1.png") + END, "could lead out")
    refused(entry(b"L", long, kind=b"L") + entry(b"1.png") + END, "could lead out")
    refused(entry(b"1.png", prefix=b"..") + END, "could lead out", "'../1.png'")


# --- what is no plain file


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (tarfile.GNUTYPE_LONGLINK, "a link"),
        (tarfile.CONTTYPE, "of an unknown kind"),
        (b"V", "of an unknown kind"),
        (b"D", "of an unknown kind"),
        (b"\xff", "of an unknown kind"),
    ],
)
@pytest.mark.parametrize("name", [b"cats/1.png", b".hidden"])
def test_an_entry_of_a_tar_that_is_no_file_is_refused(kind, words, name):
    refused(entry(name, kind=kind) + END, f"the entry {name.decode()!r} is {words}")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (stat.S_IFLNK, "a symbolic link"),
        (stat.S_IFCHR, "a device"),
        (stat.S_IFBLK, "a device"),
        (stat.S_IFIFO, "a pipe"),
        (stat.S_IFSOCK, "a socket"),
        (0o010, None),
        (0o160000, "of an unknown kind"),
    ],
)
def test_an_entry_of_a_zip_whose_mode_says_that_it_is_no_file_is_refused(kind, words):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("cats/1.png")
        info.external_attr = (kind | 0o644) << 16
        archive.writestr(info, b"/etc/passwd")
    if words is None:
        assert read(stream.getvalue()) == {"cats/1.png": b"/etc/passwd"}
    else:
        refused(stream.getvalue(), f"'cats/1.png' is {words}")


def test_a_folder_with_content_is_refused():
    refused(zipped({"cats/": b"x"}), "'cats/' is a folder, but has content")
    refused(entry(b"cats/", b"x", kind=b"5") + END, "'cats/' is a folder, but has content")
    refused(entry(b"cats", b"x", kind=b"5") + END, "'cats/' is a folder, but has content")
    refused(entry(b"cats/", b"x") + END, "'cats/' is a folder, but has content")
    assert read(entry(b"cats/") + END) == {}


def test_a_sparse_file_is_refused_however_it_is_written():
    for records in [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.size", b"9"),
        (b"SCHILY.realsize", b"9"),
    ]:
        refused(pax(records) + entry(b"a/1.png") + END, "'a/1.png' is a sparse file")
    gnu = block(b"a/1.png", magic=b"ustar  \0", prefix=bytes(41) + b"00000000010\0")
    refused(gnu + END, "'a/1.png' is part of an incremental or sparse archive")


# --- headers of tar that do not hold together


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (entry(b"a", b"x", checksum=b"0000000\0") + END, "header at byte 0"),
        (entry(b"a", b"x", checksum=b"9999999\0") + END, "header at byte 0"),
        (entry(b"a", b"x") + entry(b"b", magic=b"\0" * 8) + END, "header at byte 1024"),
        (entry(b"a", b"x") + b"x" * 512 + END, "header at byte 1024"),
        (entry(b"a", size_field=b"\x80" + bytes(10) + b"\1") + END, "'a' is damaged, or 8 GiB"),
        (entry(b"a", size_field=b"-0000000001\0") + END, "size of the entry 'a' is damaged"),
        (entry(b"a", size_field=b"00000000x01\0") + END, "size of the entry 'a' is damaged"),
        (entry(b"a", size_field=b"77777777777\0") + END, "ends inside the entry 'a'"),
        (entry(b"a", b"x")[:-1], "ends inside the entry 'a'"),
        (entry(b"a", b"x"), "the file ends at byte 1024"),
        (entry(b"a", b"x") + bytes(512), "the file ends at byte 1536"),
        (entry(b"a", b"x") + bytes(1023), "the file ends at byte 2047"),
        (entry(b"a", b"x") + END + b"\1", "bytes after its end"),
        (entry(b"a", b"x") + bytes(512) + entry(b"b", b"x") + END, "bytes after its end"),
        (tarred({"a": b"x"}) + tarred({"b": b"x"}), "bytes after its end"),
        (entry(b"a\xff", b"x") + END, "is not UTF-8"),
        (entry(b"L", b"n" * 200, kind=b"L") + END, "belongs to a further entry"),
        (pax((b"path", b"n" * 200)) + END, "belongs to a further entry"),
        (entry(b"L", b"n" * 200, kind=b"L") * 2 + entry(b"a") + END, "unknown kind"),
        (pax((b"path", b"n" * 200)) * 2 + entry(b"a") + END, "unknown kind"),
        (entry(b"L", b"a\0b" + b"c" * 200, kind=b"L") + entry(b"a") + END, "zero byte"),
        (entry(b"L", bytes(2**20 + 1), kind=b"L") + entry(b"a") + END, "1048577 bytes"),
        (entry(b"x", bytes(2**20 + 1), kind=b"x") + entry(b"a") + END, "1048577 bytes"),
    ],
)
def test_a_damaged_or_cut_off_tar_is_refused(data, words):
    refused(data, words)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([(b"size", b"2")], "another name or size"),
        ([(b"size", b"")], "another name or size"),
        ([(b"size", b"01")], "another name or size"),
        ([(b"path", b"b")], "another name or size in its pax header: 'b'"),
        ([(b"path", b"")], "another name or size"),
        ([(b"path", b"\xff")], "is not UTF-8"),
        ([(b"path", "ü\0".encode())], "zero byte"),
        ([(b"path", b"a"), (b"path", b"a")], "says 'path' twice"),
    ],
)
def test_a_pax_header_that_lies_is_refused(records, words):
    refused(pax(*records) + entry(b"a", b"x") + END, words)


def test_a_pax_header_that_says_the_same_or_nothing_of_interest_is_read():
    records = [(b"size", b"1"), (b"path", b"a"), (b"mtime", b"1.5"), (b"comment", b"x\ny=z")]
    assert read(pax(*records) + entry(b"a", b"x") + END) == {"a": b"x"}
    longer = "ü" * 80
    assert read(pax((b"path", longer.encode())) + entry(b"u", b"x") + END) == {longer: b"x"}
    assert read(pax((b"comment", b"x"), kind=b"g") + entry(b"a", b"x") + END) == {"a": b"x"}


@pytest.mark.parametrize("key", [b"path", b"size", b"linkpath", b"GNU.sparse.size"])
def test_a_pax_header_that_renames_all_entries_is_refused(key):
    refused(pax((key, b"1"), kind=b"g") + entry(b"a", b"x") + END, "all of its entries one name")


@pytest.mark.parametrize(
    "data",
    [b"5 a=b\n", b"7 a=b\n", b"6 a=b ", b"6 ab \n", b"06 a=b\n", b"x", b"6 =bc\n", b"-6 a=b\n"],
)
def test_a_damaged_pax_header_is_refused(data):
    assert read(entry(b"x", b"6 a=b\n", kind=b"x") + entry(b"a", b"x") + END) == {"a": b"x"}
    refused(entry(b"x", data, kind=b"x") + entry(b"a", b"x") + END, "pax header", "damaged")


# --- sizes and numbers


def test_too_many_entries_are_refused_before_they_are_listed():
    files = {f"a/{index}.png": b"x" for index in range(6)}
    for data in (zipped(files), tarred(files), gzip.compress(tarred(files))):
        assert len(read(data, max_entries=6)) == 6
        refused(data, "5", max_entries=5)
    broken = zipped(files).replace(b"PK\x01\x02", b"PK\x01\x03")
    refused(broken, "has 6 members; at most 5", max_entries=5)


@pytest.mark.parametrize("writer", ["zip deflated", "tar.gz"])
def test_an_archive_that_unpacks_to_too_much_is_refused(writer, monkeypatch):
    monkeypatch.setattr(archives, "FREE_EXPANSION_BYTES", 10**5)
    data = WRITERS[writer]({"a/1.png": bytes(10**6)})
    assert len(data) < 10**4
    refused(data, "unpacks to")
    noise = random.Random(0).randbytes(10**6)
    assert read(WRITERS[writer]({"a/1.png": noise})) == {"a/1.png": noise}


def test_a_zip_bomb_is_refused_by_its_directory():
    bomb = zipped({"a/1.png": bytes(3 * 10**8)}, zipfile.ZIP_DEFLATED)
    damaged = bytearray(bomb)
    damaged[100:120] = b"\xff" * 20  # an error if it were read
    refused(bytes(damaged), "unpacks to 300000000 bytes")


def test_a_tar_gz_is_unpacked_up_to_the_limit_and_no_further():
    data = gzip.compress(tarred({"a/1.png": bytes(10**7)}))
    assert sum(map(len, read(data, max_bytes=10**7 + 20_480).values())) == 10**7
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as scratch:
        file.write(data)
        file.flush()
        with pytest.raises(SpecError, match="more than 1000000 bytes"):
            open_archive(
                Source(file.fileno()), scratch=scratch.fileno(), max_bytes=10**6, max_entries=9
            )
        assert os.fstat(scratch.fileno()).st_size <= 10**6


def test_a_gzip_file_that_is_cut_off_damaged_or_goes_on_is_refused():
    noise = random.Random(0).randbytes(3 * 10**6)
    for payload in (b"x", noise, bytes(3 * 10**6)):
        data = gzip.compress(tarred({"a/1.png": payload}))
        assert read(data) == {"a/1.png": payload}
        refused(data + b"\0", "bytes after its end")
        refused(data + data, "bytes after its end")
        refused(data + bytes(2**21), "bytes after its end")
        refused(data[:-1], "cut off")
        refused(data[:-8], "cut off")
        changed = bytearray(data)
        changed[-5] ^= 1
        refused(bytes(changed), "the gzip file is damaged")
    refused(gzip.compress(b"a,b,label\n" * 100), "no tar archive")
    refused(gzip.compress(zipped(FILES)), "no tar archive")
    refused(gzip.compress(b""), "gzip file is empty")
    refused(b"\x1f\x8b\x08", "cut off")


def test_a_checksum_of_a_zip_is_checked_when_the_file_is_read():
    data = bytearray(zipped(FILES))
    data[data.index(b"firstfirst")] ^= 1
    with opened(bytes(data)) as archive:
        assert archive.read(archive.names.index("dogs/2.png")) == FILES["dogs/2.png"]
        with pytest.raises(SpecError, match=r"checksum of the member 'cats/1\.png' is wrong"):
            archive.read(archive.names.index("cats/1.png"))


def test_a_file_beyond_what_is_mapped_is_read_all_the_same(monkeypatch):
    monkeypatch.setattr("models.datasets.arrays.MAX_MAPPED_BYTES", 100)
    for writer in WRITERS.values():
        files = {"a/1.png": b"x" * 300, "b/2.png": bytes(700)}
        assert read(writer(files)) == files


# --- mutations


def by_tarfile(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}


def by_zipfile(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name[-1:] != "/"}


SMALL = {"cats/": b"", "cats/1.png": b"first" * 9, "cats/ü.png": b"", "dogs/2.png": bytes(600)}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "number", [400, pytest.param(30_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
@pytest.mark.filterwarnings("ignore")
def test_a_mutated_archive_is_refused_or_read_as_the_standard_library_does(writer, number):
    random_ = random.Random(f"{writer} {number}")
    base = WRITERS[writer](SMALL)
    tail = slice(None) if writer.startswith("zip") else slice(0, 6000)
    for _ in range(number):
        if writer == "tar.gz":
            data = mutated(base, random_)
            if random_.random() < 0.5:
                data = gzip.compress(mutated(gzip.decompress(base)[:6000], random_) + END)
        else:
            data = mutated(base[tail], random_) + (b"" if writer.startswith("zip") else END)
        try:
            found = read(data)
        except SpecError:
            continue
        oracle = by_zipfile if writer.startswith("zip") else by_tarfile
        assert found == oracle(data)
