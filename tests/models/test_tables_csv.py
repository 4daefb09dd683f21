"""CSV as people write it, and as nobody should: quotes, line breaks, encodings, late surprises."""

import csv
import io
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.catalog import FORMATS
from models.datasets import Dataset, csvfile, ingest
from models.datasets.csvrows import end_of_rows, row_at
from tests.models.conftest import BOUNDS, accepted, refused
from tests.models.test_datasets_hostile import mutated
from tests.models.test_tables import IMPUTE, ONE_HOT, as_csv

MISSING = {"", "NA", "N/A", "null", "NULL"}
TRAIN = {"split": "train", "transforms": [IMPUTE, ONE_HOT], "max_examples": 10**7}


def x_of(take, text, **given):
    data = text if isinstance(text, bytes) else text.encode()
    accepted(take(data, **{**TRAIN, **given}))
    return Dataset(take.path).x.tolist()


def test_the_catalog_says_which_cells_are_missing(take):
    assert all(word in FORMATS["csv"].summary for word in MISSING)
    rows = "".join(f"{word},{word},x\n" for word in sorted(MISSING))
    table = f"number,text,label\n1,a,y\n{rows}".encode()
    chain = [{"name": "impute"}, {"name": "one_hot"}]
    number, text = accepted(take(table, split="train", transforms=chain))["columns"]
    assert (number["kind"], number["missing"]) == ("number", len(MISSING))
    assert (text["missing"], set(text["categories"])) == (1, {"a", *MISSING} - {""})


# --- dialects


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [True, False])
def test_every_dialect_gives_the_same_rows(take, delimiter, line_break, mark, end):
    lines = ["größe,b b,label", '1.5,"x, ""y""\nz",no', "2,,yes", '"3",q"q,"y"es']
    text = line_break.join(lines).replace(",", delimiter).replace(f"x{delimiter}", "x,")
    found = x_of(take, mark + (text + (line_break if end else "")).encode())
    assert found[1][0] == 2
    dataset = Dataset(take.path)
    assert [one.name for one in dataset.columns] == ["größe", "b b"]
    assert dataset.columns[1].categories == ('x, "y"\nz', 'q"q')
    np.testing.assert_array_equal(dataset.x, [[1.5, 0], [2, math.nan], [3, 1]])
    assert [dataset.classes[code] for code in dataset.y] == ["no", "yes", "yes"]


def test_the_delimiter_is_the_one_that_makes_most_columns_of_the_header(take):
    assert x_of(take, 'a;"b,c,d,e";label\n1;2;0\n3;4;1\n') == [[1, 2], [3, 4]]
    assert x_of(take, "a,b;label\n1,0\n2,1\n", label="b;label") == [[1], [2]]


def test_blank_lines_are_no_rows(take):
    text = "\n\r\na,label\n\n1,0\n\r\n\n2,1\n\n"
    assert x_of(take, text) == [[1], [2]]
    refused(take(b"\n" + text.encode() + b"\n\n3\n"), "row 3 has 1 cells where the header has 2")


def test_cells_that_mean_numbers(take):
    cells = ["1", " 2 ", "\t3", "+4", "true", "FALSE", "True", "5e0", "NA", "N/A", "null", "NULL"]
    cells += ["", '""', '"6"', '"NA"', " NA", "  ", ".7", "8."]
    expected = [1, 2, 3, 4, 1, 0, 1, 5, *[None] * 6, 6, None, None, None, 0.7, 8]
    found = x_of(take, "a,label\n" + "".join(f"{cell},{i % 2}\n" for i, cell in enumerate(cells)))
    assert [None if math.isnan(one) else one for (one,) in found] == expected


@pytest.mark.parametrize("late", ["1", "x", "TRUE", "tRuE", "NA", " False", "2.5"])
def test_columns_of_truths_may_hold_other_cells_later(take, late):
    count = 300_000
    cells = [("true", "False", "")[i % 3] for i in range(count)]
    cells[count // 2 : count // 2 + 2] = [late, "NA"]
    text = "a,b,label\n" + "".join(f"{i},{cell},{i % 2}\n" for i, cell in enumerate(cells))
    found = np.array(x_of(take, text, max_bytes=10**8))[:, 1]
    if late == "x":
        assert Dataset(take.path).columns[1].categories == ("true", "False", "x", "NA")
        codes = {"true": 0, "False": 1, "": math.nan, "x": 2, "NA": 3}
        np.testing.assert_array_equal(found, [codes[cell] for cell in cells])
    else:
        np.testing.assert_array_equal(found, [as_number(cell) for cell in cells])


def test_cells_of_a_column_of_text_are_kept_as_they_are(take):
    cells = ["NA", " x", "x", "true", "1", "nan", "null", "", '""', '" "']
    found = x_of(take, "a,label\n" + "".join(f"{cell},{i % 2}\n" for i, cell in enumerate(cells)))
    texts = Dataset(take.path).columns[0].categories
    assert texts == ("NA", " x", "x", "true", "1", "nan", "null", " ")
    assert [None if math.isnan(code) else int(code) for (code,) in found] == [
        *range(7),
        None,
        None,
        7,
    ]


@pytest.mark.parametrize("cell", ["nan", "NaN", "-nan", "inf", "-INF", "Infinity", "1e999", "+inf"])
@pytest.mark.parametrize("other", ["1", "true"])
def test_spellings_of_what_is_not_finite_are_refused(take, cell, other):
    detail = refused(take(f"a,label\n{other},0\n{cell},1\n".encode()), "must be finite")
    assert detail.startswith("row 2, column 'a' holds ")


def test_labels_are_read_as_text_whatever_they_look_like(take):
    accepted(take(b"a,g,label\n1,1.50,007\n2, x,TRUE\n", groups=["g"]))
    dataset = Dataset(take.path)
    assert dataset.classes == ("007", "TRUE")
    assert dataset.groups["g"][1] == (" x", "1.50")


# --- text that shows itself late


@pytest.mark.parametrize("late", ["x", "x,y", "NA!"])
def test_a_column_that_is_text_only_at_the_end_is_text_from_the_start(take, late):
    count = 400_000
    rows = [f"{i % 7},{i % 5 or ''},true,{i % 2}" for i in range(count)]
    rows[count // 2] = 'true,"z",1,0'
    rows[-1] = f'"{late}",3,0,1'
    found = np.array(x_of(take, "a,b,c,label\n" + "\n".join(rows), max_bytes=10**8))
    dataset = Dataset(take.path)
    first = [str(i) for i in range(7)] + ["true", late]
    assert dataset.columns[0].categories == tuple(first)
    assert dataset.columns[1].categories == ("1", "2", "3", "4", "z")
    assert dataset.columns[2].categories is None
    expected = np.arange(count, dtype=float) % 7
    expected[[count // 2, -1]] = 7, 8
    np.testing.assert_array_equal(found[:, 0], expected)
    assert found[-1].tolist() == [8, 2, 0]
    assert len(dataset) == count
    data = ("a,b,c,label\n" + "\n".join(rows)).encode()
    detail = refused(
        take(data, max_examples=10**6, max_bytes=10**8, features=["a"]), pointer="/transforms"
    )
    assert detail.startswith(f"row {count}, column 'a' holds the text {late!r}")


# --- refusals


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a,label\n1,0\n2,0,1\n", "row 2 has 3 cells where the header has 2; a delimiter inside"),
        (b"a,label\n1,0\n\n2\n", "row 2 has 1 cells"),
        (b'a,label\n"1,0\n2",0\n\n2\n', "row 2 has 1 cells"),
        (b'a,label\n1,0\n""\n', "row 2 has 1 cells"),
        (b"a,label\n1,0\n  \n", "row 2 has 1 cells"),
        (b"a,label\n1,0\n2,\xe9\n", "row 2 is not UTF-8"),
        (b"a,label\n1,0\n\xff,1\n", "row 2 is not UTF-8"),
        (b"a,label\n1,0\n2,\xed\xa0\x80\n", "row 2 is not UTF-8"),
        (b"a,\xe9,label\n1,0,0\n", "the header is not UTF-8"),
        (b"a,label\n1,0\n2,\0\n", "row 2 holds a NUL"),
        (b'a,label\n1,0\n2,"0\n3,1\n', "row 2: a quote opens a cell and none closes it"),
        (b'a,"label\n1,0\n', "no header"),
        (b"a,label\n", "no examples"),
        (b"a,label", "no examples"),
        (b"a,label\n\n\r\n", "no examples"),
        (b"", "no header"),
        (b"\xef\xbb\xbf", "no header"),
        (b"\n\n", "no header"),
        (b"label\n1\n2\n", "no column for the features"),
    ],
)
def test_files_that_are_no_tables_are_refused_by_row(take, data, words):
    refused(take(data, format="csv"), words)


def test_a_column_that_is_not_asked_for_is_text_all_the_same(take):
    refused(take(b"a,b,label\n1,x,0\n2,\xff,1\n", features=["a"]), "row 2 is not UTF-8")


def test_rows_are_counted_across_blocks(take):
    good = "1,0\n" * 500_000
    given = {"max_examples": 10**7, "max_bytes": 10**8}
    for bad, words in (
        (b"1\n", "has 1 cells"),
        (b"\xff,0\n", "is not UTF-8"),
        (b'2,"1', "a quote opens"),
        (b",1\n", "column 'a' is empty"),
        (b"1,\n", "column 'label' is empty"),
        (b"x,0\n", "column 'a' holds the text 'x'"),
        (b"inf,0\n", "column 'a' holds inf"),
    ):
        answer = take(b"a,label\n" + good.encode() + bad, **given)
        assert answer["error"]["detail"].startswith("row 500001"), answer
        assert words in answer["error"]["detail"]


def test_a_row_has_a_longest_length(take):
    longest = csvfile.MAX_ROW_BYTES
    given = {"split": "train", "transforms": [ONE_HOT], "features": ["b"]}
    text = "a,b,label\nx,1,0\n" + "x" * (longest - 6) + ",1,1\nx,1,0\n"
    accepted(take(text.encode(), **given))
    text = "a,b,label\nx,1,0\n" + "x" * (longest + 6) + ",1,1\nx,1,0\n"
    refused(take(text.encode(), **given), f"row 2: it is longer than {longest} bytes")
    quoted = 'a,b,label\nx,1,0\n"' + "x,1,0\n" * (longest // 6 + 9)
    refused(take(quoted.encode(), **given), "row 2: it is longer than", "never closed")
    header = "a" * longest + ",label\n1,0\n"
    refused(take(header.encode(), format="csv"), "no header", f"at most {longest} bytes")


def test_a_wide_table_is_read_in_longer_blocks(take):
    width = 12_000
    names = [f"c{index}" for index in range(width)]
    rows = [[row * 0.5 + column for column in range(width)] for row in range(20)]
    data = as_csv([*names, "label"], [[*row, index % 2] for index, row in enumerate(rows)])
    assert x_of(take, data, max_columns=width + 1, max_bytes=10**8) == rows
    refused(take(data, max_columns=width), f"has {width + 1} columns; at most {width}")


# --- against Python's own reader


CELLS = st.text(
    st.sampled_from("ab\",;\t\r\n 'éπ\u2028\U0001f642") | st.characters(codec="utf-8"),
    max_size=6,
).filter(lambda cell: "\0" not in cell)
NUMBERS = st.one_of(
    st.floats(-1e30, 1e30).map(repr),
    st.integers(-(10**12), 10**12).map(str),
    st.sampled_from(["true", "False", "TRUE", "+5", ".5", "5.", "1E3", " 7", "", "NA", "null"]),
)


def as_number(cell):
    cell = cell.strip(" \t")
    if cell in MISSING:
        return math.nan
    return {"true": 1.0, "false": 0.0}.get(cell.lower()) if cell.isalpha() else float(cell) + 0.0


@st.composite
def files(draw):
    rows = draw(
        st.lists(st.tuples(CELLS, NUMBERS, CELLS, st.sampled_from("pqr")), min_size=1, max_size=20)
    )
    rows = [("t" + row[0] if not index else row[0], *row[1:]) for index, row in enumerate(rows)]
    rows = [
        (*row[:2], "t" + row[2] if not index else row[2], row[3]) for index, row in enumerate(rows)
    ]
    line_break = draw(st.sampled_from(["\n", "\r\n"]))
    quoting = draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
    if line_break == "\n":
        quoting = csv.QUOTE_ALL  # Python's writer leaves a lone carriage return without quotes
    stream = io.StringIO(newline="")
    writer = csv.writer(
        stream,
        delimiter=draw(st.sampled_from(",;\t")),
        lineterminator=line_break,
        quoting=quoting,
    )
    writer.writerow(["text", "number", "more", "label"])
    writer.writerows(rows)
    text = stream.getvalue()
    if draw(st.booleans()):
        text = text[: -len(line_break)]
    return rows, draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode()


@settings(max_examples=150, deadline=None)
@given(case=files(), block_bytes=st.sampled_from([1, 7, 30, 2**20]))
def test_what_pythons_writer_wrote_is_read_back(tmp_path_factory, case, block_bytes):
    rows, data = case
    folder = tmp_path_factory.mktemp("csv")
    (folder / "in").write_bytes(data)
    request = {
        "spec": {
            "name": "d",
            "split": "test",
            "classes": ["p", "q", "r"],
            "transforms": [
                {"name": "impute", "values": {"text": "-", "number": 0, "more": "-"}},
                {
                    "name": "one_hot",
                    "categories": {"text": ["-"], "more": ["-"]},
                    "unknown": "zeros",
                },
            ],
        },
        **BOUNDS,
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        open(folder / "in", "rb") as source,
        open(folder / "out", "w+b") as output,
        open(folder / "scratch", "w+b") as scratch,
    ):
        patch.setattr(csvfile, "_BLOCK_BYTES", block_bytes)
        patch.setattr(csvfile, "_HEADERS_A_BLOCK", 0)
        accepted(ingest(request, [source.fileno(), output.fileno(), scratch.fileno()]))
    dataset = Dataset(folder / "out")
    assert [dataset.classes[code] for code in dataset.y] == [row[3] for row in rows]
    np.testing.assert_array_equal(dataset.x[:, 1], [as_number(row[1]) for row in rows])
    for index in (0, 2):
        texts = dataset.columns[index].categories
        found = ["" if math.isnan(code) else texts[int(code)] for code in dataset.x[:, index]]
        assert found == [row[index] for row in rows]
        assert list(texts) == list(dict.fromkeys(row[index] for row in rows if row[index]))


@settings(max_examples=500, deadline=None)
@given(st.text('a",\n\r', max_size=40), st.integers(0, 40))
def test_rows_end_where_pythons_reader_ends_them(text, cut):
    data = text.encode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    at, found = 0, []
    while at < len(data):
        row = row_at(data, at, b",")
        if row is None:  # Python's reader takes a quote that stays open, and this one does not
            assert end_of_rows(data, b",", last=True) < len(data)
            break
        found.append([] if row[0] == [b""] and data[at : at + 1] in b"\r\n" else row[0])
        at = row[1]
    else:
        assert [[cell.decode() for cell in row] for row in found] == rows
        assert end_of_rows(data, b",", last=True) == len(data)
    part = data[:cut]
    end = end_of_rows(part, b",", last=False)
    ends, at = [0], 0
    while at < len(part) and (row := row_at(part, at, b",")) is not None:
        at = row[1]
        if part[at - 1 : at] == b"\n":
            ends.append(at)
    assert end == ends[-1]


# --- hostile bytes


def check(take, data):
    answer = take(data, format="csv", split="train", transforms=[IMPUTE, ONE_HOT])
    if "error" in answer:
        assert answer["error"]["detail"]
        assert answer["error"]["pointer"].startswith("/")
        return False
    dataset = Dataset(take.path)
    header, *rows = [
        row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")) if row
    ]
    assert len(dataset) == len(rows)
    for index, column in enumerate(dataset.columns):
        cells = [row[header.index(column.name)] for row in rows]
        if column.categories is None:
            np.testing.assert_array_equal(dataset.x[:, index], [as_number(cell) for cell in cells])
        else:
            codes = dataset.x[:, index]
            found = ["" if math.isnan(code) else column.categories[int(code)] for code in codes]
            assert found == cells
    labels = [row[header.index("label")] for row in rows]
    assert [dataset.classes[code] for code in dataset.y] == labels
    return True


@pytest.mark.parametrize(
    "number", [400, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_mutated_bytes_are_refused_or_read_as_pythons_reader_reads_them(take, number):
    random_ = random.Random(number)
    rows = [[i * 0.5, f"text {i % 3}", "" if i % 5 else "q,", i % 2 == 0, i % 3] for i in range(30)]
    base = as_csv(["a", "b", "c", "d", "label"], rows)
    assert check(take, base)
    found = 0
    for _ in range(number):
        data = bytearray(base)
        for _ in range(random_.randint(1, 3)):  # most bytes of a table can be others
            at = random_.randrange(len(data))
            data[at : at + random_.randrange(3)] = random_.choice(
                [
                    b'"',
                    b",",
                    b"\n",
                    b"\r",
                    b"x",
                    b"9",
                    b" ",
                    b"",
                    b"\xc3\xa9",
                    b"\xff",
                    b"\0",
                    b"nan",
                ]
            )
        found += check(take, bytes(data))
        check(take, mutated(base, random_))
    assert found > number / 20


# --- memory

LIMITED = """
import json, os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
sys.path.insert(0, {root!r})
from models.datasets import ingest
request = {{
    "spec": {{"name": "d", "split": "test"}}, "max_examples": 10**8, "max_bytes": 10**10,
    "max_columns": 100, "max_pixels": 9, "processes": 2,
}}
files = [os.open({path!r}, os.O_RDONLY)]
files += [os.open({path!r} + end, os.O_RDWR | os.O_CREAT) for end in (".out", ".scratch")]
answer = ingest(request, files)
assert not {{"torch", "pandas"}} & set(sys.modules)
print(json.dumps([answer["dataset"]["examples"], answer["dataset"]["duplicates"]]))
"""


@pytest.mark.parametrize("megabytes", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_a_large_file_is_read_in_little_memory(tmp_path, megabytes):
    rng = np.random.default_rng(0)
    names = ",".join([*(f"c{index}" for index in range(40)), "label"])
    block = "".join(
        ",".join([*(f"{value:.6f}" for value in rng.normal(size=40)), f"{i % 3}"]) + "\n"
        for i in range(3000)
    )
    times = megabytes * 10**6 // len(block) + 1
    path = tmp_path / "large.csv"
    with open(path, "w") as file:
        file.write(names + "\n")
        for _ in range(times):
            file.write(block)
    code = LIMITED.format(root=str(Path(__file__).parents[2]), path=str(path))
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"[{3000 * times}, {3000 * (times - 1)}]"
