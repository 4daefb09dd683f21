"""The geometric transforms, against Pillow, torch and formulas, and what they say of shapes."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models import chains, parameters
from models.catalog import TRANSFORMS
from models.spec import Component, SpecError
from models.transforms import ExampleType
from models.transforms.geometric import apply
from models.transforms.images import MAX_LENGTH, MAX_PIXELS, CenterCrop, Grey, Pad, Resize
from tests.models.image_files import noise

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


def image(channels, height, width, seed=0):
    return np.ascontiguousarray(noise(height, width, 3, seed).transpose(2, 0, 1)[:channels])


def done(name, given, array):
    """What one transform makes of an image, as a request would write it."""
    return apply([parameters.build(TRANSFORMS[name].parameters, given)], array)


def output(name, given, *shape, dtype="uint8"):
    component = Component(name=name, parameters=given)
    return chains.output_of([component], ExampleType(shape=shape, dtype=dtype), pointer="").shape


# --- resize


@pytest.mark.parametrize("interpolation", RESAMPLING)
@pytest.mark.parametrize("size", [(5, 9), (40, 30), (64, 64), (1, 1), (100, 3)])
def test_resize_is_that_of_pillow(interpolation, size):
    for channels in (1, 3):
        array = image(channels, 40, 30)
        found = done("resize", {"size": list(size), "interpolation": interpolation}, array)
        for channel, values in zip(array, found, strict=True):
            one = Image.fromarray(channel).resize(size[::-1], RESAMPLING[interpolation])
            np.testing.assert_array_equal(values, np.asarray(one))
        assert found.flags.c_contiguous
        assert found.dtype == np.uint8


def test_resize_averages_unless_it_is_told_not_to():
    stripes = np.zeros((1, 8, 64), np.uint8)
    stripes[:, :, ::8] = 255
    averaged = done("resize", {"size": [8, 8]}, stripes)
    assert 20 < averaged.mean() < 45  # an eighth is white
    sampled = done("resize", {"size": [8, 8], "antialias": False}, stripes)
    assert sampled.max() == 0  # the points between which it looks are black


@pytest.mark.parametrize("size", [(5, 9), (13, 7), (40, 30), (97, 61)])
def test_resize_without_antialias_samples_as_torch_does_rounded_down(size):
    array = image(3, 40, 30)
    found = done("resize", {"size": list(size), "antialias": False}, array)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(array)[None].double(), size=size, mode="bilinear", align_corners=False
    )[0].numpy()
    assert np.abs(found - (exact - 0.5)).max() <= 0.5 + 1e-9


def cubic(values, at, a=-1.0):
    """One sample of the cubic convolution of a row; the edge goes on beyond its ends."""
    left = int(np.floor(at))
    total = 0.0
    for index in range(left - 1, left + 3):
        d = abs(at - index)
        weight = (
            (a + 2) * d**3 - (a + 3) * d**2 + 1
            if d <= 1
            else a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        )
        total += weight * values[min(max(index, 0), len(values) - 1)]
    return total


@pytest.mark.parametrize("width", [5, 17, 40])
def test_resize_without_antialias_is_a_cubic_convolution_of_16_pixels(width):
    row = np.arange(20, dtype=np.uint8) * 5 + 60 + image(1, 1, 20)[0, 0] // 8  # never clipped
    array = np.repeat(row[None, None], 6, axis=1)
    given = {"size": [6, width], "antialias": False, "interpolation": "bicubic"}
    expected = [cubic(row.astype(float), (x + 0.5) * 20 / width - 0.5) for x in range(width)]
    found = done("resize", given, array)[0, 3]
    assert np.abs(found - (np.array(expected) - 0.5)).max() <= 0.5 + 1e-9


def test_resize_to_its_own_size_changes_nothing():
    array = image(3, 24, 17)
    for interpolation in RESAMPLING:
        for antialias in (True, False):
            given = {"size": [24, 17], "interpolation": interpolation, "antialias": antialias}
            np.testing.assert_array_equal(done("resize", given, array), array)


@pytest.mark.parametrize(
    ("size", "shape", "expected"),
    [  # torchvision: (size * height / width, size) if height > width, rounded down
        (256, (480, 640), (256, 341)),
        (256, (640, 480), (341, 256)),
        (224, (500, 500), (224, 224)),
        (7, (3, 10), (7, 23)),
        (1, (3, 10), (1, 3)),
        (100, (99, 100), (100, 101)),
        (3, (1, 1), (3, 3)),
    ],
)
def test_the_shorter_side_is_the_one_that_is_given(size, shape, expected):
    assert done("resize", {"size": size}, image(3, *shape)).shape == (3, *expected)
    assert output("resize", {"size": size}, 3, *shape) == (3, *expected)


# --- center_crop and pad


@pytest.mark.parametrize(
    ("size", "shape", "top", "left"),
    [  # round((length - size) / 2) with Python's rounding to even, as torchvision
        ((2, 2), (4, 4), 1, 1),
        ((2, 2), (5, 7), 2, 2),  # 1.5 -> 2, 2.5 -> 2
        ((1, 1), (2, 4), 0, 2),  # 0.5 -> 0, 1.5 -> 2
        ((3, 5), (3, 5), 0, 0),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_center_crop_takes_the_middle_that_torchvision_takes(size, shape, top, left, dtype):
    array = image(3, *shape).astype(dtype)
    found = done("center_crop", {"size": list(size)}, array)
    np.testing.assert_array_equal(found, array[:, top : top + size[0], left : left + size[1]])
    assert found.dtype == dtype
    assert found.flags.c_contiguous


def test_center_crop_puts_zeros_around_what_is_too_small():
    array = image(2, 3, 8)
    found = done("center_crop", {"size": 6}, array)
    expected = np.zeros((2, 6, 6), np.uint8)
    expected[:, 1:4] = array[:, :, 1:7]  # 3 rows are missing: 1 above, 2 below
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("padding", "left", "top", "right", "bottom"),
    [(2, 2, 2, 2, 2), ([3], 3, 3, 3, 3), ([1, 4], 1, 4, 1, 4), ([1, 2, 3, 4], 1, 2, 3, 4)],
)
def test_pad_takes_sides_as_torchvision_does(padding, left, top, right, bottom):
    array = image(3, 5, 6)
    found = done("pad", {"padding": padding, "fill": 7}, array)
    assert found.shape == (3, 5 + top + bottom, 6 + left + right)
    assert output("pad", {"padding": padding, "fill": 7}, 3, 5, 6) == found.shape
    np.testing.assert_array_equal(found[:, top : top + 5, left : left + 6], array)
    assert found.sum(dtype=int) - array.sum(dtype=int) == 7 * (found.size - array.size)


def test_pad_keeps_float32():
    array = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    found = done("pad", {"padding": [1, 0], "fill": -0.1}, array)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :, 1:5], array)
    assert (found[:, :, 0] == np.float32(-0.1)).all()


# --- grey


def test_grey_is_itu_r_601_2_in_integers():
    array = image(3, 64, 64)
    red, green, blue = array.astype(np.int64)
    expected = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    np.testing.assert_array_equal(done("grey", {}, array), expected[None])
    three = done("grey", {"channels": 3}, array)
    np.testing.assert_array_equal(three, np.stack([expected] * 3))
    assert np.abs(expected - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 0.51


def test_grey_of_grey_is_the_same():
    array = image(1, 5, 6)
    np.testing.assert_array_equal(done("grey", {}, array), array)
    np.testing.assert_array_equal(done("grey", {"channels": 3}, array), np.concatenate([array] * 3))


# --- what they say of themselves


@pytest.mark.parametrize(
    ("name", "given", "shape", "expected"),
    [
        ("resize", {"size": [8, 9]}, (3, None, None), (3, 8, 9)),
        ("center_crop", {"size": [8, 9]}, (3, None, None), (3, 8, 9)),
        ("center_crop", {"size": 4}, (7, 5, 6), (7, 4, 4)),
        ("pad", {"padding": 1}, (7, 5, 6), (7, 7, 8)),
        ("grey", {}, (3, 5, 6), (1, 5, 6)),
        ("grey", {"channels": 3}, (1, 5, 6), (3, 5, 6)),
    ],
)
def test_a_transform_says_what_comes_out(name, given, shape, expected):
    assert output(name, given, *shape) == expected


def test_lengths_that_differ_stay_open_until_something_closes_them():
    def chain(*components):
        found = [Component(name=name, parameters=given) for name, given in components]
        example = ExampleType(shape=(3, None, None), dtype="uint8")
        return chains.output_of(found, example, pointer="/t").shape

    shorter, grey, pad = ("resize", {"size": 9}), ("grey", {}), ("pad", {"padding": 2})
    assert chain(shorter, grey, pad, ("center_crop", {"size": 8})) == (1, 8, 8)
    assert chain(grey, pad, ("resize", {"size": [8, 8]})) == (1, 8, 8)
    for open_chain in ([], [shorter], [grey], [pad], [shorter, ("flatten", {})]):
        with pytest.raises(SpecError, match="the images differ in size: add the transform resize"):
            chain(*open_chain)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "words"),
    [
        ("resize", (2, 5, 6), "uint8", "1 or 3 channels, got 2"),
        ("grey", (4, 5, 6), "uint8", "1 or 3 channels, got 4"),
        ("resize", (3, 5, 6), "float32", "takes uint8, got float32; save the images as uint8"),
        ("grey", (3, 5, 6), "int32", "takes uint8, got int32"),
        ("pad", (3, 5, 6), "int16", "takes uint8 or float32, got int16"),
        ("center_crop", (3, 5, 6), "float64", "takes uint8 or float32, got float64"),
        ("resize", (30,), "uint8", r"\(channels, height, width\); .* shape \[30\]"),
        ("pad", (5, 6), "uint8", r"shape \[5, 6\]"),
        ("center_crop", (1, 3, 5, 6), "uint8", r"shape \[1, 3, 5, 6\]"),
    ],
)
def test_what_is_no_fitting_image_is_refused_before_any_work(name, shape, dtype, words):
    given = {"resize": {"size": 8}, "pad": {"padding": 1}, "center_crop": {"size": 8}}.get(name, {})
    with pytest.raises(SpecError, match=words):
        output(name, given, *shape, dtype=dtype)


@pytest.mark.parametrize("fill", [-1, 256, 0.5])
def test_a_border_that_uint8_cannot_have_is_refused(fill):
    with pytest.raises(SpecError, match="whole number from 0 to 255") as caught:
        output("pad", {"padding": 1, "fill": fill}, 3, 5, 6)
    assert caught.value.pointer == "/0/fill"
    assert output("pad", {"padding": 1, "fill": fill}, 3, 5, 6, dtype="float32") == (3, 7, 8)


@pytest.mark.parametrize(
    ("name", "given", "pointer"),
    [
        ("resize", {}, "/size"),
        ("resize", {"size": 0}, "/size"),
        ("resize", {"size": MAX_LENGTH + 1}, "/size"),
        ("resize", {"size": 2.5}, "/size"),
        ("resize", {"size": True}, "/size"),
        ("resize", {"size": [8]}, "/size"),
        ("resize", {"size": [8, 0]}, "/size/1"),
        ("resize", {"size": [8, MAX_LENGTH + 1]}, "/size/1"),
        ("resize", {"size": [8, 8], "interpolation": "lanczos"}, "/interpolation"),
        ("resize", {"size": [8, 8], "antialias": 1}, "/antialias"),
        ("center_crop", {"size": [8, 8, 8]}, "/size"),
        ("pad", {"padding": [1, 2, 3]}, "/padding"),
        ("pad", {"padding": []}, "/padding"),
        ("pad", {"padding": -1}, "/padding"),
        ("pad", {"padding": [1, MAX_LENGTH + 1]}, "/padding/1"),
        ("pad", {"padding": 1, "fill": 1e39}, "/fill"),
        ("grey", {"channels": 2}, "/channels"),
    ],
)
def test_parameters_out_of_bounds_are_refused(name, given, pointer):
    with pytest.raises(SpecError) as caught:
        parameters.build(TRANSFORMS[name].parameters, given)
    assert caught.value.pointer == pointer


def test_no_image_becomes_larger_than_the_bound():
    assert output("resize", {"size": [MAX_LENGTH, MAX_LENGTH]}, 3, 9, 9)[1:] == (8192, 8192)
    thin = np.zeros((1, 1, 20_000), np.uint8)
    for name, wanted in (("resize", {"size": 8192}), ("pad", {"padding": 8192})):
        with pytest.raises(SpecError, match=f"at most {MAX_PIXELS} are made"):
            output(name, wanted, 1, 1, 20_000)
        with pytest.raises(SpecError, match=f"at most {MAX_PIXELS} are made"):
            done(name, wanted, thin)


# --- reproducible

CHAIN = [
    Resize(size=9),
    Pad(padding=(1, 2), fill=3.0),
    CenterCrop(size=(8, 12)),
    Grey(channels=3),
    Resize(size=(5, 20), interpolation="bicubic", antialias=False),
]


def test_the_input_is_not_changed():
    array = image(3, 20, 30)
    before = array.copy()
    for transform in CHAIN:
        apply([transform], array)
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(apply([], array), array)


def test_another_process_makes_the_same_bytes():
    program = """
import hashlib, sys
from tests.models.test_geometric import CHAIN, apply, image
print(hashlib.sha256(apply(CHAIN, image(3, 20, 30))).hexdigest())
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == hashlib.sha256(apply(CHAIN, image(3, 20, 30))).hexdigest()


def test_the_geometry_needs_no_torch():
    program = "import sys, models.transforms.geometric; print('torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "False"
    program = "import sys, models.catalog; print({'PIL', 'numpy'} & set(sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "set()"


lengths = st.integers(1, 12)
sizes = lengths | st.tuples(lengths, lengths)
TRANSFORM = st.one_of(
    st.builds(
        Resize, size=sizes, interpolation=st.sampled_from(list(RESAMPLING)), antialias=st.booleans()
    ),
    st.builds(CenterCrop, size=sizes),
    st.builds(
        Pad,
        padding=st.integers(0, 4)
        | st.lists(st.integers(0, 4), min_size=1, max_size=4)
        .map(tuple)
        .filter(lambda p: len(p) != 3),
        fill=st.integers(0, 255).map(float),
    ),
    st.builds(Grey, channels=st.sampled_from([1, 3])),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(TRANSFORM, max_size=4), st.sampled_from([1, 3]), lengths, lengths)
def test_what_comes_out_is_what_the_chain_says(chain, channels, height, width):
    example = ExampleType(shape=(channels, height, width), dtype="uint8")
    for transform in chain:
        example = transform.output(example)
    array = image(channels, height, width)
    found = apply(chain, array)
    assert found.shape == example.shape
    assert found.dtype == example.dtype
    assert found.flags.c_contiguous
    assert found.tobytes() == apply(chain, array.copy()).tobytes()
