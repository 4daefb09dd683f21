"""Parquet of every kind that people write, and files that lie about themselves."""

import contextlib
import dataclasses
import io
import random
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.datasets import Dataset, parquetfile
from models.datasets.arrays import Source
from models.datasets.parquetlayout import Chunk, LayoutError, check_pages, layout
from tests.models.conftest import accepted, refused
from tests.models.test_datasets_hostile import mutated
from tests.models.test_tables import IMPUTE, ONE_HOT

TRAIN = {"split": "train", "transforms": [IMPUTE, ONE_HOT], "max_examples": 10**6}
LABELS = pa.array([0, 1, 0])


def written(table, **options):
    stream = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), stream, **options)
    return stream.getvalue()


@contextlib.contextmanager
def source_of(data):
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield Source(file.fileno())


# --- types


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (pa.array([1, None, 3], pa.int8()), [1, np.nan, 3]),
        (pa.array([2**63 - 1, None, -(2**63)], pa.int64()), [2.0**63, np.nan, -(2.0**63)]),
        (pa.array([2**64 - 1, 2**53 + 1, 0], pa.uint64()), [2.0**64, 2.0**53, 0]),
        (pa.array(np.array([0.5, 2.0, -0.0], np.float16)), [0.5, 2, 0]),
        (pa.array([0.1, None, 3], pa.float32()), [np.float32(0.1), np.nan, 3]),
        (pa.array([True, None, False]), [1, np.nan, 0]),
        (pa.array([7, 8, 7]).dictionary_encode(), [7, 8, 7]),
        (pa.nulls(3), [np.nan] * 3),
    ],
    ids=lambda one: str(getattr(one, "type", "")),
)
def test_numbers_of_every_type_become_the_nearest_float64(take, cells, expected):
    chain = [{"name": "impute", "values": {"a": 0}}]
    accepted(take(written({"a": cells, "label": LABELS}), transforms=chain))
    np.testing.assert_array_equal(Dataset(take.path).x[:, 0], np.array(expected, np.float64))
    assert Dataset(take.path).columns[0].categories is None


@pytest.mark.parametrize(
    "cells",
    [
        pa.array(["7", None, "x"]),
        pa.array(["7", "", "x"]),
        pa.array(["7", None, "x"], pa.large_string()),
        pa.array(["7", "", "x"], pa.string_view()),
        pa.array(["7", None, "x"]).dictionary_encode(),
        pa.DictionaryArray.from_arrays([2, None, 1], ["unused", "x", "7"]),
    ],
    ids=lambda one: str(one.type),
)
@pytest.mark.parametrize("dictionary", [True, False])
def test_texts_of_every_type_are_texts(take, cells, dictionary):
    data = written({"a": cells, "label": LABELS}, use_dictionary=dictionary)
    accepted(take(data, **TRAIN))
    assert Dataset(take.path).columns[0].categories == ("7", "x")
    np.testing.assert_array_equal(Dataset(take.path).x[:, 0], [0, np.nan, 1])


def test_a_column_of_strings_is_text_even_if_all_of_them_read_as_numbers(take):
    accepted(take(written({"a": ["007", "7", "7"], "label": LABELS}), **TRAIN))
    assert Dataset(take.path).columns[0].categories == ("007", "7")


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([1, 2, 3], pa.timestamp("us")),
        pa.array([1, 2, 3], pa.date32()),
        pa.array([1, 2, 3], pa.decimal128(9, 2)),
        pa.array([b"a", b"b", b"c"]),
        pa.array([[1], [2], [3]], pa.list_(pa.field("element", pa.int64()))),
        pa.array([{"b": 1}] * 3),
    ],
    ids=lambda one: str(one.type),
)
def test_other_types_are_refused_by_column_unless_they_are_left_out(take, cells):
    data = written({"a": cells, "b": [1, 2, 3], "label": LABELS})
    refused(take(data), f"column 'a' holds {cells.type}", "integers, floats, booleans or strings")
    accepted(take(data, features=["b"]))
    data = written({"a": [1, 2, 3], "label": cells})
    refused(take(data), f"column 'label' holds {cells.type}", "a label or group holds integers")


def test_labels_and_texts_are_no_floats(take):
    data = written({"a": [1.0, 2.0, 3.0], "label": [0.0, 1.0, 0.0]})
    refused(take(data), "column 'label' holds double", "integers, booleans or strings")
    data = written({"a": [1.0, 2.0, 3.0], "label": LABELS})
    chain = [{"name": "one_hot", "categories": {"a": ["1"]}}]
    refused(take(data, transforms=chain), "column 'a' holds double", "strings or integers")
    chain = [{"name": "one_hot", "categories": {"a": ["1", "2"]}}]
    accepted(take(written({"a": [2, 1, 2], "label": LABELS}), transforms=chain))
    assert Dataset(take.path).columns[0].categories == ("2", "1")


def test_names_with_dots_are_names(take):
    table = {"a.b": [1, 2, 3], "a": [4, 5, 6], "c": [{"d": 9}] * 3, "c.d": [7, 8, 9]}
    accepted(take(written({**table, "label": LABELS}), features=["c.d", "a"]))
    np.testing.assert_array_equal(Dataset(take.path).x, [[7, 4], [8, 5], [9, 6]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "none"},
        {"compression": "gzip"},
        {"compression": "zstd"},
        {"compression": "brotli"},
        {"compression": "lz4"},
        {"data_page_version": "2.0"},
        {"use_dictionary": False},
        {"row_group_size": 999},
        {"data_page_size": 100, "write_page_index": True, "use_dictionary": False},
        {"column_encoding": {"a": "BYTE_STREAM_SPLIT"}, "use_dictionary": False},
        {"version": "1.0", "write_statistics": False, "store_schema": False},
        {"write_page_checksum": True, "sorting_columns": [pq.SortingColumn(0)]},
    ],
    ids=str,
)
def test_every_way_to_write_a_table_gives_the_same_dataset(take, options):
    rng = np.random.default_rng(0)
    count = 40_000
    table = {
        "a": rng.normal(size=count),
        "t": np.array(["x", "y", "z"])[rng.integers(0, 3, count)],
        "label": rng.integers(0, 3, count),
    }
    accepted(take(written(table, **options), **TRAIN))
    dataset = Dataset(take.path)
    np.testing.assert_array_equal(dataset.x[:, 0], table["a"])
    texts = np.array(dataset.columns[1].categories)
    np.testing.assert_array_equal(texts[dataset.x[:, 1].astype(int)], table["t"])
    np.testing.assert_array_equal(dataset.y, table["label"])


def test_text_that_is_not_utf_8_is_refused_by_row(take):
    cells = pa.array([b"ok", b"ok", b"\xff"]).view(pa.string())
    data = written({"a": cells, "b": [1, 2, 3], "label": LABELS})
    refused(take(data, **TRAIN), "row 3, column 'a' is not UTF-8")
    refused(take(data, label="a", features=["b"]), "row 3, column 'a' is not UTF-8")


# --- files that are damaged or lie

COUNT = 5000
GOOD = written(
    {"a": np.arange(COUNT) * 0.5, "t": ["x", "y"] * (COUNT // 2), "label": np.arange(COUNT) % 3},
    use_dictionary=["t"],
    compression="none",
)
FOOTER = len(GOOD) - 8 - int.from_bytes(GOOD[-8:-4], "little")
GIVEN = {**TRAIN, "format": "parquet"}


def zigzag(value, length):
    """A number as Thrift's compact protocol writes it; checked to take ``length`` bytes."""
    value, found = value << 1, bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    assert len(found) == length
    return bytes(found)


def replaced(data, old, new, occurrence):
    at = FOOTER - 1
    for _ in range(occurrence + 1):
        at = data.index(old, at + 1)
    return data[:at] + new + data[at + len(old) :]


def test_a_footer_that_lies_about_rows_is_refused(take):
    accepted(take(GOOD, **GIVEN))
    old, honest = zigzag(COUNT, 2), take.path.read_bytes()
    for other in (COUNT - 1, COUNT + 1, 8191, 64):
        lies = 0
        for place in range(GOOD[FOOTER:].count(old)):
            answer = take(replaced(GOOD, old, zigzag(other, 2), place), **GIVEN)
            if "error" in answer:
                refused(answer, "Parquet")
                lies += 1
            else:  # that number is part of a statistic
                assert take.path.read_bytes() == honest
        assert lies == 5  # of the file, of its row group and of the three columns
        data = GOOD[:FOOTER] + GOOD[FOOTER:].replace(old, zigzag(other, 2))
        refused(take(data, **GIVEN), f"hold {COUNT} cells, and the footer announces {other}")


def test_limits_are_refused_from_the_footer_alone(take):
    data = bytearray(GOOD)
    data[4:FOOTER] = bytes(FOOTER - 4)
    given = {key: value for key, value in GIVEN.items() if key != "max_examples"}
    refused(take(bytes(data), **given), f"holds {COUNT} examples; at most 1000")
    size = COUNT * (8 * 2 + 8 + 8)
    refused(take(bytes(data), **{**GIVEN, "max_bytes": size - 1}), f"takes {size} bytes decoded")
    refused(take(bytes(data), **{**GIVEN, "max_columns": 2}), "3 columns; at most 2")
    refused(take(bytes(data), **GIVEN), "column 'a' of the Parquet file: the page at byte 4 is")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (GOOD[:-1], "cut off"),
        (GOOD[:-4] + b"PARE", "encrypted"),
        (b"PARE" + GOOD[4:], "encrypted"),
        (b"PAR1PAR1", "cut off"),
        (b"PAR1" + bytes(4) + b"PAR1", "does not end"),
        (GOOD[:-8] + (2**31).to_bytes(4, "little") + b"PAR1", "footer of 2147483648 bytes"),
        (b"PAR1" + bytes(2**24 + 1) + (2**24 + 1).to_bytes(4, "little") + b"PAR1", "at most"),
        (b"PAR1" + GOOD[FOOTER:], "does not lie within the file"),
        (GOOD[: FOOTER - 100] + GOOD[FOOTER:], "does not lie within the file"),
        (GOOD[:FOOTER] + b"\x19" * 5000 + (5000).to_bytes(4, "little") + b"PAR1", "Parquet"),
        (GOOD[:FOOTER] + b"\x1c" * 5000 + (5000).to_bytes(4, "little") + b"PAR1", "nested"),
        (GOOD[:FOOTER] + b"\x15\x02\x05\x02\x02" + (5).to_bytes(4, "little") + b"PAR1", "twice"),
        (
            GOOD[:FOOTER] + b"\x15" + b"\xff" * 12 + (13).to_bytes(4, "little") + b"PAR1",
            "beyond 64 bits",
        ),
    ],
)
def test_a_frame_that_does_not_fit_is_refused(take, data, words):
    refused(take(data, **GIVEN), words)


def test_a_schema_that_is_nested_without_end_is_refused(take):
    cells = pa.array([1, 2, 3])
    for _ in range(30):
        cells = pa.StructArray.from_arrays([cells], ["s"])
    data = written({"deep": cells, "a": [1, 2, 3], "label": LABELS})
    refused(take(data, features=["a"]), "nested in more than 16 levels")


def test_a_column_that_unpacks_to_more_than_it_can_need_is_refused(take):
    bomb = written({"t": ["x" * 10**8, "y", "z"], "label": LABELS}, compression="zstd")
    assert len(bomb) < 10**5
    refused(take(bomb, **TRAIN), "column 't'", "unpacks to 1000000", "3 cells of it may take")
    repeated = pa.DictionaryArray.from_arrays(np.zeros(10**6, np.int32), ["x" * 10**6])
    table = {"t": repeated, "label": np.arange(10**6) % 2}
    bomb = written(table, compression="zstd", write_statistics=False)
    answer = take(bomb, **TRAIN, max_bytes=10**8)  # 10**12 letters, if each cell were held
    assert accepted(answer)["columns"][0]["categories"] == ["x" * 10**6]


def test_pages_that_unpack_to_more_than_the_footer_says_are_refused(take, monkeypatch):
    rows = 2000
    table = {"a": np.arange(rows) * 0.5, "label": np.arange(rows) % 3}
    data = written(table, use_dictionary=False, compression="none")
    at = data.index(zigzag(8 * rows + 7, 3))  # 7 for the levels, which say that no cell is missing
    assert at < 40  # in the header of the first page
    lie = data[:at] + zigzag(2**20 - 1, 3) + data[at + 3 :]
    monkeypatch.setattr(parquetfile, "MAX_SPARE_BYTES", 0)
    accepted(take(data, **GIVEN))
    refused(take(lie, **GIVEN), "column 'a'", f"to {2**20 - 1} bytes", f"may take {64 * rows}")


def page(unpacked, packed, cells):
    """A header of a data page as Thrift's compact protocol writes it, and ``packed`` bytes."""
    numbers = [
        next(zigzag(one, length) for length in range(1, 9) if one << 1 < 1 << (7 * length))
        for one in (unpacked, packed, cells)
    ]
    head = b"\x15\x00\x15%b\x15%b\x2c\x15%b\x15\x00\x15\x06\x15\x06\x00\x00" % tuple(numbers)
    return head + bytes(packed)


def test_pages_are_walked_to_the_end_of_their_column():
    pages = [page(100, 3, 4), page(2**31 - 1, 0, 0), page(7, 2000, 5)]
    with source_of(b"PAR1" + b"".join(pages)) as source:
        whole = Chunk(rows=9, cells=9, start=4, end=len(source), unpacked_bytes=9)
        check_pages(source, whole, 2**31 + 106)
        with pytest.raises(LayoutError, match="unpacks to 2147483754 bytes or more, and 9 cells"):
            check_pages(source, whole, 2**31 + 105)
        with pytest.raises(LayoutError, match="unpacks to 2147483747 bytes or more"):
            check_pages(source, whole, 2**31 - 2)
        with pytest.raises(LayoutError, match="hold 9 cells, and the footer announces 8"):
            check_pages(source, dataclasses.replace(whole, cells=8), 2**32)
        ends = [4 + len(pages[0]), 4 + len(pages[0]) + len(pages[1])]
        for end in range(4, len(source)):
            words = "hold 4 cells" if end in ends else "hold 0" if end == 4 else "does not end"
            with pytest.raises(LayoutError, match=words):
                check_pages(source, dataclasses.replace(whole, end=end), 2**32)


def test_a_layout_is_what_pyarrow_says_of_the_same_file():
    table = {"a": np.arange(3000.0), "t": ["x", "y", None] * 1000, "label": np.arange(3000) % 3}
    for options in ({}, {"use_dictionary": False, "row_group_size": 700, "compression": "zstd"}):
        data = written(table, **options)
        theirs = pq.ParquetFile(io.BytesIO(data)).metadata
        with source_of(data) as source:
            ours = layout(source)
            assert ours.rows == theirs.num_rows
            for column, name in enumerate(table):
                assert len(ours.chunks[name]) == theirs.num_row_groups
                for index, chunk in enumerate(ours.chunks[name]):
                    their = theirs.row_group(index).column(column)
                    starts = [their.data_page_offset, their.dictionary_page_offset]
                    assert chunk == Chunk(
                        rows=theirs.row_group(index).num_rows,
                        cells=their.num_values,
                        start=min(start for start in starts if start is not None),
                        end=chunk.start + their.total_compressed_size,
                        unpacked_bytes=their.total_uncompressed_size,
                    )
                    check_pages(source, chunk, chunk.unpacked_bytes)


BASES = {
    "snappy": {},
    "plain": {"use_dictionary": False, "compression": "none"},
    "v2": {"data_page_version": "2.0", "compression": "zstd", "row_group_size": 13},
    "small pages": {"compression": "gzip", "data_page_size": 32, "write_page_index": True},
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    "number", [200, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_mutated_bytes_are_refused_or_read_as_pyarrow_reads_them(take, base, number):
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "a": rng.normal(size=40),
            "b": pa.array([None if i % 7 == 0 else i for i in range(40)]),
            "c": [None if i % 6 == 0 else f"text {i % 4}" for i in range(40)],
            "d": pa.array([f"{i % 3}" for i in range(40)]).dictionary_encode(),
            "label": ["x" if i % 3 else "y" for i in range(40)],
        }
    )
    data = written(table, **BASES[base])
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    random_ = random.Random(f"{base} {number}")
    found = 0
    for turn in range(number):
        if turn % 2:
            bad = mutated(data, random_)
        else:  # of the footer alone, with a length that fits
            footer = mutated(data[start:-8], random_)
            bad = data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
        answer = take(bad, **GIVEN)
        if "error" in answer:
            assert answer["error"]["detail"]
            continue
        found += 1
        dataset = Dataset(take.path)
        assert len(dataset) == len(dataset.y) == answer["dataset"]["examples"]
        theirs = pq.ParquetFile(io.BytesIO(bad)).read()
        for index, column in enumerate(dataset.columns):
            cells = theirs.column(column.name).to_pylist()
            codes = dataset.x[:, index].tolist()
            if column.categories is None:
                expected = [np.nan if cell is None else float(cell) for cell in cells]
                np.testing.assert_array_equal(codes, expected)
            else:
                ours = [None if np.isnan(one) else column.categories[int(one)] for one in codes]
                assert ours == [cell or None for cell in cells]
    assert found > number / 100
