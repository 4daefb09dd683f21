"""Archives of images that are damaged or hostile: refused with the entry, or a dataset."""

import gzip
import io
import json
import random
import struct
import tarfile
import tempfile
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from models.datasets import Dataset, images, ingest
from tests.models.conftest import BOUNDS, accepted, refused
from tests.models.image_files import (
    END,
    WRITERS,
    chunk,
    encoded,
    entry,
    exif,
    noise,
    raw_png,
    zipped,
)
from tests.models.test_datasets_hostile import mutated

FILES = {
    "cat/1.png": encoded(noise(5, 7, seed=1)),
    "cat/2.jpg": encoded(noise(5, 7, seed=2), "JPEG"),
    "dog/1.bmp": encoded(noise(5, 7, seed=3), "BMP"),
    "dog/2.webp": encoded(noise(5, 7, seed=4), "WEBP"),
}
GOOD = FILES["cat/1.png"]
BOTH = pytest.mark.parametrize("writer", ["zip", "tar of POSIX"])


def archive(files, writer="zip"):
    return WRITERS[writer]({**FILES, **files})


# --- layout


@BOTH
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("1.png", ["'1.png' is not where it should be", "cat/1.png"]),
        ("cat/tabby/1.png", ["'cat/tabby/1.png' is not where it should be", "folder of its class"]),
        ("a/b/c/1.png", ["'a/b/c/1.png' is not where it should be"]),
        ("cat/notes.txt", ["'cat/notes.txt' is no image", ".png, .jpg, .jpeg, .bmp, .webp"]),
        ("labels.csv", ["'labels.csv' is no image"]),
        ("cat/1.gif", ["'cat/1.gif' is no image"]),
        ("cat/1.tiff", ["'cat/1.tiff' is no image"]),
        ("cat/1", ["'cat/1' is no image"]),
        ("cat/png", ["'cat/png' is no image"]),
        ("cat/1.png.txt", ["'cat/1.png.txt' is no image"]),
        ("cat/more.zip", ["'cat/more.zip' is an archive inside of the archive"]),
        ("more.TAR.GZ", ["'more.TAR.GZ' is an archive inside of the archive"]),
        ("cat/a.7z", ["'cat/a.7z' is an archive inside"]),
        ("../1.png", ["'../1.png' could lead out"]),
        ("cat/..\\1.png", ["could lead out"]),
        ("ca\tt/1.png", ["folder 'ca\\tt' cannot name a class"]),
        ("n" * 257 + "/1.png", ["'nnn", "has 257 characters", "at most 256"]),
        ("cat/" + "n" * 253 + ".png", ["'nnn", "has 257 characters", "at most 256"]),
        ("\ufb2c" * 86 + "/1.png", ["cannot name a class", "1 to 256 printable"]),
        (" \u202e/1.png", ["cannot name a class"]),
    ],
)
def test_a_file_that_is_no_image_in_the_folder_of_its_class_is_refused(take, writer, name, words):
    refused(take(archive({name: GOOD}, writer)), *words)


def test_folders_of_splits_are_refused_with_advice(take):
    files = {f"{split}/{name}": data for split in ("train", "test") for name, data in FILES.items()}
    answer = take(zipped(files))
    refused(answer, "'train/cat/1.png'", "'test/cat/1.png'", "Splits are datasets of their own")


def test_a_name_of_endless_marks_is_refused_before_it_is_put_into_order(take):
    marks = "\u0301\u0323" * 15_000  # which takes time by the square of their number
    files = {f"cat/{index:02}{marks}.png": GOOD for index in range(50)}
    began = time.monotonic()
    refused(take(archive(files)), "has 30006 characters")
    refused(take(archive({f"{marks}/1.png": GOOD})), "has 30000 characters")
    assert time.monotonic() - began < 10
    accepted(take(archive({"cat/" + "\u0301\u0323" * 126 + ".png": GOOD})))


def test_names_that_stand_twice_are_refused_naming_both(take):
    for first, second in [("é", "e\u0301"), ("\u212b", "\u00c5")]:
        names = [f"cat/{first}.png", f"cat/{second}.png"]
        detail = refused(take(archive({name: GOOD for name in names})))
        assert all(repr(name) in detail for name in names)
        assert "have one name" in detail
        refused(take(archive({f"{first}/1.png": GOOD, f"{second}/1.png": GOOD})), "have one name")
    entries = b"".join(entry(name.encode(), data) for name, data in FILES.items())
    refused(take(entries + entry(b"cat/1.png", GOOD) + END), "'cat/1.png' stands in", "twice")
    dotted = take(entries + entry(b"./cat/1.png", GOOD) + END)
    refused(dotted, "'cat/1.png' and './cat/1.png' have one name")


def test_an_archive_without_images_is_refused(take):
    for files in ({}, {"cat/": b""}, {"cat/.hidden.png": GOOD}, {"__MACOSX/cat/1.png": GOOD}):
        for writer in ("zip", "tar of POSIX"):
            if files or writer == "tar of POSIX":
                data = WRITERS[writer](files) if files else entry(b"cat/", kind=b"5") + END
                refused(take(data), "holds no examples")
    refused(take(zipped({}), format="images"), "holds no examples")
    refused(take(gzip.compress(END), format="images"), "no tar archive")


# --- limits


@BOTH
def test_too_many_images_and_too_many_entries_are_refused(take, writer, monkeypatch):
    files = {f"cat/{i}.png": GOOD for i in range(6)} | {"dog/1.png": GOOD}
    accepted(take(WRITERS[writer](files), max_examples=7))
    answer = take(WRITERS[writer](files), max_examples=6)
    refused(answer, "holds 7 examples; at most 6")
    monkeypatch.setattr(images, "MAX_OTHERS", 3)
    litter = {f"cat/._{i}.png": b"" for i in range(10)}
    accepted(take(WRITERS[writer]({**files, **litter}), max_examples=7))
    litter["cat/._x"] = b""
    refused(take(WRITERS[writer]({**files, **litter}), max_examples=7), "17", "the archive has")


def png_header(width, height):
    """A PNG that claims a size and has no pixels."""
    header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(b"none")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("processes", [1, 2])
def test_an_image_bomb_is_refused_by_its_header(take, processes):
    for name in ("cat/0.png", "cat/3.png", "dog/9.png"):
        answer = take(archive({name: png_header(30_000, 30_000)}), processes=processes)
        refused(answer, f"{name!r} has 30000 x 30000 pixels; 1 to 1000000 are decoded")
    for format in ("BMP", "JPEG", "WEBP"):
        large = encoded(Image.new("L", (1001, 1000)), format)
        detail = refused(
            take(archive({"cat/0.png": large}), processes=processes), "'cat/0.png' has"
        )
        assert "1000000 pixels" in detail
        accepted(
            take(
                archive({"cat/0.png": large}),
                transforms=[{"name": "resize", "size": [4, 4]}],
                max_pixels=1_001_000,
            )
        )


def test_a_dataset_that_gets_too_large_is_refused_before_a_pixel_is_decoded(take):
    alike = {f"{'ab'[i % 2]}/{i}.png": png_header(900, 900) for i in range(5)}
    assert "takes 1215" in refused(take(zipped(alike)), "bytes decoded; at most 10000000 are taken")
    different = {f"{'ab'[i % 2]}/{i}.png": png_header(900 + i, 900) for i in range(5)}
    answer = take(zipped(different), transforms=[{"name": "resize", "size": [4, 4]}])
    refused(answer, "bytes decoded; at most 10000000 are taken")
    refused(take(zipped(alike), max_bytes=2 * 10**7), "'a/0.png' is damaged")


def test_the_limit_counts_every_byte_of_the_decoded_file(take):
    accepted(take(zipped(FILES)))
    size = take.path.stat().st_size
    accepted(take(zipped(FILES), max_bytes=size))
    refused(take(zipped(FILES), max_bytes=size - 1), f"takes {size} bytes")


@BOTH
def test_a_file_that_is_larger_than_any_image_is_refused_unread(take, writer):
    most = 8 * 1000 + 2**24
    padded = GOOD + random.Random(0).randbytes(most + 1 - len(GOOD))
    accepted(take(archive({"cat/1.png": padded[:-1]}, writer), max_pixels=1000))
    answer = take(archive({"cat/1.png": padded}, writer), max_pixels=1000)
    refused(answer, f"'cat/1.png' has {most + 1} bytes; at most {most}")


@pytest.mark.parametrize("writer", ["zip deflated", "tar.gz"])
def test_an_archive_bomb_is_refused(take, writer):
    data = WRITERS[writer]({**FILES, "dog/3.png": GOOD + bytes(4 * 10**8)})
    assert len(data) < 10**6
    began = time.monotonic()
    answer = take(data, max_bytes=10**12)
    refused(answer, "unpacks to")
    assert time.monotonic() - began < 20


def test_the_scratch_file_is_bounded_by_the_bytes_that_a_dataset_may_have(take):
    data = WRITERS["tar.gz"]({**FILES, "dog/3.bmp": encoded(noise(600, 600), "BMP")})
    resize = [{"name": "resize", "size": [4, 4]}]
    accepted(take(data, max_bytes=3 * 10**6, transforms=resize))
    answer = take(data, max_bytes=10**6, transforms=resize)
    refused(answer, "the gzip file unpacks to more than 1000000 bytes")


# --- damaged images


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("processes", [1, 4])
def test_one_image_that_is_cut_off_is_refused_by_name(take, name, processes):
    data = FILES[name]
    for length in (0, 1, 10, len(data) // 2):
        answer = take(archive({name: data[:length]}), processes=processes)
        detail = refused(answer, f"the image {name!r} is ")
        assert "damaged" in detail


@pytest.mark.parametrize(
    "data",
    [b"<svg/>", b"GIF89a" + bytes(50), encoded(noise(5, 7), "TIFF"), b"%PDF-1.7", b"\0" * 99],
)
def test_another_kind_of_file_under_the_name_of_an_image_is_refused(take, data):
    refused(take(archive({"dog/1.bmp": data})), "'dog/1.bmp' is no PNG, JPEG, BMP or WebP image")


def test_a_checksum_that_is_wrong_is_refused_by_name(take):
    data = bytearray(zipped(FILES))
    data[data.index(b"dog/1.bmp") + 40] ^= 1
    refused(take(bytes(data)), "checksum of the member 'dog/1.bmp' is wrong")


def test_a_header_that_promises_another_size_than_the_pixels_is_refused(take):
    rows = [row.tobytes() for row in noise(5, 7)]
    short = raw_png(rows, depth=8, colour=2).replace(
        struct.pack(">LL", 7, 5), struct.pack(">LL", 7, 9)
    )
    refused(take(archive({"cat/1.png": short}), classes=["cat", "dog"]))
    orientation = raw_png(rows, depth=8, colour=2, after=chunk(b"eXIf", exif(6)))
    refused(take(archive({"cat/1.png": orientation})), "differ in size", pointer="/transforms")


def test_an_answer_never_floods_and_holds_nothing_of_the_inside(take):
    long = "n" * 60_000
    for files in ({f"cat/{long}.txt": b""}, {f"cat/{long}.png": b"x"}, {f"{long}/1.png": GOOD}):
        detail = refused(take(archive(files)))
        assert len(detail) < 600
        for word in ("PIL", "Traceback", "object at", "BytesIO", "/tmp"):
            assert word not in detail


# --- zip archives that zipfile would read


def test_what_every_zip_is_checked_for_is_checked_here(take):
    data = zipped(FILES)
    at = data.index(b"PK\x01\x02")
    encrypted = bytearray(data)
    encrypted[at + 8] |= 1
    refused(take(bytes(encrypted)), "'cat/1.png' is encrypted")
    refused(take(data + b"x"), "bytes after its end")
    refused(take(data[:-1]), "cut off")
    refused(take(b"PK\x03\x04" + bytes(30) + data), "directory is not where")
    link = io.BytesIO()
    with zipfile.ZipFile(link, "w") as file:
        info = zipfile.ZipInfo("cat/1.png")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "../../etc/passwd")
    refused(take(link.getvalue()), "'cat/1.png' is a symbolic link")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("cat/1.png", GOOD)
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("cat/1.png", GOOD)
    refused(take(stream.getvalue()), "'cat/1.png' stands twice")
    for method, name in ((zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")):
        refused(take(zipped(FILES, method)), name, "'cat/1.png'")


def test_members_that_share_their_bytes_are_refused(take):
    data = zipped(FILES)
    start = data.index(b"PK\x01\x02")
    first = data[start : start + 46 + len("cat/1.png")]
    again = first.replace(b"cat/1.png", b"cat/9.png")
    end = bytearray(data[-22:])
    count = len(FILES) + 1
    struct.pack_into("<HHL", end, 8, count, count, len(data) - 22 - start + len(again))
    refused(take(data[:-22] + again + end), "overlaps another member")


# --- files of other formats


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (GOOD, "this is a single image; a zip, tar or tar.gz of folders"),
        (FILES["cat/2.jpg"], "this is a single image"),
        (FILES["dog/1.bmp"], "this is a single image"),
        (FILES["dog/2.webp"], "this is a single image"),
        (gzip.compress(b"a,b,label\n1,2,cat\n" * 50, mtime=0), "gzip-compressed and no tar.gz"),
        (gzip.compress(b"a,label\n1,cat\n", mtime=0), "gzip-compressed and no tar.gz"),
        (zipped({}), "this is an empty archive"),
        # The orders in which Excel, openpyxl, XlsxWriter and LibreOffice write.
        (zipped({"[Content_Types].xml": b"<Types/>", "_rels/.rels": b"<R/>"}), "an Excel file"),
        (zipped({"docProps/app.xml": b"<P/>", "xl/workbook.xml": b"<w/>"}), "an Excel file"),
        (zipped({"xl/worksheets/sheet1.xml": b"<w/>"}), "an Excel file"),
        (zipped({"_rels/.rels": b"<R/>", "xl/workbook.xml": b"<w/>"}), "an Excel file"),
        (
            zipped({"mimetype": b"application/vnd.oasis.opendocument.spreadsheet"}, compression=0),
            "office document",
        ),
        (zipped({"archive/data.pkl": b"\x80\x02."}), "this is what torch.save writes"),
        (zipped({"model_1/data.pkl": b"\x80\x02.", "model_1/data/0": b""}), "torch.save writes"),
    ],
)
def test_what_people_send_by_mistake_is_named_at_once(take, data, words):
    refused(take(data), words, "known formats: npz, safetensors, images")


def test_a_class_may_be_called_like_a_folder_of_an_office_document(take):
    data = zipped({"xl/1.png": GOOD, "s/1.png": GOOD})
    assert accepted(take(data))["classes"] == ["s", "xl"]


def test_arrays_in_a_zip_are_no_images_and_images_no_arrays(take):
    stream = io.BytesIO()
    np.savez(stream, x=np.zeros((2, 3)), y=np.arange(2))
    refused(take(stream.getvalue(), format="images"), "'x.npy' is no image")
    refused(take(zipped(FILES), format="npz"), "'cat/1.png'", "must be an array")
    refused(take(b"x,y\n", format="images"), "no zip, tar or tar.gz archive")


# --- mutations


def in_one_process(data, **given):
    """Like the fixture ``take``, fast enough for many calls."""
    request = {"spec": {"name": "d", "split": "test", **given}, **BOUNDS, "processes": 1}
    with (
        tempfile.TemporaryFile() as source,
        tempfile.NamedTemporaryFile() as output,
        tempfile.TemporaryFile() as scratch,
    ):
        source.write(data)
        source.flush()
        answer = ingest(request, [source.fileno(), output.fileno(), scratch.fileno()])
        assert json.loads(json.dumps(answer, allow_nan=False)) == answer
        if "error" not in answer:
            return answer["dataset"], Dataset(output.name)
    assert answer["error"]["pointer"] in ("/file", "/transforms", "/classes")
    assert "Error" not in answer["error"]["detail"]
    return None


RESIZE = [{"name": "resize", "size": [4, 4]}]
BASES = {
    **FILES,
    "palette": encoded(Image.fromarray(noise(9, 9)).quantize(7), transparency=b"\0\x80"),
    "deep": raw_png([bytes(range(20))] * 6, depth=16, colour=0, after=chunk(b"eXIf", exif(6))),
    "cmyk": encoded(Image.frombytes("CMYK", (9, 9), noise(9, 9, 4).tobytes()), "JPEG"),
    "progressive": encoded(noise(20, 20), "JPEG", progressive=True, exif=b"Exif\0\0" + exif(8)),
    "rle": b"BM"
    + struct.pack("<LLLLllHHLLllLL", 1084, 0, 1078, 40, 3, 2, 1, 8, 1, 6, 0, 0, 256, 0)
    + bytes(1024)
    + b"\3\7\0\0\3\5\0\1",
    "animated": encoded(
        Image.fromarray(noise(9, 9)),
        "WEBP",
        save_all=True,
        append_images=[Image.fromarray(noise(9, 9, seed=1))],
    ),
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    "number", [120, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
@pytest.mark.filterwarnings("ignore")
def test_a_mutated_image_is_refused_by_name_or_what_pillow_makes_of_it(base, number):
    random_ = random.Random(f"{base} {number}")
    for _ in range(number):
        data = mutated(BASES[base], random_)
        found = in_one_process(zipped({"a/1.png": GOOD, "b/x.png": data}), transforms=RESIZE)
        if found is None:
            continue
        dataset = found[1]
        assert dataset.classes == ("a", "b")
        shapes = [[3, 5, 7]] * 2 if dataset.sizes is None else dataset.sizes.tolist()
        assert dataset.x.size == sum(map(np.prod, shapes))
        assert shapes[1][1] * shapes[1][2] <= BOUNDS["max_pixels"]
        if base in FILES:
            plain = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)
            np.testing.assert_array_equal(dataset.x.ravel()[-plain.size :], plain.ravel())


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "number", [100, pytest.param(5000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
@pytest.mark.filterwarnings("ignore")
def test_a_mutated_archive_of_images_is_refused_or_the_dataset_that_it_holds(writer, number):
    random_ = random.Random(f"{writer} {number}")
    files = {name: FILES[name] for name in ("cat/1.png", "dog/1.bmp")}
    base = WRITERS[writer](files)
    if writer.startswith("tar of"):
        base = base[:6144]
    for _ in range(number):
        data = mutated(base, random_)
        found = in_one_process(data, transforms=RESIZE)
        if found is None:
            continue
        dataset = found[1]
        if writer.startswith("zip"):
            with zipfile.ZipFile(io.BytesIO(data)) as file:
                held = {name: file.read(name) for name in file.namelist()}
        else:
            with tarfile.open(fileobj=io.BytesIO(data)) as file:
                held = {one.name: file.extractfile(one).read() for one in file if one.isfile()}
        held = {name: one for name, one in held.items() if "/." not in f"/{name}"}
        order = sorted(held, key=lambda name: name.split("/"))
        expected = [np.asarray(Image.open(io.BytesIO(held[name])).convert("RGB")) for name in order]
        values = np.concatenate([one.transpose(2, 0, 1).ravel() for one in expected])
        np.testing.assert_array_equal(dataset.x.ravel(), values)
