"""Images and archives of them as tests write them; no code of ours has a part in it."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
from PIL import Image


def encoded(image, format="PNG", **options):
    """A file's bytes, from an array ``(H, W, ...)`` or what Pillow has."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def noise(height, width, channels=3, seed=0):
    """An array of an image."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def chunk(kind, data):
    """One chunk of a PNG."""
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def raw_png(rows, *, depth, colour, before=b"", after=b""):
    """A PNG from the bytes of its rows; further chunks stand before and after the pixels."""
    width = len(rows[0]) * 8 // depth // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    header = struct.pack(">LLBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", pixels)
        + after
        + chunk(b"IEND", b"")
    )


def exif(orientation, order="<"):
    """TIFF bytes that hold an orientation and nothing else."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entry = struct.pack(order + "HHLHH", 0x0112, 3, 1, orientation, 0)
    return mark + struct.pack(order + "LH", 8, 1) + entry + bytes(4)


def zipped(files, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in dict(files).items():
            # with a fixed time: bytes that name a test's case must be the same in every process
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o40755 if name.endswith("/") else 0o100644) << 16
            archive.writestr(entry, data, compress_type=compression)
    return stream.getvalue()


def tarred(files, format=tarfile.PAX_FORMAT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for name, data in dict(files).items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.size = len(data)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


WRITERS = {
    "zip": zipped,
    "zip deflated": lambda files: zipped(files, zipfile.ZIP_DEFLATED),
    "tar of POSIX": tarred,
    "tar of GNU": lambda files: tarred(files, tarfile.GNU_FORMAT),
    "tar of USTAR": lambda files: tarred(files, tarfile.USTAR_FORMAT),
    "tar.gz": lambda files: gzip.compress(tarred(files)),
}


def block(name, size=0, kind=b"0", magic=b"ustar\x0000", prefix=b"", **fields):
    """One header of a tar archive, its checksum right unless one is given."""
    head = bytearray(512)
    head[: len(name)] = name
    head[100:108] = b"0000644\0"
    head[124:136] = fields.get("size_field", b"%011o\0" % size)
    head[156:157] = kind
    head[257:265] = magic
    head[345 : 345 + len(prefix)] = prefix
    head[148:156] = b" " * 8
    head[148:156] = fields.get("checksum", b"%06o\0 " % sum(head))
    return bytes(head)


def content(data):
    """What follows a header, filled up with zeros."""
    return data + bytes(-len(data) % 512)


def entry(name, data=b"", **fields):
    return block(name, len(data), **fields) + content(data)


def record(key, value):
    """One record of a pax header."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def pax(*records, kind=b"x"):
    return entry(b"PaxHeader", b"".join(record(*one) for one in records), kind=kind)


END = bytes(1024)
