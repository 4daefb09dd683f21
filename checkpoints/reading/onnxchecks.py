"""What an ONNX network must be to be judged; one rule for files of exporters and for our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from checkpoints.errors import CheckpointError, counted, listed, quoted
from checkpoints.reading.onnxfile import EXPORT
from checkpoints.reading.onnxmodel import MAX_AXES, Model
from models.layouts import OpenShape
from models.onnx.graph import (
    INPUT_DTYPES,
    MAX_NODES,
    MAX_OPSET,
    MIN_OPSET,
    OUTPUT_DTYPES,
    Graph,
    Node,
    Value,
)
from models.onnx.operators import ADVICE, OPERATORS

MAX_OUTPUTS = 1_000_000
TRAINING_INPUT_SINCE = 12  # of Dropout
TRAINING_ATTRIBUTE_SINCE = 14  # of BatchNormalization

_MODE = "the network was exported in training mode: call .eval() on it first"
_THROUGH = ("Identity", "Cast")  # leave logits what they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What passed.

    Attributes:
        graph: with the names of the file.
        unused: tensors of the file that the graph does not read.
        warnings: sentences on what is taken and may surprise.
    """

    graph: Graph
    unused: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def outputs(self) -> int:
        """Number of output units."""
        shape = self.graph.output.shape
        assert shape is not None  # noqa: S101 - see `check`
        outputs = shape[1]
        assert outputs is not None  # noqa: S101 - see `check`
        return outputs

    @property
    def input_shape(self) -> OpenShape:
        """Of one example."""
        shape = self.graph.input.shape
        assert shape is not None  # noqa: S101 - see `check`
        return shape[1:]


def check(model: Model) -> Checked:
    """Decide whether this can be run as a classifier, whatever it holds.

    The order: size, operators, mode, what each node reads, input, output, tensors.

    Returns:
        The graph, whose input and output have shapes ``(batch, ...)`` and ``(batch, outputs)``
        with the same batch, None or 1, and known outputs.

    Raises:
        CheckpointError: it cannot be; says what would be right.
    """
    if not MIN_OPSET <= model.opset <= MAX_OPSET:
        raise CheckpointError(
            f"the network is of opset {model.opset}; taken are {MIN_OPSET} to {MAX_OPSET}: export "
            "with another opset_version"
        )
    if len(model.nodes) > MAX_NODES:
        raise CheckpointError(
            f"the network has {len(model.nodes)} nodes; at most {MAX_NODES} are taken",
            kind="too_large",
        )
    _check_operators(model.nodes)
    for index, node in enumerate(model.nodes):
        _check_mode(index, node, model)
    taken = _input(model.inputs)
    _check_names(model, taken)
    given = _output(model, taken)
    graph = Graph(model.opset, taken, given, model.nodes)
    used = dict.fromkeys(graph.tensors())
    for name in used:
        model.tensors[name].check()
    names = [name for name in model.tensors if name not in used]
    return Checked(graph=graph, unused=tuple(names), warnings=tuple(_warnings(graph)))


def _check_operators(nodes: Sequence[Node]) -> None:
    wrong = dict.fromkeys(node.operator for node in nodes if node.operator not in OPERATORS)
    if not wrong:
        return
    (first, *_) = wrong
    advice = ADVICE.get(first, "only standard ONNX operators that are deterministic are taken")
    raise CheckpointError(
        f"the network uses {listed([quoted(name) for name in wrong])}. {quoted(first)}: {advice}"
    )


def _check_mode(index: int, node: Node, model: Model) -> None:
    """Refuse what computes something else in training; both operators say so themselves."""
    if node.operator == "Dropout" and model.opset >= TRAINING_INPUT_SINCE:
        switch = node.inputs[2] if len(node.inputs) > 2 else ""
        if switch and not _is_false(model, switch):
            raise CheckpointError(f"node {index} is a Dropout that drops: {_MODE}")
    if node.operator == "BatchNormalization":
        several = sum(bool(name) for name in node.outputs) > 1
        training = node.attributes.get("training_mode")
        asked = model.opset >= TRAINING_ATTRIBUTE_SINCE and training and training.value != 0
        if several or asked:
            raise CheckpointError(
                f"node {index} is a BatchNormalization that normalizes by the batch: {_MODE}"
            )


def _is_false(model: Model, name: str) -> bool:
    tensor = model.tensors.get(name)
    if tensor is None or tensor.dtype != "bool" or tensor.elements != 1:
        return False
    tensor.check()
    return not tensor.value().any()


def _check_names(model: Model, taken: Value) -> None:
    """Every value is made once, and before it is read."""
    inside = {
        one.value
        for node in model.nodes
        for one in node.attributes.values()
        if one.kind == "tensor"
    }
    known = {taken.name, *model.tensors}
    if taken.name in model.tensors or not taken.name:
        raise CheckpointError("the input has no name of its own: the file is damaged")
    if not inside <= model.tensors.keys():
        raise CheckpointError("an attribute names a tensor that is not there: the file is damaged")
    for index, node in enumerate(model.nodes):
        for name in filter(None, node.inputs):
            if name not in known or name in inside:
                raise CheckpointError(
                    f"node {index} ({node.operator}) reads {quoted(name)}, which nothing before it "
                    "makes: the file is damaged, or the nodes are in a wrong order"
                )
        for name in filter(None, node.outputs):
            if name in known:
                raise CheckpointError(
                    f"node {index} ({node.operator}) makes {quoted(name)}, which is there already: "
                    "the file is damaged"
                )
            known.add(name)


def _input(inputs: Sequence[Value]) -> Value:
    if len(inputs) != 1:
        names = listed([quoted(one.name) for one in inputs])
        raise CheckpointError(
            f"the network takes {len(inputs)} inputs{f' ({names})' if names else ''}; a network "
            "that is judged takes one, the examples: make the others constants before the export"
        )
    (one,) = inputs
    about = f"the input {quoted(one.name)}"
    if one.dtype not in INPUT_DTYPES:
        raise CheckpointError(
            f"{about} is {one.dtype}; taken are {', '.join(INPUT_DTYPES)}: export a network that "
            "converts its input itself"
        )
    if one.shape is None or not 2 <= len(one.shape) <= MAX_AXES:
        has = "no shape" if one.shape is None else f"shape {_shown(one.shape)}"
        raise CheckpointError(
            f"{about} has {has}; it must have a batch axis and at least one more: {EXPORT}"
        )
    if any(length is not None and length < 1 for length in one.shape):
        raise CheckpointError(f"{about} has an axis without entries: {_shown(one.shape)}")
    if one.shape[0] not in (None, 1):
        raise CheckpointError(
            f"{about} has a batch axis of {one.shape[0]}, and batches of other sizes come: export "
            f"with a dynamic one: {EXPORT}; with dynamo=False by dynamic_axes={{NAME: "
            '{0: "batch"}} for the input'
        )
    return one


def _output(model: Model, taken: Value) -> Value:
    """The one output, with its shape settled."""
    if len(model.outputs) != 1:
        names = listed([quoted(one.name) for one in model.outputs])
        raise CheckpointError(
            f"the network gives {len(model.outputs)} outputs{f' ({names})' if names else ''}; a "
            "network that is judged gives one, the logits: export a module that returns them alone"
        )
    (one,) = model.outputs
    about = f"the output {quoted(one.name)}"
    if one.dtype not in OUTPUT_DTYPES:
        raise CheckpointError(
            f"{about} is {one.dtype}, and logits are {', '.join(OUTPUT_DTYPES)}: export the "
            "network without what it decides from its logits"
        )
    makers = {name: node for node in model.nodes for name in node.outputs if name}
    if one.name not in makers:
        raise CheckpointError(f"{about} is made by no node: the file is damaged")
    last = makers[one.name]
    while last.operator in _THROUGH and last.inputs and last.inputs[0] in makers:
        last = makers[last.inputs[0]]
    # LogSoftmax passes: what it gives are logits, those whose exponentials add up to 1.
    if last.operator in ("Softmax", "Sigmoid"):
        raise CheckpointError(
            f"{about} is made by {last.operator}, so it gives probabilities, and the loss is "
            "computed from logits: export the network without its last activation"
        )
    shape = one.shape
    if shape is not None and len(shape) != 2:
        raise CheckpointError(
            f"{about} has shape {_shown(shape)}, expected (batch, outputs): one row of logits for "
            "each example, not squeezed"
        )
    outputs = shape[1] if shape is not None and shape[1] else _last_width(model, one.name, makers)
    if outputs is None or not 1 <= outputs <= MAX_OUTPUTS:
        raise CheckpointError(
            f"{about} does not say how many outputs there are: export so that only the batch axis "
            f"is dynamic: {EXPORT}"
        )
    assert taken.shape is not None  # noqa: S101 - see `_input`
    return replace(one, shape=(taken.shape[0], outputs))


def _last_width(model: Model, name: str, makers: dict[str, Node]) -> int | None:
    """The length of the last axis, where the tensors of the last layer show it."""
    for _ in range(len(model.nodes)):
        if name not in makers:
            return None
        node = makers[name]
        shapes = [model.tensors[one].shape if one in model.tensors else None for one in node.inputs]
        if node.operator in _THROUGH and node.inputs:
            name = node.inputs[0]
        elif node.operator in ("Gemm", "MatMul") and len(shapes) > 1:
            weight = shapes[1]
            turned = node.attributes.get("transB")
            if weight is None or not weight:
                return None
            return weight[0] if turned and turned.value else weight[-1]
        elif node.operator == "Add" and len(shapes) == 2 and shapes.count(None) == 1:
            # A bias of one entry could be added to any number of outputs.
            bias = shapes[0] or shapes[1] or ()
            if bias and bias[-1] > 1:
                return bias[-1]
            name = node.inputs[0] if shapes[0] is None else node.inputs[1]
        else:
            return None
    return None


def _warnings(graph: Graph) -> list[str]:
    found = []
    if graph.input.shape is not None and graph.input.shape[0] == 1:
        found.append(
            "the network was exported for one example at a time and is run so, which is slow: "
            f"export with a dynamic batch axis: {EXPORT}"
        )
    number = sum(node.operator == "DynamicQuantizeLinear" for node in graph.nodes)
    if number:
        found.append(
            f"{counted(number, 'node')} of DynamicQuantizeLinear take their scale from the whole "
            "batch: what an example gives depends on its neighbours and on batch_size"
        )
    return found


def _shown(shape: OpenShape) -> str:
    lengths = ", ".join("any" if length is None else str(length) for length in shape)
    return f"({lengths})"
