"""The prepared form: what it holds, when a dataset is its own, and what its name depends on."""

import numpy as np
import pytest
from PIL import Image

from models import chains
from models.datasets import Dataset, decoded
from models.datasets.prepared import is_prepared, key, open_prepared, prepare
from models.spec import Component
from models.tensorfile import Placer

RANDOM = np.random.default_rng(12)


def chain(*components):
    return [Component.from_json(one) for one in components]


RESIZE = chain({"name": "resize", "size": [6, 5]})


@pytest.fixture
def images(tmp_path):
    """Writes images as a decoded dataset: of one size, or one after the other with their sizes."""

    def write(pictures):
        count = len(pictures)
        ragged = len({one.shape for one in pictures}) > 1
        size = sum(one.size for one in pictures)
        shape = (size,) if ragged else (count, *pictures[0].shape)
        y = np.arange(count, dtype="<i8") % 2
        planned = decoded.plan(
            x=("U8", shape), y=(count,), classes=["a", "b"], groups={}, ragged=ragged
        )
        with open(tmp_path / "images", "w+b") as file:
            out = Placer(file.fileno(), planned)
            for one in pictures:
                out.append("x", one.tobytes())
            out.append("y", y.tobytes())
            out.append("hashes", bytes(8 * count))
            if ragged:
                out.append("sizes", np.array([p.shape for p in pictures], "<i4").tobytes())
        return Dataset(tmp_path / "images")

    return write


def prepared(tmp_path, dataset, components):
    on_host, on_device = chains.divided(components, pointer="")
    made = chains.output_of(components[: len(on_host)], dataset.example, pointer="")
    told = []
    with open(tmp_path / "prepared", "w+b") as file:
        prepare(dataset, on_host, made, file.fileno(), progress=told.append)
    assert told[-1] == len(dataset)
    return open_prepared(tmp_path / "prepared"), on_device


@pytest.mark.parametrize("sizes", [((8, 9),), ((8, 9), (20, 4), (3, 3))])
def test_images_are_prepared_as_pillow_resizes_them_one_by_one(tmp_path, images, sizes):
    pictures = [
        RANDOM.integers(0, 256, (3, *sizes[index % len(sizes)]), dtype=np.uint8)
        for index in range(300)
    ]
    x, on_device = prepared(tmp_path, images(pictures), [*RESIZE, *chain({"name": "to_float"})])
    assert (x.shape, x.dtype, len(on_device)) == ((300, 3, 6, 5), np.uint8, 1)
    for ours, picture in zip(x, pictures, strict=True):
        image = Image.fromarray(np.moveaxis(picture, 0, -1))
        theirs = np.asarray(image.resize((5, 6), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(np.moveaxis(ours, 0, -1), theirs)


def test_the_same_images_are_prepared_to_the_same_bytes_each_time(tmp_path, images):
    pictures = [RANDOM.integers(0, 256, (1, 9, 7 + i % 3), dtype=np.uint8) for i in range(200)]
    dataset = images(pictures)
    first = prepared(tmp_path, dataset, RESIZE)[0].tobytes()
    content = (tmp_path / "prepared").read_bytes()
    assert prepared(tmp_path, dataset, RESIZE)[0].tobytes() == first
    assert (tmp_path / "prepared").read_bytes() == content


def test_a_dataset_to_which_nothing_is_to_be_done_is_its_own_prepared_form(images):
    one_size = images([np.zeros((3, 4, 4), np.uint8)] * 3)
    assert is_prepared(one_size, [])
    assert not is_prepared(one_size, chains.divided(RESIZE, pointer="")[0])
    assert not is_prepared(images([np.zeros((3, 4, n), np.uint8) for n in (4, 5)]), [])


def test_a_table_is_prepared_in_float32_with_its_columns_in_place(tmp_path, take):
    text = "age,colour,label\n" + "".join(
        f"{age},{('red', 'blue')[age % 2]},{age % 2}\n" for age in range(1000)
    )
    own = [{"name": "one_hot"}, {"name": "standardize"}]
    answer = take(text.encode(), split="train", transforms=own)
    assert "error" not in answer, answer
    components = [Component.from_json(one) for one in answer["dataset"]["transforms"]]
    x, _ = prepared(tmp_path, Dataset(take.path), components)
    age = np.arange(1000)
    expected = np.stack(
        [(age - age.mean()) / age.std(), age % 2 == 1, age % 2 == 0], axis=1
    ).astype(np.float32)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-7)


def test_the_name_depends_on_the_dataset_and_on_every_parameter():
    one = {"name": "resize", "size": [6, 5], "interpolation": "bilinear", "antialias": True}
    names = {
        key("a" * 64, [one]),
        key("b" * 64, [one]),
        key("a" * 64, [{**one, "size": [5, 6]}]),
        key("a" * 64, [one, {"name": "grey"}]),
        key("a" * 64, []),
    }
    assert len(names) == 5
    assert key("a" * 64, [dict(reversed(one.items()))]) in names


def test_a_file_that_is_no_prepared_form_is_not_opened(tmp_path):
    (tmp_path / "odd").write_bytes(b"odd")
    with pytest.raises(ValueError, match="header"):
        open_prepared(tmp_path / "odd")
