"""Colours, noise and erasing against colorsys, formulas in float64, and scipy's distributions."""

import colorsys
import math

import numpy as np
import pytest
import torch
from scipy import stats

from models.augmentations import ColorJitter, GaussianNoise, RandomErasing
from models.augmentations.batches import apply

WEIGHTS = np.array([0.299, 0.587, 0.114]).reshape(3, 1, 1)  # ITU-R BT.601


def images(dtype, shape, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.random(shape, dtype=np.float32)


def applied(augmentation, batch):
    indices = torch.arange(len(batch))
    found, _ = apply(
        [augmentation], torch.from_numpy(batch), indices, seed=7, epoch=3, indices=indices
    )
    assert found.numpy().dtype == batch.dtype
    return found.numpy()


def grey(image):
    return (image * WEIGHTS).sum(axis=0, keepdims=True) if len(image) == 3 else image


def turned(image, shift):
    """Each pixel's hue turned, by the standard library."""
    result = np.empty_like(image)
    for y, x in np.ndindex(image.shape[1:]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[:, y, x])
        result[:, y, x] = colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)
    return result


FORMULAS = {
    "brightness": lambda image, factor: image * factor,
    "contrast": lambda image, factor: image * factor + grey(image).mean() * (1 - factor),
    "saturation": lambda image, factor: image * factor + grey(image) * (1 - factor),
    "hue": turned,
}


def compare(word, batch, parameters, intervals):
    """Hold what comes out against the formulas, applied in the order that the draws say."""
    found = applied(parameters, batch)
    full = 255 if batch.dtype == np.uint8 else 1
    for n in range(len(batch)):
        names = sorted(intervals, key=lambda name: word(n, 2 * list(FORMULAS).index(name) + 1))
        expected = batch[n].astype(np.float64) / full
        for name in names:
            low, high = intervals[name]
            factor = low + (high - low) * word(n, 2 * list(FORMULAS).index(name)) / 2**32
            expected = FORMULAS[name](expected, factor).clip(0, 1)
        error = np.abs(found[n] - expected * full).max()
        assert error < (0.5 + 1e-3 if full == 255 else 2e-6)


CHANGES = [
    ("brightness", 0.4, (0.6, 1.4)),
    ("brightness", 3.0, (0.0, 4.0)),
    ("brightness", (0.2, 0.3), (0.2, 0.3)),
    ("contrast", 0.5, (0.5, 1.5)),
    ("contrast", (0.0, 0.0), (0.0, 0.0)),
    ("contrast", (2.0, 3.0), (2.0, 3.0)),
    ("saturation", 0.9, (0.1, 1.9)),
    ("saturation", (0.0, 0.0), (0.0, 0.0)),
    ("hue", 0.5, (-0.5, 0.5)),
    ("hue", (0.1, 0.3), (0.1, 0.3)),
]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("channels", "name", "given", "interval"),
    [(3, *change) for change in CHANGES] + [(1, *change) for change in CHANGES[:6]],
)
def test_each_change_of_colour_is_its_formula(word, dtype, channels, name, given, interval):
    parameters = ColorJitter(**{name: given})
    compare(word, images(dtype, (20, channels, 5, 6)), parameters, {name: interval})


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_changes_of_colour_come_in_the_order_that_each_example_draws(word, dtype):
    parameters = ColorJitter(brightness=0.8, contrast=0.9, saturation=0.9, hue=0.4)
    intervals = {
        "brightness": (1 - 0.8, 1.8),
        "contrast": (1 - 0.9, 1.9),
        "saturation": (1 - 0.9, 1.9),
        "hue": (-0.4, 0.4),
    }
    compare(word, images(dtype, (120, 3, 4, 4)), parameters, intervals)
    intervals.pop("contrast")
    parameters = ColorJitter(brightness=0.8, saturation=0.9, hue=0.4)
    compare(word, images(dtype, (20, 3, 4, 4)), parameters, intervals)


@pytest.mark.usefixtures("numerics")
def test_the_mean_of_a_large_image_has_the_same_bytes_in_any_batch_and_number_of_threads():
    batch, contrast = images("float32", (8, 3, 181, 193)), ColorJitter(contrast=0.5)
    torch.set_num_threads(2)
    whole = applied(contrast, batch)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for size in (1, 3):
            assert applied(contrast, batch[:size]).tobytes() == whole[:size].tobytes()


def test_hues_of_pure_colours_and_of_greys():
    colours = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1], [0.3] * 3, [0] * 3],
        np.float32,
    )
    third = applied(ColorJitter(hue=(1 / 3, 1 / 3)), colours[:, :, None, None])[:, :, 0, 0]
    expected = colours[[1, 2, 0, 4, 5, 3, 6, 7]]
    np.testing.assert_allclose(third, expected, atol=1e-6)


def test_color_jitter_without_any_change_changes_nothing():
    for batch in (images("uint8", (4, 3, 5, 5)), images("float32", (4, 3, 5, 5)) * 9 - 4):
        given = ColorJitter(brightness=0.0, contrast=(1.0, 1.0), saturation=0.0, hue=0.0)
        np.testing.assert_array_equal(applied(given, batch), batch)


def test_light_beyond_full_scale_is_cut_off_by_color_jitter():
    batch = np.array([[[[-1.0, 0.25, 3.0]]]], np.float32)
    found = applied(ColorJitter(brightness=(2.0, 2.0)), batch)
    assert found.ravel().tolist() == [0.0, 0.5, 1.0]


def test_noise_is_normal_and_independent():
    batch = np.zeros((64, 3, 32, 33), np.float32)
    noise = applied(GaussianNoise(std=0.5), batch) / np.float32(0.5)
    values = noise.ravel().astype(np.float64)
    count = len(values)
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert abs(values.mean()) < 4 / count**0.5
    assert abs(values.var() - 1) < 4 * (2 / count) ** 0.5
    assert abs(stats.kurtosis(values)) < 4 * (24 / count) ** 0.5
    for bound in (3.0, 4.0):
        beyond = int((np.abs(values) > bound).sum())
        assert stats.binomtest(beyond, count, 2 * stats.norm.sf(bound)).pvalue > 1e-3
    lagged = [(noise[..., 1:], noise[..., :-1]), (noise[..., 1:, :], noise[..., :-1, :])]
    lagged += [(noise[:, 1:], noise[:, :-1]), (noise[1:], noise[:-1])]
    flat = noise.reshape(64, -1)
    lagged += [(flat[:, : flat.shape[1] // 2], flat[:, flat.shape[1] // 2 :])]
    for one, other in lagged:
        for power in (1, 2):
            found = stats.pearsonr(one.ravel() ** power, other.ravel() ** power).statistic
            assert abs(found) < 4 / one.size**0.5


def test_noise_of_uint8_is_a_fraction_of_255_and_stops_at_the_ends():
    batch = np.full((50, 1, 20, 20), 128, np.uint8)
    found = applied(GaussianNoise(std=0.1), batch).astype(np.float64)
    assert found.std() == pytest.approx(math.hypot(25.5, 12**-0.5), rel=0.02)
    ends = applied(GaussianNoise(std=5.0), batch)
    assert (
        stats.binomtest(int((ends == 255).sum()), ends.size, stats.norm.sf(127 / 1275)).pvalue
        > 1e-3
    )
    assert (ends == 0).any()


@pytest.mark.parametrize("shape", [(7,), (2, 5), (3, 4, 5), ()])
def test_noise_takes_examples_of_any_shape_and_leaves_those_that_are_not_chosen(word, shape):
    batch = images("float32", (200, *shape))
    found = applied(GaussianNoise(std=0.3, p=0.25), batch)
    for n in range(200):
        changed = word(n, 0) / 2**32 < 0.25
        assert (found[n] != batch[n]).all() == changed
        assert (found[n] == batch[n]).all() != changed
    assert applied(GaussianNoise(p=0.0), batch).tobytes() == batch.tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("shape", "scale", "ratio", "value"),
    [
        ((32, 32), (0.02, 0.33), (0.3, 3.3), 0.0),
        ((20, 31), (0.2, 0.9), (0.3, 3.3), (0.2, 0.4, 0.6)),
        ((9, 60), (0.5, 1.0), (1.0, 2.0), 1.0),
        ((12, 12), (1.0, 1.0), (1.0, 1.0), 0.4),
        ((12, 12), (0.0, 0.0), (1.0, 1.0), 0.4),
    ],
)
def test_a_rectangle_is_erased_that_the_draws_say(word, dtype, shape, scale, ratio, value):
    batch = images(dtype, (60, 3, *shape))
    found = applied(RandomErasing(p=0.7, scale=scale, ratio=ratio, value=value), batch)
    height, width = shape
    levels = np.broadcast_to(np.array(value, np.float32), 3)
    if dtype == "uint8":
        levels = np.round(levels * 255).astype(np.uint8)
    for n in range(60):
        expected = batch[n].copy()
        for attempt in range(10 if word(n, 0) / 2**32 < 0.7 else 0):
            share = ((word(n, 1 + attempt) >> 16) + 0.5) / 65536
            area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
            share = ((word(n, 11 + attempt) >> 16) + 0.5) / 65536
            low, high = map(math.log, ratio)
            aspect = math.exp(low + (high - low) * share)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 1 <= h <= height and 1 <= w <= width:
                top = word(n, 21) * (height - h + 1) >> 32
                left = word(n, 22) * (width - w + 1) >> 32
                expected[:, top : top + h, left : left + w] = levels[:, None, None]
                break
        np.testing.assert_array_equal(found[n], expected)


def test_erasing_is_as_frequent_as_it_should_be():
    batch = np.ones((5000, 1, 8, 8), np.float32)
    for p in (0.0, 0.25, 1.0):
        erased = applied(RandomErasing(p=p, scale=(0.1, 0.2)), batch).min(axis=(1, 2, 3)) == 0
        assert stats.binomtest(int(erased.sum()), 5000, p).pvalue > 1e-3
