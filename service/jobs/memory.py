"""How much more memory this process may take, for work that asks for what a file says."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limited(more_bytes: int) -> Iterator[None]:
    """Let this process take at most so many bytes beyond what it has, until the block ends.

    An allocation beyond it fails, as if the machine had no more; the kernel then has no reason to
    kill anybody. Counted is what `getrlimit(2)` calls data: memory that is written to, and not what
    is mapped to be read.
    """
    before, ceiling = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _taken_bytes() + more_bytes
    known = [one for one in (before, ceiling) if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *known]), ceiling))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, ceiling))


def _taken_bytes() -> int:
    found = re.search(r"^VmData:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None  # noqa: S101 - Linux has it since 2.6
    return int(found[1]) * 1024
