"""The tensors of `models.architectures.mlp.MLP`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from models.layouts import OpenShape, Shape, Shown, TensorSpec
from models.layouts.norms import batch_norm_tensors
from models.parameters import parameter
from models.spec import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class MLPParameters:
    """Hyperparameters of the multilayer perceptron."""

    hidden: tuple[int, ...] = parameter(
        summary="Widths of the hidden layers; an upload's shapes show them.",
        default=(128,),
        type="array",
        items={"type": "integer", "minimum": 1, "maximum": 65536},
        maxItems=64,
    )
    activation: str = parameter(
        summary="The nonlinearity after each hidden layer; weights do not show it.",
        default="relu",
        type="string",
        enum=["relu", "gelu", "tanh"],
    )
    dropout: float = parameter(
        summary="Probability of zeroing a hidden unit in training; no effect on evaluation.",
        default=0.0,
        type="number",
        minimum=0,
        exclusiveMaximum=1,
    )
    batch_norm: bool = parameter(
        summary="Batch normalization after each hidden linear layer; an upload's names show it.",
        default=False,
        type="boolean",
    )


def tensors(
    parameters: MLPParameters, input_shape: OpenShape, outputs: int
) -> dict[str, TensorSpec]:
    """See `models.layouts.Layout.tensors`."""
    if len(input_shape) != 1 or input_shape[0] is None:
        raise SpecError(
            f"mlp takes examples of one axis, got shape {list(input_shape)}: add the transform "
            "flatten"
        )
    found = {}
    widths = [input_shape[0], *parameters.hidden, outputs]
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        found[f"layers.{index}.weight"] = TensorSpec(shape=(after, before))
        found[f"layers.{index}.bias"] = TensorSpec(shape=(after,))
        if parameters.batch_norm and index < len(parameters.hidden):
            found |= batch_norm_tensors(f"norms.{index}", after)
    return found


def shown(shapes: Mapping[str, Shape]) -> Shown:
    """See `models.layouts.Layout.shown`."""
    widths: list[int] = []
    before = None
    while len(shape := shapes.get(f"layers.{len(widths)}.weight", ())) == 2:
        before = before if widths else shape[1]
        widths.append(shape[0])
    if before is None:
        raise SpecError("mlp needs layers.0.weight with 2 axes (outputs, inputs)")
    *hidden, outputs = widths
    return Shown(
        parameters={"hidden": hidden, "batch_norm": "norms.0.running_mean" in shapes},
        input_shape=(before,),
        outputs=outputs,
    )


_IN_SEQUENTIAL = re.compile(r"((?:.*\.)?)(\d{1,6})\.\w+")


def sequential_names(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """See `models.entries.ArchitectureEntry.renames`: of an ``nn.Sequential``, bare or as a member.

    Its linear layers and batch norms are numbered with whatever stands between them, such as
    activations, which have no tensors: ``0.weight``, ``2.weight``.
    """
    matches = [_IN_SEQUENTIAL.fullmatch(name) for name in shapes]
    found = [(match[1], int(match[2])) for match in matches if match]
    prefixes, indices = {prefix for prefix, _ in found}, sorted({index for _, index in found})
    if len(found) < len(matches) or len(prefixes) != 1:
        return {}
    (prefix,) = prefixes
    if prefix == "layers." and indices == list(range(len(indices))):
        return {}  # the names are those of the layout
    names: dict[str, str] = {}
    linear: list[int] = []
    for index in indices:
        axes = len(shapes.get(f"{prefix}{index}.weight", ()))
        if axes == 2:
            if f"{prefix}{index - 1}" in names:
                raise SpecError(
                    f"{prefix}{linear[-1]} and {prefix}{index} are linear layers with no "
                    "activation between them; mlp has one after each hidden layer"
                )
            names[f"{prefix}{index}"] = f"layers.{len(linear)}"
            linear.append(index)
        elif axes == 1 and linear and linear[-1] == index - 1:
            names[f"{prefix}{index}"] = f"norms.{len(linear) - 1}"
        else:
            return {}
    return names
