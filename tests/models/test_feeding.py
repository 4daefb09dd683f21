"""Batches of a training: the same examples whether all of them fit or not."""

import threading

import numpy as np
import pytest
import torch

from models import chains, feeding
from models.spec import Component

ORDER = torch.tensor([4, 2, 7, 0, 9, 1, 3, 5, 8, 6])
SIZES = [4, 3, 3]


def chain(*names):
    return chains.transforms([Component(name=name) for name in names], pointer="")


@pytest.fixture
def examples():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (10, 2, 3), dtype=np.uint8), np.arange(10) % 3


def opened(examples, most_bytes, *, augmented=False, names=("to_float", "flatten")):
    return feeding.open_source(
        *examples, chain(*names), device="cpu", most_bytes=most_bytes, augmented=augmented
    )


def collected(source, order=ORDER):
    from models.transforms import elementwise

    return [
        (elementwise.apply(source.transforms, x), y, indices)
        for x, y, indices in source.epoch(order, SIZES)
    ]


@pytest.mark.parametrize(
    ("most_bytes", "kind", "left"),
    [(59, feeding.Streamed, 2), (60, feeding.Resident, 2), (300, feeding.Resident, 0)],
)
def test_what_fits_is_held_and_what_fits_transformed_is_transformed_once(
    examples, most_bytes, kind, left
):
    source = opened(examples, most_bytes)
    assert isinstance(source, kind)
    assert len(source.transforms) == left


def test_what_is_augmented_is_never_transformed_before(examples):
    assert len(opened(examples, 10**6, augmented=True).transforms) == 2


@pytest.mark.parametrize("most_bytes", [0, 60, 300])
def test_every_example_comes_once_and_in_the_order_that_was_asked_for(examples, most_bytes):
    x, y = examples
    found = collected(opened(examples, most_bytes))
    assert [len(batch[0]) for batch in found] == SIZES
    assert torch.equal(torch.cat([batch[2] for batch in found]), ORDER)
    assert torch.equal(torch.cat([batch[1] for batch in found]), torch.from_numpy(y)[ORDER])
    expected = torch.from_numpy(x)[ORDER].flatten(1) / 255
    assert torch.equal(torch.cat([batch[0] for batch in found]), expected)


def test_a_reader_whose_batches_nobody_takes_any_more_ends(examples):
    before = threading.active_count()
    source = opened(examples, 0)
    for _ in range(3):
        batches = source.epoch(torch.arange(10), [1] * 10)
        next(batches)
        batches.close()
    assert threading.active_count() == before


def test_an_error_of_the_reader_is_raised_where_its_batches_are_taken(examples):
    source = opened(examples, 0)
    batches = source.epoch(torch.tensor([0, 99]), [1, 1])
    next(batches)
    with pytest.raises(IndexError):
        next(batches)


def test_waiting_for_data_is_counted(examples):
    source = opened(examples, 0)
    collected(source)
    assert source.waited_s > 0
    held = opened(examples, 300)
    collected(held)
    assert held.waited_s == 0
