"""Safetensors files as datasets; labels are integers there, for the format has no strings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from models import tensorfile
from models.datasets import arrayfiles
from models.datasets.arrays import Array, Source, bad_file
from models.datasets.intake import Found, Intake


def take(intake: Intake) -> Found:
    """Make a dataset of such a file; see `models.datasets.intake`."""
    return arrayfiles.take(SafetensorsFile(intake.source).arrays, intake)


class SafetensorsFile:
    """The tensors of one file.

    Args:
        source: the uploaded file.

    Raises:
        SpecError: not a well-formed safetensors file, or a dtype that numpy does not have.
    """

    def __init__(self, source: Source) -> None:
        try:
            tensors, _ = tensorfile.parse(source)
        except tensorfile.TensorFileError as error:
            raise bad_file(f"not a well-formed safetensors file: {error}") from None
        self._arrays: dict[str, Array] = {}
        for name, info in tensors.items():
            dtype = tensorfile.NUMPY_DTYPES.get(info.dtype)
            if dtype is None:
                known = ", ".join(tensorfile.NUMPY_DTYPES)
                raise bad_file(f"{name[:100]} has dtype {info.dtype}; read are {known}")
            self._arrays[name] = Array(
                name=name,
                dtype=dtype,
                shape=info.shape,
                pieces=partial(source.pieces, info.start, info.end),
            )

    @property
    def arrays(self) -> Mapping[str, Array]:
        """By name."""
        return self._arrays
