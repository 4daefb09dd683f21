"""Sequences of token ids from arrays and from Parquet: values, digests, hashes, refusals."""

import hashlib
import io
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from models import chains
from models.catalog import TRANSFORMS
from models.datasets import Dataset, arrays, sequences, splitting
from models.datasets.prepared import is_prepared
from models.recipes import AUGMENTATIONS
from models.spec import Component, SpecError
from models.transforms import ExampleType
from tests.models.conftest import accepted, refused
from tests.models.test_augmentations import CASES
from tests.models.test_datasets_hostile import mutated

FOUND = [[5, 6, 7], [1], [5, 6, 7], [0, 9]]
LABELS = np.array(["a", "b", "a", "b"])
SITES = np.array(["n", "s", "s", "s"])
DECODED = [[5, 6, 7], [1, -1, -1], [5, 6, 7], [0, 9, -1]]


def npz(**named):
    stream = io.BytesIO()
    np.savez_compressed(stream, **named)
    return stream.getvalue()


def padded(found, longest, *, fill=0, dtype=np.int64):
    x = np.full((len(found), longest), fill, dtype)
    for row, ids in zip(x, found, strict=True):
        row[: len(ids)] = ids
    return x


def as_arrays(found=FOUND, labels=LABELS, *, longest=None, fill=0, dtype=np.int64, **more):
    lengths = np.array(list(map(len, found)))
    x = padded(found, longest or lengths.max(), fill=fill, dtype=dtype)
    return npz(x=x, y=labels, lengths=lengths, **more)


def parquet(columns, **options):
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, **options)
    return stream.getvalue()


def as_parquet(found=FOUND, labels=LABELS, *, kind=None, options=None, **more):
    cells = pa.array(found, kind or pa.list_(pa.int64()))
    return parquet({"ids": cells, "label": labels, **more}, **(options or {}))


def digest(take):
    return hashlib.sha256(take.path.read_bytes()).hexdigest()


# --- values and digests


@pytest.mark.parametrize(
    ("name", "data", "given"),
    [
        ("npz", as_arrays(groups=SITES), {}),
        ("parquet", as_parquet(groups=SITES), {"groups": ["groups"]}),
    ],
)
def test_a_dataset_holds_the_sequences_of_its_file(take, name, data, given):
    assert accepted(take(data, **given)) == {
        "format": name,
        "examples": 4,
        "classes": ["a", "b"],
        "positive_class": None,
        "class_counts": {"a": 2, "b": 2},
        "groups": {"groups": {"n": 1, "s": 3}},
        "input": {"kind": "tokens", "shape": [3], "dtype": "int32", "vocabulary": 10},
        "duplicates": 1,
        "transforms": [],
    }
    dataset = Dataset(take.path)
    np.testing.assert_array_equal(dataset.x, DECODED)
    np.testing.assert_array_equal(dataset.y, [0, 1, 0, 1])
    assert dataset.x.dtype == np.int32
    assert dataset.example == ExampleType(shape=(3,), dtype="int32", vocabulary=10)
    assert is_prepared(dataset, [])


def test_equal_sequences_give_equal_digests_in_every_form(take):
    lists = (pa.list_, pa.large_list)
    files = [
        as_arrays(),
        as_arrays(longest=7),
        as_arrays(fill=-1),
        as_arrays(fill=255, dtype=np.uint8),
        as_arrays(fill=-(2**63), dtype=">i8"),
        as_arrays(fill=2**64 - 1, dtype=np.uint64),
        safetensors.numpy.save(
            {
                "x": padded(FOUND, 4, dtype=np.int16),
                "y": np.array([0, 1, 0, 1]),
                "lengths": np.array([3, 1, 3, 2], np.uint8),
            }
        ),
        *(as_parquet(kind=kind(item())) for kind in lists for item in (pa.uint8, pa.int64)),
        as_parquet(kind=pa.list_(pa.field("element", pa.uint64(), nullable=False))),
        as_parquet(kind=pa.list_(pa.dictionary(pa.int32(), pa.int64()))),
        as_parquet(options={"row_group_size": 1, "use_dictionary": False}),
        as_parquet(options={"data_page_version": "2.0", "compression": "zstd"}),
        as_parquet(options={"use_compliant_nested_type": False, "store_schema": False}),
    ]
    found = set()
    for data in files:
        names = data[:2] in (b"PK", b"PA")  # safetensors has no strings
        accepted(take(data, classes=None if names else ["a", "b"]))
        found.add(digest(take))
    assert len(found) == 1


def test_lists_of_one_size_are_sequences_of_one_length(take):
    kind = pa.list_(pa.int32(), 2)
    accepted(take(as_parquet([[1, 2], [3, 4]], ["a", "b"], kind=kind)))
    np.testing.assert_array_equal(Dataset(take.path).x, [[1, 2], [3, 4]])


@pytest.mark.parametrize("step_bytes", [1, 100, 2**24])
@pytest.mark.parametrize("chunk_bytes", [24, 2**20])
def test_long_files_are_read_in_pieces_of_any_size(take, monkeypatch, step_bytes, chunk_bytes):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 500)
    found = [rng.integers(0, 1000, length).tolist() for length in lengths]
    labels = np.arange(500) % 3
    monkeypatch.setattr(sequences, "_CHUNK_BYTES", step_bytes)
    monkeypatch.setattr(arrays, "CHUNK_BYTES", chunk_bytes)
    digests = []
    for data in (as_arrays(found, labels), as_parquet(found, labels)):
        accepted(take(data))
        np.testing.assert_array_equal(Dataset(take.path).x, padded(found, 39, fill=-1))
        digests.append(digest(take))
    assert len(set(digests)) == 1


def test_the_digest_is_of_the_ids(take):
    found = set()
    for change in (FOUND, [*FOUND[:-1], [0, 8]], [*FOUND[:-1], [0]], [*FOUND, [0]][1:]):
        accepted(take(as_arrays(change)))
        found.add(digest(take))
    assert len(found) == 4


def test_equal_sequences_have_equal_hashes_however_long_the_longest_is(take):
    accepted(take(as_arrays()))
    first = Dataset(take.path).hashes.copy()
    accepted(take(as_parquet([*FOUND, list(range(50))], [*LABELS, "b"])))
    again = Dataset(take.path).hashes
    np.testing.assert_array_equal(again[:4], first)
    assert len(set(again.tolist())) == 4  # two of the five are equal
    accepted(take(as_arrays([[1, 0], [1]], LABELS[:2])))
    assert accepted(take(as_arrays([[1, 0], [1]], LABELS[:2])))["duplicates"] == 0


def test_without_lengths_integers_are_numbers(take):
    x = padded(FOUND, 3)
    answer = accepted(take(npz(x=x, y=LABELS)))
    assert answer["input"] == {"kind": "array", "shape": [3], "dtype": "int64"}


def test_labels_of_a_multilabel_task_stand_beside_lists(take):
    table = {"ids": pa.array(FOUND), "good": [1, 0, 1, 1], "bad": [0, 0, 1, 0]}
    answer = accepted(take(parquet(table), task="multilabel", label=["good", "bad"]))
    assert answer["class_counts"] == {"good": 3, "bad": 1}
    np.testing.assert_array_equal(Dataset(take.path).y, [[1, 0], [0, 0], [1, 1], [1, 0]])


def test_the_one_feature_may_be_named_or_left(take):
    table = {"ids": pa.array(FOUND), "more": pa.array(FOUND), "n": [1, 2, 3, 4], "label": LABELS}
    accepted(take(parquet(table), features=["ids"], groups=["n"]))
    np.testing.assert_array_equal(Dataset(take.path).x, DECODED)
    accepted(take(parquet(table), features=["n"]))
    assert Dataset(take.path).columns is not None
    for features in (None, ["ids", "more"], ["n", "more"]):
        words = ("holds list<element: int64>; lists of token ids must be the only feature", "Name")
        refused(take(parquet(table), features=features), *words)


# --- parts and examples


def test_parts_keep_the_length_and_the_vocabulary_of_the_whole(take, tmp_path):
    rng = np.random.default_rng(0)
    found = [rng.integers(0, 50, length).tolist() for length in rng.integers(1, 9, 100)]
    known = accepted(take(as_arrays(found, np.arange(100) % 2)))
    whole = Dataset(take.path)
    parts = splitting.divide(whole, fraction=0.3, seed=0, stratify=True)
    assert sorted(np.concatenate(parts)) == list(range(100))
    for indices in parts:
        with open(tmp_path / "part", "w+b") as file:
            splitting.write_part(whole, indices, file.fileno())
        part = Dataset(tmp_path / "part")
        assert part.example == whole.example
        np.testing.assert_array_equal(part.x, whole.x[indices])
        np.testing.assert_array_equal(part.hashes, whole.hashes[indices])
        shown = splitting.found(part, {**known, "format": "npz"}, {"transforms": []})
        assert shown["input"] == known["input"]


# --- what is refused


@pytest.mark.parametrize(
    ("x", "lengths", "words"),
    [
        (np.zeros((4, 3)), [1] * 4, "x must be integers of shape (N, longest), got float64"),
        (np.zeros((4, 3), bool), [1] * 4, "got bool of shape [4, 3]"),
        (np.zeros((4, 3, 1), int), [1] * 4, "got int64 of shape [4, 3, 1]"),
        (np.zeros(4, int), [1] * 4, "got int64 of shape [4]"),
        (np.zeros((4, 0), int), [1] * 4, "a sequence would hold no token ids"),
        (np.zeros((4, 3), int), [1] * 3, "shape (4,), got int64 of shape [3]"),
        (np.zeros((4, 3), int), np.ones(4), "one integer a sequence, shape (4,), got float64"),
        (np.zeros((4, 3), int), np.ones((4, 1), int), "got int64 of shape [4, 1]"),
        (np.zeros((4, 3), int), [1, 1, 0, 1], "lengths[2] is 0; a sequence holds 1 to 3"),
        (np.zeros((4, 3), int), [1, 4, 0, 1], "lengths[1] is 4"),
        (np.zeros((4, 3), int), [1, 1, 1, -1], "lengths[3] is -1"),
        (np.zeros((4, 3), int), np.array([1, 2**63, 1, 1], np.uint64), f"lengths[1] is {2**63}"),
        (np.zeros((4, 1_000_001), np.int8), [1] * 4, "holds 1000001 token ids; at most 1000000"),
    ],
)
def test_arrays_that_are_no_sequences_are_refused(take, x, lengths, words):
    refused(take(npz(x=x, y=LABELS, lengths=np.array(lengths)), max_bytes=10**9), words)


@pytest.mark.parametrize("bad", [-1, -(2**31), 2**31 - 1, 2**63 - 1])
def test_an_id_that_is_none_is_refused_with_its_place(take, bad):
    found = [*FOUND[:3], [0, bad]]
    words = f"holds {bad} at position 1, counted from 0; a token id is a whole number from 0 to"
    refused(take(as_arrays(found)), f"x[3] {words} 2147483646")
    refused(take(as_parquet(found)), f"row 4, column 'ids' {words}")
    accepted(take(as_arrays(FOUND, fill=bad)))


def test_the_largest_id_makes_the_largest_vocabulary(take):
    found = [*FOUND[:3], [2**31 - 2]]
    for data in (as_arrays(found), as_parquet(found, kind=pa.list_(pa.int32()))):
        assert accepted(take(data))["input"]["vocabulary"] == 2**31 - 1
        assert Dataset(take.path).x[3, 0] == 2**31 - 2


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([[1], [2], None, [3]], "row 3, column 'ids' is null; every row needs its list"),
        ([[1], [2], [3], []], "row 4, column 'ids' is an empty list; at least one id"),
        ([[1, 2], [3], [4, None], [5]], "row 3, column 'ids' holds a null"),
        ([[None], [3], [4], [5]], "row 1, column 'ids' holds a null"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"row_group_size": 1}], ids=["one group", "four groups"])
@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_lists_with_gaps_are_refused_by_row(take, cells, words, options, kind):
    refused(take(as_parquet(cells, kind=kind(pa.int64()), options=options)), words)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.int64())),
        pa.list_(pa.float32()),
        pa.list_(pa.bool_()),
        pa.list_(pa.string()),
        pa.list_(pa.struct({"a": pa.int64()})),
        pa.map_(pa.int64(), pa.int64()),
    ],
    ids=str,
)
def test_lists_of_anything_else_are_no_sequences(take, kind):
    data = parquet({"ids": pa.nulls(4, kind), "label": LABELS})
    refused(take(data), "column 'ids' holds", "is the only one and holds lists of integers")


def test_a_list_is_no_label_and_no_group(take):
    table = {"ids": pa.array(FOUND), "other": pa.array(FOUND), "label": LABELS}
    given = {"features": ["ids"], "groups": ["other"]}
    refused(take(parquet(table), **given), "column 'other' holds list", "a label or group holds")
    refused(take(parquet(table), features=["ids"], label="other"), "a label or group holds")


def test_lengths_cannot_be_a_group(take):
    answer = take(as_arrays(groups=SITES), groups=["groups", "lengths"])
    refused(answer, "'lengths' says how many token ids", "another name", pointer="/groups/1")


@pytest.mark.parametrize("name", ["label", "features", "mode"])
def test_fields_of_other_files_are_refused(take, name):
    value = {"label": "y", "features": ["x"], "mode": "rgb"}[name]
    refused(take(as_arrays(), **{name: value}), "this file holds arrays", pointer=f"/{name}")


BY_NAME = {
    "normalize": {"mean": [0.5], "std": [0.5]},
    "clip": {"minimum": 0},
    "resize": {"size": 3},
    "center_crop": {"size": 3},
    "pad": {"padding": 1},
    "impute": {"values": {"a": 0}},
    "one_hot": {"categories": {"a": ["x"]}},
    "standardize": {"mean": {"a": 0}, "std": {"a": 1}},
}


@pytest.mark.parametrize("name", list(TRANSFORMS))
@pytest.mark.parametrize("data", [as_arrays(), as_parquet()], ids=["npz", "parquet"])
def test_every_transform_of_token_ids_is_refused_with_a_sentence(take, name, data):
    chain = [{"name": name, **BY_NAME.get(name, {})}]
    of_tables = name in ("impute", "one_hot", "standardize")
    for split in ("train", "test"):
        answer = take(data, transforms=chain, split=split)
        if of_tables and data[:2] == b"PK":
            refused(answer, f"transform {name} belongs to tables", pointer="/transforms/0/name")
            continue
        detail = refused(answer, "token ids, which are names", pointer="/transforms/0")
        assert detail.startswith(f"{name} computes with numbers")


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_every_augmentation_of_token_ids_is_refused_with_a_sentence(name):
    (given, *_) = [parameters for one, parameters in CASES if one == name]
    example = ExampleType(shape=(12,), dtype="int32", vocabulary=30)
    with pytest.raises(SpecError, match=f"{name} computes with numbers, and these examples are"):
        chains.augmented([Component(name=name, parameters=given)], example, pointer="/x")


# --- bounds, and files that are damaged or lie


def test_the_decoded_form_is_bounded_before_anything_is_written(take):
    found = [[1] * 1000, *([[2]] * 999)]
    labels = np.arange(1000) % 2
    for data in (as_arrays(found, labels), as_parquet(found, labels)):
        accepted(take(data))
        size = take.path.stat().st_size
        accepted(take(data, max_bytes=size))
        refused(take(data, max_bytes=size - 1), f"takes {size} bytes decoded")
        assert take.path.stat().st_size == 0


def test_arrays_and_lists_that_unpack_to_more_than_the_bound_are_refused_unread(take):
    bomb = npz(x=np.zeros((100, 10**5), np.int8), y=np.arange(100) % 2, lengths=np.ones(100, int))
    assert len(bomb) < 10**5
    refused(take(bomb), "takes 40001600 bytes decoded; at most 10000000")
    ids = pa.array(np.zeros(10**7, np.int64))
    cells = pa.ListArray.from_arrays(np.arange(0, 10**7 + 1, 10**5), ids)
    bomb = parquet({"ids": cells, "label": np.arange(100) % 2}, compression="zstd")
    assert len(bomb) < 10**5
    refused(take(bomb), "takes 40001600 bytes decoded; at most 10000000")


def test_a_sequence_that_is_too_long_is_refused_by_row(take):
    found = [[1], [2] * (sequences.MAX_LENGTH + 1)]
    refused(take(as_parquet(found, LABELS[:2])), "row 2, column 'ids' holds 1000001 token ids")


COUNT = 3000
HONEST = as_parquet(
    [[index % 7] * (1 + index % 3) for index in range(COUNT)],
    np.arange(COUNT) % 3,
    options={"compression": "none", "use_dictionary": False},
)


def test_limits_are_refused_from_the_footer_alone(take):
    start = len(HONEST) - 8 - int.from_bytes(HONEST[-8:-4], "little")
    data = bytearray(HONEST)
    data[4:start] = bytes(start - 4)
    refused(take(bytes(data), format="parquet"), f"holds {COUNT} examples; at most 1000")
    given = {"format": "parquet", "max_examples": COUNT}
    refused(take(bytes(data), **given), "column 'ids' of the Parquet file: the page at byte 4")
    accepted(take(HONEST, **given))


def oracle(data):
    return pq.ParquetFile(io.BytesIO(data)).read().column("ids").to_pylist()


BASES = {
    "plain": {"use_dictionary": False, "compression": "none"},
    "snappy": {},
    "v2": {"data_page_version": "2.0", "compression": "zstd", "row_group_size": 13},
    "small pages": {"compression": "gzip", "data_page_size": 32, "write_page_index": True},
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    "number", [150, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_mutated_parquet_is_refused_or_read_as_pyarrow_reads_it(take, base, number):
    rng = np.random.default_rng(0)
    found = [rng.integers(0, 99, length).tolist() for length in rng.integers(1, 6, 40)]
    data = as_parquet(found, np.arange(40) % 3, options=BASES[base])
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    random_ = random.Random(f"{base} {number}")
    taken = 0
    for turn in range(number):
        if turn % 2:
            bad = mutated(data, random_)
        else:  # of the footer alone, with a length that fits
            footer = mutated(data[start:-8], random_)
            bad = data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
        answer = take(bad, format="parquet")
        if "error" in answer:
            assert answer["error"]["detail"]
            continue
        dataset = Dataset(take.path)
        if dataset.vocabulary is not None:
            taken += 1
            ids = [row[row >= 0].tolist() for row in dataset.x]
            assert ids == oracle(bad)
            assert max(map(max, ids)) == dataset.vocabulary - 1
    assert taken > number / 100


@pytest.mark.parametrize(
    "number", [150, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
@pytest.mark.filterwarnings("ignore")
def test_mutated_arrays_are_refused_or_read_as_numpy_reads_them(take, number):
    random_ = random.Random(number)
    base = safetensors.numpy.save(
        {
            "x": padded(FOUND * 5, 4, dtype=np.int16),
            "y": np.arange(20) % 2,
            "lengths": np.array([3, 1, 3, 2] * 5),
        }
    )
    taken = 0
    for _ in range(number):
        data = mutated(base, random_)
        answer = take(data)
        if "error" in answer:
            assert answer["error"]["detail"]
            continue
        dataset = Dataset(take.path)
        if dataset.vocabulary is not None:
            taken += 1
            theirs = safetensors.numpy.load(data)
            for row, ids, length in zip(dataset.x, theirs["x"], theirs["lengths"], strict=True):
                assert row[row >= 0].tolist() == ids[:length].tolist()
    assert taken > number / 100
