"""Tables as datasets: the same rows in CSV and in Parquet, their roles, values and refusals."""

import csv
import hashlib
import io
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from models.datasets import Dataset
from models.datasets.decoded import TableColumn
from tests.models.conftest import accepted, refused

NAMES = ["age", "city", "member", "label"]
ROWS = [
    [30, "Kyiv", True, "yes"],
    [4.5, "Łódź", False, "no"],
    [-1, "Kyiv", False, "no"],
    [100, 'the "old" one, there', True, "yes"],
]
ONE_HOT = {"name": "one_hot"}
IMPUTE = {"name": "impute"}


def as_csv(names, rows, **options):
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, **options)
    writer.writerow(names)
    writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    return stream.getvalue().encode()


def as_parquet(names, rows, **options):
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


WRITERS = {"csv": as_csv, "parquet": as_parquet}


@pytest.fixture(params=WRITERS)
def table(request):
    return WRITERS[request.param]


def digest(take):
    return hashlib.sha256(take.path.read_bytes()).hexdigest()


# --- values


@pytest.mark.parametrize("writer", WRITERS)
def test_a_dataset_holds_the_cells_of_its_file(take, writer):
    data = WRITERS[writer](NAMES, ROWS)
    answer = accepted(take(data, split="train", transforms=[ONE_HOT]))
    summary = answer.pop("columns")
    chain = answer.pop("transforms")
    assert answer == {
        "format": writer,
        "examples": 4,
        "classes": ["no", "yes"],
        "positive_class": None,
        "class_counts": {"no": 2, "yes": 2},
        "groups": {},
        "input": {"kind": "table", "shape": [3], "dtype": "float64"},
        "duplicates": 0,
    }
    dataset = Dataset(take.path)
    expected = [[30, 0, 1], [4.5, 1, 0], [-1, 0, 0], [100, 2, 1]]
    np.testing.assert_array_equal(dataset.x, expected)
    np.testing.assert_array_equal(dataset.y, [1, 0, 0, 1])
    assert (dataset.x.dtype, dataset.y.dtype) == (np.float64, np.int64)
    texts = ("Kyiv", "Łódź", 'the "old" one, there')
    assert dataset.columns == (
        TableColumn(name="age"),
        TableColumn(name="city", categories=texts),
        TableColumn(name="member"),
    )
    assert [one["name"] for one in summary] == NAMES[:3]
    assert summary[1] == {
        "name": "city",
        "kind": "text",
        "missing": 0,
        "most_frequent": "Kyiv",
        "categories": sorted(texts),
    }
    assert chain == [
        {
            "name": "one_hot",
            "categories": {"city": sorted(texts)},
            "unknown": "error",
            "dataset": None,
        }
    ]


def random_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        [
            None if rng.random() < 0.1 else float(rng.normal() * 10.0 ** rng.integers(-300, 30)),
            int(rng.integers(-(2**62), 2**62)),
            None if rng.random() < 0.2 else f"text {rng.integers(9)}",
            bool(rng.integers(2)),
            f"site {rng.integers(3)}",
            int(rng.integers(4)),
        ]
        for _ in range(count)
    ]


RANDOM_NAMES = ["a", "b", "c", "d", "site", "label"]


@pytest.mark.parametrize("count", [50, 30_000])
def test_the_same_table_gives_the_same_digest_and_summary_in_every_format(take, count):
    rows = random_rows(count)
    writers = {
        "csv": lambda: as_csv(RANDOM_NAMES, rows),
        "semicolons": lambda: as_csv(RANDOM_NAMES, rows, delimiter=";", lineterminator="\n"),
        "quotes": lambda: as_csv(RANDOM_NAMES, rows, quoting=csv.QUOTE_ALL),
        "parquet": lambda: as_parquet(RANDOM_NAMES, rows),
        "row groups": lambda: as_parquet(RANDOM_NAMES, rows, row_group_size=7000),
        "plain": lambda: as_parquet(RANDOM_NAMES, rows, use_dictionary=False, compression="zstd"),
    }
    given = {"groups": ["site"], "transforms": [IMPUTE, ONE_HOT, {"name": "standardize"}]}
    found = set()
    for writer in writers.values():
        answer = accepted(take(writer(), split="train", max_examples=10**6, **given))
        del answer["format"]
        found.add((digest(take), str(answer)))
    assert len(found) == 1
    dataset = Dataset(take.path)
    for index, kind in enumerate(RANDOM_NAMES[:4]):
        cells = [row[index] for row in rows]
        texts = list(dict.fromkeys(cell for cell in cells if cell is not None))
        expected = [
            math.nan if cell is None else texts.index(cell) if kind == "c" else float(cell)
            for cell in cells
        ]
        np.testing.assert_array_equal(dataset.x[:, index], expected)
    codes, values = dataset.groups["site"]
    assert [values[code] for code in codes] == [row[4] for row in rows]
    assert [dataset.classes[code] for code in dataset.y] == [str(row[5]) for row in rows]
    assert dataset.classes == ("0", "1", "2", "3")


def test_numbers_are_read_as_python_reads_them(take):
    rng = np.random.default_rng(1)
    cells = [repr(float(value)) for value in rng.integers(0, 2**64, 1500, np.uint64).view("f8")]
    cells = [cell for cell in cells if abs(float(cell)) < 1e38]
    cells += ["007", "+1.5", ".5", "5.", "1e-400", "-0", "0.1", "1E+3", str(2**62 + 1), "  7\t"]
    accepted(take(as_csv(["a", "label"], [[cell, i % 2] for i, cell in enumerate(cells)])))
    found = Dataset(take.path).x[:, 0]
    np.testing.assert_array_equal(found, [float(cell) for cell in cells])
    assert not np.signbit(found[found == 0]).any()


def test_a_summary_agrees_with_scikit_learn(take, table):
    rows = random_rows(501)
    columns = accepted(
        take(
            table(RANDOM_NAMES, rows),
            split="train",
            groups=["site"],
            transforms=[IMPUTE, ONE_HOT],
        )
    )["columns"]
    for index in (0, 1, 3):
        values = np.array([[math.nan if row[index] is None else row[index]] for row in rows], float)
        scaler = StandardScaler().fit(values)
        found = columns[index]
        assert found["missing"] == np.isnan(values).sum()
        assert found["mean"] == pytest.approx(scaler.mean_[0], rel=1e-9)
        assert found["std"] == pytest.approx(math.sqrt(scaler.var_[0]), rel=1e-9)
        imputer = SimpleImputer(strategy="median").fit(values)
        assert found["median"] == imputer.statistics_[0]
    texts = np.array([[row[2]] for row in rows], object)
    most = SimpleImputer(strategy="most_frequent", missing_values=None).fit(texts).statistics_[0]
    assert columns[2]["most_frequent"] == most
    assert columns[2]["missing"] == sum(row[2] is None for row in rows)
    assert columns[2]["categories"] == sorted({row[2] for row in rows if row[2]})


@pytest.mark.parametrize(
    ("values", "mean", "std", "median"),
    [
        ([0.1] * 10, 0.1, 0.0, 0.1),
        ([1e308, 1e308, -1e308, 1e308], 5e307, math.sqrt(3) / 2 * 1e308, 1e308),
        ([1.7976931348623157e308, -1.7976931348623157e308], 0.0, 1.7976931348623157e308, 0.0),
        ([1e-300, 3e-300], 2e-300, 1e-300, 2e-300),
        ([5.0, 1.0, 2.0], 8 / 3, math.sqrt(26) / 3, 2.0),
        ([4.0], 4.0, 0.0, 4.0),
    ],
)
def test_a_summary_is_exact_at_the_edges_of_float64(take, table, values, mean, std, median):
    rows = [[value, 0, 0] for value in values] + [[None, 1, 1]]
    chain = [IMPUTE, {"name": "standardize"}]
    data = table(["a", "b", "label"], rows)
    found = accepted(take(data, split="train", transforms=chain))["columns"][0]
    assert found["mean"] == pytest.approx(mean, rel=1e-15)
    assert found["std"] == pytest.approx(std, rel=1e-15)
    assert found["median"] == pytest.approx(median, rel=1e-15)


# --- hashes


def test_equal_rows_of_two_tables_have_equal_hashes(take, table):
    names = ["a", "b", "label"]
    rows = [[1.5, "x", 0], [None, "y", 1], [0.0, None, 0], [1.5, "y", 1]]
    chain = [IMPUTE, ONE_HOT]

    def hashes(rows):
        accepted(take(table(names, rows), split="train", transforms=chain))
        return Dataset(take.path).hashes.tolist()

    first = hashes(rows)
    assert len(set(first)) == 4
    other = hashes([[9, "z", 1], [-0.0, None, 1], *rows[:2][::-1]])  # "y" is another category there
    assert other[1:] == [first[2], first[1], first[0]]
    assert other[0] not in first


def test_rows_that_stand_twice_are_counted(take, table):
    rows = [[1, "x", 0], [0.0, "x", 1], [1, "x", 1], [-0.0, "x", 0], [1, "y", 0], [1, "x", 0]]
    answer = accepted(take(table(["a", "b", "label"], rows), split="train", transforms=[ONE_HOT]))
    assert answer["duplicates"] == 3


# --- roles


def test_columns_are_named_for_their_roles_in_the_order_that_is_asked_for(take, table):
    data = table(["z", "y", "site", "kind", "x"], [[1, 2, "s", "k", 3], [4, 5, "t", "l", 6]])
    answer = accepted(take(data, label="kind", groups=["site"], features=["x", "z"]))
    assert [one["name"] for one in answer["columns"]] == ["x", "z"]
    np.testing.assert_array_equal(Dataset(take.path).x, [[3, 1], [6, 4]])
    answer = accepted(take(data, label="kind", groups=["site"]))
    assert [one["name"] for one in answer["columns"]] == ["z", "y", "x"]
    assert answer["groups"] == {"site": {"s": 1, "t": 1}}


def test_a_column_without_a_role_is_not_looked_at(take, table):
    data = table(["a", "note", "label"], [[1, "x" * 300, 0], [2, "\n", 1]])
    accepted(take(data, features=["a"]))


@pytest.mark.parametrize(
    ("given", "pointer", "words"),
    [
        ({}, "/label", "no column 'label'; say in label which holds the labels: 'Label', 'a'"),
        ({"label": "kinds"}, "/label", "no column 'kinds'; it has 'kind', "),
        ({"label": "kind", "features": ["a", "B"]}, "/features/1", "'B'; it has 'b', "),
        ({"label": "kind", "groups": ["b", "c"]}, "/groups/1", "no column 'c'"),
        ({"label": "kind", "groups": ["kind"]}, "/groups/0", "'kind' stands in label already"),
        ({"label": "kind", "groups": ["a", "a"]}, "/groups/1", "'a' stands in groups already"),
        ({"label": "kind", "groups": ["a"], "features": ["a"]}, "/features/0", "in groups already"),
        ({"label": "kind", "features": ["a", "kind"]}, "/features/1", "in label already"),
        ({"features": ["label"]}, "/features/0", "in label already"),
        ({"label": "kind", "features": ["a", "a"]}, "/features/1", "in features already"),
        ({"label": "kind", "features": []}, "/features", "no column for the features"),
        ({"label": "kind", "groups": ["a", "b", "Label"]}, "/file", "every column is a label or"),
        ({"label": "kind", "mode": "grey"}, "/mode", "mode belongs to images"),
        ({"task": "multilabel", "label": []}, "/label", "at least one column"),
        ({"task": "multilabel", "label": ["a", "q"]}, "/label/1", "no column 'q'"),
        (
            {"task": "multilabel", "label": ["a", "b"], "classes": ["a", "c"]},
            "/classes",
            "names of the label columns, in index order: 'a', 'b'",
        ),
    ],
)
def test_names_that_do_not_fit_the_table_are_refused(take, table, given, pointer, words):
    data = table(["a", "b", "kind", "Label"], [[1, 1, "k", "x"], [0, 0, "l", "y"]])
    refused(take(data, **given), words, pointer=pointer)


def test_names_of_columns_are_distinct_and_not_empty(take):
    row = [[1, 2, 3]]
    refused(take(as_csv(["a", "label", "a"], row)), "columns 1 and 3 are both called 'a'")
    refused(take(as_csv(["", "label", "a"], row)), "column 1 has no name", "index=False")
    refused(take(as_csv(["a" * 257, "label", "b"], row)), "name of column 1", "256 characters")
    twice = pa.table([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "label", "a"])
    stream = io.BytesIO()
    pq.write_table(twice, stream)
    refused(take(stream.getvalue()), "columns 1 and 3 are both called 'a'")
    refused(take(as_parquet(["", "label"], [[1, 2]])), "column 1 has no name")


def test_an_index_that_pandas_wrote_is_no_feature(take):
    data = as_parquet(["a", "label", "__index_level_0__"], [[1, 0, 7], [2, 1, 3]])
    refused(take(data), "'__index_level_0__' is an index that pandas wrote", "index=False")
    accepted(take(data, features=["a"]))


def test_groups_have_names_that_can_be_shown(take, table):
    data = table(["g" * 129, "h\n", "a", "label"], [["x", "y", 1, 0], ["x", "y", 2, 1]])
    refused(take(data, groups=["g" * 129]), "at most 128", pointer="/groups/0")
    refused(take(data, groups=["h\n"]), "all printable", pointer="/groups/0")
    many = [f"g{index}" for index in range(65)]
    refused(take(table([*many, "label"], [[1] * 66]), groups=many), "64", pointer="/groups")


# --- labels and groups


def test_labels_are_texts_and_sort_as_integers_where_all_read_as_integers(take):
    def classes(*labels, **given):
        data = as_csv(["a", "label"], [[i, label] for i, label in enumerate(labels)])
        found = accepted(take(data, **given))["classes"]
        assert [found[code] for code in Dataset(take.path).y] == list(map(str, labels))
        return found

    assert classes("10", "9", "-1") == ["-1", "9", "10"]
    assert classes("10", "9", "007") == ["007", "10", "9"]
    assert classes("10", "9", "1.0") == ["1.0", "10", "9"]
    assert classes("NA", "null") == ["NA", "null"]
    assert classes("93", str(2**63)) == [str(2**63), "93"]  # beyond 64 bits it is a name
    assert classes("b", "a", classes=["c", "b", "a"]) == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([10, 9, 10], pa.int8()), ["9", "10"]),
        (pa.array([10, 9, 2**64 - 1], pa.uint64()), ["10", "18446744073709551615", "9"]),
        (pa.array([True, False, True]), ["false", "true"]),
        (pa.array(["b", "a", "b"]), ["a", "b"]),
        (pa.array(["b", "a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array(["b", "a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.DictionaryArray.from_arrays([2, 0, 2], ["a", "unused", "b"]), ["a", "b"]),
        (pa.array([10, 9, 10]).dictionary_encode(), ["9", "10"]),
    ],
    ids=lambda one: str(getattr(one, "type", "")),
)
def test_parquet_labels_and_groups_are_of_any_type_that_names_things(take, labels, expected):
    table = pa.table({"a": [1.0, 2.0, 3.0], "label": labels, "g": labels})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    answer = accepted(take(stream.getvalue(), groups=["g"]))
    assert answer["classes"] == expected
    assert list(answer["groups"]["g"]) == expected
    shown = [str(one).lower() if isinstance(one, bool) else str(one) for one in labels.to_pylist()]
    assert [expected[code] for code in Dataset(take.path).y] == shown


def test_integer_labels_are_indices_into_classes_that_are_names(take, table):
    data = table(["a", "label"], [[1, 0], [2, 2], [3, 0]])
    answer = accepted(take(data, classes=["x", "y", "z"]))
    assert answer["class_counts"] == {"x": 2, "y": 0, "z": 1}
    np.testing.assert_array_equal(Dataset(take.path).y, [0, 2, 0])
    refused(
        take(data, classes=["x", "y"]),
        "row 2, column 'label' is '2'; it must be 0 to 1",
        pointer="/classes",
    )
    refused(take(table(["a", "label"], [[1, 5]])), "give classes", pointer="/classes")


def test_a_binary_task_has_a_positive_class(take, table):
    data = table(["a", "label"], [[1, "no"], [2, "yes"]])
    assert accepted(take(data, task="binary"))["positive_class"] == "yes"
    refused(take(data, task="binary", positive_class="maybe"), pointer="/positive_class")


@pytest.mark.parametrize("cells", [(1, 0), (True, False), (1.0, 0.0)])
def test_label_columns_of_a_multilabel_task_hold_0_and_1(take, table, cells):
    one, zero = cells
    rows = [[5, one, zero], [6, one, one], [7, zero, zero]]
    data = table(["a", "sea", "sky"], rows)
    answer = accepted(take(data, task="multilabel", label=["sea", "sky"]))
    assert answer["classes"] == ["sea", "sky"]
    assert answer["class_counts"] == {"sea": 2, "sky": 1}
    dataset = Dataset(take.path)
    np.testing.assert_array_equal(dataset.y, [[1, 0], [1, 1], [0, 0]])
    assert dataset.y.dtype == np.uint8
    np.testing.assert_array_equal(dataset.x, [[5], [6], [7]])
    given = {"label": ["sea", "sky"], "classes": ["sky", "sea"]}
    assert accepted(take(data, task="multilabel", **given))["classes"] == ["sky", "sea"]
    np.testing.assert_array_equal(Dataset(take.path).y, [[0, 1], [1, 1], [0, 0]])


def test_other_cells_of_a_multilabel_task_are_refused_by_row_and_column(take, table):
    given = {"task": "multilabel", "label": ["sea"], "max_examples": 10**6}
    refused(take(table(["a", "sea"], [[1, 1], [1, 2]]), **given), "row 2, column 'sea' is 2;")
    refused(take(table(["a", "sea"], [[1, 1], [1, None]]), **given), "row 2, column 'sea' is empty")
    rows = [[1, 1]] * 100_000 + [[1, "1 "], [1, "wet"]]
    refused(take(as_csv(["a", "sea"], rows), **given), "row 100002, column 'sea' is 'wet'", "true")
    refused(take(as_parquet(["a", "sea"], [[1, "wet"]]), **given), "'sea' holds string", "0 and 1")


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (None, "is empty; every row needs its"),
        ("a\tb", r"is 'a\tb'"),
        ("x" * 257, "1 to 256 printable characters"),
    ],
)
def test_labels_and_groups_that_are_no_names_are_refused_by_row(take, table, cell, words):
    data = table(["a", "label", "g"], [[1, "x", "x"], [2, cell, "x"], [3, "y", cell]])
    refused(take(data), "row 2, column 'label'", words, "label")
    good = table(["a", "label", "g"], [[1, "x", "x"], [2, "x", "x"], [3, "y", cell]])
    refused(take(good, groups=["g"]), "row 3, column 'g'", words, "group")


def test_labels_that_are_identifiers_are_refused(take, table):
    data = table(["a", "label"], [[1, f"id {index}"] for index in range(33_000)])
    refused(take(data, max_examples=10**6), "'label'", "more than 32768 distinct values")


# --- text, missing and other cells


def test_text_without_one_hot_is_refused_with_its_first_cell(take):
    rows = [[1, "a"], [2.5, "b"], ["1,5", "a"], ["x", "b"]]
    detail = refused(take(as_csv(["size", "label"], rows)), pointer="/transforms")
    assert detail.startswith("row 3, column 'size' holds the text '1,5': add the transform one_hot")
    data = as_parquet(["size", "label"], [[None, "a"], ["x", "b"]])
    refused(take(data), "row 2, column 'size' holds the text 'x'", pointer="/transforms")
    named = [{"name": "one_hot", "categories": {"city": ["Kyiv"]}}]
    data = as_csv(["city", "size", "label"], [["Kyiv", 1, 0], ["Kyiv", "x", 1]])
    refused(
        take(data, transforms=named),
        "row 2, column 'size' holds the text 'x', and one_hot has no categories for this column",
        pointer="/transforms",
    )


def test_missing_cells_without_impute_are_refused_with_the_first(take, table):
    data = table(["a", "b", "label"], [[1, 1, 0], [2, None, 1], [3, None, 0]])
    detail = refused(take(data), "row 2, column 'b' is empty: add", pointer="/transforms")
    assert "impute" in detail
    chain = [{"name": "impute", "values": {"a": 0}}]
    refused(
        take(data, transforms=chain),
        "row 2, column 'b' is empty, and impute has no value for this column: add it to its values",
        "or leave the column out of features",
        pointer="/transforms",
    )
    accepted(take(data, transforms=[{"name": "impute", "values": {"b": 0}}]))
    np.testing.assert_array_equal(Dataset(take.path).x, [[1, 1], [2, math.nan], [3, math.nan]])


def test_missing_texts_need_impute_before_one_hot(take, table):
    data = table(["b", "label"], [["x", 0], [None, 1], ["x", 0]])
    given = {"split": "train"}
    refused(
        take(data, transforms=[ONE_HOT], **given),
        "row 2, column 'b' is empty",
        pointer="/transforms/0",
    )
    refused(
        take(data, transforms=[ONE_HOT, IMPUTE], **given),
        "'b' has missing cells: put impute before one_hot",
        pointer="/transforms/0",
    )
    answer = accepted(take(data, transforms=[IMPUTE, ONE_HOT], **given))
    assert answer["transforms"][0]["values"] == {"b": "x"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_by_row_and_column(take, table, value):
    rows = [[0.5, 1.5, 0], [0.5, 2.5, 1], [value, 0.5, 0], [0.5, value, 1]]
    data = table(["a", "b", "label"], rows)
    detail = refused(take(data), "finite")
    assert detail.startswith(f"row 3, column 'a' holds {value}")


def test_identifiers_and_prose_are_no_features(take, table):
    given = {"max_examples": 10**6, "split": "train", "transforms": [ONE_HOT]}
    rows = [[f"user {index}", index % 2] for index in range(10_001)]
    refused(take(table(["a", "label"], rows), **given), "'a' holds more than 10000", "identifier")
    accepted(take(table(["a", "label"], rows[:10_000]), **given))
    prose = [[f"{index}" + "prose " * 100, index % 2] for index in range(2000)]
    refused(take(table(["a", "label"], prose), **given), "take more than 1048576 bytes", "'a'")


def test_a_text_holds_no_nul(take):
    data = as_parquet(["a", "label"], [["x", 0], ["a\0b", 1]])
    refused(take(data, split="train", transforms=[ONE_HOT]), "row 2, column 'a' holds a NUL")
    refused(take(b"a,label\nx,0\ny\0,1\n"), "row 2 holds a NUL")


def test_a_column_without_any_cell_is_one_of_numbers(take, table):
    data = table(["a", "b", "label"], [[1, None, 0], [2, None, 1]])
    chain = [{"name": "impute", "values": {"b": 0}}]
    answer = accepted(take(data, transforms=chain))
    empty = {"name": "b", "kind": "number", "missing": 2}
    assert answer["columns"][1] == {**empty, "mean": None, "std": None, "median": None}
    detail = refused(take(data, split="train", transforms=[IMPUTE]), pointer="/transforms/0")
    assert "'b' of the training dataset holds no values to take mean from" in detail
    strings = pa.table({"a": [1, 2], "b": pa.array(["", None]), "label": [0, 1]})
    stream = io.BytesIO()
    pq.write_table(strings, stream)
    before = digest(take) if accepted(take(data, transforms=chain)) else None
    accepted(take(stream.getvalue(), transforms=chain))
    assert digest(take) == before


def test_a_column_that_constants_call_text_is_read_as_text(take, table):
    data = table(["zip", "size", "label"], [["7", 1, 0], ["12", 2, 1], ["7", 3, 0]])
    chain = [{"name": "one_hot", "categories": {"zip": ["12", "7", "9"], "size": ["1", "2", "3"]}}]
    accepted(take(data, transforms=chain))
    dataset = Dataset(take.path)
    np.testing.assert_array_equal(dataset.x, [[0, 0], [1, 1], [0, 2]])
    assert [one.categories for one in dataset.columns] == [("7", "12"), ("1", "2", "3")]
    chain = [{"name": "impute", "values": {"size": "1"}}, *chain]
    accepted(take(data, transforms=chain))
    empty = table(["zip", "size", "label"], [[None, 1, 0], [None, 2, 1]])
    values = [{"name": "impute", "values": {"zip": "9"}}, *chain]
    answer = accepted(take(empty, transforms=values))
    assert answer["columns"][0]["most_frequent"] is None
    assert Dataset(take.path).columns[0].categories == ()


# --- limits


def test_limits_are_kept(take, table):
    data = table(["a", "b", "label"], [[1, 1, 0], [2, 2, 1], [3, 3, 0]])
    refused(take(data, max_columns=2), "has 3 columns; at most 2")
    refused(take(data, max_examples=2), "holds 3 examples; at most 2")
    accepted(take(data))
    size = take.path.stat().st_size
    accepted(take(data, max_bytes=size))
    refused(take(data, max_bytes=size - 1), f"takes {size} bytes decoded")
    refused(take(data, max_bytes=3 * (16 + 8 + 8) - 1), "bytes decoded")
    refused(take(table(["a", "label"], [])), "no examples")


def test_too_many_rows_are_refused_before_the_rest_is_read(take):
    good = as_csv(["a", "label"], [[1, 0]] * 300_000)
    refused(take(good + b"\xff,,,\n", max_examples=1000), "at most 1000")
    refused(take(good + b"\xff,,,\n", max_examples=10**6, max_bytes=10**6), "more than 1000000")


def test_values_that_do_not_fit_into_float32_are_refused_by_row_and_column(take, table):
    rows = [[1.0, 0]] * 50_000 + [[-1e39, 1]]
    given = {"max_examples": 10**6}
    data = table(["a", "label"], rows)
    refused(take(data, **given), "row 50001, column 'a' becomes -1e+39", "float32")
    shrunk = [{"name": "standardize", "mean": {"a": 0}, "std": {"a": 1e10}}]
    accepted(take(data, transforms=shrunk, **given))
    grown = [{"name": "standardize", "mean": {"a": 0}, "std": {"a": 1e-39}}]
    refused(take(data, transforms=grown, **given), "row 1, column 'a' becomes 1e+39")
    filled = [{"name": "impute", "values": {"a": 1e300}}]
    accepted(take(table(["a", "label"], [*rows[:9], [2.0, 1]]), transforms=filled))
    missing = table(["a", "label"], [*rows[:9], [None, 1]])
    refused(take(missing, transforms=filled), "row 10, column 'a' becomes 1e+300")


def test_an_unknown_category_is_refused_by_row_and_column(take, table):
    rows = [["a", 0]] * 50_000 + [["b", 1], ["c", 1]]
    data = table(["k", "label"], rows)
    given = {"max_examples": 10**6}
    chain = [{"name": "one_hot", "categories": {"k": ["a", "b"]}}]
    detail = refused(take(data, transforms=chain, **given), "unknown", "zeros")
    assert detail.startswith("row 50002, column 'k' holds 'c', which is no category of one_hot")
    accepted(take(data, transforms=[{**chain[0], "unknown": "zeros"}], **given))


# --- constants


def test_a_test_set_needs_constants_from_elsewhere(take, table):
    data = table(["a", "label"], [[1, 0], [2, 1]])
    for name in ("impute", "one_hot", "standardize"):
        for split in ("validation", "test"):
            detail = refused(
                take(data, split=split, transforms=[{"name": name}]), pointer="/transforms/0"
            )
            assert f'{{"name": "{name}", "dataset": "adult-train"}}' in detail
        chain = [{"name": name, "dataset": "adult"}]
        for split in ("train", "test"):
            refused(
                take(data, split=split, transforms=chain),
                "'adult'",
                "were not taken",
                pointer="/transforms/0/dataset",
            )


def test_a_training_set_gives_its_own_constants(take, table):
    data = table(["a", "b", "label"], [[1, 5, 0], [None, 5, 1], [4, 5, 0]])
    chain = [{"name": "impute", "strategy": "median"}, {"name": "standardize"}]
    answer = accepted(take(data, split="train", transforms=chain))
    assert answer["transforms"] == [
        {"name": "impute", "values": {"a": 2.5, "b": 5.0}, "strategy": "median", "dataset": None},
        {
            "name": "standardize",
            "mean": {"a": 2.5, "b": 5.0},
            "std": {"a": 1.5, "b": 0.0},
            "dataset": None,
        },
    ]
    swapped = chain[::-1]
    refused(
        take(data, split="train", transforms=swapped),
        "'a' has missing cells: put impute before standardize",
        pointer="/transforms/0",
    )


def test_transforms_of_images_and_arrays_meet_a_table_as_numbers(take, table):
    data = table(["a", "b", "label"], [[1, 5, 0], [2, 5, 1]])
    normalize = {"name": "normalize", "mean": [1, 2], "std": [3, 4]}
    accepted(take(data, transforms=[normalize]))
    late = [normalize, {"name": "standardize", "mean": {"a": 0}, "std": {"a": 1}}]
    refused(take(data, transforms=late), "put it before normalize", pointer="/transforms/1/name")
