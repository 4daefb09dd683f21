"""Every kind of image becomes the pixels that people see, checked against arrays and formulas."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from models.datasets import pixels
from models.datasets.pixels import ImageError
from tests.models.image_files import chunk, encoded, exif, noise, raw_png

COLOUR = noise(9, 14)


@pytest.fixture(autouse=True)
def strict():
    with pixels.strict(10**6):
        yield


def decoded(data, mode="rgb"):
    """As an array ``(H, W)`` or ``(H, W, 3)``; the header must have said the same size."""
    size, found = pixels.decode(data, mode)
    assert pixels.size(data) == size
    shape = (*size, 3) if mode == "rgb" else size
    return np.frombuffer(found, np.uint8).reshape(shape)


def grey_of(colour):
    """ITU-R 601-2 in Pillow's integers."""
    red, green, blue = np.moveaxis(colour.astype(np.int64), -1, 0)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)


def both(data, colour):
    """The file gives these pixels in colour, and their grey in grey."""
    np.testing.assert_array_equal(decoded(data), colour)
    np.testing.assert_array_equal(decoded(data, "grey"), grey_of(colour))


def three(grey):
    return np.repeat(grey[..., None], 3, axis=2)


# --- kinds of pixels


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("PNG", {"interlace": True})],
)
def test_colour_is_kept(format, options):
    both(encoded(COLOUR, format, **options), COLOUR)


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP"])
def test_grey_becomes_three_equal_channels_or_stays(format):
    grey = noise(9, 14, 1)
    data = encoded(grey, format, **({"lossless": True} if format == "WEBP" else {}))
    both(data, three(grey))


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_what_pillow_decodes(quality, progressive):
    smooth = np.asarray(Image.fromarray(noise(4, 5)).resize((33, 21)))
    data = encoded(smooth, "JPEG", quality=quality, progressive=progressive)
    both(data, np.asarray(Image.open(io.BytesIO(data))))
    grey = encoded(smooth[..., 0], "JPEG", quality=quality)
    both(grey, three(np.asarray(Image.open(io.BytesIO(grey)))))


def test_a_bit_is_black_or_white():
    bits = noise(5, 16, 1) > 127
    for format in ("PNG", "BMP"):
        both(encoded(Image.fromarray(bits), format), three(bits.astype(np.uint8) * 255))


@pytest.mark.parametrize("format", ["PNG", "BMP"])
@pytest.mark.parametrize("colours", [2, 13, 256])
def test_a_palette_is_looked_up(format, colours):
    palette, indices = noise(colours, 1, seed=1)[:, 0], noise(9, 14, 1) % np.uint16(colours)
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(palette.tobytes())
    both(encoded(image, format), palette[indices])


@pytest.mark.parametrize("transparency", [3, bytes([0, 128, 255, 7]), bytes(16)])
def test_a_palette_with_transparency_is_looked_up_all_the_same(transparency):
    palette, indices = noise(16, 1, seed=1)[:, 0], noise(9, 14, 1) % 16
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    both(encoded(image, transparency=transparency), palette[indices])


def test_one_transparent_colour_changes_nothing():
    both(encoded(COLOUR, transparency=tuple(COLOUR[0, 0].tolist())), COLOUR)
    grey = noise(9, 14, 1)
    both(encoded(grey, transparency=int(grey[0, 0])), three(grey))


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparency_is_dropped_as_convert_does(format):
    layered = noise(9, 14, 4)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    data = encoded(layered, format, **options)
    both(data, layered[..., :3])
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decoded(data), theirs)


def test_transparency_beside_grey_is_dropped():
    layered = noise(9, 14, 2)
    both(encoded(Image.fromarray(layered, "LA")), three(layered[..., 0]))


def test_16_bit_grey_is_scaled_and_never_clipped():
    values = np.concatenate([np.arange(0, 65536, 11), [128, 129, 65535, 65534, 65406, 65407, 256]])
    values = values[: len(values) // 7 * 7].reshape(7, -1).astype(">u2")
    expected = np.floor(values.astype(np.float64) / 257 + 0.5).astype(np.uint8)
    data = raw_png([row.tobytes() for row in values], depth=16, colour=0)
    both(data, three(expected))
    assert expected.max() > 250
    assert expected.min() == 0
    marked = raw_png(
        [row.tobytes() for row in values], depth=16, colour=0, before=chunk(b"tRNS", b"\0\x0b")
    )
    both(marked, three(expected))


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bit_colour_keeps_its_upper_byte(colour, channels):
    upper, lower = noise(5, 6, channels, seed=1), noise(5, 6, channels, seed=2)
    rows = [
        np.stack([high, low], axis=-1).tobytes() for high, low in zip(upper, lower, strict=True)
    ]
    expected = three(upper[..., 0]) if channels == 2 else upper[..., :3]
    both(raw_png(rows, depth=16, colour=colour), expected)


def test_cmyk_becomes_the_colours_that_were_printed():
    ink = np.zeros((16, 64, 4), np.uint8)
    ink[:, 16:32, 0] = 255  # cyan
    ink[:, 32:48, 1:3] = 255  # magenta and yellow are red
    ink[:, 48:, 3] = 153  # 60 % black
    data = encoded(Image.fromarray(ink, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in data  # which inverts: stored is 255 - ink
    found = decoded(data)[8, 8::16].astype(int)
    expected = [(255, 255, 255), (0, 255, 255), (255, 0, 0), (102, 102, 102)]
    assert np.abs(found - expected).max() <= 3


def test_ycck_is_told_from_cmyk_by_the_marker_of_adobe():
    y, cb, cr, stored_k = 180, 90, 150, 200
    samples = Image.new("CMYK", (16, 16), tuple(255 - value for value in (y, cb, cr, stored_k)))
    data = bytearray(encoded(samples, "JPEG", quality=100))
    at = data.index(b"Adobe")
    assert data[at + 11] == 0
    data[at + 11] = 2  # the transform YCCK: the samples are Y, Cb, Cr and K
    ink = np.array(
        [
            y + 1.402 * (cr - 128),
            y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
            y + 1.772 * (cb - 128),
        ]
    )
    expected = (255 - ink.clip(0, 255)) * stored_k / 255
    assert np.abs(decoded(bytes(data))[5, 5] - expected).max() <= 3


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(format):
    frames = [Image.fromarray(noise(9, 14, seed=seed)) for seed in range(3)]
    options = {"save_all": True, "append_images": frames[1:]}
    data = encoded(frames[0], format, **options, **({"lossless": True} if format == "WEBP" else {}))
    assert Image.open(io.BytesIO(data)).n_frames == 3
    both(data, np.asarray(frames[0]))


def test_of_several_pictures_in_a_jpeg_the_first_counts():
    first, second = (Image.fromarray(noise(16, 24, seed=seed)) for seed in range(2))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    np.testing.assert_array_equal(decoded(data), decoded(encoded(first, "JPEG")))


# --- orientation

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("order", ["<", ">"])
def test_an_image_is_turned_as_its_exif_says(orientation, order):
    expected = UPRIGHT[orientation](COLOUR)
    block = chunk(b"eXIf", exif(orientation, order))
    rows = [row.tobytes() for row in COLOUR]
    both(raw_png(rows, depth=8, colour=2, before=block), expected)
    both(raw_png(rows, depth=8, colour=2, after=block), expected)
    both(
        encoded(COLOUR, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(orientation, order)),
        expected,
    )


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_jpeg_is_turned_as_pillow_turns_it(orientation):
    tag = b"Exif\0\0" + exif(orientation)
    plain = encoded(COLOUR, "JPEG")
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(tag) + 2) + tag + plain[2:]
    both(data, UPRIGHT[orientation](np.asarray(Image.open(io.BytesIO(plain)))))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decoded(data), np.asarray(upright))


@pytest.mark.parametrize("orientation", [3, 6])
def test_every_kind_of_pixel_is_turned(orientation):
    grey, bits = noise(9, 14, 1), noise(9, 14, 1) > 99
    block = chunk(b"eXIf", exif(orientation))
    turned = UPRIGHT[orientation](grey)
    deep = (grey.astype(np.uint16) * 257).astype(">u2")
    both(raw_png([r.tobytes() for r in grey], depth=8, colour=0, after=block), three(turned))
    both(raw_png([r.tobytes() for r in deep], depth=16, colour=0, before=block), three(turned))
    white = UPRIGHT[orientation](bits.astype(np.uint8) * 255)
    both(encoded(Image.fromarray(bits), exif=b"Exif\0\0" + exif(orientation)), three(white))


def text_chunk(kind, keyword, text):
    if kind == b"iTXt":
        return chunk(kind, keyword + b"\0\0\0\0\0" + text)
    return chunk(kind, keyword + b"\0\0" + zlib.compress(text))


def test_an_orientation_in_xmp_or_in_text_is_found_where_pillow_finds_it():
    xmp = text_chunk(b"iTXt", b"XML:com.adobe.xmp", b'<x tiff:Orientation="6"/>')
    profile = b"\nexif\n  26\n" + (b"Exif\0\0" + exif(6)).hex().encode()
    old = text_chunk(b"zTXt", b"Raw profile type exif", profile)
    rows = [row.tobytes() for row in COLOUR]
    for block in (xmp, old):
        for place in ("before", "after"):
            data = raw_png(rows, depth=8, colour=2, **{place: block})
            upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
            np.testing.assert_array_equal(np.asarray(upright), UPRIGHT[6](COLOUR))
            both(data, UPRIGHT[6](COLOUR))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"x",
        b"II*\0",
        b"nonsense" * 5,
        exif(9),
        exif(0),
        exif(6)[:-6],
        exif(6).replace(struct.pack("<HH", 0x0112, 3), struct.pack("<HH", 0x0112, 2)),
        b"II*\0\xff\xff\xff\x7f",
        struct.pack("<4sLH", b"II*\0", 8, 65535) + exif(6)[10:],
    ],
)
def test_exif_that_is_damaged_or_says_nothing_counts_as_none(block):
    rows = [row.tobytes() for row in COLOUR]
    for place in ("before", "after"):
        data = raw_png(rows, depth=8, colour=2, **{place: chunk(b"eXIf", block)})
        found = decoded(data)
        assert any(np.array_equal(found, one(COLOUR)) for one in (UPRIGHT[1], UPRIGHT[6]))


# --- refusals


def wrong(data, words):
    for read in (pixels.size, lambda data: pixels.decode(data, "rgb")):
        with pytest.raises(ImageError, match=words):
            read(data)


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP", "JPEG"])
def test_an_image_that_is_cut_off_is_refused(format):
    data = encoded(noise(40, 50), format)
    for length in (len(data) // 2, len(data) - 40):
        with pytest.raises(ImageError, match=r"is damaged or cut off|is no PNG.* or damaged"):
            pixels.decode(data[:length], "rgb")


@pytest.mark.parametrize("format", ["GIF", "TIFF", "PPM", "ICO", "TGA", "JPEG2000", "PDF", "EPS"])
def test_other_formats_are_not_even_tried(format):
    wrong(encoded(COLOUR, format), "is no PNG, JPEG, BMP or WebP image")


@pytest.mark.parametrize(
    "data", [b"", b"x", bytes(100), b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"]
)
def test_what_is_no_image_is_refused(data):
    wrong(data, r"is no PNG, JPEG, BMP or WebP image, or damaged|is damaged or cut off")


def test_an_image_of_too_many_pixels_is_refused_before_one_is_decoded():
    for width, height in ((1001, 1000), (30_000, 30_000), (2**31 - 1, 1)):
        header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"no pixels")
        wrong(bomb, f"has {width} x {height} pixels; 1 to 1000000 are decoded")
    for format in ("BMP", "WEBP", "JPEG"):
        wrong(encoded(Image.new("L", (1001, 1000)), format), "more than 1000000 pixels|1001 x 1000")
        wrong(encoded(Image.new("L", (2001, 1000)), format), "more than 1000000 pixels|2001 x 1000")
        pixels.decode(encoded(Image.new("L", (1000, 1000)), format), "grey")


def test_an_image_without_pixels_is_refused():
    header = struct.pack(">LLBBBBB", 0, 5, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    wrong(data + chunk(b"IEND", b""), "0 x 5 pixels|damaged")


def test_a_jpeg_of_endless_scans_is_refused_and_a_thumbnail_is_no_scan():
    data = encoded(Image.new("L", (1000, 1000), 99), "JPEG", progressive=True)
    pixels.decode(data, "grey")
    last = data.rindex(b"\xff\xda")
    endless = data[:-2] + data[last:-2] * 30 + data[-2:]
    assert Image.open(io.BytesIO(endless)).load() is not None  # Pillow goes over it again and again
    wrong(endless, "scans; of its size at most 16 are decoded")
    thumbnails = b"\xff\xd8\xff\xda" * 100
    metadata = b"\xff\xed" + struct.pack(">H", len(thumbnails) + 2) + thumbnails
    pixels.decode(data[:2] + metadata + data[2:], "grey")
    trailer = b"\xff\xda" * 100  # such as the film of a moving photo
    pixels.decode(data + trailer, "grey")


def test_what_pillow_says_is_not_passed_on():
    data = bytearray(encoded(noise(40, 50)))
    data[60:90] = bytes(30)
    with pytest.raises(ImageError) as caught:
        pixels.decode(bytes(data), "rgb")
    assert str(caught.value) == "is damaged or cut off"
    assert caught.value.__suppress_context__


def test_settings_of_pillow_are_put_back():
    before = Image.MAX_IMAGE_PIXELS
    with pixels.strict(5):
        assert Image.MAX_IMAGE_PIXELS == 5
    assert before == Image.MAX_IMAGE_PIXELS
