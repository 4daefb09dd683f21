"""Whether a checkpoint can be judged on a dataset: one rule, for requests and for the job."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from checkpoints.errors import counted, listed, quoted
from checkpoints.manifest import Manifest
from models import catalog, chains
from models.layouts import OpenShape, TokenLimits
from models.onnx import ARCHITECTURE as ONNX
from models.spec import Component, SpecError
from models.transforms import ExampleType

_OTHER_NUMBERS = "a dataset of such numbers would fit"
# What an ONNX network of integers takes beside its own dtype: whatever it can hold.
_NARROWER = {"int64": ("int32", "int16", "int8", "uint8"), "int32": ("int16", "int8", "uint8")}


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

    What only the worker can know that has a plug-in's code is left to it.

    A binary task takes one output or two, every other as many as the dataset has classes.

    Args:
        dataset: what the message calls it.
        classes: the dataset's, in index order. The checkpoint may state the same in another
            order, see `output_order`.
        example: one of the dataset, before the transforms.
        transforms: what is applied to it.
    """
    _check_outputs(manifest, task, classes)
    made = chains.output_of(transforms, example, pointer="/transforms")
    expected = manifest.input_shape
    if made is None or expected is None or manifest.outputs is None:
        return
    if manifest.architecture == ONNX:
        takes = manifest.hyperparameters["dtype"]
        if made.vocabulary is not None and takes != "float32":
            made = _padded(made, expected)
        _check_example(expected, takes, dataset, made, transforms)
        return
    entry = catalog.ARCHITECTURES[manifest.architecture]
    built = entry.build(manifest.hyperparameters)
    if entry.tokens is not None or made.vocabulary is not None:
        limits = entry.tokens and entry.tokens(built)
        _check_tokens(manifest.architecture, expected, limits, dataset, made)
        return
    _check_example(expected, "float32", dataset, made, transforms)
    entry.layout.tensors(built, made.shape, manifest.outputs)


def _padded(made: ExampleType, expected: OpenShape) -> ExampleType:
    """Sequences as a graph of fixed length gets them: its network pads those that are shorter."""
    (length,) = made.shape
    if len(expected) != 1 or None in (*expected, length) or (length or 0) > (expected[0] or 0):
        return made
    return replace(made, shape=expected)


def _check_example(
    expected: OpenShape,
    takes: str,
    dataset: str,
    made: ExampleType,
    transforms: Sequence[Component],
) -> None:
    """Raise SpecError unless a network that takes such a dtype takes such an example."""
    fits = len(made.shape) == len(expected) and all(map(_takes, expected, made.shape))
    if fits and made.dtype in (takes, *_NARROWER.get(takes, ())):
        return
    names = ", ".join(one.name for one in transforms)
    raise SpecError(
        f"the checkpoint expects {_shown(expected)} {takes}; dataset {dataset} gives "
        f"{_shown(made.shape)} {made.dtype} after [{names}]; "
        f"{_advice(expected, takes, made, transforms)}",
        pointer="/transforms",
    )


def _advice(
    expected: OpenShape, takes: str, made: ExampleType, transforms: Sequence[Component]
) -> str:
    """What would make the one of the other."""
    have, given = made.shape, {one.name for one in transforms}
    if made.vocabulary is not None:
        if takes == "float32" or len(expected) != 1:
            return "these are token ids, which are no numbers to compute with"
        return f"cut the sequences to {expected[0]} token ids"
    if len(expected) == 1 and len(have) > 1:
        length = math.prod(one or 0 for one in have)
        if not _takes(expected[0], length):
            return f"flatten would make {length} numbers of them: choose other examples"
        return "add the transform flatten"
    if takes != "float32" and made.dtype == "float32":
        return "leave out the transform to_float" if "to_float" in given else _OTHER_NUMBERS
    if len(expected) == len(have) and all(map(_takes, expected, have)):
        return "add the transform to_float" if takes == "float32" else _OTHER_NUMBERS
    if len(expected) != 3 or len(have) != 3:
        return "choose the columns or arrays that the network was trained on"
    steps = []
    if not _takes(expected[0], have[0]):
        if {expected[0], have[0]} != {1, 3}:
            return f"register images of {expected[0]} channels"
        steps.append("grey" if expected[0] == 1 else "grey with channels 3")
    if not all(map(_takes, expected[1:], have[1:])):
        size = f"resize to [{expected[1]}, {expected[2]}]"
        if "resize" in given and not steps:
            return f"let {size}"
        steps.append(size)
    before = f" before {transforms[0].name}" if transforms else ""
    if made.dtype != takes:
        steps.append("to_float")
    return f"add the transform{'s' if len(steps) > 1 else ''} {' and '.join(steps)}{before}"


def _takes(expected: int | None, have: int | None) -> bool:
    return expected in (None, have)


def _check_tokens(
    architecture: str,
    expected: OpenShape,
    limits: TokenLimits | None,
    dataset: str,
    made: ExampleType,
) -> None:
    """Refuse a network of token ids for numbers, one of numbers for ids, and ids that it lacks.

    An id without an embedding must never get to a CUDA device, whose context would be lost.
    """
    longest, *_ = made.shape
    if limits is None:
        known = [one for one in catalog.ARCHITECTURES if catalog.ARCHITECTURES[one].tokens]
        wrong = (
            f"{architecture} takes {_shown(expected)} float32; dataset {dataset} gives "
            f"sequences of up to {longest} token ids: {' or '.join(known)} would take those"
        )
    elif made.vocabulary is None:
        wrong = (
            f"{architecture} takes sequences of token ids; dataset {dataset} gives "
            f"{_shown(made.shape)} {made.dtype}. Integers x of shape (N, longest) with the array "
            "lengths would be such, or a Parquet table with a column of lists"
        )
    elif made.vocabulary > limits.vocabulary:
        wrong = (
            f"the checkpoint has embeddings for the token ids 0 to {limits.vocabulary - 1}; "
            f"dataset {dataset} holds ids up to {made.vocabulary - 1}: it takes a dataset from the "
            "same tokenizer"
        )
    elif limits.max_length is not None and (longest or 0) > limits.max_length:
        wrong = (
            f"the checkpoint has {limits.max_length} positions; the longest sequence of dataset "
            f"{dataset} holds {longest} token ids: cut them to {limits.max_length}"
        )
    else:
        return
    raise SpecError(wrong, pointer="/checkpoint")


def output_order(
    manifest: Manifest, *, task: str, classes: Sequence[str]
) -> tuple[int, ...] | None:
    """Where the checkpoint has each class of the dataset.

    Args:
        task: the dataset's.
        classes: the dataset's, in index order.

    Returns:
        For each of ``classes`` its index among the checkpoint's, as `models.evaluation.evaluate`
        takes it; None where the checkpoint states the same order, or no classes. One output of a
        binary task stands for both classes: ``(1, 0)`` says that it is the logit of the dataset's
        first one.

    Raises:
        SpecError: outputs or classes do not fit, as `check_fit` says.
    """
    _check_outputs(manifest, task, classes)
    if manifest.classes is None or manifest.classes == tuple(classes):
        return None
    index = {name: i for i, name in enumerate(manifest.classes)}
    return tuple(index[name] for name in classes)


def _check_outputs(manifest: Manifest, task: str, classes: Sequence[str]) -> None:
    outputs, stated = manifest.outputs, manifest.classes
    if outputs not in (None, len(classes)) and not (outputs == 1 and task == "binary"):
        also = " (or 1, for a binary task)" if len(classes) == 2 and task != "multilabel" else ""
        raise SpecError(
            f"the checkpoint has {counted(outputs, 'output')}, but the dataset has "
            f"{len(classes)} class{'' if len(classes) == 1 else 'es'}: "
            f"{counted(len(classes), 'output')} would fit{also}",
            pointer="/checkpoint",
        )
    if stated is not None and set(stated) != set(classes):
        ours, theirs = set(classes), set(stated)
        sides = (
            ("missing", [quoted(name) for name in classes if name not in theirs]),
            ("extra", [quoted(name) for name in stated if name not in ours]),
        )
        shown = "; ".join(
            f"{side} ({len(names)}): {listed(names)}" for side, names in sides if names
        )
        raise SpecError(
            f"the checkpoint's classes are not the dataset's: {shown}. The same names would fit, "
            "in any order",
            pointer="/checkpoint",
        )


def _shown(shape: OpenShape) -> str:
    lengths = ", ".join("any" if length is None else str(length) for length in shape)
    return f"({lengths},)" if len(shape) == 1 else f"({lengths})"
