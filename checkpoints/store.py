"""Blobs by the SHA-256 of their bytes, and the uploads that become blobs.

Layout of the local store: ``blobs/<2 hex>/<digest>`` for what is published, ``uploads/<name>`` for
files that wait for a job, ``tmp/<name>`` for files that are being written. All three lie on one
file system, so that a rename publishes a whole file or nothing. A file is visible under its digest
only after its bytes and then its name have reached the disk, and it never changes afterwards.

A draft is locked (flock) for as long as its descriptor is open anywhere, in this process or in one
that was given it; a file in ``tmp`` without a lock was left by processes that died.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import math
import os
import re
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from checkpoints.errors import DamagedBlob, MissingBlob, StoreError

CHUNK_BYTES = 2**20

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A published file: ``digest`` is the lower-case SHA-256 hex of its bytes."""

    digest: str
    size_bytes: int


class Draft(Protocol):
    """A file that is being written; nothing of it stays unless it is published or kept.

    A context manager: leaving it drops the draft if neither happened.
    """

    @property
    def size_bytes(self) -> int:
        """Bytes in it, whoever wrote them."""
        ...

    @property
    def sha256(self) -> str:
        """Lower-case hex, of the bytes that went through `write`."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def write(self, data: bytes) -> None:
        """Append bytes, hashing them on the way; OSError if there is no space."""
        ...

    def fileno(self) -> int:
        """The descriptor, readable and writable, for another process that reads or writes it."""
        ...

    def publish(self, *, deadline: float = math.inf) -> Blob:
        """Make it a blob under its digest; a blob that is there already is left as it is.

        Raises:
            TimeoutError: what another process wrote was not hashed by then (monotonic seconds).
        """
        ...

    def keep(self) -> str:
        """Make it an upload that waits for a job, and return its name."""
        ...


class Store(Protocol):
    """Where blobs and uploads are kept.

    Digests and names of another form than `Draft` gives are a ValueError.
    """

    def draft(self) -> Draft:
        """Start a file."""
        ...

    def path(self, digest: str) -> Path:
        """A local file with a blob's bytes; MissingBlob if there is no such blob."""
        ...

    def exists(self, digest: str) -> bool:
        """Whether there is such a blob."""
        ...

    def size_bytes(self, digest: str) -> int:
        """Its size; MissingBlob if there is no such blob."""
        ...

    def verify(self, digest: str) -> None:
        """Read a blob whole; if its bytes are not those of its name, set it aside.

        Raises:
            MissingBlob: there is no such blob.
            DamagedBlob: there is none any more; the same content can be published again.
        """
        ...

    def delete(self, digest: str) -> bool:
        """Remove a blob; False if there was none. Who has it open or mapped keeps it."""
        ...

    def upload_path(self, name: str) -> Path:
        """The local file of an upload, which is there until it is dropped."""
        ...

    def drop_upload(self, name: str) -> None:
        """Remove an upload, if it is there."""
        ...

    def publish_upload(self, name: str, digest: str) -> None:
        """Make a blob of an upload whose bytes have this digest; the upload stays.

        Raises:
            FileNotFoundError: there is no such upload.
        """
        ...

    def sweep(self, older_than_s: float, now: float) -> int:
        """Remove drafts that dead processes left, unwritten for so long; returns how many."""
        ...

    def stale_uploads(self, older_than_s: float, now: float) -> list[str]:
        """The names of uploads that were written longer ago than this."""
        ...

    def check(self) -> None:
        """StoreError, with the reason, if nothing can be written."""
        ...


class LocalStore:
    """A `Store` in a folder of this machine, or of one that several machines mount.

    Args:
        root: made, with its three folders, if it is not there; readable by its owner only.
    """

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._uploads = root / "uploads"
        self._tmp = root / "tmp"
        # All of them now: a folder that a blob must make first costs it another flush.
        prefixes = (self._blobs / f"{number:02x}" for number in range(256))
        for folder in (root, self._blobs, self._uploads, self._tmp, *prefixes):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def draft(self) -> LocalDraft:
        """See `Store.draft`."""
        return LocalDraft(self._tmp / secrets.token_hex(16), self._blobs, self._uploads)

    def path(self, digest: str) -> Path:
        """See `Store.path`."""
        path = _blob_path(self._blobs, digest)
        if not path.exists():
            raise MissingBlob(f"no blob {digest}")
        return path

    def exists(self, digest: str) -> bool:
        """See `Store.exists`."""
        return _blob_path(self._blobs, digest).exists()

    def size_bytes(self, digest: str) -> int:
        """See `Store.size_bytes`."""
        return self.path(digest).stat().st_size

    def verify(self, digest: str) -> None:
        """See `Store.verify`."""
        path = self.path(digest)
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                path.rename(path.with_suffix(".damaged"))
            raise DamagedBlob(f"blob {digest} is damaged")

    def delete(self, digest: str) -> bool:
        """See `Store.delete`."""
        path = _blob_path(self._blobs, digest)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        _sync_folder(path.parent)
        return True

    def upload_path(self, name: str) -> Path:
        """See `Store.upload_path`."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:100]!r} is not the name of an upload")
        return self._uploads / name

    def drop_upload(self, name: str) -> None:
        """See `Store.drop_upload`."""
        self.upload_path(name).unlink(missing_ok=True)

    def publish_upload(self, name: str, digest: str) -> None:
        """See `Store.publish_upload`."""
        source, path = self.upload_path(name), _blob_path(self._blobs, digest)
        try:
            os.link(source, path)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            with open(source, "rb") as file, self.draft() as draft:  # it has no hard links
                while chunk := file.read(CHUNK_BYTES):
                    draft.write(chunk)
                draft.publish()
        _sync_folder(path.parent)

    def sweep(self, older_than_s: float, now: float) -> int:
        """See `Store.sweep`."""
        removed = 0
        for path in self._tmp.iterdir():
            try:
                if path.stat().st_mtime < now - older_than_s and not _is_locked(path):
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                continue  # published or dropped since it was listed
        return removed

    def stale_uploads(self, older_than_s: float, now: float) -> list[str]:
        """See `Store.stale_uploads`."""
        found = []
        for path in self._uploads.iterdir():
            with contextlib.suppress(FileNotFoundError):  # dropped since it was listed
                if path.stat().st_mtime < now - older_than_s and _NAME.fullmatch(path.name):
                    found.append(path.name)
        return found

    def check(self) -> None:
        """See `Store.check`."""
        try:
            with tempfile.TemporaryFile(dir=self._tmp) as file:
                file.write(b"x")
                file.flush()
        except OSError as error:
            raise StoreError(f"cannot write to {self._tmp}: {error.strerror}") from error


class LocalDraft:
    """A `Draft` of a `LocalStore`, which makes it."""

    def __init__(self, path: Path, blobs: Path, uploads: Path) -> None:
        self._path = path
        self._blobs = blobs
        self._uploads = uploads
        self._hash = hashlib.sha256()
        self._written = 0
        self._placed = False
        self._file = open(path, "x+b", buffering=0, opener=_private)  # noqa: SIM115 - see __exit__
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if not self._placed:
            self._path.unlink(missing_ok=True)

    @property
    def size_bytes(self) -> int:
        """See `Draft.size_bytes`."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def sha256(self) -> str:
        """See `Draft.sha256`."""
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """See `Draft.write`."""
        rest = memoryview(data)
        while rest:  # an unbuffered write may take a part
            rest = rest[self._file.write(rest) :]
        self._hash.update(data)
        self._written += len(data)

    def fileno(self) -> int:
        """See `Draft.fileno`."""
        return self._file.fileno()

    def publish(self, *, deadline: float = math.inf) -> Blob:
        """See `Draft.publish`."""
        blob = Blob(digest=self._digest(deadline), size_bytes=self.size_bytes)
        path = _blob_path(self._blobs, blob.digest)
        if not path.exists():
            self._place(path)
        # Also for a blob that is known: whoever published it may not have come this far.
        _sync_folder(path.parent)
        return blob

    def keep(self) -> str:
        """See `Draft.keep`."""
        name = secrets.token_hex(16)
        self._place(self._uploads / name)
        _sync_folder(self._uploads)
        return name

    def _digest(self, deadline: float) -> str:
        """The hash made while writing, or that of the file if another process wrote it."""
        if self._written == self.size_bytes:
            return self.sha256
        found = hashlib.sha256()
        position = 0
        while chunk := os.pread(self._file.fileno(), CHUNK_BYTES, position):
            if time.monotonic() > deadline:
                raise TimeoutError
            found.update(chunk)
            position += len(chunk)
        return found.hexdigest()

    def _place(self, path: Path) -> None:
        """Bytes first, then the name: after a power cut a name never stands for half a file."""
        os.fsync(self._file.fileno())
        self._path.rename(path)
        self._placed = True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _is_locked(path: Path) -> bool:
    with open(path, "r+b") as file:  # on NFS an exclusive lock needs a descriptor that can write
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _blob_path(blobs: Path, digest: str) -> Path:
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{digest[:100]!r} is not a digest")
    return blobs / digest[:2] / digest


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
