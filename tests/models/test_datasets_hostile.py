"""Ingestion of damaged and hostile files: each is refused with a sentence, or gives a dataset."""

import io
import json
import random
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from models.datasets import Dataset
from tests.models.conftest import refused

RNG = np.random.default_rng(3)
ARRAYS = {
    "x": RNG.normal(size=(40, 3, 4)).astype(np.float32),
    "y": np.arange(40) % 3,
    "groups": np.arange(40) % 2,
}
STRINGS = {**ARRAYS, "y": np.array(["ape", "bat", "cat"])[ARRAYS["y"]]}


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def zipped(members, *, compression=zipfile.ZIP_STORED, **options):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression, **options) as file:
        for name, data in members:
            file.writestr(name, data)
    return stream.getvalue()


def npz(arrays, **options):
    return zipped([(name + ".npy", npy(array)) for name, array in arrays.items()], **options)


# --- zip archives


def test_every_layout_that_zipfile_writes_is_read(take, monkeypatch):
    class Pipe(io.RawIOBase):
        """What cannot seek gets sizes behind the data instead of before it."""

        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in ARRAYS.items():
            file.writestr(name + ".npy", npy(array))
    layouts = [pipe.data, npz(ARRAYS), npz(ARRAYS, compression=zipfile.ZIP_DEFLATED)]
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)  # as if beyond 2 GiB
    layouts += [npz(ARRAYS), npz(ARRAYS, compression=zipfile.ZIP_DEFLATED)]
    assert all(b"PK\x06\x06" in data for data in layouts[3:])
    for data in layouts:
        assert "dataset" in take(data)
        np.testing.assert_array_equal(Dataset(take.path).x, ARRAYS["x"])
        np.testing.assert_array_equal(Dataset(take.path).y, ARRAYS["y"])


def test_members_that_stand_twice_are_refused(take):
    members = [(name + ".npy", npy(array)) for name, array in ARRAYS.items()]
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped([*members, members[0]])
    refused(take(data), "'x.npy' stands twice")


def test_members_that_overlap_are_refused(take):
    # The entry of z.npy points at the bytes of y.npy, which a local header inside x.npy announces.
    inner = zipped([("z.npy", npy(ARRAYS["y"]))])
    inner_data = inner[: inner.index(b"PK\x01\x02")]
    whole = zipped([("x.npy", npy(ARRAYS["x"]) + inner_data), ("y.npy", npy(ARRAYS["y"]))])
    start = whole.index(b"PK\x01\x02")
    entry = bytearray(inner[inner.index(b"PK\x01\x02") : -22])
    entry[42:46] = struct.pack("<L", whole.index(inner_data))
    directory = whole[start:-22] + bytes(entry)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 3, 3, len(directory), start, 0)
    data = whole[:start] + directory + end
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None  # the standard library sees nothing wrong
    refused(take(data), "overlaps")


def test_encrypted_and_strangely_compressed_members_are_refused_by_name(take):
    data = npz(ARRAYS)
    entry = data.index(b"PK\x01\x02")
    encrypted = bytearray(data)
    encrypted[entry + 8] |= 1
    refused(take(bytes(encrypted)), "'x.npy' is encrypted")
    for method, name in ((zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")):
        refused(take(npz(ARRAYS, compression=method)), "'x.npy'", name, "stored and deflated")


def test_members_that_are_no_arrays_at_the_top_are_refused_by_name(take):
    good = [("x.npy", npy(ARRAYS["x"])), ("y.npy", npy(ARRAYS["y"]))]
    refused(take(zipped([*good, ("notes.txt", b"hi")])), "'notes.txt'")
    refused(take(zipped([("d/x.npy", good[0][1]), good[1]])), "'d/x.npy'")
    refused(take(zipped([("model/data.pkl", b"")])), "torch.save")


def test_bytes_around_the_archive_are_refused(take):
    data = npz(ARRAYS)
    refused(take(data + b"\0"), "cut off")
    refused(take(data[:-1]), "cut off")
    refused(take(b"PK\x03\x04" + data), "directory is not where")
    refused(take(b"MZ" + data), "known formats: npz, safetensors")
    refused(take(b"PK\x03\x04"), "cut off")


def test_a_local_header_that_contradicts_the_directory_is_refused(take):
    for offset in (8, 26, 30):  # method, length of the name, name
        data = bytearray(npz(ARRAYS))
        data[offset] ^= 1
        refused(take(bytes(data)), "contradicts", "'x.npy'")


def with_checksum(data, name, crc32):
    """``data`` with another checksum of ``name``, in the directory and before its content."""
    found = bytearray(data)
    struct.pack_into("<L", found, data.index(name) - 30 + 14, crc32)
    struct.pack_into("<L", found, data.rindex(name) - 46 + 16, crc32)
    return bytes(found)


def test_a_zip_bomb_is_refused_by_its_header(take):
    zeros = np.zeros((2, 10**8), np.uint8)
    data = npz({"x": zeros, "y": np.arange(2)}, compression=zipfile.ZIP_DEFLATED)
    assert len(data) < 10**6
    refused(take(data), "200000032 bytes decoded; at most 10000000")
    wide = np.zeros(2000, "S1000")
    data = npz({"x": zeros[:, :1].repeat(1000, axis=0), "y": wide})
    refused(take(data, max_bytes=10**6), "holds 2000 examples")
    data = npz({"x": zeros[:, :1].repeat(500, axis=0), "y": np.zeros(1000, "S1024")})
    refused(take(data, max_bytes=10**6), "y takes 1024000 bytes")


def test_a_wrong_checksum_and_damaged_compression_are_refused(take):
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = npz(ARRAYS, compression=compression)
        refused(take(with_checksum(data, b"y.npy", 12345)), "checksum", "'y.npy'")
    packed = bytearray(data)
    packed[100:120] = b"\xff" * 20
    refused(take(bytes(packed)), "'x.npy'")


# --- .npy headers


def header(text, data=b"", version=b"\x01\x00"):
    text = text.encode("latin-1")
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (b"", "does not start as a .npy"),
        (b"\x80\x04K\x01.", "does not start as a .npy"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (40, 3)}"), "takes 480 bytes"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-40, 3)}"), "impossible"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3)}"), "impossible"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (10**9,)}"), "damaged"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (40L,)}"), "damaged"),
        (header("{'descr': '<f4', 'shape': (40, 3)}"), "damaged"),
        (header("{'descr': '<q9', 'fortran_order': False, 'shape': (40, 3)}"), "damaged"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}"), "Python objects"),
        (header("(" * 5000), "damaged"),
        (header("[" * 9000 + "]" * 900), "damaged"),
        (header("1" * 20000), "damaged"),
        (header("__import__('os').system('true')"), "damaged"),
        (header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}"), "takes 4"),
        (header("{}", version=b"\x03\x00"), "version 3.0"),
        (header("{}", version=b"\x09\x00"), "version 9.0"),
        (header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**80}, 3)}}"), "takes"),
        (npy(ARRAYS["x"]) + b"\0", "takes 1920 bytes, but the member has 1921"),
        (npy(ARRAYS["x"])[:-1], "takes 1920 bytes, but the member has 1919"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_header_that_lies_is_refused_naming_its_array(take, member, words):
    refused(take(zipped([("x.npy", member), ("y.npy", npy(ARRAYS["y"]))])), "x", words)


@pytest.mark.filterwarnings("ignore")
def test_arrays_of_records_and_objects_are_never_unpickled(take):
    records = np.zeros((40, 2), [("a", "<f4"), ("b", "<i4")])
    refused(take(npz({**ARRAYS, "x": records})), "x has dtype [('a'")
    refused(take(npz({**ARRAYS, "x": records.astype(object)})), "x holds Python objects")
    named = np.zeros((40, 2), [("a", "<f4"), ("b", "O")])
    refused(take(npz({**ARRAYS, "x": named})), "x holds Python objects")


def test_a_byte_that_is_no_bool_counts_as_true(take):
    x = np.array([[0, 1], [2, 255]], np.uint8)
    member = npy(x).replace(b"|u1", b"|b1")
    data = zipped([("x.npy", member), ("y.npy", npy(np.array([0, 1])))])
    assert "dataset" in take(data)
    np.testing.assert_array_equal(Dataset(take.path).x, [[0, 1], [1, 1]])


def test_text_that_is_no_text_is_refused(take):
    codes = np.full((40,), 0x110000, "<u4")
    member = npy(codes).replace(b"<u4", b"<U1")
    data = zipped([("x.npy", npy(ARRAYS["x"])), ("y.npy", member)])
    refused(take(data), "y[0] is not Unicode text")


# --- safetensors


def tensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tensors({"x": {"dtype": [], "shape": [], "data_offsets": [0, 0]}}), "dtype"),
        (tensors({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"), "takes"),
        (tensors({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}), "truncated"),
        (tensors({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"12"), "trailing"),
        (tensors({"x": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, b"12"), "BF16"),
        (tensors(b'{"x": 1, "x": 1}'), "twice"),
        (tensors(b'{"x": 1}'), "exactly dtype, shape"),
        (tensors(b'{"x": NaN}'), "JSON"),
        (tensors(b"{" * 10000), "JSON"),
        (struct.pack("<Q", 2**24) + b"{}", "claims 16777216 bytes"),
        (tensors(b"{}"), "no arrays"),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(take, data, words):
    refused(take(data), words)


def test_a_name_that_goes_on_and_on_does_not_flood_the_answer(take):
    answer = take(tensors({"n" * 10**6: 1}))
    refused(answer)
    assert len(answer["error"]["detail"]) <= 2000


# --- fuzz


def mutated(data, random_):
    """One to four random edits: flipped, dropped, repeated, zeroed or foreign bytes."""
    found = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(found))
        length = min(random_.choice([1, 1, 2, 4, 8, 64, 500]), len(found) - at)
        kind = random_.randrange(6)
        if kind == 0:
            found[at] ^= 1 << random_.randrange(8)
        elif kind == 1:
            del found[at : at + length]
        elif kind == 2:
            found[at:at] = found[at : at + length]
        elif kind == 3:
            found[at : at + length] = bytes(length)
        elif kind == 4:
            found[at : at + length] = random_.randbytes(length)
        else:
            other = random_.randrange(len(found))
            found[at : at + length] = found[other : other + length]
        if not found:
            return b""
    return bytes(found)


def check(take, data, oracle):
    answer = take(data)
    if "error" in answer:
        assert set(answer["error"]) == {"detail", "pointer"}
        assert answer["error"]["detail"]
        assert answer["error"]["pointer"].startswith("/")
        return False
    details, dataset = answer["dataset"], Dataset(take.path)
    assert len(dataset) == details["examples"] == len(dataset.y)
    assert np.isfinite(dataset.x).all()
    assert 0 <= dataset.y.min() <= dataset.y.max() < len(dataset.classes) == len(details["classes"])
    theirs = oracle(data)
    np.testing.assert_array_equal(dataset.x, theirs["x"].astype(dataset.x.dtype))
    names = [label.decode() if isinstance(label, bytes) else str(label) for label in theirs["y"]]
    assert [dataset.classes[code] for code in dataset.y] == names
    return True


def by_numpy(data):
    return dict(np.load(io.BytesIO(data)))


BASES = {
    "stored": npz(ARRAYS),
    "deflated": npz(ARRAYS, compression=zipfile.ZIP_DEFLATED),
    "strings": npz(STRINGS),
    "safetensors": safetensors.numpy.save(ARRAYS),
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    "number", [150, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
@pytest.mark.filterwarnings("ignore")
def test_a_mutated_file_is_refused_or_gives_what_the_reference_reader_reads(take, base, number):
    random_ = random.Random(f"{base} {number}")
    oracle = safetensors.numpy.load if base == "safetensors" else by_numpy
    assert check(take, BASES[base], oracle)
    for _ in range(number):
        check(take, mutated(BASES[base], random_), oracle)


@pytest.mark.filterwarnings("ignore")
def test_mutated_arrays_in_a_sound_archive_are_refused_or_read_as_numpy_reads_them(take):
    random_ = random.Random(5)
    accepted = 0
    for _ in range(300):
        members = {name: npy(array) for name, array in random_.choice([ARRAYS, STRINGS]).items()}
        name = random_.choice(list(members))
        edge = random_.choice([130, len(members[name])])  # the header, or all of it
        members[name] = mutated(members[name][:edge], random_) + members[name][edge:]
        data = zipped([(name + ".npy", member) for name, member in members.items()])
        accepted += check(take, data, by_numpy)
    assert accepted > 10


def test_mutated_headers_of_safetensors_are_refused_or_read_as_the_library_reads_them(take):
    random_ = random.Random(6)
    base = BASES["safetensors"]
    (length,) = struct.unpack("<Q", base[:8])
    for _ in range(200):
        text = mutated(base[8 : 8 + length], random_)
        check(take, tensors(text, base[8 + length :]), safetensors.numpy.load)
