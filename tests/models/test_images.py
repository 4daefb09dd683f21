"""Ingestion of archives of images that are well-meant: values, layout, labels, sizes, digests."""

import gzip
import hashlib
import io
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.datasets import HEAD_BYTES, Dataset, sniff
from tests.models.conftest import accepted, refused
from tests.models.image_files import WRITERS, encoded, exif, noise, tarred, zipped

PIXELS = {
    "cat/1.png": noise(5, 7, seed=1),
    "cat/2.png": noise(5, 7, seed=2),
    "dog/1.png": noise(5, 7, seed=3),
    "eel/9.bmp": noise(5, 7, seed=4),
}


def encode_all(arrays):
    kinds = {"png": "PNG", "bmp": "BMP", "webp": "WEBP", "jpg": "JPEG"}
    return {name: encoded(array, kinds[name.rpartition(".")[2]]) for name, array in arrays.items()}


FILES = encode_all(PIXELS)
X = np.stack(list(PIXELS.values())).transpose(0, 3, 1, 2)


def digest(take):
    return hashlib.sha256(take.path.read_bytes()).hexdigest()


# --- values


@pytest.mark.parametrize("writer", WRITERS)
def test_a_dataset_holds_the_pixels_of_its_images(take, writer):
    assert accepted(take(WRITERS[writer](FILES))) == {
        "format": "images",
        "examples": 4,
        "classes": ["cat", "dog", "eel"],
        "positive_class": None,
        "class_counts": {"cat": 2, "dog": 1, "eel": 1},
        "groups": {},
        "input": {"kind": "image", "shape": [3, 5, 7], "dtype": "uint8"},
        "duplicates": 0,
        "transforms": [],
    }
    dataset = Dataset(take.path)
    np.testing.assert_array_equal(dataset.x, X)
    np.testing.assert_array_equal(dataset.y, [0, 0, 1, 2])
    assert dataset.y.dtype == np.int64
    assert (dataset.classes, dataset.groups, dataset.sizes) == (("cat", "dog", "eel"), {}, None)


def test_the_mode_is_colour_unless_it_is_grey(take):
    data = zipped(FILES)
    accepted(take(data))
    colour = digest(take)
    accepted(take(data, mode="rgb"))
    assert digest(take) == colour
    answer = accepted(take(data, mode="grey"))
    assert answer["input"]["shape"] == [1, 5, 7]
    expected = [np.asarray(Image.fromarray(one).convert("L"))[None] for one in PIXELS.values()]
    np.testing.assert_array_equal(Dataset(take.path).x, expected)


def test_an_archive_is_the_same_dataset_as_arrays_of_its_pixels(take):
    accepted(take(zipped(FILES)))
    images = Dataset(take.path)
    found = digest(take), images.hashes.tolist()
    stream = io.BytesIO()
    np.savez(stream, x=X, y=np.array(["cat", "cat", "dog", "eel"]))
    accepted(take(stream.getvalue()))
    assert (digest(take), Dataset(take.path).hashes.tolist()) == found


def test_equal_images_are_counted_whatever_they_are_called_and_however_they_are_stored(take):
    files = {
        **FILES,
        "eel/copy.bmp": encoded(PIXELS["cat/1.png"], "BMP"),
        "eel/x.png": FILES["cat/2.png"],
    }
    assert accepted(take(zipped(files)))["duplicates"] == 2
    hashes = Dataset(take.path).hashes
    assert len(set(hashes.tolist())) == 4


def test_the_content_says_what_an_image_is_and_the_extension_only_that_it_is_one(take):
    accepted(take(zipped(FILES)))
    found = digest(take)
    names = ["cat/1.JPG", "cat/2.Webp", "dog/1.jpeg", "eel/9.PNG"]
    accepted(take(zipped(dict(zip(names, FILES.values(), strict=True)))))
    assert digest(take) == found


# --- order and digest


def variants():
    wrapped = {f"data set/{name}": data for name, data in FILES.items()}
    litter = {
        "cat/": b"",
        "empty class/": b"",
        ".hidden/x.txt": b"x",
        ".DS_Store": b"x",
        "cat/.DS_Store": b"x",
        "cat/._1.png": b"x",
        "__MACOSX/cat/._1.png": b"x",
        "__MACOSX/notes.txt": b"x",
        "cat/Thumbs.db": b"x",
        "dog/desktop.ini": b"x",
        "dog/Desktop.INI": b"x",
    }
    return {
        "as it is": FILES,
        "in another order": dict(reversed(FILES.items())),
        "in a folder": wrapped,
        "in a folder with dots": {f"./{name}": data for name, data in wrapped.items()},
        "among litter": {**litter, **FILES},
        "in a folder among litter": {
            **wrapped,
            **{f"data set/{name}": data for name, data in litter.items()},
            "__MACOSX/data set/cat/._1.png": b"x",
        },
    }


@pytest.mark.parametrize("writer", WRITERS)
def test_the_same_images_packed_in_another_way_are_the_same_dataset(take, writer):
    accepted(take(zipped(FILES)))
    expected = digest(take)
    for name, files in variants().items():
        answer = accepted(take(WRITERS[writer](files)))
        assert answer["classes"] == ["cat", "dog", "eel"], name
        assert digest(take) == expected, name


def test_pixels_labels_and_the_order_of_names_are_all_in_the_digest(take):
    others = [
        FILES,
        {**FILES, "cat/1.png": FILES["dog/1.png"]},
        {**FILES, "cat/1.png": FILES["cat/2.png"], "cat/2.png": FILES["cat/1.png"]},
        {name.replace("eel", "fox"): data for name, data in FILES.items()},
        {**FILES, "eel/8.png": FILES["cat/1.png"]},
    ]
    found = set()
    for files in others:
        accepted(take(zipped(files)))
        found.add(digest(take))
    accepted(take(zipped(FILES), classes=["cat", "dog", "eel", "fox"]))
    found.add(digest(take))
    assert len(found) == 6
    renamed = {name.replace("1.png", "0.png"): data for name, data in FILES.items()}
    accepted(take(zipped(renamed)))  # a name that changes no order is not content
    assert digest(take) in found


@pytest.mark.parametrize("seed", range(3))
def test_examples_stand_in_the_order_of_code_points(take, seed):
    names = ["Z/a", "a/10", "a/9", "a/B", "a/b", "aa/1", "ä/1", "ä/ﬀ", "日本/1", "a/é"]
    arrays = {f"{name}.png": noise(2, 3, seed=index) for index, name in enumerate(names)}
    files = list(encode_all(arrays).items())
    random.Random(seed).shuffle(files)
    answer = accepted(take(WRITERS[["zip", "tar of POSIX", "tar.gz"][seed]](files)))
    assert answer["classes"] == sorted({name.split("/")[0] for name in names})
    order = sorted(arrays, key=lambda name: name.split("/"))
    expected = np.stack([arrays[name] for name in order]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(Dataset(take.path).x, expected)


def test_names_count_in_their_composed_form(take):
    composed = {name.replace("cat", "Zoë").replace("1", "é"): d for name, d in FILES.items()}
    taken_apart = {unicodedata.normalize("NFD", name): data for name, data in composed.items()}
    assert set(composed) != set(taken_apart)
    found = set()
    for files in (composed, taken_apart):
        for writer in WRITERS.values():
            answer = accepted(take(writer(files)))
            assert answer["classes"] == ["Zoë", "dog", "eel"]
            found.add(digest(take))
    assert len(found) == 1
    answer = accepted(take(zipped(taken_apart), classes=["dog", "eel", "Zoë"]))
    assert answer["class_counts"] == {"dog": 1, "eel": 1, "Zoë": 2}


@pytest.mark.parametrize("heights", [[4], [4, 5, 6]])
def test_any_number_of_processes_writes_the_same_bytes(take, heights):
    arrays = {
        f"{'ab'[i % 2]}/{i}.png": noise(heights[i % len(heights)], 6, seed=i) for i in range(50)
    }
    data = zipped(encode_all(arrays))
    found = set()
    for processes in (1, 2, 3, 9, 60):
        accepted(take(data, processes=processes, transforms=[{"name": "resize", "size": [4, 4]}]))
        found.add(digest(take))
    assert len(found) == 1


# --- labels


def test_given_classes_are_the_order_and_may_be_absent(take):
    answer = accepted(take(zipped(FILES), classes=["eel", "fox", "dog", "cat"]))
    assert answer["class_counts"] == {"eel": 1, "fox": 0, "dog": 1, "cat": 2}
    np.testing.assert_array_equal(Dataset(take.path).y, [3, 3, 2, 0])
    detail = refused(take(zipped(FILES), classes=["eel", "cat"]), pointer="/classes")
    assert detail == "the archive has the folder 'dog'; it must be one of the classes eel, cat"


def test_folders_called_by_numbers_are_names_like_others(take):
    files = {f"{n}/1.png": FILES["cat/1.png"] for n in (10, 9, 2)}
    assert accepted(take(zipped(files)))["classes"] == ["10", "2", "9"]
    refused(take(zipped(files), classes=["a", "b", "c"]), "folder '10'", pointer="/classes")


def test_a_binary_task_has_two_folders_and_a_positive_one(take):
    files = {name: data for name, data in FILES.items() if "eel" not in name}
    assert accepted(take(zipped(files), task="binary"))["positive_class"] == "dog"
    answer = accepted(take(zipped(files), task="binary", positive_class="cat"))
    assert answer["positive_class"] == "cat"
    refused(take(zipped(FILES), task="binary"), "exactly 2", "cat, dog, eel", pointer="/task")


def test_one_folder_is_enough_where_the_classes_are_given(take):
    files = {"cat/1.png": FILES["cat/1.png"]}
    assert accepted(take(zipped(files), classes=["cat", "dog"]))["examples"] == 1
    refused(take(zipped(files)), "folder 'cat'", "at least 2", "give classes", pointer="/classes")


def test_what_belongs_to_arrays_and_tables_is_refused(take):
    data = zipped(FILES)
    refused(take(data, task="multilabel"), "the name of its folder", pointer="/task")
    refused(take(data, label="cat"), "tables", "name of its folder", pointer="/label")
    refused(take(data, features=["x"]), "belongs to tables", pointer="/features")
    refused(take(data, groups=["x"]), "belongs to arrays and tables", pointer="/groups")


def test_too_many_folders_are_refused(take, monkeypatch):
    monkeypatch.setattr("models.datasets.images.MAX_VALUES", 2)
    refused(take(zipped(FILES)), "in 3 folders; at most 2 classes")


# --- images of different sizes

SIZES = {
    "cat/1.png": (5, 7),
    "cat/2.png": (7, 5),
    "dog/1.png": (5, 7),
    "eel/1.png": (3, 90),
    "eel/2.png": (3, 90),
}
DIFFERENT = {name: noise(*size, seed=index) for index, (name, size) in enumerate(SIZES.items())}
RESIZE = [{"name": "resize", "size": [8, 8]}]


@pytest.mark.parametrize("mode", ["rgb", "grey"])
def test_images_of_different_sizes_stand_one_after_the_other(take, mode):
    answer = accepted(take(zipped(encode_all(DIFFERENT)), transforms=RESIZE, mode=mode))
    channels = {"rgb": 3, "grey": 1}[mode]
    assert answer["input"] == {
        "kind": "image",
        "shape": [channels, None, None],
        "dtype": "uint8",
    }
    assert answer["transforms"] == [
        {"name": "resize", "size": [8, 8], "interpolation": "bilinear", "antialias": True}
    ]
    dataset = Dataset(take.path)
    assert dataset.sizes.dtype == np.int32
    assert dataset.sizes.tolist() == [[channels, *size] for size in SIZES.values()]
    pillow = {"rgb": "RGB", "grey": "L"}[mode]
    expected = [np.asarray(Image.fromarray(one).convert(pillow)) for one in DIFFERENT.values()]
    expected = [one.reshape(*one.shape[:2], channels).transpose(2, 0, 1) for one in expected]
    np.testing.assert_array_equal(dataset.x, np.concatenate([one.ravel() for one in expected]))


def test_images_of_different_sizes_equal_arrays_of_their_size(take):
    accepted(take(zipped(encode_all(DIFFERENT)), transforms=RESIZE))
    found = Dataset(take.path).hashes.copy()
    stream = io.BytesIO()
    alike = np.stack([DIFFERENT["cat/1.png"], DIFFERENT["dog/1.png"]]).transpose(0, 3, 1, 2)
    np.savez(stream, x=alike, y=np.arange(2))
    accepted(take(stream.getvalue()))
    np.testing.assert_array_equal(Dataset(take.path).hashes, found[[0, 2]])


@pytest.mark.parametrize(
    "transforms",
    [
        [],
        [{"name": "grey"}],
        [{"name": "resize", "size": 8}],
        [{"name": "pad", "padding": 3}],
        [{"name": "to_float"}],
    ],
)
def test_images_of_different_sizes_need_a_resize(take, transforms):
    answer = take(zipped(encode_all(DIFFERENT)), transforms=transforms)
    detail = refused(answer, "Add the transform resize", pointer="/transforms")
    assert "'cat/1.png' has 7 x 5 pixels, 'cat/2.png' 5 x 7" in detail


def test_a_shorter_side_and_a_crop_make_one_size_too(take):
    chain = [{"name": "resize", "size": 8}, {"name": "center_crop", "size": 8}]
    accepted(take(zipped(encode_all(DIFFERENT)), transforms=chain))


def test_transforms_must_fit_the_images(take):
    data, different = zipped(FILES), zipped(encode_all(DIFFERENT))
    normalize = {"name": "normalize", "mean": [0, 0], "std": [1, 1]}
    chain = [{"name": "to_float"}, normalize]
    refused(take(data, transforms=chain), "has 3 entries", pointer="/transforms/1/mean")
    answer = take(different, transforms=RESIZE + chain)
    refused(answer, "has 3 entries", pointer="/transforms/2/mean")
    refused(take(data, transforms=[{"name": "clip", "minimum": 0}]), pointer="/transforms/0")


def test_an_image_that_a_transform_would_make_too_large_is_named(take):
    arrays = {**DIFFERENT, "eel/3.png": noise(1, 9000)}
    chain = [{"name": "resize", "size": 8000}, {"name": "center_crop", "size": 8}]
    answer = take(zipped(encode_all(arrays)), transforms=chain)
    refused(answer, "'eel/3.png'", "8000 x 72000000", pointer="/transforms")


def test_a_size_that_only_the_orientation_makes_different_is_seen(take):
    turned = encoded(noise(5, 7), exif=b"Exif\0\0" + exif(6))
    files = {**FILES, "dog/1.png": turned}
    refused(take(zipped(files)), "'dog/1.png' 5 x 7", pointer="/transforms")
    upright = encoded(noise(7, 5), exif=b"Exif\0\0" + exif(6))
    accepted(take(zipped({**FILES, "dog/1.png": upright})))
    assert Dataset(take.path).sizes is None


def test_a_first_image_that_differs_from_all_others_is_seen_late_and_changes_nothing(take):
    # The sample that is looked at first holds each fourth of these.
    arrays = {f"{'ab'[i >= 100]}/{i:03}.png": noise(5, 7, seed=i) for i in range(260)}
    arrays["b/201.png"] = noise(9, 9)
    found = set()
    for processes in (1, 2):
        answer = take(zipped(encode_all(arrays)), transforms=RESIZE, processes=processes)
        assert accepted(answer)["input"]["shape"] == [3, None, None]
        found.add(digest(take))
        whole = Dataset(take.path)
        starts = np.cumsum(whole.sizes.prod(axis=1)) - whole.sizes.prod(axis=1)
        for index in (0, 199, 201, 259):
            array = arrays[list(arrays)[index]].transpose(2, 0, 1)
            got = whole.x[starts[index] : starts[index] + array.size]
            np.testing.assert_array_equal(got, array.ravel())
    assert len(found) == 1


def test_a_large_first_image_does_not_count_for_all(take):
    arrays = {"a/0.png": noise(300, 300), **{f"b/{i}.png": noise(2, 2) for i in range(99)}}
    data = zipped(encode_all(arrays))
    accepted(take(data, transforms=RESIZE, max_bytes=3 * 10**5))


# --- sniffing


@pytest.mark.parametrize("writer", WRITERS)
def test_the_first_bytes_show_an_archive_of_images(writer):
    assert sniff(WRITERS[writer](FILES)[:HEAD_BYTES]) == "images"
    assert sniff(WRITERS[writer]({"x/": b"", **FILES})[:HEAD_BYTES]) == "images"


# --- memory

INGESTING = """
import resource, sys, os
sys.path.insert(0, {root!r})
from models.datasets import ingest
import models.datasets.images
size = int(open("/proc/self/statm").read().split()[0]) * 4096
limit = size + {more}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
request = {{
    "spec": {{"name": "d", "split": "test"}}, "max_examples": 10**6, "max_bytes": 10**9,
    "max_columns": 9, "max_pixels": 10**6, "processes": {processes},
}}
fds = [os.open({path!r}, os.O_RDONLY)]
fds += [os.open({path!r} + end, os.O_RDWR | os.O_CREAT) for end in (".out", ".scratch")]
answer = ingest(request, fds)
assert answer["dataset"]["examples"] == 200, answer
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("writer", ["zip", "tar.gz"])
@pytest.mark.parametrize("processes", [1, 2])
def test_ingesting_needs_memory_for_a_few_images_only(tmp_path, writer, processes):
    arrays = {f"{'ab'[i % 2]}/{i}.png": noise(400, 400, seed=i) for i in range(200)}
    files = {name: encoded(array, compress_level=0) for name, array in arrays.items()}
    data = gzip.compress(tarred(files), 0) if writer == "tar.gz" else zipped(files)
    path = tmp_path / "archive"
    path.write_bytes(data)
    assert len(data) > 95 * 10**6
    more = 40 * 10**6 + (len(data) if writer == "zip" else 0)  # a zip is mapped
    root = str(Path(__file__).parents[2])
    code = INGESTING.format(root=root, path=str(path), more=more, processes=processes)
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
