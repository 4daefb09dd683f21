"""Ingestion of whole, well-meant files: values, labels, classes, groups, digests, refusals."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from models import tensorfile
from models.datasets import HEAD_BYTES, Dataset, decoded, sniff
from models.spec import Component, DatasetSpec, SpecError
from models.tensorfile import Placer, TensorSource
from tests.models.conftest import accepted, refused

X = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
Y = np.array([0, 1, 2, 1])


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npz_compressed(**arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def as_safetensors(**arrays):
    return safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in arrays.items()})


WRITERS = {"npz": npz, "npz compressed": npz_compressed, "safetensors": as_safetensors}


# --- values


@pytest.mark.parametrize("writer", WRITERS)
def test_a_dataset_holds_the_values_of_its_file(take, writer):
    answer = accepted(take(WRITERS[writer](x=X, y=Y)))
    assert answer == {
        "format": writer.split()[0],
        "examples": 4,
        "classes": ["0", "1", "2"],
        "positive_class": None,
        "class_counts": {"0": 1, "1": 2, "2": 1},
        "groups": {},
        "input": {"kind": "array", "shape": [3, 2], "dtype": "float32"},
        "duplicates": 0,
        "transforms": [],
    }
    dataset = Dataset(take.path)
    np.testing.assert_array_equal(dataset.x, X)
    np.testing.assert_array_equal(dataset.y, Y)
    assert (dataset.x.dtype, dataset.y.dtype) == (np.float32, np.int64)
    assert (len(dataset), dataset.classes, dataset.groups) == (4, ("0", "1", "2"), {})


def test_a_decoded_file_is_read_by_the_safetensors_library(take):
    accepted(take(npz(x=X, y=Y, groups=np.array(["b", "a", "b", "b"]))))
    tensors = safetensors.numpy.load_file(take.path)
    assert set(tensors) == {"x", "y", "hashes", "groups.groups"}
    np.testing.assert_array_equal(tensors["x"], X)
    np.testing.assert_array_equal(tensors["groups.groups"], [1, 0, 1, 1])
    assert tensors["groups.groups"].dtype == np.int32


@pytest.mark.parametrize(
    ("dtype", "becomes"),
    [
        ("?", "uint8"),
        ("u1", "uint8"),
        ("i1", "int8"),
        ("<u2", "int32"),
        ("<i2", "int16"),
        ("<u4", "int64"),
        ("<i4", "int32"),
        ("<i8", "int64"),
        ("<f2", "float32"),
        ("<f4", "float32"),
        ("<f8", "float32"),
        (">u2", "int32"),
        (">i8", "int64"),
        (">f4", "float32"),
        (">f8", "float32"),
    ],
)
def test_x_becomes_a_dtype_that_networks_take_with_the_same_values(take, dtype, becomes):
    rng = np.random.default_rng(0)
    kind = np.dtype(dtype).kind
    x = (rng.normal(size=(50, 7)) if kind == "f" else rng.integers(0, 3, (50, 7))).astype(dtype)
    if kind in "iu":
        x[0, 0], x[0, 1] = np.iinfo(dtype).min, np.iinfo(dtype).max
    answer = accepted(take(npz(x=x, y=np.arange(50) % 3)))
    assert answer["input"]["dtype"] == becomes
    assert Dataset(take.path).x.dtype == becomes
    np.testing.assert_array_equal(Dataset(take.path).x, x.astype(becomes))


@pytest.mark.parametrize("dtype", ["uint64", "complex64", "datetime64[s]", "S3", "U3", "V4"])
def test_x_of_another_dtype_is_refused(take, dtype):
    refused(take(npz(x=np.zeros((4, 3), dtype), y=Y)), "x has dtype", "float32")


def test_one_example_is_enough_where_the_classes_are_given(take):
    answer = accepted(take(npz(x=X[:1], y=Y[:1]), classes=["a", "b"]))
    assert answer["class_counts"] == {"a": 1, "b": 0}
    refused(take(npz(x=X[:1], y=Y[:1])), "give classes", "at least 2", pointer="/classes")


# --- digests


def digest(take):
    return hashlib.sha256(take.path.read_bytes()).hexdigest()


def test_equal_arrays_give_equal_digests_in_every_format(take):
    rng = np.random.default_rng(1)
    arrays = {"x": rng.normal(size=(50, 2, 3)), "y": np.arange(50) % 4, "g": np.arange(50) % 2}
    found = set()
    for writer in WRITERS.values():
        accepted(take(writer(**arrays), groups=["g"]))
        found.add(digest(take))
    order = {name: arrays[name] for name in ("g", "y", "x")}
    wider = {**order, "x": order["x"].astype("f4"), "y": order["y"].astype(">i2")}
    for same in (order, wider):
        accepted(take(npz(**same), groups=["g"]))
        found.add(digest(take))
    assert len(found) == 1


def test_examples_labels_order_classes_and_groups_are_all_in_the_digest(take):
    groups = np.array([1, 1, 2, 2])
    base = {"x": X, "y": Y, "groups": groups}
    names = ["a", "b", "c"]
    variants = [
        (base, None),
        ({**base, "x": X[::-1], "y": Y[::-1], "groups": groups[::-1]}, None),
        ({**base, "x": X + 1}, None),
        ({**base, "y": Y[[0, 2, 1, 3]]}, None),
        ({**base, "groups": groups + 1}, None),
        ({"x": X, "y": Y}, None),
        (base, names),
    ]
    found = []
    for arrays, classes in variants:
        accepted(take(npz(**arrays), classes=classes))
        found.append(digest(take))
    assert len(set(found)) == len(found)


# --- labels and classes


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", ">i2", "<u4", "i8", "u8"])
def test_integer_labels_of_any_width_are_sorted_by_value(take, dtype):
    labels = np.array([1, 0, 1, 1]) if dtype == "?" else np.array([10, 9, 100, 9])
    answer = accepted(take(npz(x=X, y=labels.astype(dtype))))
    assert answer["classes"] == [str(int(label)) for label in sorted(set(labels.tolist()))]
    np.testing.assert_array_equal(Dataset(take.path).y, np.unique(labels, return_inverse=True)[1])


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["zebra", "ape", "Zoë 2", "ape"]),
        np.array(["zebra", "ape", "Zoë 2", "ape"]).astype(">U9"),
        np.array([name.encode() for name in ["zebra", "ape", "Zoë 2", "ape"]]),
    ],
    ids=["U", "big-endian U", "S as UTF-8"],
)
def test_string_labels_are_sorted_and_equal_whatever_their_dtype(take, labels):
    answer = accepted(take(npz(x=X, y=labels)))
    assert answer["classes"] == sorted(["zebra", "ape", "Zoë 2"])
    assert answer["class_counts"] == {"Zoë 2": 1, "ape": 2, "zebra": 1}
    assert [Dataset(take.path).classes[code] for code in Dataset(take.path).y] == [
        "zebra",
        "ape",
        "Zoë 2",
        "ape",
    ]


def test_given_classes_that_are_names_take_integer_labels_as_indices(take):
    answer = accepted(take(npz(x=X, y=Y), classes=["cat", "dog", "ape", "eel"]))
    assert answer["class_counts"] == {"cat": 1, "dog": 2, "ape": 1, "eel": 0}
    np.testing.assert_array_equal(Dataset(take.path).y, Y)
    detail = refused(take(npz(x=X, y=Y), classes=["cat", "dog"]), pointer="/classes")
    assert detail == "y[2] is '2'; it must be 0 to 1, an index into classes"


def test_given_classes_that_are_integers_match_labels_by_their_value(take):
    accepted(take(npz(x=X, y=Y - 1), classes=["1", "0", "-1"]))
    np.testing.assert_array_equal(Dataset(take.path).y, [2, 1, 0, 1])
    refused(take(npz(x=X, y=Y), classes=["1", "2"]), "y[0] is '0'", "1, 2", pointer="/classes")


def test_given_classes_match_string_labels_by_name(take):
    accepted(take(npz(x=X, y=np.array(["b", "a", "b", "b"])), classes=["c", "b", "a"]))
    np.testing.assert_array_equal(Dataset(take.path).y, [1, 2, 1, 1])
    bad = npz(x=X, y=np.array(["b", "a", "x", "b"]))
    refused(take(bad, classes=["a", "b"]), "y[2] is 'x'", "a, b", pointer="/classes")


def test_labels_are_found_across_chunks(take):
    count = 400_000
    labels = np.random.default_rng(2).permutation(np.arange(count) % 1000)
    labels[-1] = 5000
    x = np.zeros((count, 1), np.uint8)
    answer = accepted(take(npz_compressed(x=x, y=labels), max_examples=count))
    values, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    assert answer["class_counts"] == dict(zip(map(str, values), counts.tolist(), strict=True))
    np.testing.assert_array_equal(Dataset(take.path).y, inverse)
    detail = refused(
        take(npz(x=x, y=labels), max_examples=count, classes=[str(n) for n in range(1000)]),
        pointer="/classes",
    )
    assert f"y[{count - 1}] is '5000'" in detail


def test_a_binary_task_has_two_classes_and_a_positive_one(take):
    labels = npz(x=X, y=np.array(["no", "yes", "no", "yes"]))
    assert accepted(take(labels, task="binary"))["positive_class"] == "yes"
    assert accepted(take(labels, task="binary", positive_class="no"))["positive_class"] == "no"
    answer = take(labels, task="binary", positive_class="maybe")
    refused(answer, "no, yes", "'maybe'", pointer="/positive_class")
    refused(take(npz(x=X, y=Y), task="binary"), "exactly 2", "0, 1, 2", pointer="/task")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([0.0, 1.0, 1.0, 0.0]), ("y has dtype float64", "y.astype('int64')")),
        (Y.reshape(4, 1), ("shape [4, 1]", "(4,)", "y[:, 0]")),
        (np.eye(4, dtype=int), ("shape [4, 4]", "argmax")),
        (np.array(1), ("shape []", "(4,)")),
        (Y[:3], ("shape [3]", "x holds 4 examples")),
        (Y.astype(complex), ("complex128", "integers or strings")),
        (Y.astype("U300"), ("U300", "256")),
        (np.array(["", "", "", ""]).astype("U1"), ("y[0] is ''",)),
        (np.array(["a", "b", "c\n", "b"]), ("y[2] is 'c\\n'", "printable")),
        (np.array([b"a", b"b", b"\xff", b"b"]), ("y[2]", "UTF-8")),
        (np.array([0, 1, 2**63, 1], np.uint64), ("y[2]", "int64")),
        (np.array(["a", "b", "\ud800", "c"]), ("y[2]", "Unicode")),
    ],
)
def test_labels_that_are_no_labels_are_refused(take, labels, words):
    refused(take(npz(x=X, y=labels)), *words)


def test_labels_that_are_identifiers_are_refused(take):
    count = 40_000
    data = npz(x=np.zeros((count, 1), np.uint8), y=np.arange(count))
    refused(take(data, max_examples=count), "32768 distinct values")


# --- groups


def test_groups_are_the_array_of_that_name_or_those_that_are_named(take):
    sites = np.array(["b", "a", "b", "b"])
    ages = np.array([30, 4, 30, 100])
    answer = accepted(take(npz(x=X, y=Y, groups=sites)))
    assert answer["groups"] == {"groups": {"a": 1, "b": 3}}
    answer = accepted(take(npz(x=X, y=Y, site=sites, age=ages), groups=["site", "age"]))
    assert answer["groups"] == {"site": {"a": 1, "b": 3}, "age": {"4": 1, "30": 2, "100": 1}}
    codes, values = Dataset(take.path).groups["age"]
    assert values == ("4", "30", "100")
    np.testing.assert_array_equal(codes, [1, 0, 1, 2])
    assert codes.dtype == np.int32


def test_groups_that_do_not_fit_are_refused(take):
    data = npz(x=X, y=Y, site=np.arange(4), short=np.arange(3), ratio=np.zeros(4))
    refused(take(data, groups=["site"]), "'short'", "'x', 'y', 'lengths', 'site'")
    refused(take(npz(x=X, y=Y, idx=Y)), "'idx'", "'groups'", "name it in groups")
    refused(take(npz(x=X, y=Y), groups=["site"]), "'x', 'y'", "'site'", pointer="/groups/0")
    refused(take(data, groups=["site", "y"]), "'y'", pointer="/groups/1")
    refused(take(data, groups=["site", "site"]), "distinct", pointer="/groups/1")
    refused(take(data, groups=["site", "short", "ratio"]), "short has shape [3]")
    refused(take(npz(x=X, y=Y, g=np.zeros(4)), groups=["g"]), "g has dtype float64")


# --- refusals from what the file says of itself


def test_missing_and_unfit_arrays_are_named(take):
    refused(take(npz(images=X, labels=Y)), "'images', 'labels'", "'x'", "'y'")
    refused(take(npz()), "this is an empty archive", "the arrays x and y")
    refused(take(npz(x=X[:0], y=Y[:0])), "no examples")
    refused(take(npz(x=np.zeros(4), y=Y)), "x has shape [4]", "(N, features)")
    refused(take(npz(x=np.zeros((4, 0)), y=Y)), "no values")
    refused(take(npz(x=np.asfortranarray(X), y=Y)), "Fortran", "numpy.ascontiguousarray(x)")
    refused(take(npz(x=X, y=np.array([0, "a", None, 1], object))), "y holds Python objects")


def test_an_array_of_one_long_axis_may_claim_either_order(take):
    accepted(take(npz(x=np.asfortranarray(np.arange(4.0).reshape(4, 1)), y=Y)))


def test_values_that_are_not_finite_are_refused_naming_the_example(take):
    x = np.zeros((400_000, 3))
    x[300_000, 1] = np.nan
    y = np.arange(400_000) % 2
    answer = take(npz(x=x, y=y), max_examples=10**6, max_bytes=10**8)
    refused(answer, "x[300000]", "nan", "not finite")
    x[300_000, 1] = 1e39
    answer = take(npz(x=x, y=y), max_examples=10**6, max_bytes=10**8)
    refused(answer, "x[300000]", "1e+39", "does not fit into float32")


def test_limits_are_refused_before_the_data_is_read(take):
    x = np.zeros((4, 10**6), np.uint8)
    data = bytearray(npz(x=x, y=Y))
    data[2 * 10**6] ^= 1  # the checksum fails if the data is read
    refused(take(bytes(data)), "checksum", "'x.npy'")
    refused(take(bytes(data), max_examples=3), "holds 4 examples; at most 3")
    refused(take(bytes(data), max_bytes=4 * 10**6), "takes 4000064 bytes decoded; at most 4000000")


def test_the_limit_counts_every_byte_of_the_decoded_file(take):
    accepted(take(npz(x=X, y=Y)))
    size = take.path.stat().st_size
    accepted(take(npz(x=X, y=Y), max_bytes=size))
    refused(take(npz(x=X, y=Y), max_bytes=size - 1), f"takes {size} bytes")


def test_transforms_must_fit_the_examples(take):
    chain = [{"name": "to_float"}, {"name": "normalize", "mean": [0, 0], "std": [1, 1]}]
    data = npz(x=X.astype(np.uint8), y=Y)
    refused(take(data, transforms=chain), "shape [3, 2] has 3", pointer="/transforms/1/mean")
    refused(take(data, transforms=chain[1:]), "takes float32", pointer="/transforms/0")
    accepted(take(data, transforms=chain[:1]))


def test_a_declared_format_is_the_one_that_is_read(take):
    refused(take(npz(x=X, y=Y), format="safetensors"), "not a well-formed safetensors file")
    refused(take(as_safetensors(x=X, y=Y), format="npz"), "does not end as a zip archive")
    refused(take(npz(x=X, y=Y), format="nzp"), "known: npz, safetensors", pointer="/format")


def test_a_spec_comes_back_from_its_json():
    chain = (Component(name="to_float", parameters={"scale": 0.5}),)
    full = DatasetSpec(
        name="d",
        split="test",
        task="binary",
        classes=("a", "b"),
        positive_class="a",
        groups=("g",),
        transforms=chain,
    )
    for spec in (full, DatasetSpec(name="d", split="train")):
        assert DatasetSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert full.to_json()["transforms"] == [{"name": "to_float", "scale": 0.5}]


# --- sniffing


@pytest.mark.parametrize("writer", WRITERS)
def test_the_first_bytes_show_the_format(writer):
    data = WRITERS[writer](x=X, y=Y)
    assert sniff(data[:HEAD_BYTES]) == writer.split()[0]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"a,b,label\n1,2,cat\n", "csv"),
        (b"\xef\xbb\xbfa;b\r\n", "csv"),
        ("größe\tlabel\n".encode(), "csv"),
        (b'"a, ""b""\nc",label\n', "csv"),
        (b",a,label\n", "csv"),
        (b"PAR1,PARE\n", "csv"),
        (b"PAR1\x15\x04", "parquet"),
        (b"\x00" * 257 + b"ustar\x0000", "images"),
        (b"PK\x03\x04" + bytes(26) + b"cat/1.png", "images"),
    ],
)
def test_the_first_bytes_show_what_tables_and_archives_are(head, name):
    assert sniff(head) == name


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "empty"),
        (b"\x80\x04\x95", "pickle"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (gzip.compress(b"a,b,label\n" * 50, mtime=0), "no tar.gz"),
        (gzip.compress(b"a,b,label\n1,2,x\n", mtime=0), "unpack it .* such as the CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Excel file .* save the table as CSV"),
        (b"PK\x05\x06" + bytes(18), "an empty archive"),
        (bytes(10240)[:512], "an empty archive"),
        (b"\x93NUMPY\x01\x00", "numpy.savez"),
        (b"PARE\x20\x00\x00\x00", "encrypted Parquet"),
        (b"hello there\n", "text without a comma, semicolon or tab"),
        ("größe,label\n".encode("latin-1")[2:], "another encoding than UTF-8"),
        ("a,b,label\n".encode("utf-16"), "UTF-16"),
        ("a,b,label\n".encode("utf-16-le"), "UTF-16"),
        ("a,b,label\n".encode("utf-16-be"), "UTF-16"),
        (b'{"x": [1]}', "JSON"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (b"PK\x03\x04" + bytes(26) + b"archive/data.pkl", "torch.save"),
        (b"\x00\x01\x02\xfe", "no known format"),
    ],
)
def test_what_people_send_by_mistake_is_named(head, words):
    with pytest.raises(SpecError, match=words) as caught:
        sniff(head)
    assert caught.value.pointer == "/file"
    assert "known formats: npz, safetensors" in caught.value.detail


# --- memory

MEASURED = """
import sys
sys.path.insert(0, {root!r})
def status(name):
    return int(open("/proc/self/status").read().split(name + ":")[1].split()[0]) * 1024
"""

OPENING = (
    MEASURED
    + """
from models.datasets import Dataset
import numpy
before = status("RssAnon")
dataset = Dataset({path!r})
touched = sum(int(dataset.x[i : i + 1000].sum()) for i in range(0, len(dataset), 5000))
assert len(dataset) == 500_000 and touched == 0
print(status("RssAnon") - before)
"""
)

INGESTING = (
    MEASURED
    + """
import os, json
from models.datasets import ingest
request = {{
    "spec": {{"name": "d", "split": "test"}}, "max_examples": 10**9, "max_bytes": 10**9,
    "max_columns": 9, "max_pixels": 9, "processes": 1,
}}
import models.datasets.npz
before = status("VmRSS")
fds = [os.open({path!r}, os.O_RDONLY)]
fds += [os.open({path!r} + end, os.O_WRONLY | os.O_CREAT) for end in (".out", ".scratch")]
assert ingest(request, fds)["dataset"]["examples"] == 20_000
assert "torch" not in sys.modules
print(status("VmHWM") - before)
"""
)


def measure(script, path):
    code = script.format(root=str(Path(__file__).parents[2]), path=str(path))
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_opening_and_reading_a_large_dataset_takes_no_memory_of_its_own(tmp_path):
    planned = decoded.plan(x=("U8", (500_000, 1000)), y=(500_000,), classes=["a", "b"], groups={})
    with open(tmp_path / "large", "wb") as file:
        Placer(file.fileno(), planned)
        file.truncate(planned.size_bytes)  # zeros that take no space
    assert (tmp_path / "large").stat().st_size > 5 * 10**8
    assert measure(OPENING, tmp_path / "large") < 4 * 10**6


def test_ingesting_a_large_file_takes_little_memory(tmp_path):
    with open(tmp_path / "large.npz", "wb") as file:
        np.savez(file, x=np.ones((20_000, 5000), np.uint8), y=np.arange(20_000) % 2)
    assert measure(INGESTING, tmp_path / "large.npz") < 3 * 10**7


def test_a_decoded_dataset_reaches_the_disk_where_time_is_limited(take, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    accepted(take(npz(x=X, y=Y)))
    assert synced == [take.path.stat().st_ino]


def test_a_file_that_is_no_decoded_dataset_is_not_opened(tmp_path):
    with open(tmp_path / "other", "wb") as file:
        tensorfile.write(file, {"x": TensorSource.of(X)}, metadata={"a": "b"})
    with pytest.raises(tensorfile.TensorFileError, match="lacks 'y'"):
        Dataset(tmp_path / "other")


# --- multilabel, and what examples share


def test_the_labels_of_a_multilabel_task_are_a_matrix_of_0_and_1(take):
    for y in (np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], kind) for kind in "bB?q"):
        answer = accepted(take(npz(x=X, y=y), task="multilabel"))
        assert answer["classes"] == ["0", "1", "2"]
        assert answer["class_counts"] == {"0": 2, "1": 2, "2": 2}
        assert Dataset(take.path).y.dtype == np.uint8
        np.testing.assert_array_equal(Dataset(take.path).y, y)
    named = accepted(take(npz(x=X, y=y), task="multilabel", classes=["a", "b", "c"]))
    assert named["classes"] == ["a", "b", "c"]
    assert accepted(take(npz(x=X, y=y[:, :1]), task="multilabel"))["classes"] == ["0"]


def test_labels_across_chunks_keep_their_rows(take):
    y = (np.random.default_rng(0).random((300_000, 7)) < 0.3).astype(np.uint8)
    x = np.zeros((len(y), 1), np.uint8)
    accepted(take(npz(x=x, y=y), task="multilabel", max_examples=10**6))
    np.testing.assert_array_equal(Dataset(take.path).y, y)


@pytest.mark.parametrize(
    ("y", "spec", "words", "pointer"),
    [
        (np.array([[0, 1], [1, 2], [0, 0], [1, 1]]), {}, "y[1, 1] is 2", "/file"),
        (np.array([[0, -1], [1, 0], [0, 0], [1, 1]]), {}, "y[0, 1] is -1", "/file"),
        (Y, {}, "one column a label, shape (4, labels)", "/file"),
        (np.zeros((4, 0), int), {}, "one column a label", "/file"),
        (np.zeros((3, 2), int), {}, "shape [3, 2]", "/file"),
        (np.zeros((4, 2)), {}, "0 and 1 as integers", "/file"),
        (np.zeros((4, 2), int), {"classes": ["a"]}, "names 1 labels, but y has 2", "/classes"),
    ],
)
def test_what_is_no_matrix_of_labels_is_refused(take, y, spec, words, pointer):
    refused(take(npz(x=X, y=y), task="multilabel", **spec), words, pointer=pointer)


def test_what_belongs_to_tables_or_images_is_refused_for_arrays(take):
    for name, value in (("label", "y"), ("features", ["a"]), ("mode", "rgb")):
        refused(take(npz(x=X, y=Y), **{name: value}), "holds arrays", pointer=f"/{name}")


def test_equal_examples_have_equal_hashes_whatever_else_is_in_the_file(take):
    x = np.stack([X[0], X[1], X[0], X[0]])
    answer = accepted(take(npz(x=x, y=np.array([0, 1, 2, 0]))))
    assert answer["duplicates"] == 2
    one = Dataset(take.path).hashes.tolist()
    assert one[0] == one[2] == one[3] != one[1]
    accepted(take(npz_compressed(x=X[::-1], y=Y)))
    assert Dataset(take.path).hashes.tolist()[-2:] == [one[1], one[0]]
    accepted(take(npz(x=X.reshape(4, 6), y=Y)))  # the same bytes in another shape
    assert one[0] not in Dataset(take.path).hashes.tolist()


def test_the_hash_of_an_example_is_that_of_its_bytes(take):
    x = np.arange(4 * 700_000, dtype=np.int32).reshape(4, 700_000)  # larger than a chunk
    accepted(take(npz(x=x, y=Y), max_bytes=10**8))
    person = hashlib.blake2b(b"int32 [700000]", digest_size=16).digest()
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8, person=person).digest() for row in x]
    assert Dataset(take.path).hashes.tobytes() == b"".join(digests)
