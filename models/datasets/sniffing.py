"""Which format a file has, from its first bytes; no numpy, so that the web process stays small."""

from __future__ import annotations

import re

from models.catalog import FORMATS
from models.spec import SpecError

HEAD_BYTES = 512

# What people send by mistake: the pattern of its first bytes, and what to say.
_MISTAKES = (
    (
        rb"\x80[\x02-\x05]",
        "this is a pickle (pickle.dump, joblib.dump or an old torch.save), which is never read",
    ),
    (rb"\x93NUMPY", "this is a single .npy array; numpy.savez(file, x=x, y=y) puts both in one"),
    (rb"\x89HDF\r\n\x1a\n", "this is an HDF5 file"),
    (rb"\x1f\x8b", "this is gzip-compressed; send the file that is inside"),
    (rb"PAR1", "this is a Parquet file"),
    (rb"(?s).{257}ustar", "this is a tar archive"),
    (rb"\x89PNG|\xff\xd8\xff", "this is a single image"),
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
        if re.match(FORMATS[name].signature, head):
            return name
    raise SpecError(f"{_described(head)}; known formats: {', '.join(FORMATS)}", pointer="/file")


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
        if re.search(r"[,;\t]", text.split("\n", 1)[0]):
            return "this is CSV text"
        return "this is text"
    return "the first bytes are those of no known format"
