"""Crops, flips and rotation against numpy's slices, scipy and PyTorch's ``interpolate``."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from models.augmentations import (
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    boxes,
)
from models.augmentations.batches import apply
from models.augmentations.draws import Draws

SEED, EPOCH = 7, 3  # those of the fixture word


def images(dtype, shape, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return rng.random(shape, dtype=np.float32)


def applied(augmentation, batch, indices=None):
    indices = torch.arange(len(batch)) if indices is None else torch.tensor(indices)
    found, _ = apply(
        [augmentation], torch.from_numpy(batch), indices, seed=SEED, epoch=EPOCH, indices=indices
    )
    assert found.numpy().dtype == batch.dtype
    return found.numpy()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("size", "padding", "sides", "fill"),
    [
        (5, 0, (0, 0, 0, 0), 0.0),
        ((7, 3), 0, (0, 0, 0, 0), 0.0),
        ((11, 9), 0, (0, 0, 0, 0), 0.0),
        (8, 4, (4, 4, 4, 4), 0.2),
        ((9, 12), (2,), (2, 2, 2, 2), (0.2, 0.4, 1.0)),
        ((4, 8), (3, 1), (3, 1, 3, 1), (0.6,)),
        ((13, 10), (1, 2, 0, 5), (1, 2, 0, 5), (0.0, 1.0, 0.8)),
        ((31, 29), 10, (10, 10, 10, 10), 0.4),
    ],
)
def test_a_random_crop_is_a_slice_of_the_padded_image(word, dtype, size, padding, sides, fill):
    batch = images(dtype, (40, 3, 11, 9))
    indices = [index * 37 for index in range(40)]
    found = applied(RandomCrop(size=size, padding=padding, fill=fill), batch, indices)
    height, width = size if isinstance(size, tuple) else (size, size)
    left, top, right, bottom = sides
    levels = np.broadcast_to(np.array(fill, np.float32), 3)
    if dtype == "uint8":
        levels = np.round(levels * 255).astype(np.uint8)
    padded = np.empty((40, 3, 11 + top + bottom, 9 + left + right), batch.dtype)
    padded[:] = levels[:, None, None]
    padded[:, :, top : top + 11, left : left + 9] = batch
    for n, index in enumerate(indices):
        row = word(index, 0) * (padded.shape[2] - height + 1) >> 32
        column = word(index, 1) * (padded.shape[3] - width + 1) >> 32
        expected = padded[n, :, row : row + height, column : column + width]
        assert found[n].tobytes() == expected.tobytes()


def test_every_place_of_a_random_crop_is_equally_likely():
    places = np.arange(30, dtype=np.uint8).reshape(1, 1, 6, 5).repeat(20_000, axis=0)
    found = applied(RandomCrop(size=(3, 2)), places)[:, 0, 0, 0]
    counts = np.bincount(found, minlength=30).reshape(6, 5)
    assert counts[4:].sum() == counts[:, 4:].sum() == 0
    assert stats.chisquare(counts[:4, :4].ravel()).pvalue > 1e-3


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(("kind", "axis"), [(RandomHorizontalFlip, 2), (RandomVerticalFlip, 1)])
def test_a_flip_turns_round_those_that_their_draw_says(word, dtype, kind, axis):
    batch = images(dtype, (64, 2, 5, 4))
    found = applied(kind(p=0.3), batch)
    for n in range(64):
        expected = np.flip(batch[n], axis) if word(n, 0) / 2**32 < 0.3 else batch[n]
        np.testing.assert_array_equal(found[n], expected)
    np.testing.assert_array_equal(applied(kind(p=0.0), batch), batch)
    np.testing.assert_array_equal(applied(kind(p=1.0), batch), np.flip(batch, axis + 1))


@pytest.mark.parametrize("kind", [RandomHorizontalFlip, RandomVerticalFlip])
def test_a_flip_is_as_frequent_as_it_should_be(kind):
    corners = np.array([[0, 1], [2, 3]], np.uint8).reshape(1, 1, 2, 2).repeat(10_000, axis=0)
    for p in (0.5, 0.1):
        flipped = int((applied(kind(p=p), corners)[:, 0, 0, 0] != 0).sum())
        assert stats.binomtest(flipped, 10_000, p).pvalue > 1e-3


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (270, 3), (-90, -1), (360, 0)])
@pytest.mark.parametrize("size", [6, 7])
def test_a_rotation_by_right_angles_is_counter_clockwise_and_exact(dtype, degrees, turns, size):
    batch = images(dtype, (3, 3, size, size))
    found = applied(RandomRotation(degrees=(float(degrees), float(degrees)), fill=0.5), batch)
    np.testing.assert_array_equal(found, np.rot90(batch, turns, axes=(2, 3)))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(24, 24), (25, 25), (20, 31)])
def test_a_rotation_is_that_of_scipy_inside_and_the_fill_outside(word, dtype, shape):
    batch = images(dtype, (30, 2, *shape))
    found = applied(RandomRotation(degrees=(-40.0, 170.0), fill=(0.2, 0.8)), batch)
    full = 255 if dtype == "uint8" else 1
    height, width = shape
    y, x = np.mgrid[:height, :width]
    radius = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    inside = radius <= min(shape) / 2 - 1
    corners = radius > np.hypot(height, width) / 2 - 1
    for n in range(30):
        angle = -40 + 210 * ((word(n, 0) >> 16) + 0.5) / 65536
        turned = ndimage.rotate(batch[n], angle, axes=(2, 1), reshape=False, order=0)
        np.testing.assert_array_equal(found[n][:, inside], turned[:, inside])
        if 25 < angle % 90 < 65 and height == width:
            expected = np.array([[0.2], [0.8]], np.float32) * full
            np.testing.assert_allclose(found[n][:, corners], expected.repeat(4, 1), rtol=1e-6)


def test_the_angles_of_a_rotation_are_uniform():
    # a lit spot far to the right of the centre shows the angle
    batch = np.zeros((2000, 1, 101, 101), np.uint8)
    batch[:, 0, 48:53, 98:] = 255
    found = applied(RandomRotation(degrees=30.0), batch)[:, 0] > 0
    rows, columns = np.arange(101) - 50, np.arange(101) - 50
    total = found.sum(axis=(1, 2))
    y = (found.sum(axis=2) * rows).sum(axis=1) / total
    x = (found.sum(axis=1) * columns).sum(axis=1) / total
    angles = np.degrees(np.arctan2(-y, x))
    assert stats.kstest(angles, stats.uniform(-30, 60).cdf).pvalue > 1e-3


def window(word, index, shape, scale, ratio):
    """Top, left, height and width that torchvision's algorithm takes from these draws."""
    height, width = shape
    for attempt in range(10):
        share = ((word(index, attempt) >> 16) + 0.5) / 65536
        area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
        share = ((word(index, 10 + attempt) >> 16) + 0.5) / 65536
        # the inverse ratio is drawn, so that small draws are wide windows
        low, high = math.log(1 / ratio[1]), math.log(1 / ratio[0])
        aspect = 1 / math.exp(low + (high - low) * share)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = word(index, 20) * (height - h + 1) >> 32
            return top, word(index, 21) * (width - w + 1) >> 32, h, w
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("shape", "size", "scale", "ratio"),
    [
        ((32, 32), 32, (0.08, 1.0), (3 / 4, 4 / 3)),
        ((40, 23), (16, 9), (0.5, 1.0), (3 / 4, 4 / 3)),
        ((64, 64), 7, (0.08, 1.0), (3 / 4, 4 / 3)),
        ((30, 50), (61, 20), (0.01, 0.2), (0.2, 5.0)),
        ((9, 60), 12, (0.9, 1.0), (0.5, 2.0)),
        ((60, 9), 12, (0.9, 1.0), (0.5, 2.0)),
        ((60, 59), 12, (1.0, 1.0), (1 / 3, 3.0)),
        ((1, 5), 3, (0.08, 1.0), (1.0, 1.0)),
    ],
)
def test_a_random_resized_crop_is_torchvisions_window_resized(
    word, dtype, shape, size, scale, ratio
):
    batch = images(dtype, (25, 3, *shape))
    found = applied(RandomResizedCrop(size=size, scale=scale, ratio=ratio), batch)
    size = size if isinstance(size, tuple) else (size, size)
    for n in range(25):
        top, left, height, width = window(word, n, shape, scale, ratio)
        cut = torch.from_numpy(batch[n : n + 1, :, top : top + height, left : left + width])
        expected = torch.nn.functional.interpolate(
            cut.double(), size, mode="bilinear", antialias=True
        ).numpy()[0]
        error = np.abs(found[n] - expected).max()
        assert error <= (0.5 + 1e-3 if dtype == "uint8" else 1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_whole_image_at_its_own_size_comes_out_of_a_resized_crop_as_it_was(dtype):
    batch = images(dtype, (4, 3, 20, 20))
    whole = RandomResizedCrop(size=20, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    np.testing.assert_array_equal(applied(whole, batch), batch)


def test_the_windows_have_uniform_areas_log_uniform_ratios_and_uniform_places():
    draws = Draws.start(seed=1, epoch=0, indices=torch.arange(20_000))
    shape = boxes.Shape(height=4000, width=6000, scale=(0.05, 0.4), ratio=(0.7, 1.4))
    found, fits = boxes.drawn(draws.words(boxes.WORDS), shape)
    assert fits.all()
    height, width = found.height.double(), found.width.double()
    areas = (height * width / 24e6).numpy()
    assert stats.kstest(areas, stats.uniform(0.05, 0.35).cdf).pvalue > 1e-3
    assert stats.kstest((height / width).numpy(), stats.loguniform(0.7, 1.4).cdf).pvalue > 1e-3
    for start, length, size in ((found.top, height, 4000), (found.left, width, 6000)):
        places = (start / (size - length)).numpy()
        assert stats.kstest(places, "uniform").pvalue > 1e-3
        assert abs(stats.pearsonr(places, areas).statistic) < 4 / 20_000**0.5
