"""The draws of augmentations: exact against Python's whole numbers, random against scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from models.augmentations import quantiles
from models.augmentations.draws import Draws, below, chosen, fractions, splitmix64

CPU = torch.device("cpu")
COUNT = 1 << 16
AXES = ("seed", "epoch", "index", "position", "number")
BASES = (
    {"seed": 0, "epoch": 0, "index": 0, "position": 0, "number": 0},
    {"seed": 2**63 + 12345, "epoch": 17, "index": 999_983, "position": 5, "number": 301},
)


def unsigned(bits):
    return bits.numpy().view(np.uint64)


def test_the_generator_gives_the_published_outputs_of_splitmix64():
    found = splitmix64(torch.tensor([1234567]), torch.arange(5))
    assert unsigned(found).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 300),
    indices=st.lists(st.integers(0, 300), min_size=1, max_size=5),
    position=st.integers(0, 9),
)
def test_every_draw_is_the_one_that_whole_numbers_give(draw, seed, epoch, indices, position):
    draws = Draws.start(seed=seed, epoch=epoch, indices=torch.tensor(indices)).at(position)
    expected = [[draw(seed, epoch, index, position, n) for n in range(7)] for index in indices]
    assert unsigned(draws.bits(7)).tolist() == expected
    assert draws.words(7).tolist() == [[bits >> 32 for bits in row] for row in expected]


def test_words_become_exact_fractions_and_unbiased_whole_numbers():
    words = torch.tensor([0, 1, 2**31, 2**32 - 1])
    assert fractions(words).tolist() == [0.0, 2.0**-32, 0.5, 1 - 2.0**-32]
    assert below(words, 10).tolist() == [0, 0, 5, 9]
    assert below(words, torch.tensor([1, 2**31 - 1, 3, 7])).tolist() == [0, 0, 1, 6]
    assert chosen(words, 0.0).tolist() == [False] * 4
    assert chosen(words, 1.0).tolist() == [True] * 4
    assert chosen(words, 0.5).tolist() == [True, True, False, False]


def along(axis, base, start=0):
    """Draws at neighbouring values of one of the five, the others fixed."""
    places = {name: torch.full((COUNT,), value) for name, value in (base | {"seed": 0}).items()}
    states = torch.full((COUNT,), (base["seed"] + 2**63) % 2**64 - 2**63)
    steps = torch.arange(start, start + COUNT)
    if axis == "seed":
        states = states + steps
    else:
        places[axis] = places[axis] + steps
    for name in AXES[1:]:
        states = splitmix64(states, places[name])
    return unsigned(states)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("axis", AXES)
def test_every_byte_is_uniform_along_each_axis(axis, base):
    for byte in along(axis, base).view(np.uint8).reshape(COUNT, 8).T:
        assert stats.chisquare(np.bincount(byte, minlength=256)).pvalue > 1e-4
    assert stats.kstest(along(axis, base) / 2.0**64, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("distance", [1, 2, 64])
def test_neighbours_along_each_axis_are_independent(axis, base, distance):
    first, second = along(axis, base), along(axis, base, start=distance)
    assert abs(stats.pearsonr(first / 2.0**64, second / 2.0**64).statistic) < 4 / COUNT**0.5
    pairs = (first >> np.uint64(60)) * np.uint64(16) + (second >> np.uint64(60))
    assert stats.chisquare(np.bincount(pairs.astype(np.int64), minlength=256)).pvalue > 1e-4
    # every bit with every other: 4096 correlations, each normal with deviation 1 / sqrt(COUNT)
    one, two = (
        np.unpackbits(bits.view(np.uint8).reshape(COUNT, 8), axis=1) * np.float64(2) - 1
        for bits in (first, second)
    )
    correlations = (one.T @ two / COUNT**0.5).ravel()
    assert np.abs(correlations).max() < 5.5
    assert stats.kstest(correlations, "norm").pvalue > 1e-4


@pytest.mark.parametrize(("one", "other"), [(a, b) for a in AXES for b in AXES if a < b])
def test_the_same_step_along_two_axes_gives_unrelated_draws(one, other):
    first, second = (along(axis, BASES[1], start=1) / 2.0**64 for axis in (one, other))
    assert abs(stats.pearsonr(first, second).statistic) < 4 / COUNT**0.5


def test_a_table_is_picked_from_by_the_upper_bits():
    words = torch.tensor([0, 2**16 - 1, 2**16, 2**32 - 1])
    table = torch.arange(quantiles.COUNT)
    assert quantiles.picked(table, words).tolist() == [0, 0, 1, quantiles.COUNT - 1]


MIDDLES = (np.arange(quantiles.COUNT) + 0.5) / quantiles.COUNT


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.2, 0.4, 0.5, 1.0, 1.5, 8.0, 100.0, 1000.0])
def test_the_quantiles_of_beta_are_those_of_scipy(alpha):
    table = quantiles.beta(alpha, CPU).numpy()
    law = stats.beta(alpha, alpha)
    lower = table < 0.5  # where a float64 resolves small probabilities
    np.testing.assert_array_equal(lower, MIDDLES < 0.5)
    there = table[lower] > 1e-300  # a float64 holds nothing much smaller
    np.testing.assert_allclose(law.cdf(table[lower])[there], MIDDLES[lower][there], atol=1e-8)
    assert law.ppf(MIDDLES[lower])[~there].max(initial=0) < 1.1e-300
    np.testing.assert_allclose(table + table[::-1], 1, atol=1e-15)
    roots = quantiles.roots_beta(alpha, CPU).numpy()
    np.testing.assert_allclose(roots**2, 1 - table, atol=1e-15)


@pytest.mark.parametrize("alpha", [0.001, 1000.0])
def test_the_quantiles_of_beta_are_finite_for_every_alpha_that_may_be_asked_for(alpha):
    table = quantiles.beta(alpha, CPU)
    assert table.isfinite().all()
    assert (table.diff() >= 0).all()
    assert 0 <= table[0] < 0.5 < table[-1] <= 1


def test_the_other_quantiles_are_those_of_their_distribution():
    np.testing.assert_allclose(
        quantiles.normal(CPU), stats.norm.ppf(MIDDLES, scale=0.5**0.5), rtol=1e-6, atol=1e-7
    )
    angles = np.radians(stats.uniform(-30, 75).ppf(MIDDLES))
    cosine, sine = quantiles.directions(-30.0, 45.0, CPU).numpy().T
    np.testing.assert_allclose(np.arctan2(sine, cosine), angles, atol=1e-14)
    roots = quantiles.roots_uniform(0.08, 1.0, CPU).numpy()
    np.testing.assert_allclose(roots**2, stats.uniform(0.08, 0.92).ppf(MIDDLES), rtol=1e-14)
    roots = quantiles.roots_loguniform(0.3, 3.3, CPU).numpy()
    np.testing.assert_allclose(roots**2, stats.loguniform(0.3, 3.3).ppf(MIDDLES), rtol=1e-13)
