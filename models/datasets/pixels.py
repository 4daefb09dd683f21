"""One image file's bytes become the pixels that people see: Pillow, kept strict.

* Only PNG, JPEG, BMP and WebP are tried, whatever the file is called.
* The header's width times height is checked before a pixel is decoded.
* The EXIF orientation is applied. EXIF that cannot be read counts as none, as in every viewer.
* Pillow's ``convert`` looks up palettes, makes RGB of CMYK, and grey of colour by ITU-R 601-2.
* Transparency is dropped, and what a transparent pixel hides becomes visible: that is what
  ``convert("RGB")`` in the usual training code does, and a network must see what it was trained on.
* 16-bit grey is scaled to 8 bits, never clipped. Of 16-bit colour Pillow keeps the upper byte.
* Of an animation the first frame counts.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import (
    Image,
    ImageFile,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401 - without it Image.open would import every plugin that there is
)

CHANNELS = {"rgb": 3, "grey": 1}
MAX_SCANS = 16  # of a JPEG of the most pixels; a smaller one may have more

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_OTHER_FORMATS = ("JPEG", "BMP", "WEBP")
_PILLOW_MODES = {"rgb": "RGB", "grey": "L"}
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow finds an orientation, and how a PNG names the chunks that hold it.
_EXIF = frozenset({"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"})
_EXIF_CHUNKS = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
# What is no stuffed byte, no restart and no fill byte.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")


Size = tuple[int, int]  # height and width


class ImageError(ValueError):
    """These bytes cannot become pixels; the message goes on after the image's name."""


@contextlib.contextmanager
def strict(max_pixels: int) -> Iterator[None]:
    """Keep Pillow from repairing, guessing and warning while images are read."""
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def size(data: bytes) -> Size:
    """The size of an image as it will be decoded; only its header is looked at.

    Raises:
        ImageError: it has no sound header, or more pixels than `strict` allows.
    """
    try:
        image = _opened(data)
        late = image.format == "PNG" and any(chunk in data for chunk in _EXIF_CHUNKS)
        if late and _EXIF.isdisjoint(image.info):
            image.load()  # EXIF may stand behind the pixels, where Pillow gets only through them
        width, height = image.size
        return (width, height) if _orientation(image) in (5, 6, 7, 8) else (height, width)
    except Exception as error:
        raise _refusal(error) from None


def decode(data: bytes, mode: str) -> tuple[Size, bytes]:
    """Decode an image.

    Args:
        data: the file's content.
        mode: one of `models.spec.MODES`.

    Returns:
        The size, and the pixels, uint8 ``(height, width, channels)``.

    Raises:
        ImageError: it is damaged, cut off, or has more pixels than `strict` allows.
    """
    pillow_mode = _PILLOW_MODES[mode]
    try:
        opened = _opened(data)
        if opened.mode == pillow_mode:
            found = opened.tobytes()
            if _EXIF.isdisjoint(opened.info):  # only now, as a PNG may have it behind its pixels
                return opened.size[::-1], found
        image = _converted(opened, pillow_mode)
        return image.size[::-1], image.tobytes()
    except Exception as error:
        raise _refusal(error) from None


def _refusal(error: Exception) -> Exception:
    """Whatever Pillow raises becomes one sentence, without what Pillow says."""
    if isinstance(error, (ImageError, MemoryError)):
        return error
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return ImageError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels")
    if isinstance(error, UnidentifiedImageError):
        return ImageError("is no PNG, JPEG, BMP or WebP image, or damaged")
    return ImageError("is damaged or cut off")


def _opened(data: bytes) -> ImageFile.ImageFile:
    most = Image.MAX_IMAGE_PIXELS or 0
    if data.startswith(_PNG):  # what Image.open would find, in a twentieth less of the whole time
        image: ImageFile.ImageFile = PngImagePlugin.PngImageFile(io.BytesIO(data))
    else:
        image = Image.open(io.BytesIO(data), formats=_OTHER_FORMATS)
        if data.startswith(_JPEG):
            _check_scans(data, MAX_SCANS * most // max(1, image.width * image.height))
    width, height = image.size
    if not 0 < width * height <= most:
        raise ImageError(f"has {width} x {height} pixels; 1 to {most} are decoded")
    return image


def _check_scans(data: bytes, most: int) -> None:
    """Each scan of a progressive JPEG costs as much as a whole one, and takes a few bytes."""
    if data.count(b"\xff\xda") <= most:
        return
    # What looks like a scan in metadata, such as in a thumbnail, does not count.
    scans, at = 0, 2
    while (match := _JPEG_MARKER.search(data, at)) is not None and match[1] != b"\xd9":
        scans += match[1] == b"\xda"
        at = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
    if scans > most:
        raise ImageError(f"has {scans} scans; of its size at most {most} are decoded")


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation, 1 to 8, or whatever else stands there; None if there is none."""
    if _EXIF.isdisjoint(image.info):
        return None
    try:
        return image.getexif().get(_ORIENTATION)
    except MemoryError:
        raise
    except Exception:
        return None


def _converted(image: Image.Image, pillow_mode: str) -> Image.Image:
    """An image in a mode, and upright."""
    image.load()
    orientation = _orientation(image)
    if image.mode.startswith("I"):
        image = Image.fromarray(_scaled(np.asarray(image)))
    if image.mode != pillow_mode:
        image.info.pop("transparency", None)  # convert would map that colour to another
        image = image.convert(pillow_mode)
    for number, method in _UPRIGHT.items():
        if number == orientation:  # which may be of any type, also of one that no dict looks up
            return image.transpose(method)
    return image


def _scaled(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """16-bit grey as uint8: ``values / 257``, rounded."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
