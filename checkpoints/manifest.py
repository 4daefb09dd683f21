"""What a checkpoint says of itself: everything needed to use its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from checkpoints.errors import CheckpointError
from models import catalog
from models import parameters as declared
from models.canonical import canonical_json, strict_json
from models.layouts import OpenShape, Shape
from models.parameters import Foreign, Parameters

METADATA_KEY = "holdout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Stands in the metadata of a canonical file and is therefore part of its digest.

    Attributes:
        architecture: a name of `models.catalog.ARCHITECTURES`, or ``onnx``.
        hyperparameters: every one of them, JSON values. Of ``onnx``: ``opset``, ``dtype`` (of the
            input), ``batch`` (1 if it takes one example at a time, else null) and, of integers,
            ``padding_id``.
        input_shape: of one example, without the batch axis; None where any length will do. None as
            a whole for a plug-in's architecture, of whose tensors only a worker knows the meaning.
        outputs: number of output units; None for a plug-in's architecture.
        classes: names in the order of the outputs; None where nobody stated them.
        transforms: on the wire's form with every default filled in; None where nobody stated any.
        assumed: what an evaluation depends on and nobody stated: names of hyperparameters,
            ``classes``, ``transforms``.
    """

    architecture: str
    hyperparameters: dict[str, Any]
    input_shape: OpenShape | None
    outputs: int | None
    classes: tuple[str, ...] | None
    transforms: tuple[dict[str, Any], ...] | None
    assumed: tuple[str, ...]

    @classmethod
    def of_trained(
        cls,
        architecture: str,
        parameters: Parameters | Foreign,
        shapes: Mapping[str, Shape] | None,
        *,
        outputs: int | None,
        classes: Sequence[str],
        transforms: Sequence[dict[str, Any]],
    ) -> Manifest:
        """Of the checkpoints of a training, of which everything is stated.

        Args:
            parameters: the hyperparameters as the architecture's entry built them.
            shapes: of the tensors by name; None where only a worker's plug-ins know them.
            outputs: None for a plug-in's architecture.
        """
        layout = None if shapes is None else catalog.ARCHITECTURES[architecture].layout
        return cls(
            architecture=architecture,
            hyperparameters=declared.to_json(parameters),
            input_shape=None if layout is None else layout.shown(shapes or {}).input_shape,
            outputs=outputs,
            classes=tuple(classes),
            transforms=tuple(transforms),
            assumed=(),
        )

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def to_metadata(self) -> dict[str, str]:
        """The metadata of a safetensors file that holds this manifest."""
        return {METADATA_KEY: canonical_json(self.to_json()).decode()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Manifest | None:
        """The manifest in a file's metadata, or None if there is none.

        Only its form is checked here; whether it fits the tensors is for the reader to say.

        Raises:
            CheckpointError: the metadata has the manifest's key, but what it holds is malformed.
        """
        text = metadata.get(METADATA_KEY)
        if text is None:
            return None
        try:
            value = strict_json(text)
        except ValueError as error:
            raise _malformed(f"it is not strict JSON: {error}") from None
        names = {one.name for one in fields(cls)}
        if not isinstance(value, dict) or set(value) != names:
            raise _malformed(f"it must be an object with exactly {', '.join(sorted(names))}")
        for name, (holds, words) in _FORMS.items():
            if not holds(value[name]):
                raise _malformed(f"{name} must be {words}")
        return cls.from_json(value)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Manifest:
        """Build from what `to_json` gave."""
        return cls(
            architecture=value["architecture"],
            hyperparameters=value["hyperparameters"],
            input_shape=None if value["input_shape"] is None else tuple(value["input_shape"]),
            outputs=value["outputs"],
            classes=None if value["classes"] is None else tuple(value["classes"]),
            transforms=None if value["transforms"] is None else tuple(value["transforms"]),
            assumed=tuple(value["assumed"]),
        )


def _malformed(why: str) -> CheckpointError:
    return CheckpointError(f"the manifest in the file's metadata is malformed: {why}")


def _list_of(kind: type | tuple[type, ...], value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, kind) and not isinstance(item, bool) for item in value
    )


_FORMS: dict[str, tuple[Any, str]] = {
    "architecture": (lambda v: isinstance(v, str), "a string"),
    "hyperparameters": (lambda v: isinstance(v, dict), "an object"),
    "input_shape": (
        lambda v: v is None or _list_of((int, type(None)), v),
        "a list of integers and nulls, or null",
    ),
    "outputs": (lambda v: v is None or type(v) is int, "an integer or null"),
    "classes": (lambda v: v is None or _list_of(str, v), "a list of strings or null"),
    "transforms": (lambda v: v is None or _list_of(dict, v), "a list of objects or null"),
    "assumed": (lambda v: _list_of(str, v), "a list of strings"),
}
