"""State dicts made by hand from the layouts, and the reader called on bytes."""

from __future__ import annotations

import hashlib
import io
import itertools
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import pytest
import safetensors.torch
import torch

from checkpoints.reading import convert as convert_files


@dataclass(frozen=True)
class Answer:
    """What the reader said, and the canonical file that it wrote."""

    value: dict[str, Any]
    content: bytes

    @property
    def checkpoint(self):
        assert "checkpoint" in self.value, self.value
        return self.value["checkpoint"]

    @property
    def error(self):
        assert "error" in self.value, self.value
        return self.value["error"]

    def assert_refused(self, words="", kind="invalid"):
        """With these words among others, and nothing of the inside."""
        detail = self.error["detail"]
        assert words in detail
        assert self.error["kind"] == kind
        assert detail
        assert len(detail) <= 2000
        assert not any(leak in detail for leak in ("Traceback", "checkpoints/", "Error("))

    @property
    def digest(self):
        assert "checkpoint" in self.value, self.value
        return hashlib.sha256(self.content).hexdigest()

    @property
    def tensors(self):
        """The canonical file as the safetensors library reads it."""
        assert "checkpoint" in self.value, self.value
        return safetensors.torch.load(self.content)


@pytest.fixture(scope="session")
def convert():
    def call(data, *, max_bytes=2**24, **declaration):
        with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as output:
            source.write(data)
            source.flush()
            request = {"declaration": declaration, "max_bytes": max_bytes}
            value = convert_files(request, [source.fileno(), output.fileno()])
            output.seek(0)
            return Answer(value, output.read())

    return call


def _save(value, **options):
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def _save_legacy(value, **options):
    return _save(value, _use_new_zipfile_serialization=False, **options)


@pytest.fixture(scope="session")
def save():
    """``torch.save`` to bytes."""
    return _save


@pytest.fixture(scope="session")
def save_legacy():
    """``torch.save`` to bytes as it wrote before version 1.6."""
    return _save_legacy


@pytest.fixture(
    params=["zip", "legacy", "zip, protocol 4", "zip, protocol 5", "legacy, protocol 4"]
)
def save_somehow(request):
    form, _, protocol = request.param.partition(", protocol ")
    options = {"pickle_protocol": int(protocol)} if protocol else {}
    return lambda value: (_save_legacy if form == "legacy" else _save)(value, **options)


def _mlp(widths=(6, 5, 3), *, batch_norm=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = OrderedDict()
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        found[f"layers.{i}.weight"] = torch.randn(after, before, generator=generator)
        found[f"layers.{i}.bias"] = torch.randn(after, generator=generator)
        if batch_norm and i < len(widths) - 2:
            for name in ("weight", "bias", "running_mean", "running_var"):
                found[f"norms.{i}.{name}"] = torch.rand(after, generator=generator)
            found[f"norms.{i}.num_batches_tracked"] = torch.tensor(12)
    return found


@pytest.fixture(scope="session")
def mlp():
    """Makes the state dict of an mlp; widths are input, hidden..., outputs."""
    return _mlp


@pytest.fixture(scope="session")
def convnet():
    """The state dict of a convnet for two channels, widths 4 and 6, three outputs."""
    generator = torch.Generator().manual_seed(1)
    found = OrderedDict()
    for i, (before, after) in enumerate([(2, 4), (4, 6)]):
        found[f"convs.{i}.weight"] = torch.randn(after, before, 3, 3, generator=generator)
        for name in ("weight", "bias", "running_mean", "running_var"):
            found[f"norms.{i}.{name}"] = torch.rand(after, generator=generator)
        found[f"norms.{i}.num_batches_tracked"] = torch.tensor(3)
    found["head.weight"] = torch.randn(3, 6, generator=generator)
    found["head.bias"] = torch.randn(3, generator=generator)
    return found
