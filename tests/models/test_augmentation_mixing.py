"""Mixup and cutmix against formulas in float64 and scipy's Beta distribution."""

import numpy as np
import pytest
import torch
from scipy import stats

from models.augmentations import CutMix, MixUp
from models.augmentations.batches import apply


def batch_of(dtype, shape, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.normal(size=shape).astype(np.float32)


def applied(augmentation, batch, targets):
    batch, targets = apply(
        [augmentation],
        torch.from_numpy(batch),
        torch.from_numpy(targets),
        seed=7,
        epoch=3,
        indices=torch.arange(len(batch)),
    )
    return batch.numpy(), targets.numpy()


def probabilities(count, classes=4, seed=1):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(classes), size=count).astype(np.float32)


def kept(word, index, alpha):
    share = ((word(index, 1) >> 16) + 0.5) / 65536
    return stats.beta(alpha, alpha).ppf(share)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(5,), (3, 6, 4), ()])
@pytest.mark.parametrize(("alpha", "p"), [(1.0, 1.0), (0.2, 1.0), (8.0, 0.5)])
def test_mixup_weights_an_example_with_the_next_of_the_batch(word, dtype, shape, alpha, p):
    batch, targets = batch_of(dtype, (40, *shape)), probabilities(40)
    mixed, mixed_targets = applied(MixUp(alpha=alpha, p=p), batch, targets)
    assert mixed.dtype == dtype
    for n in range(40):
        b = kept(word, n, alpha) if word(n, 0) / 2**32 < p else 1.0
        partner = (n + 1) % 40
        expected = b * batch[n].astype(np.float64) + (1 - b) * batch[partner]
        assert np.abs(mixed[n] - expected).max() < (0.5 + 1e-3 if dtype == "uint8" else 1e-5)
        expected = b * targets[n].astype(np.float64) + (1 - b) * targets[partner]
        np.testing.assert_allclose(mixed_targets[n], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(16, 16), (7, 30), (1, 1)])
@pytest.mark.parametrize(("alpha", "p"), [(1.0, 1.0), (0.3, 0.5)])
def test_cutmix_pastes_torchvisions_rectangle_of_the_next_image(word, dtype, shape, alpha, p):
    batch, targets = batch_of(dtype, (40, 3, *shape)), probabilities(40)
    mixed, mixed_targets = applied(CutMix(alpha=alpha, p=p), batch, targets)
    height, width = shape
    for n in range(40):
        expected, share, partner = batch[n].copy(), 1.0, (n + 1) % 40
        if word(n, 0) / 2**32 < p:
            side = 0.5 * np.sqrt(1 - kept(word, n, alpha))
            row, column = word(n, 2) * height >> 32, word(n, 3) * width >> 32
            high, wide = int(side * height), int(side * width)
            rows = slice(max(0, row - high), min(height, row + high))
            columns = slice(max(0, column - wide), min(width, column + wide))
            expected[:, rows, columns] = batch[partner][:, rows, columns]
            pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
            share = 1 - pasted / (height * width)
        np.testing.assert_array_equal(mixed[n], expected)
        expected = share * targets[n].astype(np.float64) + (1 - share) * targets[partner]
        np.testing.assert_allclose(mixed_targets[n], expected, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.4, 1.0, 2.0, 20.0])
def test_the_share_that_stays_has_the_beta_distribution(alpha):
    # one example is 1 and its partner 0, so that what comes out is the share itself
    batch = np.tile(np.array([1.0, 0.0], np.float32), 50_000)
    mixed, targets = applied(MixUp(alpha=alpha), batch, np.stack([batch, 1 - batch], axis=1))
    shares = mixed[::2].astype(np.float64)
    law = stats.beta(alpha, alpha)
    # by halves, for float32 cannot tell the largest shares of a small alpha from 1
    assert stats.binomtest(int((shares < 0.5).sum()), 50_000).pvalue > 1e-3
    assert stats.kstest(shares[shares < 0.5], lambda x: 2 * law.cdf(x)).pvalue > 1e-3
    np.testing.assert_array_equal(targets[::2, 0], mixed[::2])
    assert abs(stats.pearsonr(shares[1:], shares[:-1]).statistic) < 4 / 50_000**0.5


@pytest.mark.parametrize("kind", [MixUp, CutMix])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_probabilities_stay_probabilities_and_p_0_changes_nothing(kind, dtype):
    batch = batch_of(dtype, (30, 1, 5, 5))
    batch[0] = 0
    targets = np.eye(4, dtype=np.float32)[np.arange(30) % 4]
    _, mixed = applied(kind(alpha=0.4), batch, targets)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-6)
    assert mixed.min() >= 0
    assert ((mixed > 0).sum(axis=1) == 2).any()
    same, same_targets = applied(kind(p=0.0), batch, targets)
    assert same.tobytes() == batch.tobytes()
    assert same_targets.tobytes() == targets.tobytes()


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_an_example_alone_in_its_batch_is_its_own_partner(kind):
    batch, targets = batch_of("float32", (1, 2, 6, 6)), probabilities(1)
    mixed, mixed_targets = applied(kind(), batch, targets)
    np.testing.assert_allclose(mixed, batch, rtol=1e-6)
    np.testing.assert_allclose(mixed_targets, targets, rtol=1e-6)
