"""Archives of images in folders of their classes.

A zip, tar or tar.gz is surveyed without decoding (`models.datasets.archives`, `folders`). Then it
is known where in the output the pixels of each image belong, and any number of processes decode
(`pixels`, `decoders`) and write them there. Most sets of images have one size: the first image says
it, and a pass over all headers, which takes a quarter of the time of decoding, is made only where
another image contradicts.
"""

from __future__ import annotations

import contextlib
import gc
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models import chains
from models.datasets import archives, decoded, decoders, folders, kinds, pixels
from models.datasets.archives import Archive, shown
from models.datasets.arrays import bad_file
from models.datasets.decoded import Fingerprints
from models.datasets.folders import Layout
from models.datasets.intake import (
    Found,
    Intake,
    check_examples,
    check_size,
    positive_class_of,
)
from models.datasets.labels import MAX_VALUES
from models.datasets.pixels import ImageError, Size
from models.spec import MODES, DatasetSpec, SpecError
from models.tensorfile import Placer
from models.transforms import ExampleType, Transform

MAX_OTHERS = 100_000  # entries beside two for each example: macOS packs a hidden twin of each file

_BATCH_BYTES = 2**20
_SAMPLES = 64

Array = np.ndarray[Any, Any]


def take(intake: Intake) -> Found:
    """Make a dataset of such an archive; see `models.datasets.intake`.

    Examples are uint8 ``(C, H, W)``, in the order of class and file name, whatever the order of the
    archive. `models.datasets.pixels` says what becomes of the many kinds of image.
    """
    spec = intake.spec
    kinds.check(spec, "image")
    with _uncollected():
        archive = archives.open_archive(
            intake.source,
            scratch=intake.scratch,
            max_bytes=intake.max_bytes,
            max_entries=2 * intake.max_examples + MAX_OTHERS,
        )
        layout = folders.layout(archive.names)
    check_examples(len(layout.entries), intake)
    classes, order = _classes(layout, spec)
    positive_class = positive_class_of(spec, classes)
    y = order[np.array(layout.codes)]
    images = _Images(archive, layout.entries, spec.mode or MODES[0])
    images.check(intake.max_pixels)
    with pixels.strict(intake.max_pixels):
        example, hashes = _write(images, images.guessed_sizes(), y, classes, intake)
    counts = np.bincount(y, minlength=len(classes)).tolist()
    return Found(
        examples=len(images),
        classes=classes,
        positive_class=positive_class,
        class_counts=dict(zip(classes, counts, strict=True)),
        groups={},
        kind="image",
        example=example,
        duplicates=decoded.duplicates(np.frombuffer(hashes, "<u8")),
        transforms=chains.resolved(spec.transforms, pointer="/transforms"),
    )


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from going again and again over a survey, which has no garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Images:
    """The images of an archive by the index of the example."""

    def __init__(self, archive: Archive, entries: Sequence[int], mode: str) -> None:
        self._archive = archive
        self._entries = entries
        self._mode = mode
        self.channels = pixels.CHANNELS[mode]

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, index: int) -> str:
        """As error messages write it."""
        return shown(self._archive.names[self._entries[index]])

    def check(self, max_pixels: int) -> None:
        """Refuse files that are larger than any image of so many pixels has to be."""
        most = 8 * max_pixels + 2**24  # 16-bit RGBA uncompressed, and what a camera adds
        for index, entry in enumerate(self._entries):
            if (size_bytes := self._archive.sizes_bytes[entry]) > most:
                raise bad_file(
                    f"{self.name(index)} has {size_bytes} bytes; at most {most} are taken for an "
                    f"image of at most {max_pixels} pixels"
                )

    def size(self, index: int) -> Size:
        """By the header; SpecError that names the image if that is damaged."""
        data = self._archive.read(self._entries[index])
        try:
            return pixels.size(data)
        except ImageError as error:
            raise bad_file(f"the image {self.name(index)} {error}") from None

    def pixels(self, index: int) -> tuple[Size, bytes]:
        """Size, and uint8 ``(H, W, C)``; SpecError that names the image if it is damaged."""
        data = self._archive.read(self._entries[index])
        try:
            return pixels.decode(data, self._mode)
        except ImageError as error:
            raise bad_file(f"the image {self.name(index)} {error}") from None

    def sizes(self, processes: int) -> Array:
        """Height and width of all by their headers, int32 ``(N, 2)``."""

        def work(first: int, last: int) -> list[Size]:
            return [self.size(index) for index in range(first, last)]

        found = decoders.shared(work, len(self), processes=processes, place=self._place)
        return np.concatenate([np.array(part, np.int32) for part in found])

    def guessed_sizes(self) -> Array | None:
        """As if all had the size of the first; None where a sample shows that they do not."""
        first = self.size(0)
        step = max(1, len(self) // _SAMPLES)
        for index in range(0, len(self), step):
            with contextlib.suppress(SpecError):  # it is for the decoding to name the first
                if self.size(index) != first:
                    return None
        return np.tile(np.array(first, np.int32), (len(self), 1))

    def write(self, decoding: _Decoding, processes: int) -> bytes | None:
        """Write all pixels; the hashes, or None if an image had not the size that was guessed."""
        found = decoders.shared(decoding, len(self), processes=processes, place=self._place)
        return None if None in found else b"".join(map(bytes.fromhex, found))

    def _place(self, first: int, last: int) -> str:
        return f"between the images {self.name(first)} and {self.name(last - 1)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoding:
    """Decodes stretches of images and writes them where they belong.

    Attributes:
        sizes: int32 ``(N, 2)``, height and width.
        starts: int64 ``(N,)``, the first byte of each image in ``x``.
        guessed: the sizes may be wrong.
    """

    images: _Images
    sizes: Array
    starts: Array
    guessed: bool
    out: Placer

    def __call__(self, first: int, last: int) -> str | None:
        """The hashes of a stretch in hexadecimal; None if a guessed size is wrong."""
        hashes = bytearray()
        batch: list[bytes] = []
        batch_size, batch_bytes = None, 0
        decode = self.images.pixels
        for index, expected in enumerate(map(tuple, self.sizes[first:last].tolist()), first):
            size, found = decode(index)
            if size != expected:
                if self.guessed:
                    return None
                raise bad_file(f"the image {self.images.name(index)} is damaged or cut off")
            if size != batch_size or batch_bytes >= _BATCH_BYTES:
                hashes += self._put(index - len(batch), batch_size, batch)
                batch, batch_size, batch_bytes = [], size, 0
            batch.append(found)
            batch_bytes += len(found)
        hashes += self._put(last - len(batch), batch_size, batch)
        return hashes.hex()

    def _put(self, first: int, size: Size | None, batch: list[bytes]) -> bytes:
        """Write images of one size; their hashes."""
        if size is None:
            return b""
        (height, width), channels = size, self.images.channels
        found = np.frombuffer(b"".join(batch), np.uint8).reshape(-1, height, width, channels)
        data = np.ascontiguousarray(found.transpose(0, 3, 1, 2)).reshape(-1).data
        self.out.put("x", int(self.starts[first]), data)
        return Fingerprints(f"uint8 {[channels, height, width]}", len(batch[0])).of(data)


def _write(
    images: _Images, guess: Array | None, y: Array, classes: Sequence[str], intake: Intake
) -> tuple[ExampleType, bytes]:
    """Write the decoded form.

    Args:
        guess: int32 ``(N, 2)``, sizes that may be wrong; None reads those of all headers.
        y: int64 ``(N,)``.

    Returns:
        What an example is, and the hashes of all.
    """
    sizes = images.sizes(intake.processes) if guess is None else guess
    example = _example(images, sizes, intake.spec)
    ragged = None in example.shape
    areas = sizes.prod(axis=1, dtype=np.int64) * images.channels
    total = int(areas.sum())
    planned = decoded.plan(
        x=("U8", (total,) if ragged else (len(images), images.channels, *sizes[0].tolist())),
        y=y.shape,
        classes=classes,
        groups={},
        ragged=ragged,
    )
    hashes = None
    if guess is None or planned.size_bytes <= intake.max_bytes:
        check_size(planned.size_bytes, intake)
        os.ftruncate(intake.output, 0)  # a wrong guess may have left more than there will be
        out = Placer(intake.output, planned)
        decoding = _Decoding(
            images=images,
            sizes=sizes,
            starts=np.cumsum(areas) - areas,
            guessed=guess is not None,
            out=out,
        )
        hashes = images.write(decoding, intake.processes)
    if hashes is None:
        return _write(images, None, y, classes, intake)
    out.append("hashes", hashes)
    out.append("y", y.astype("<i8").view(np.uint8).data)
    if ragged:
        shapes = np.insert(sizes, 0, images.channels, axis=1)
        out.append("sizes", shapes.astype("<i4").reshape(-1).view(np.uint8).data)
    return example, hashes


def _example(images: _Images, sizes: Array, spec: DatasetSpec) -> ExampleType:
    """What an example is; SpecError if the transforms do not fit it.

    Sizes may differ where the transforms make one of them.
    """
    differing = np.flatnonzero((sizes != sizes[0]).any(axis=1))
    if not len(differing):
        shape = (images.channels, *sizes[0].tolist())
        example = ExampleType(shape=shape, dtype="uint8")
        chains.output_of(spec.transforms, example, pointer="/transforms")
        return example
    example = ExampleType(shape=(images.channels, None, None), dtype="uint8")
    chain, _ = chains.divided(spec.transforms, pointer="/transforms")
    try:
        chains.output_of(spec.transforms, example, pointer="/transforms")
    except SpecError:
        if not _closes(chain, example):
            one, other = 0, int(differing[0])
            raise SpecError(
                f"the images differ in size: {images.name(one)} has {_shown_size(sizes[one])} "
                f"pixels, {images.name(other)} {_shown_size(sizes[other])} (width x height). Add "
                'the transform resize before the others, such as {"name": "resize", "size": '
                "[224, 224]}, or with one number for the shorter side and center_crop after it",
                pointer="/transforms",
            ) from None
        raise
    distinct, first = np.unique(sizes, axis=0, return_index=True)
    for size, index in zip(distinct.tolist(), first.tolist(), strict=True):
        try:
            _through(chain, ExampleType(shape=(images.channels, *size), dtype="uint8"))
        except SpecError as error:
            raise SpecError(
                f"{images.name(index)}: {error.detail}", pointer="/transforms"
            ) from None
    return example


def _through(chain: Sequence[Transform], example: ExampleType) -> ExampleType:
    for transform in chain:
        example = transform.output(example)
    return example


def _closes(chain: Sequence[Transform], example: ExampleType) -> bool:
    """Whether a chain makes one size of all; one that does not fit for another reason may."""
    with contextlib.suppress(SpecError):
        return None not in _through(chain, example).shape
    return True


def _shown_size(size: Array) -> str:
    height, width = size.tolist()
    return f"{width} x {height}"


def _classes(layout: Layout, spec: DatasetSpec) -> tuple[tuple[str, ...], Array]:
    """The class names, and for each folder, in their order, the index of its class."""
    if len(layout.classes) > MAX_VALUES:
        raise bad_file(
            f"the archive has images in {len(layout.classes)} folders; at most {MAX_VALUES} "
            "classes are told apart"
        )
    if spec.classes is None:
        if len(layout.classes) < 2:
            raise SpecError(
                f"every image lies in the folder {shown(layout.classes[0])}, and a classifier "
                "needs at least 2 classes; give classes, all of them in index order",
                pointer="/classes",
            )
        return layout.classes, np.arange(len(layout.classes))
    known = {unicodedata.normalize("NFC", name): i for i, name in enumerate(spec.classes)}
    for name in layout.classes:
        if name not in known:
            classes = ", ".join(spec.classes[:20]) + ", ..." * (len(spec.classes) > 20)
            raise SpecError(
                f"the archive has the folder {shown(name)}; it must be one of the classes "
                f"{classes}",
                pointer="/classes",
            )
    return spec.classes, np.array([known[name] for name in layout.classes])
