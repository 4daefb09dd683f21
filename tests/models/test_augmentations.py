"""Augmentations as a whole: what they take, and that an example's fate is its own."""

import numpy as np
import pytest
import torch

from models import chains, parameters
from models.augmentations import CutMix, MixUp, RandomHorizontalFlip
from models.augmentations.batches import apply
from models.catalog import TRANSFORMS
from models.recipes import AUGMENTATIONS
from models.spec import Component, SpecError
from models.transforms import ExampleType

MIXING = ("mixup", "cutmix")
CASES = [
    ("random_crop", {"size": [12, 17], "padding": [1, 2, 3, 4], "fill": [0.1, 0.5, 0.9]}),
    ("random_resized_crop", {"size": [9, 24]}),
    ("random_horizontal_flip", {}),
    ("random_vertical_flip", {"p": 0.3}),
    ("random_rotation", {"degrees": 45, "fill": 0.3}),
    ("color_jitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}),
    ("random_erasing", {"value": 0.7}),
    ("gaussian_noise", {"p": 0.7}),
    ("mixup", {"p": 0.6}),
    ("cutmix", {"p": 0.6}),
]
UNMIXED = [case for case in CASES if case[0] not in MIXING]
CHAINS = [[case] for case in UNMIXED] + [UNMIXED, UNMIXED[::-1]]
IMAGE = ExampleType(shape=(3, 16, 15), dtype="uint8")


def named(cases):
    """What pytest calls a chain or a link of one."""
    return "+".join(name for name, _ in ([cases] if isinstance(cases, tuple) else cases))


def components(cases):
    return [Component(name=name, parameters=given) for name, given in cases]


def built(cases):
    return chains.augmentations(components(cases), pointer="/augmentations")


def image_batch(dtype, count=37, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3, 16, 15), dtype=np.uint8)
    batch = torch.from_numpy(pixels)
    return batch if dtype == "uint8" else batch / torch.tensor(255.0)


def one_hot(count):
    return torch.eye(5)[torch.arange(count) % 5]


def run(chain, batch, indices, *, seed=11, epoch=2, targets=None):
    targets = one_hot(len(batch)) if targets is None else targets
    return apply(chain, batch, targets, seed=seed, epoch=epoch, indices=indices)


def same_bytes(one, other):
    return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()


def test_the_cases_cover_the_catalog_and_build_its_parameters():
    assert [name for name, _ in CASES] == list(AUGMENTATIONS)
    for (name, _), made in zip(CASES, built(CASES), strict=True):
        assert type(made) is AUGMENTATIONS[name].parameters
        assert parameters.build(type(made), parameters.to_json(made)) == made


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("chain", CHAINS, ids=named)
def test_the_same_example_comes_out_with_the_same_bytes_of_any_batch_and_order(dtype, chain):
    chain, batch = built(chain), image_batch(dtype)
    indices = torch.from_numpy(np.random.default_rng(1).permutation(10**6)[:37])
    whole, _ = run(chain, batch, indices)
    for size in (1, 2, 5, 16):
        parts = [
            run(chain, batch[at : at + size], indices[at : at + size])[0]
            for at in range(0, 37, size)
        ]
        assert same_bytes(torch.cat(parts), whole)
    order = torch.from_numpy(np.random.default_rng(2).permutation(37))
    assert same_bytes(run(chain, batch[order], indices[order])[0], whole[order])


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_mixed_example_depends_on_its_batch_by_its_partner_alone(dtype, name):
    chain, batch = built([case for case in CASES if case[0] == name]), image_batch(dtype)
    targets, indices = one_hot(37), torch.arange(37) * 1009
    whole, whole_targets = run(chain, batch, indices)
    for at in range(36):
        pair = slice(at, at + 2)
        mixed, mixed_targets = run(chain, batch[pair], indices[pair], targets=targets[pair])
        assert same_bytes(mixed[0], whole[at])
        assert same_bytes(mixed_targets[0], whole_targets[at])


@pytest.mark.usefixtures("numerics")
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_threads_make_no_difference_and_deterministic_algorithms_are_enough(dtype):
    torch.set_deterministic_debug_mode("error")
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(run(built(CASES), image_batch(dtype, count=400), torch.arange(400)))
    assert same_bytes(found[0][0], found[1][0])
    assert same_bytes(found[0][1], found[1][1])


@pytest.mark.parametrize("case", CASES, ids=named)
def test_epochs_seeds_indices_and_positions_differ_and_repetitions_do_not(case):
    (one,) = chain = built([case])
    batch, indices = image_batch("uint8"), torch.arange(37)
    if case[0] != "cutmix":
        batch = batch[:1].expand(37, -1, -1, -1)
    if case[0] == "mixup":
        batch = batch * (torch.arange(37) % 2)[:, None, None, None].to(torch.uint8)
    first, _ = run(chain, batch, indices)
    assert same_bytes(run(chain, batch, indices)[0], first)
    assert not same_bytes(run(chain, batch, indices, epoch=3)[0], first)
    assert not same_bytes(run(chain, batch, indices, seed=12)[0], first)
    assert not same_bytes(run(chain, batch, indices + 1)[0], first)
    nothing = RandomHorizontalFlip(p=0.0)
    assert not same_bytes(run([nothing, one], batch, indices)[0], first)
    assert same_bytes(run([one, nothing], batch, indices)[0], first)


@pytest.mark.parametrize("chain", [*CHAINS, CASES, [CASES[8]], [CASES[9]]], ids=named)
def test_uint8_is_float32_rounded(chain):
    indices = torch.arange(37)
    levels, targets = run(built(chain), image_batch("uint8"), indices)
    light, same_targets = run(built(chain), image_batch("float32"), indices)
    expected = np.rint(np.clip(light.numpy() * np.float32(255), 0, 255)).astype(np.uint8)
    np.testing.assert_array_equal(levels, expected)
    assert same_bytes(targets, same_targets)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("chain", [*CHAINS, CASES], ids=named)
def test_what_comes_out_is_what_the_chain_says_and_what_goes_in_stays(dtype, chain):
    batch, targets = image_batch(dtype), one_hot(37)
    before, targets_before = batch.clone(), targets.clone()
    found, mixed = run(built(chain), batch, torch.arange(37), targets=targets)
    said = chains.augmented(
        components(chain), ExampleType(shape=(3, 16, 15), dtype=dtype), pointer=""
    )
    assert (tuple(found.shape[1:]), str(found.dtype)) == (said.shape, f"torch.{said.dtype}")
    assert mixed.shape == targets.shape
    assert same_bytes(batch, before)
    assert same_bytes(targets, targets_before)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("random_horizontal_flip", {}),
        ("random_vertical_flip", {}),
        ("random_erasing", {}),
        ("gaussian_noise", {}),
        ("mixup", {"alpha": 8}),
        ("cutmix", {"alpha": 8}),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_p_0_changes_no_example_and_p_1_every_one(dtype, name, given):
    batch, indices = image_batch(dtype), torch.arange(37)
    same, targets = run(built([(name, given | {"p": 0})]), batch, indices)
    assert same_bytes(same, batch)
    assert same_bytes(targets, one_hot(37))
    every, _ = run(built([(name, given | {"p": 1})]), batch, indices)
    assert (every != batch).flatten(1).any(dim=1).all()


def test_targets_that_nothing_mixes_may_be_class_indices():
    targets = torch.arange(37)
    _, same = run(built(UNMIXED), image_batch("uint8"), torch.arange(37), targets=targets)
    assert same is targets


def test_no_augmentation_and_an_empty_batch_are_fine():
    batch, targets = image_batch("uint8"), one_hot(37)
    found = run([], batch, torch.arange(37), targets=targets)
    assert found[0] is batch
    assert found[1] is targets
    nothing, _ = run(built(CASES), batch[:0], torch.arange(0))
    assert nothing.shape == (0, 3, 9, 24)


@pytest.mark.parametrize("mixing", [MixUp(), CutMix()])
@pytest.mark.parametrize(
    "targets", [torch.arange(4), torch.ones(4), torch.ones(4, 3, dtype=torch.float64)]
)
def test_targets_that_cannot_be_mixed_are_refused_with_advice(mixing, targets):
    with pytest.raises(ValueError, match=r"float32 \(N, C\), got .*one_hot"):
        run([mixing], image_batch("uint8", count=4), torch.arange(4), targets=targets)


def test_a_batch_of_another_type_or_length_is_refused():
    batch, indices = image_batch("uint8", count=4), torch.arange(4)
    with pytest.raises(ValueError, match=r"uint8 or float32, got torch\.float64"):
        run([], batch.double(), indices)
    with pytest.raises(ValueError, match="equally long, got 4, 4 and 3"):
        run([], batch, indices[:3])
    with pytest.raises(ValueError, match="equally long, got 4, 5 and 4"):
        run([], batch, indices, targets=one_hot(5))


@pytest.mark.parametrize("case", CASES, ids=named)
def test_examples_that_an_augmentation_cannot_take_are_refused(case):
    chain = components([("random_horizontal_flip", {}), case])
    if case[0] in ("gaussian_noise", "mixup"):
        table = ExampleType(shape=(30,), dtype="float32")
        assert chains.augmented(chain[1:], table, pointer="/a") == table
    else:
        table = ExampleType(shape=(30,), dtype="uint8")
        with pytest.raises(SpecError, match=rf"{case[0]} takes images of .*got shape \[30\]"):
            chains.augmented(chain[1:], table, pointer="/a")
    for dtype in ("int16", "int64"):
        example = ExampleType(shape=(3, 16, 15), dtype=dtype)
        with pytest.raises(SpecError, match=f"{case[0]} takes uint8 or float32, got {dtype}"):
            chains.augmented(chain[1:], example, pointer="/a")
    with pytest.raises(SpecError) as caught:
        chains.augmented(chain, ExampleType(shape=(3, 16, 15), dtype="int8"), pointer="/a")
    assert caught.value.pointer == "/a/0"


@pytest.mark.parametrize(
    ("name", "given", "pointer", "detail"),
    [
        ("random_crop", {}, "/size", "size is required"),
        ("random_crop", {"size": 0}, "/size", "at least 1"),
        ("random_crop", {"size": [4]}, "/size", "exactly 2 entries, got 1"),
        ("random_crop", {"size": [4, 0.5]}, "/size/1", "must be integer"),
        ("random_crop", {"size": 17}, "/size", "17 pixels out of images that are 16 high"),
        ("random_crop", {"size": 16}, "/size", "16 pixels out of images that are 15 wide"),
        ("random_crop", {"size": [20, 19], "padding": [2, 1]}, "/size", "are 18 high with"),
        ("random_crop", {"size": 4, "padding": [1, 2, 3]}, "/padding", "1, 2 or 4 entries, got 3"),
        ("random_crop", {"size": 4, "fill": [0.0, 1.0]}, "/fill", "2 entries, but the images hav"),
        ("random_crop", {"size": 4, "fill": 128}, "/fill", "level 128 is 0.502"),
        ("random_resized_crop", {"size": 4, "scale": [0.5, 0.1]}, "/scale", "swap the two"),
        ("random_resized_crop", {"size": 4, "scale": [0.0, 1.0]}, "/scale/0", "greater than 0"),
        ("random_resized_crop", {"size": 4, "ratio": [2, 1]}, "/ratio", "swap the two"),
        ("random_horizontal_flip", {"p": 1.5}, "/p", "at most 1"),
        ("random_rotation", {"degrees": -1}, "/degrees", "at least 0"),
        ("random_rotation", {"degrees": [10, -10]}, "/degrees", "swap the two"),
        ("random_rotation", {"degrees": 9, "fill": [0, 0, 2]}, "/fill", "between 0 and 1"),
        ("color_jitter", {"hue": 0.6}, "/hue", "at most 0.5"),
        ("color_jitter", {"hue": [-0.6, 0]}, "/hue/0", "at least -0.5"),
        ("color_jitter", {"contrast": [2, 1]}, "/contrast", "swap the two"),
        ("random_erasing", {"value": -0.1}, "/value", "between 0 and 1"),
        ("random_erasing", {"value": "random"}, "/value", "number or array"),
        ("gaussian_noise", {"std": -1}, "/std", "at least 0"),
        ("mixup", {"alpha": 0}, "/alpha", "at least 0.001"),
        ("cutmix", {"sigma": 1}, "/sigma", "known: alpha, p"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_where_they_stand(name, given, pointer, detail):
    with pytest.raises(SpecError) as caught:
        chains.augmented(components([(name, given)]), IMAGE, pointer="/augmentations")
    assert caught.value.pointer == f"/augmentations/0{pointer}"
    assert detail in caught.value.detail


def test_colours_are_changed_of_images_that_have_them():
    grey = ExampleType(shape=(1, 16, 15), dtype="uint8")
    jitter = components([("color_jitter", {"brightness": 0.5, "contrast": 0.5})])
    assert chains.augmented(jitter, grey, pointer="") == grey
    for name in ("saturation", "hue"):
        with pytest.raises(SpecError, match="these have 1") as caught:
            chains.augmented(components([("color_jitter", {name: 0.2})]), grey, pointer="/a")
        assert caught.value.pointer == f"/a/0/{name}"
    with pytest.raises(SpecError, match=r"1 channel .* or 3 .*, got 4"):
        chains.augmented(jitter, ExampleType(shape=(4, 8, 8), dtype="float32"), pointer="")


def test_a_crop_of_images_of_open_size_is_taken_at_its_word():
    chain = components([("random_crop", {"size": 8}), ("random_crop", {"size": 4})])
    example = ExampleType(shape=(None, None, None), dtype="float32")
    expected = ExampleType(shape=(None, 4, 4), dtype="float32")
    assert chains.augmented(chain, example, pointer="") == expected


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_an_augmentation_cannot_stand_among_the_transforms(name):
    chain = components([("to_float", {}), (name, {})])
    for resolve in (chains.transforms, chains.resolved):
        with pytest.raises(SpecError) as caught:
            resolve(chain, pointer="/transforms")
        assert caught.value.pointer == "/transforms/1/name"
        assert caught.value.detail == (
            f"{name} is a random augmentation: only a training can name it, because an evaluation "
            "must give the same numbers each time; deterministic transforms: "
            + ", ".join(TRANSFORMS)
        )


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_a_transform_cannot_stand_among_the_augmentations(name):
    with pytest.raises(SpecError) as caught:
        chains.augmentations(components([(name, {})]), pointer="/augmentations")
    assert caught.value.pointer == "/augmentations/0/name"
    assert caught.value.detail.startswith(
        f"{name} is a deterministic transform: it belongs to the transforms of the dataset, which "
        "a training applies after its augmentations; random augmentations: random_crop, "
    )


def test_an_unknown_augmentation_lists_the_known_ones():
    with pytest.raises(SpecError, match="unknown augmentation 'mixupp', perhaps 'mixup'; known: "):
        chains.augmentations(components([("mixupp", {})]), pointer="")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
@pytest.mark.usefixtures("numerics")
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("chain", [*CHAINS, CASES, [CASES[8]], [CASES[9]]], ids=named)
def test_cuda_gives_the_bytes_of_the_cpu(dtype, chain):
    torch.set_deterministic_debug_mode("error")
    batch, targets, indices = image_batch(dtype), one_hot(37), torch.arange(37) * 31
    found = run(built(chain), batch.cuda(), indices.cuda(), targets=targets.cuda())
    expected = run(built(chain), batch, indices, targets=targets)
    for one, other in zip(found, expected, strict=True):
        assert one.device.type == "cuda"
        assert same_bytes(one.cpu(), other)
