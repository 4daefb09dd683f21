"""Which format a file has, from its first bytes; no numpy, so that the web process stays small."""

from __future__ import annotations

import re
import zlib

from models.catalog import FORMATS, OFFICE
from models.spec import SpecError

HEAD_BYTES = 512

# What people send by mistake: the pattern of its first bytes, and what to say.
_MISTAKES = (
    (
        rb"\x80[\x02-\x05]",
        "this is a pickle (pickle.dump, joblib.dump or an old torch.save), which is never read",
    ),
    (
        OFFICE + rb"|\xd0\xcf\x11\xe0",
        "this is an Excel file or another office document, which is not read; save the table as "
        "CSV in UTF-8",
    ),
    (
        rb"PK\x05\x06|\x00{512}",
        "this is an empty archive; an npz holds the arrays x and y, an archive of images a folder "
        "of them for each class",
    ),
    (
        rb"PK\x03\x04",
        "this is what torch.save writes, which is read as a checkpoint and never as a dataset; "
        "numpy.savez(file, x=x, y=y) writes one",
    ),
    (rb"\x93NUMPY", "this is a single .npy array; numpy.savez(file, x=x, y=y) puts both in one"),
    (rb"\x89HDF\r\n\x1a\n", "this is an HDF5 file"),
    (
        rb"\x1f\x8b",
        "this is gzip-compressed and no tar.gz, the one compressed file that is read; unpack it "
        "and send what is inside, such as the CSV of a .csv.gz",
    ),
    (
        rb"(?s)\x89PNG|\xff\xd8\xff|BM.{4}\x00{4}|RIFF.{4}WEBP",
        "this is a single image; a zip, tar or tar.gz of folders of images is read",
    ),
    (rb"(?s)PARE.{0,3}\x00", "this is an encrypted Parquet file; write it without encryption"),
    (
        rb"\xff\xfe|\xfe\xff|([\t-~]\x00){3}|(\x00[\t-~]){3}",
        "this is UTF-16 text; save the table as CSV in UTF-8",
    ),
)


def sniff(head: bytes) -> str:
    """Say the format of a file.

    Args:
        head: its first `HEAD_BYTES` bytes, or all of a shorter file.

    Returns:
        A name of `models.catalog.FORMATS`.

    Raises:
        SpecError: no known format starts like this; says which are known and, for what is sent
            by mistake most often, what the file is.
    """
    for name in FORMATS:
        if re.match(FORMATS[name].signature, head) and not _is_gzip_of_another(head):
            return name
    raise SpecError(f"{_described(head)}; known formats: {', '.join(FORMATS)}", pointer="/file")


def _is_gzip_of_another(head: bytes) -> bool:
    """Whether the file is compressed by gzip and holds something else than a tar archive."""
    if not head.startswith(b"\x1f\x8b"):
        return False
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        inside = inflater.decompress(head, 512)
    except zlib.error:
        return False  # the reader says what is wrong with it
    return (inflater.eof or len(inside) > 262) and inside[257:262] != b"ustar"


def _described(head: bytes) -> str:
    if not head:
        return "the file is empty"
    for pattern, words in _MISTAKES:
        if re.match(pattern, head):
            return words
    text = head.decode("utf-8", errors="replace").rstrip("\ufffd")  # the last letter may be cut
    if all(letter.isprintable() or letter in "\t\r\n" for letter in text):
        if text.lstrip()[:1] in ("{", "["):
            return "this is JSON text"
        if "\ufffd" in text:
            return "this is text in another encoding than UTF-8; save the table as CSV in UTF-8"
        return (
            "this is text without a comma, semicolon or tab in its first line, which names the "
            "columns of a table"
        )
    return "the first bytes are those of no known format"
