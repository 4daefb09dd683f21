"""A dataset in two parts: shares, seeds, equal examples, and what each part holds."""

import io

import numpy as np
import pytest

from models.datasets import Dataset
from models.datasets.splitting import divide, found, write_part
from models.spec import SpecError
from tests.models.conftest import accepted

RANDOM = np.random.default_rng(4)


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@pytest.fixture
def dataset(take):
    x = RANDOM.normal(size=(1000, 3)).astype(np.float32)
    y = np.repeat([0, 1, 2], [700, 250, 50])
    accepted(take(npz(x=x, y=y, groups=np.arange(1000) % 2)))
    return Dataset(take.path)


def test_the_parts_are_the_whole_and_each_class_keeps_its_share(dataset):
    train, validation = divide(dataset, fraction=0.2, seed=0, stratify=True)
    assert sorted([*train, *validation]) == list(range(1000))
    assert np.bincount(dataset.y[validation]).tolist() == [140, 50, 10]
    assert (np.diff(train) > 0).all()


def test_the_seed_alone_decides_which_examples_they_are(dataset):
    one, same, other = (
        divide(dataset, fraction=0.2, seed=seed, stratify=True)[1] for seed in (3, 3, 4)
    )
    assert one.tolist() == same.tolist()
    assert one.tolist() != other.tolist()
    assert 20 < len(np.intersect1d(one, other)) < 70  # 40 by chance


def test_without_stratification_the_share_of_the_whole_is_kept(dataset):
    _, validation = divide(dataset, fraction=0.3, seed=1, stratify=False)
    assert len(validation) == 300
    assert np.bincount(dataset.y[validation]).tolist() != [210, 75, 15]


def test_equal_examples_stay_together(take):
    x = np.repeat(RANDOM.normal(size=(100, 3)), np.arange(1, 101), axis=0).astype(np.float32)
    accepted(take(npz(x=x, y=np.arange(len(x)) % 2), max_examples=10_000))
    dataset = Dataset(take.path)
    train, validation = divide(dataset, fraction=0.25, seed=0, stratify=False)
    assert not set(map(bytes, x[train])) & set(map(bytes, x[validation]))
    assert len(validation) == pytest.approx(0.25 * len(x), abs=100)


def test_a_part_that_would_be_empty_is_refused(take):
    accepted(take(npz(x=np.eye(3, dtype=np.float32), y=np.arange(3) % 2)))
    dataset = Dataset(take.path)
    with pytest.raises(SpecError, match="validation part of 3 examples would be empty"):
        divide(dataset, fraction=0.01, seed=0, stratify=False)
    with pytest.raises(SpecError, match="training part"):
        divide(dataset, fraction=0.99, seed=0, stratify=False)
    with pytest.raises(SpecError, match=r"leaves 3 to choose from; .* set stratify to false"):
        divide(dataset, fraction=0.2, seed=0, stratify=True)


def test_examples_that_are_all_equal_cannot_be_divided(take):
    accepted(take(npz(x=np.ones((8, 2), np.float32), y=np.arange(8) % 2)))
    with pytest.raises(SpecError, match="Equal examples stay together, which leaves 1 to choose"):
        divide(Dataset(take.path), fraction=0.5, seed=0, stratify=False)


def test_a_part_holds_its_examples_with_everything_that_belongs_to_them(dataset, tmp_path):
    indices = np.array([2, 500, 720, 999])
    with open(tmp_path / "part", "w+b") as file:
        size = write_part(dataset, indices, file.fileno())
    assert (tmp_path / "part").stat().st_size == size
    part = Dataset(tmp_path / "part")
    for name in ("x", "y", "hashes"):
        np.testing.assert_array_equal(getattr(part, name), getattr(dataset, name)[indices])
    assert part.classes == dataset.classes
    np.testing.assert_array_equal(part.groups["groups"][0], [0, 0, 0, 1])
    whole = {"format": "npz", "positive_class": None, "input": {"kind": "array"}}
    assert found(part, whole, {"transforms": []}) == {
        "format": "npz",
        "examples": 4,
        "classes": ["0", "1", "2"],
        "positive_class": None,
        "class_counts": {"0": 2, "1": 1, "2": 1},
        "groups": {"groups": {"0": 3, "1": 1}},
        "input": {"kind": "array"},
        "duplicates": 0,
        "transforms": [],
    }


def test_labels_that_go_together_are_divided_together(take):
    y = np.repeat([[1, 0, 0], [1, 1, 0], [0, 0, 1]], [500, 300, 200], axis=0)
    x = RANDOM.normal(size=(1000, 2)).astype(np.float32)
    answer = accepted(take(npz(x=x, y=y), task="multilabel", classes=["a", "b", "c"]))
    assert answer["class_counts"] == {"a": 800, "b": 300, "c": 200}
    dataset = Dataset(take.path)
    _, validation = divide(dataset, fraction=0.1, seed=0, stratify=True)
    assert dataset.y[validation].sum(axis=0).tolist() == [80, 30, 20]
