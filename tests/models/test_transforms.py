"""The deterministic transforms, against numpy and against what they say of themselves."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import catalog, chains
from models.spec import Component, SpecError
from models.transforms import Clip, ExampleType, Flatten, Normalize, ToFloat
from models.transforms.elementwise import apply

DTYPES = ["uint8", "int8", "int16", "int32", "int64", "float32"]
EVERY = [ToFloat(), Normalize(mean=(0.4,), std=(0.3,)), Clip(minimum=-1.0, maximum=1.5), Flatten()]


def batch_of(dtype, shape, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def applied(transforms, batch):
    return apply(transforms, torch.from_numpy(batch)).numpy()


@pytest.mark.parametrize("dtype", DTYPES)
def test_to_float_divides_uint8_by_255_and_keeps_the_values_of_others(dtype):
    batch = batch_of(dtype, (5, 3, 4))
    expected = batch.astype(np.float32)
    if dtype == "uint8":
        expected = expected / np.float32(255)
    found = applied([ToFloat()], batch)
    assert found.dtype == np.float32
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.1, 1 / 16, -3.0, 1.0])
def test_to_float_multiplies_by_a_scale_in_float32(dtype, scale):
    batch = batch_of(dtype, (5, 3, 4))
    expected = batch.astype(np.float32) * np.float32(scale)
    assert applied([ToFloat(scale=scale)], batch).tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 4, 5)])
def test_normalize_takes_a_mean_and_deviation_for_each_channel(shape):
    batch = batch_of("float32", (6, *shape))
    mean, std = (0.1, -2.0, 0.3), (0.5, 3.0, 1e-3)
    wide = (-1,) + (1,) * (len(shape) - 1)
    expected = (batch - np.array(mean, np.float32).reshape(wide)) / np.array(
        std, np.float32
    ).reshape(wide)
    found = applied([Normalize(mean=mean, std=std)], batch)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 4, 5)])
def test_normalize_takes_one_mean_and_deviation_for_all(shape):
    batch = batch_of("float32", (6, *shape))
    expected = (batch - np.float32(0.1)) / np.float32(0.7)
    assert applied([Normalize(mean=(0.1,), std=(0.7,))], batch).tobytes() == expected.tobytes()


def test_flatten_keeps_the_order_of_the_values():
    batch = batch_of("int16", (3, 2, 4, 5))
    np.testing.assert_array_equal(applied([Flatten()], batch), batch.reshape(3, 40))


@pytest.mark.parametrize(("minimum", "maximum"), [(None, 0.1), (-0.2, None), (-0.2, 0.1), (0, 0)])
def test_clip_replaces_what_lies_beyond_a_bound(minimum, maximum):
    batch = batch_of("float32", (6, 5, 7))
    found = applied([Clip(minimum=minimum, maximum=maximum)], batch)
    np.testing.assert_array_equal(found, np.clip(batch, minimum, maximum, dtype=np.float32))
    assert found.dtype == np.float32


def test_clip_keeps_the_bits_of_what_equals_a_bound_wherever_it_stands():
    for length in (1, 3, 8, 67):
        for value in (-0.0, 0.0):
            batch = np.full((2, length), value, np.float32)
            for bounds in ({"minimum": 0.0}, {"maximum": -0.0}, {"minimum": -0.0, "maximum": 0.0}):
                assert applied([Clip(**bounds)], batch).tobytes() == batch.tobytes()


@pytest.mark.parametrize(
    ("bounds", "pointer", "words"),
    [
        ({}, "/0/minimum", "minimum, maximum or both"),
        ({"minimum": 1, "maximum": 0.5}, "/0/maximum", "at least minimum"),
        ({"minimum": -1e39}, "/0/minimum", "at least"),
        ({"maximum": "1"}, "/0/maximum", "number or null"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(bounds, pointer, words):
    with pytest.raises(SpecError, match=words) as caught:
        chains.transforms([Component(name="clip", parameters=bounds)], pointer="")
    assert caught.value.pointer == pointer


def test_clip_of_anything_but_float32_is_refused_before_a_batch_exists():
    chain = [Component(name="clip", parameters={"minimum": 0})]
    with pytest.raises(SpecError, match="put to_float before it"):
        chains.output_of(chain, ExampleType(shape=(3,), dtype="uint8"), pointer="")


def test_a_chain_is_applied_in_its_order():
    batch = batch_of("uint8", (4, 1, 8, 8))
    expected = ((batch.astype(np.float32) / np.float32(255)) - np.float32(0.4)) / np.float32(0.3)
    expected = expected.clip(-1, 1.5)
    found = applied(EVERY, batch)
    assert found.tobytes() == expected.reshape(4, 64).tobytes()
    np.testing.assert_array_equal(applied([], batch), batch)


@st.composite
def fitting_chains(draw):
    """An example type and a chain that fits it."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    dtype = draw(st.sampled_from(DTYPES))
    components, example = [], ExampleType(shape=shape, dtype=dtype)
    for _ in range(draw(st.integers(0, 4))):
        names = ["to_float", "flatten"] + ["normalize", "clip"] * (example.dtype == "float32")
        name = draw(st.sampled_from(names))
        parameters = {}
        if name == "to_float":
            parameters = {"scale": draw(st.none() | st.floats(-4, 4, width=32))}
        if name == "clip":
            parameters = {"minimum": draw(st.sampled_from([-1, -0.0, 0.0])), "maximum": 1}
        if name == "normalize":
            count = draw(st.sampled_from([1, example.shape[0]]))
            mean = st.lists(st.floats(-9, 9, width=32), min_size=count, max_size=count)
            std = st.lists(st.floats(0.125, 9, width=32), min_size=count, max_size=count)
            parameters = {"mean": draw(mean), "std": draw(std)}
        components.append(Component(name=name, parameters=parameters))
        example = chains.output_of(components, ExampleType(shape=shape, dtype=dtype), pointer="")
    return shape, dtype, components, example


@settings(max_examples=150, deadline=None)
@given(fitting_chains())
def test_what_comes_out_is_what_the_chain_says_and_every_partition_gives_the_same_bytes(case):
    shape, dtype, components, example = case
    batch = batch_of(dtype, (7, *shape))
    transforms = chains.transforms(components, pointer="")
    whole = applied(transforms, batch)
    assert whole.shape == (7, *example.shape)
    assert whole.dtype == example.dtype
    for size in (1, 2, 3, 5):
        parts = [applied(transforms, batch[i : i + size]) for i in range(0, 7, size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_a_partition_of_long_examples_gives_the_same_bytes():
    batch = batch_of("uint8", (33, 3, 31, 37))
    chain = [ToFloat(), Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))]
    whole = applied(chain, batch)
    one_by_one = np.concatenate([applied(chain, batch[i : i + 1]) for i in range(33)])
    assert one_by_one.tobytes() == whole.tobytes()


def test_the_input_of_a_chain_is_not_changed():
    batch = batch_of("float32", (4, 3, 2))
    before = batch.copy()
    applied([ToFloat(scale=2.0), Normalize(mean=(1.0,), std=(2.0,)), Flatten()], batch)
    np.testing.assert_array_equal(batch, before)


def test_every_transform_of_the_catalog_has_its_function():
    kinds = {catalog.TRANSFORMS[name].parameters for name in catalog.TRANSFORMS}
    assert {kind for kind in kinds if not kind.on_host} == {type(one) for one in EVERY}
    for transform in EVERY:
        apply([transform], torch.zeros(2, 3))


def test_normalize_of_anything_but_float32_is_refused_before_a_batch_exists():
    chain = [Component(name="normalize", parameters={"mean": [0.0], "std": [1.0]})]
    with pytest.raises(SpecError, match="put to_float before it"):
        chains.output_of(chain, ExampleType(shape=(3,), dtype="uint8"), pointer="/transforms")


@pytest.mark.gpu
def test_cuda_gives_the_bytes_of_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for chain in (EVERY, [ToFloat(scale=0.1), Normalize(mean=mean, std=std), Flatten()]):
        batch = torch.from_numpy(batch_of("uint8", (33, 3, 31, 37)))
        on_card = apply(chain, batch.cuda()).cpu()
        assert on_card.numpy().tobytes() == apply(chain, batch).numpy().tobytes()
