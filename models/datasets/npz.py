"""NumPy archives (``numpy.savez`` and ``numpy.savez_compressed``), never with pickle."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.lib import format as npy

from models import ziparchive
from models.datasets import arrayfiles
from models.datasets.arrays import Array, Source, bad_file
from models.datasets.intake import Found, Intake
from models.ziparchive import Member, ZipError

MAX_HEADER_BYTES = 10_000
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def take(intake: Intake) -> Found:
    """Make a dataset of such a file; see `models.datasets.intake`."""
    return arrayfiles.take(NpzFile(intake.source).arrays, intake)


class NpzFile:
    """The arrays of one archive.

    Args:
        source: the uploaded file.

    Raises:
        SpecError: not a zip archive of plain ``.npy`` members, or a header that does not fit its
            member; names the member.
    """

    def __init__(self, source: Source) -> None:
        try:
            found = ziparchive.members(source)
        except ZipError as error:
            raise bad_file(str(error)) from None
        if any(name.endswith("/data.pkl") for name in found):
            raise bad_file("this is what torch.save writes; numpy.savez(file, x=x, y=y) is read")
        self._arrays: dict[str, Array] = {}
        for name, member in found.items():
            if "/" in name or "\\" in name or not name.endswith(".npy"):
                raise bad_file(
                    f"the archive holds {name[:100]!r}; every member must be an array at "
                    "its top, as numpy.savez(file, x=x, y=y) writes them"
                )
            array = _array(source, member)
            self._arrays[array.name] = array

    @property
    def arrays(self) -> Mapping[str, Array]:
        """By name, without ``.npy``."""
        return self._arrays


def _array(source: Source, member: Member) -> Array:
    name = member.name.removesuffix(".npy")
    shape, fortran_order, dtype, header_bytes = _header(source, member, name)
    if dtype.hasobject:
        raise bad_file(
            f"{name[:100]} holds Python objects, which only a pickle can store and which are never "
            f"read; store numbers or strings, such as numpy.asarray({name[:100]}, dtype=...)"
        )
    if fortran_order and sum(length > 1 for length in shape) > 1:
        raise bad_file(
            f"{name[:100]} is stored in Fortran order; store numpy.ascontiguousarray({name[:100]})"
        )
    expected = header_bytes + math.prod(shape) * dtype.itemsize
    if member.size_bytes != expected:
        raise bad_file(
            f"{name[:100]} has shape {list(shape)} and dtype {dtype}, which takes "
            f"{expected - header_bytes} bytes, but the member has "
            f"{member.size_bytes - header_bytes} after its header"
        )
    pieces = partial(_elements, source, member, header_bytes)
    return Array(name=name, dtype=dtype, shape=shape, pieces=pieces)


def _header(
    source: Source, member: Member, name: str
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order and dtype of a member, and the bytes that its header takes."""
    head = b""
    for piece in _content(source, member):
        head += piece
        if len(head) > MAX_HEADER_BYTES + 12:  # magic, version and length take at most 12
            break
    stream = io.BytesIO(head)
    try:
        version = npy.read_magic(stream)
    except ValueError:
        raise bad_file(f"{name[:100]} does not start as a .npy array does") from None
    if version not in _READERS:
        raise bad_file(
            f"{name[:100]} is in version {version[0]}.{version[1]} of the .npy format; plain "
            "arrays of numbers or strings are in version 1.0 or 2.0"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shape, fortran_order, dtype = _READERS[version](
                stream, max_header_size=MAX_HEADER_BYTES
            )
    except Exception:  # the parser of Python literals inside has no list of what it may raise
        raise bad_file(f"the .npy header of {name[:100]} is damaged") from None
    if not all(type(length) is int and length >= 0 for length in shape):
        raise bad_file(f"{name[:100]} has the impossible shape {str(shape)[:100]}")
    return shape, fortran_order, dtype, stream.tell()


def _elements(source: Source, member: Member, header_bytes: int) -> Iterator[bytes]:
    skip = header_bytes
    for piece in _content(source, member):
        if len(piece) > skip:
            yield piece[skip:] if skip else piece
        skip = max(0, skip - len(piece))


def _content(source: Source, member: Member) -> Iterator[bytes]:
    try:
        yield from ziparchive.stream(source, member)
    except ZipError as error:
        raise bad_file(str(error)) from None
