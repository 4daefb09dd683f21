"""Whether a checkpoint can be judged on a dataset: one rule, for requests and for the job."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoints.manifest import Manifest
from models import catalog, parameters
from models.layouts import OpenShape
from models.spec import Component, SpecError
from models.transforms import ExampleType


def check_fit(
    manifest: Manifest,
    *,
    dataset: str,
    task: str,
    classes: Sequence[str],
    example: ExampleType,
    transforms: Sequence[Component],
) -> None:
    """Raise SpecError, with both sides and what would be right, unless they fit.

    Args:
        dataset: what the message calls it.
        classes: the dataset's, in index order.
        example: one of the dataset, before the transforms.
        transforms: what is applied to it.
    """
    _check_outputs(manifest, task, classes)
    made = catalog.output_of(transforms, example, pointer="/transforms")
    expected = manifest.input_shape
    fits = len(made.shape) == len(expected) and all(
        want in (None, have) for want, have in zip(expected, made.shape, strict=True)
    )
    if not fits or made.dtype != "float32":
        advice = "add the transform to_float" if fits else "change the transforms"
        if not fits and len(expected) == 1 and len(made.shape) != 1:
            advice = "add the transform flatten"
        names = ", ".join(one.name for one in transforms)
        raise SpecError(
            f"the checkpoint takes {_shown(expected)} float32; {dataset} gives "
            f"{_shown(made.shape)} {made.dtype} after [{names}]: {advice}",
            pointer="/transforms",
        )
    entry = catalog.ARCHITECTURES[manifest.architecture]
    built = parameters.build(entry.parameters, manifest.hyperparameters)
    entry.layout.tensors(built, made.shape, manifest.outputs)


def _check_outputs(manifest: Manifest, task: str, classes: Sequence[str]) -> None:
    outputs, stated = manifest.outputs, manifest.classes
    if outputs != len(classes) and not (outputs == 1 and task == "binary"):
        also = " (or 1, for a binary task)" if len(classes) == 2 else ""
        raise SpecError(
            f"the checkpoint has {outputs} outputs, but the dataset has {len(classes)} classes: "
            f"{len(classes)} outputs would fit{also}",
            pointer="/checkpoint",
        )
    if stated is not None and stated != tuple(classes):
        same = "in another order" if sorted(stated) == sorted(classes) else "others"
        raise SpecError(
            f"the checkpoint's classes are {same}: it has {_listed(stated)}, the dataset has "
            f"{_listed(classes)}",
            pointer="/checkpoint",
        )


def _shown(shape: OpenShape) -> str:
    lengths = ", ".join("any" if length is None else str(length) for length in shape)
    return f"({lengths},)" if len(shape) == 1 else f"({lengths})"


def _listed(names: Sequence[str]) -> str:
    return f"[{', '.join(map(repr, names[:10]))}{', ...' if len(names) > 10 else ''}]"
