"""Files that can be made again, by the name of what they were made from, up to a total size.

A folder beside the store. A file appears under its name when it is whole and on the disk, and is
removed when others need its room, the one that was longest unused first; who has it open or mapped
keeps it. Any number of processes share the folder: one of them makes a file, the others wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_KEY = re.compile(r"[0-9a-f]{64}")


class FileCache:
    """Such a folder.

    Args:
        folder: made if it is not there; readable by its owner only.
        max_bytes: what its files may take together. The one in use stays, however large it is.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._max_bytes = max_bytes

    def get(self, key: str, make: Callable[[int], None], use: Callable[[Path], T]) -> T:
        """Open the file of a key.

        Args:
            key: lower-case SHA-256 hex of what the file is made from.
            make: writes it to an empty file, given as a descriptor, if it is not there.
            use: opens or maps it; what it returns is returned.

        Raises:
            OSError: there is no space, or the disk fails; whatever ``make`` and ``use`` raise.
        """
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key[:100]!r} is not a key")
        path = self._folder / key
        while True:
            if not _touched(path):
                with self._making(key):
                    if not _touched(path):  # another process may have made it meanwhile
                        self._make(path, make)
                        self._evict(keep=key)
            try:
                return use(path)
            except FileNotFoundError:  # another process needed the room just now
                continue

    def _make(self, path: Path, make: Callable[[int], None]) -> None:
        draft = path.with_suffix(".part")  # whoever holds the lock is the only one that writes it
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            make(descriptor)
            os.fsync(descriptor)
            draft.rename(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _making(self, key: str) -> Iterator[None]:
        """Be the only process that makes this file; the lock ends with its holder."""
        lock = self._lock(key)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _lock(self, key: str) -> int:
        """Open the lock of a key, which it shares with few others, so that none is ever removed."""
        return os.open(self._folder / f"{key[:2]}.lock", os.O_RDWR | os.O_CREAT, 0o600)

    def _evict(self, keep: str) -> None:
        """Remove the longest unused files until the rest fits, and what dead makers left."""
        found = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if _KEY.fullmatch(path.name):
                    status = path.stat()
                    found.append((status.st_mtime, status.st_size, path))
                elif path.suffix == ".part" and self._abandoned(path):
                    path.unlink()
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._max_bytes:
                break
            if path.name != keep:
                path.unlink(missing_ok=True)
                total -= size

    def _abandoned(self, draft: Path) -> bool:
        lock = self._lock(draft.stem)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True


def _touched(path: Path) -> bool:
    """Mark a file as used now; False if it is not there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
