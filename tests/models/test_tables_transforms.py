"""The transforms of tables, against scikit-learn and against what they say of themselves."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from models import catalog, chains, parameters
from models.datasets.decoded import TableColumn
from models.spec import Component, SpecError
from models.transforms import Column, ExampleType
from models.transforms.tables import Impute, OneHot, Standardize, nearest_first
from models.transforms.tabular import apply

TEXTS = ("oak", "fir", "elm", "ash")
COLUMNS = (
    TableColumn(name="height", missing=True),
    TableColumn(name="tree", categories=TEXTS, missing=True),
    TableColumn(name="age"),
)
TRAINING = [
    {"name": "height", "kind": "number", "missing": 2, "mean": 3.0, "std": 2.0, "median": 2.5},
    {
        "name": "tree",
        "kind": "text",
        "missing": 1,
        "most_frequent": "fir",
        "categories": ["ash", "elm", "fir", "oak"],
    },
    {"name": "age", "kind": "number", "missing": 0, "mean": 40.0, "std": 0.0, "median": 41.0},
]
CHAIN = [Component(name="impute"), Component(name="one_hot"), Component(name="standardize")]


def example_of(columns):
    return ExampleType(
        shape=(len(columns),),
        dtype="float64",
        columns=tuple(
            Column(name=one.name, text=one.categories is not None, missing=one.missing)
            for one in columns
        ),
    )


def table_of(count, seed=0):
    rng = np.random.default_rng(seed)
    x = np.stack(
        [rng.normal(size=count) * 5, rng.integers(0, 4, count), rng.integers(0, 90, count)], axis=1
    ).astype(np.float64)
    x[rng.random(count) < 0.2, 0] = np.nan
    x[rng.random(count) < 0.2, 1] = np.nan
    return x


def chain_of(*components):
    return chains.transforms([Component.from_json(one) for one in components], pointer="/t")


def refused_output(components, columns=COLUMNS):
    with pytest.raises(SpecError) as caught:
        chains.output_of(
            [Component.from_json(one) for one in components], example_of(columns), pointer="/t"
        )
    return caught.value


# --- values


@pytest.mark.parametrize("strategy", ["mean", "median"])
def test_numbers_become_what_scikit_learn_makes_of_them(strategy):
    train, test = table_of(300)[:, [0, 2]], table_of(200, seed=1)[:, [0, 2]]
    theirs = make_pipeline(SimpleImputer(strategy=strategy), StandardScaler())
    expected = theirs.fit(train).transform(test)
    imputer, scaler = theirs.steps[0][1], theirs.steps[1][1]
    names = ["height", "age"]
    chain = [
        Impute(values=dict(zip(names, imputer.statistics_.tolist(), strict=True))),
        Standardize(
            mean=dict(zip(names, scaler.mean_.tolist(), strict=True)),
            std=dict(zip(names, scaler.scale_.tolist(), strict=True)),
        ),
    ]
    found = apply(chain, test, [COLUMNS[0], COLUMNS[2]], first=0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("unknown", ["error", "zeros"])
def test_texts_become_what_scikit_learn_makes_of_them(unknown):
    x = table_of(200)
    categories = ["ash", "elm", "fir", "oak"] if unknown == "error" else ["elm", "oak", "yew"]
    texts = np.array([["" if math.isnan(code) else TEXTS[int(code)]] for code in x[:, 1]], object)
    theirs = make_pipeline(
        SimpleImputer(strategy="most_frequent", missing_values=""),
        OneHotEncoder(
            categories=[categories],
            sparse_output=False,
            handle_unknown="error" if unknown == "error" else "ignore",
        ),
    )
    expected = theirs.fit_transform(texts)
    most_frequent = str(theirs.steps[0][1].statistics_[0])
    chain = [
        Impute(values={"tree": most_frequent}),
        OneHot(categories={"tree": tuple(categories)}, unknown=unknown),
    ]
    found = apply(chain, x[:, 1:2], COLUMNS[1:2], first=0)
    np.testing.assert_array_equal(found, expected)


def test_columns_stay_in_their_places_and_transforms_touch_only_those_they_name():
    x = np.array([[1.5, 0.0, 7.0], [np.nan, np.nan, 8.0], [-0.0, 3.0, 9.0]])
    chain = [
        Impute(values={"height": 4.0, "tree": "yew"}),
        OneHot(categories={"tree": ("yew", "oak", "ash")}),
        Standardize(mean={"height": 0.5, "tree=oak": 1.0}, std={"height": 2.0, "tree=oak": 0.0}),
    ]
    found = apply(chain, x, COLUMNS, first=0)
    expected = [[0.5, 0, 0, 0, 7], [1.75, 1, -1, 0, 8], [-0.25, 0, -1, 1, 9]]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    components = [{"name": "impute", "values": dict(chain[0].values)}]
    components.append({"name": "one_hot", "categories": {"tree": ["yew", "oak", "ash"]}})
    made = chains.output_of(
        [Component.from_json(one) for one in components], example_of(COLUMNS), pointer=""
    )
    assert made == ExampleType(shape=(5,), dtype="float32")


def test_without_transforms_numbers_are_rounded_to_float32():
    x = np.array([[0.1, 1e-50, 16777217.0]])
    columns = [TableColumn(name=name) for name in "abc"]
    np.testing.assert_array_equal(apply([], x, columns, first=0), x.astype(np.float32))


def test_the_input_of_a_chain_is_not_changed():
    x = table_of(20)
    before = x.copy()
    chain = chains.transforms(chains.filled(CHAIN, TRAINING, pointer=""), pointer="")
    apply(chain, x, COLUMNS, first=0)
    np.testing.assert_array_equal(x, before)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**32), st.sampled_from([1, 2, 7]))
def test_every_partition_gives_the_same_bytes(count, seed, size):
    x = table_of(count, seed)
    components = chains.filled(CHAIN, TRAINING, pointer="")
    chain = chains.transforms(components, pointer="")
    whole = apply(chain, x, COLUMNS, first=0)
    made = chains.output_of(components, example_of(COLUMNS), pointer="")
    assert (whole.shape, whole.dtype.name) == ((count, *made.shape), made.dtype)
    parts = [apply(chain, x[i : i + size], COLUMNS, first=i) for i in range(0, count, size)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_a_cell_that_cannot_be_taken_is_named_as_people_count():
    x = np.array([[1.0, 0.0, 1.0], [1.0, 3.0, 1e200]])
    chain = [OneHot(categories={"tree": TEXTS[:3]})]
    with pytest.raises(SpecError) as caught:
        apply(chain, x, COLUMNS, first=10)
    assert str(caught.value) == (
        "row 12, column 'tree' holds 'ash', which is no category of one_hot ('oak', 'fir', 'elm'); "
        "name it there, or set unknown to 'zeros'"
    )
    with pytest.raises(SpecError, match=r"row 12, column 'age' becomes 1e\+200"):
        apply([], x, COLUMNS, first=10)


# --- what they say of an example


@pytest.mark.parametrize(
    ("component", "pointer", "words"),
    [
        (
            {"name": "impute", "values": {"hight": 1}},
            "/values",
            "'hight', which the table does not",
        ),
        ({"name": "impute", "values": {"hight": 1}}, "/values", "it has 'height', 'tree', 'age'"),
        ({"name": "impute", "values": {"tree": 1}}, "/values", "takes a text"),
        ({"name": "impute", "values": {"age": "1"}}, "/values", "takes a number"),
        ({"name": "one_hot", "categories": {"age": ["1"]}}, "/categories", "which holds numbers"),
        ({"name": "one_hot", "categories": {"a": ["1"]}}, "/categories", "'a', which the table"),
        ({"name": "one_hot", "categories": {"tree": ["oak"]}}, "", "put impute before one_hot"),
        (
            {"name": "standardize", "mean": {"tree": 1}, "std": {"tree": 1}},
            "/mean",
            "which holds text",
        ),
        (
            {"name": "standardize", "mean": {"height": 1}, "std": {"height": 1}},
            "",
            "put impute before standardize",
        ),
        ({"name": "impute"}, "", 'such as {"name": "impute", "dataset": "adult-train"}'),
        ({"name": "standardize", "dataset": "t"}, "/dataset", "those of dataset 't'"),
    ],
)
def test_a_transform_that_does_not_fit_the_columns_is_refused(component, pointer, words):
    error = refused_output([component])
    assert words in error.detail
    assert error.pointer == "/t/0" + pointer


def test_what_is_left_of_text_and_missing_cells_is_refused():
    assert "'height' has missing cells: add the transform impute" in refused_output([]).detail
    values = {"name": "impute", "values": {"height": 0}}
    assert "'tree' holds text: add the transform one_hot" in refused_output([values]).detail


@pytest.mark.parametrize("name", ["impute", "one_hot", "standardize"])
def test_examples_that_are_no_rows_of_a_table_are_refused(name):
    chain = [Component(name=name, parameters={})]
    with pytest.raises(SpecError, match=f"{name} works on the columns of a table") as caught:
        chains.output_of(chain, ExampleType(shape=(3,), dtype="float32"), pointer="/t")
    assert caught.value.pointer == "/t/0"


def test_columns_of_one_hot_do_not_take_the_name_of_another():
    columns = [TableColumn(name="a", categories=("x",)), TableColumn(name="a=x")]
    error = refused_output([{"name": "one_hot", "categories": {"a": ["x"]}}], columns)
    assert "the table has such a column already" in error.detail


def test_one_hot_makes_no_more_columns_than_are_taken():
    texts = tuple(map(str, range(10_000)))
    columns = [TableColumn(name=str(index), categories=texts) for index in range(11)]
    categories = {one.name: list(texts) for one in columns}
    error = refused_output([{"name": "one_hot", "categories": categories}], columns)
    assert "110000 columns; at most 100000" in error.detail


# --- constants


@pytest.mark.parametrize(
    ("component", "pointer", "words"),
    [
        ({"name": "impute", "values": {"a": 1}, "dataset": "t"}, "/dataset", "values or dataset"),
        ({"name": "one_hot", "categories": {}, "dataset": "t"}, "/dataset", "categories or"),
        ({"name": "standardize", "mean": {}, "std": {}, "dataset": "t"}, "/dataset", "mean or"),
        ({"name": "standardize", "mean": {"a": 1}}, "/std", "must name the same columns"),
        ({"name": "standardize", "mean": {"a": 1}, "std": {"b": 1}}, "/std", "the same columns"),
        ({"name": "standardize", "mean": {"a": 1}, "std": {"a": -1}}, "/std/a", "at least 0"),
        ({"name": "standardize", "mean": {"a": math.inf}, "std": {"a": 1}}, "/mean/a", "finite"),
        ({"name": "one_hot", "categories": {"a": ["x", "x"]}}, "/categories", "distinct"),
        ({"name": "one_hot", "categories": {"a": []}}, "/categories/a", "1 to 10000 entries"),
        ({"name": "one_hot", "unknown": "ignore"}, "/unknown", "one of error, zeros"),
        ({"name": "impute", "strategy": "mode"}, "/strategy", "one of mean, median"),
        ({"name": "impute", "values": {"a": None}}, "/values/a", "number or string"),
    ],
)
def test_constants_that_make_no_sense_are_refused(component, pointer, words):
    with pytest.raises(SpecError) as caught:
        chain_of(component)
    assert words in caught.value.detail
    assert caught.value.pointer == "/t/0" + pointer


def test_a_chain_is_filled_from_a_training_dataset():
    given = [
        Component(name="impute", parameters={"strategy": "median", "dataset": "forest"}),
        Component(name="one_hot", parameters={"unknown": "zeros"}),
        Component(name="standardize", parameters={"dataset": "forest@2"}),
        Component(name="to_float"),
    ]
    assert chains.references(given) == {0: "forest", 2: "forest@2"}
    filled = chains.filled(given, TRAINING, pointer="/t")
    assert [one.to_json() for one in filled] == [
        {
            "name": "impute",
            "values": {"height": 2.5, "tree": "fir", "age": 41.0},
            "strategy": "median",
            "dataset": None,
        },
        {
            "name": "one_hot",
            "categories": {"tree": ["ash", "elm", "fir", "oak"]},
            "unknown": "zeros",
            "dataset": None,
        },
        {
            "name": "standardize",
            "mean": {"height": 3.0, "age": 40.0},
            "std": {"height": 2.0, "age": 0.0},
            "dataset": None,
        },
        {"name": "to_float"},
    ]
    assert chains.references(filled) == {}
    assert chains.filled(filled, [], pointer="/t") == filled
    assert chains.output_of(filled, example_of(COLUMNS), pointer="") == ExampleType(
        shape=(6,), dtype="float32"
    )
    needing = [chains.transforms([one], pointer="")[0].needs_constants for one in given[:3]]
    assert needing == [True, True, True]


@pytest.mark.parametrize("name", ["impute", "standardize"])
def test_a_training_column_without_values_gives_no_constants(name):
    empty = {"name": "a", "kind": "number", "missing": 9, "mean": None, "std": None, "median": None}
    with pytest.raises(SpecError, match="'a' of the training dataset holds no values") as caught:
        chains.filled([Component(name=name)], [empty], pointer="/t")
    assert caught.value.pointer == "/t/0"


def test_constants_survive_the_wire():
    for component in chains.filled(CHAIN, TRAINING, pointer=""):
        kind = catalog.TRANSFORMS[component.name].parameters
        built = parameters.build(kind, component.parameters)
        assert parameters.to_json(built) == component.parameters


def test_the_nearest_names_are_listed_first():
    names = [f"column {index}" for index in range(30)]
    assert nearest_first("colum 7", names).startswith("'column 7', ")
    assert nearest_first("x", names).endswith(" and 10 more")
    assert nearest_first("LABEL", ["a", "label"]) == "'label', 'a'"
