"""Datasets: the files that people send, and the one form that evaluation reads.

A file of any known format becomes a canonical tensor file (see `models.datasets.decoded`), whose
SHA-256 is the digest of the dataset. Nothing in this package imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from models.datasets.sniffing import HEAD_BYTES, sniff

if TYPE_CHECKING:
    from models.datasets.decoded import Dataset
    from models.datasets.ingestion import ingest

__all__ = ["HEAD_BYTES", "Dataset", "ingest", "sniff"]

_MODULES = {"Dataset": "models.datasets.decoded", "ingest": "models.datasets.ingestion"}


def __getattr__(name: str) -> Any:
    # Late, because these two bring numpy and the web process, which only sniffs, needs none of it.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
