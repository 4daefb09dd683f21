"""Early stopping and the best epoch, beside tables that were worked out by hand."""

import json
import math

import pytest

from models.optimization.stopping import Best, EarlyStopping
from models.spec import EarlyStopping as Given
from models.spec import SpecError

NAN = math.nan

# value of each epoch, and whether it is the last
TABLES = {
    "three epochs without a lower loss": (
        "loss",
        {"patience": 3},
        [(1.0, False), (0.8, False), (0.9, False), (0.8, False), (0.85, True)],
    ),
    "an improvement starts the count anew": (
        "loss",
        {"patience": 2},
        [(1.0, False), (1.1, False), (0.9, False), (0.95, False), (0.96, True)],
    ),
    "less than min_delta is none": (
        "loss",
        {"patience": 2, "min_delta": 0.1},
        [(1.0, False), (0.95, False), (0.92, True)],
    ),
    "small steps add up from the last improvement": (
        "loss",
        {"patience": 3, "min_delta": 0.1},
        [(1.0, False), (0.95, False), (0.89, False), (0.85, False), (0.8, False), (0.78, False)],
    ),
    "exactly min_delta is none": (
        "loss",
        {"patience": 1, "min_delta": 0.25},
        [(1.0, False), (0.75, True)],
    ),
    "accuracy rises": (
        "accuracy",
        {"patience": 2},
        [(0.5, False), (0.6, False), (0.6, False), (0.55, True)],
    ),
    "nan is no improvement": (
        "loss",
        {"patience": 2},
        [(1.0, False), (NAN, False), (NAN, True)],
    ),
    "nan first": ("f1", {"patience": 2}, [(NAN, False), (0.1, False), (NAN, False), (0.1, True)]),
    "patience of one": ("loss", {"patience": 1}, [(1.0, False), (0.9, False), (0.9, True)]),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_training_stops_where_the_table_says(case):
    metric, given, table = TABLES[case]
    stopping = EarlyStopping(Given(**given), metric)
    assert [stopping.update(value) for value, _ in table] == [last for _, last in table]


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("case", TABLES)
def test_what_goes_on_from_its_state_stops_at_the_same_epoch(case, cut):
    metric, given, table = TABLES[case]
    first, second = (EarlyStopping(Given(**given), metric) for _ in range(2))
    answers = [first.update(value) for value, _ in table[:cut]]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    answers += [second.update(value) for value, _ in table[cut:]]
    assert answers == [last for _, last in table]


def test_without_early_stopping_nothing_stops():
    stopping = EarlyStopping(None, "loss")
    assert not any(stopping.update(float(value)) for value in range(100))


@pytest.mark.parametrize(
    ("metric", "values", "epoch"),
    [
        ("loss", [0.5, 0.3, 0.4], 2),
        ("accuracy", [0.5, 0.3, 0.4], 1),
        ("accuracy", [0.5, 0.9, 0.9], 2),
        ("loss", [NAN, 0.9, 0.9], 2),
        ("f1", [0.0, NAN, NAN], 1),
        ("loss", [NAN, NAN], None),
    ],
)
def test_the_best_epoch_is_the_first_of_those_with_the_best_value(metric, values, epoch):
    best = Best(metric)
    for number, value in enumerate(values, 1):
        other = Best(metric)
        other.load_state_dict(json.loads(json.dumps(best.state_dict())))
        assert other.update(number, value) == best.update(number, value)
        assert (other.epoch, other.state_dict()) == (best.epoch, best.state_dict())
    assert best.epoch == epoch
    assert epoch is None or best.value == values[epoch - 1]


@pytest.mark.parametrize(("name", "value"), [("patience", 0), ("min_delta", -0.1)])
def test_wrong_terms_are_refused_by_name(name, value):
    with pytest.raises(SpecError, match=f"{name} must be between") as caught:
        Given(**{name: value})
    assert caught.value.pointer == f"/{name}"
