"""ONNX files: what PyTorch's two exporters make of networks, and what the onnx package makes."""

from __future__ import annotations

import functools
import io
import logging
import os
import warnings

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything imports ONNX Runtime

import torch
from onnx import TensorProto, helper
from torch import nn


class ConvNet(nn.Module):
    """Batch norm, dropout, pooling and a squeeze."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.norm.running_mean = torch.linspace(-1, 1, 6)
        self.norm.running_var = torch.linspace(0.5, 2, 6)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        x = nn.functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1)
        return self.head(self.dropout(x))


class Attention(nn.Module):
    """A transformer over token ids, of which 0 is padding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        missing = x == 0
        x = self.encoder(self.embedding(x), src_key_padding_mask=missing)
        kept = (~missing).unsqueeze(-1)
        return self.head((x * kept).sum(1) / kept.sum(1).clamp(min=1))


class Recurrent(nn.Module):
    """An LSTM of two layers and two directions."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True, dropout=0.3)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Bag(nn.Module):
    """The mean of embeddings."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.embedding(x).mean(1))


def _mlp():
    return nn.Sequential(
        nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Dropout(0.2), nn.Linear(8, 3)
    )


# Name: how it is made, and the shape of an example; integers are token ids.
NETWORKS = {
    "mlp": (_mlp, (6,), torch.float32),
    "convnet": (ConvNet, (3, 8, 8), torch.float32),
    "attention": (Attention, (7,), torch.int64),
    "recurrent": (Recurrent, (4, 5), torch.float32),
    "bag": (Bag, (7,), torch.int64),
}


def network(name, *, seed=0):
    """One of `NETWORKS` with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return NETWORKS[name][0]().eval()


def examples(name, number, *, seed=0):
    """Inputs of one of `NETWORKS`."""
    _, shape, dtype = NETWORKS[name]
    random = torch.Generator().manual_seed(seed)
    if dtype == torch.int64:
        return torch.randint(1, 20, (number, *shape), generator=random)
    return torch.randn(number, *shape, generator=random)


def export(module, example, *, dynamo=True, batch=True, **options):
    """The bytes that torch.onnx.export writes."""
    stream = io.BytesIO()
    if dynamo:
        options = {"external_data": False, "verbose": False, **options}
        options |= {"dynamic_shapes": ({0: "batch"},)} if batch else {}
    else:
        options = {"input_names": ["x"], "output_names": ["y"], **options}
        options |= {"dynamic_axes": {"x": {0: "batch"}}} if batch else {}
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # of what torch finds missing: torchvision
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the older exporter, that it is the older one
            torch.onnx.export(module, (example,), stream, dynamo=dynamo, **options)
    finally:
        logging.disable(level)
    return stream.getvalue()


@functools.cache
def exported(name, *, dynamo=True, seed=0, number=2, batch=True):
    """One of `NETWORKS` as a file."""
    return export(network(name, seed=seed), examples(name, number), dynamo=dynamo, batch=batch)


FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node, tensor = helper.make_node, helper.make_tensor


def value(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


WEIGHT = tensor("w", FLOAT, [3, 2], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
LINEAR = node("MatMul", ["x", "w"], ["y"])
EXAMPLES, LOGITS = value("x", ["n", 3]), value("y", ["n", 2])


def proto(
    nodes=(LINEAR,),
    tensors=(WEIGHT,),
    *,
    inputs=(EXAMPLES,),
    outputs=(LOGITS,),
    opset=20,
    ir=10,
    imports=(),
    **fields,
):
    """A ModelProto; by default of one matrix product."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(tensors))
    sets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*one) for one in imports)]
    return helper.make_model(graph, opset_imports=sets, ir_version=ir, **fields)


def made(*arguments, **options):
    """The bytes of `proto`."""
    return proto(*arguments, **options).SerializeToString()


def greedy(shape, *, folded):
    """A network that asks for so many floats, while it is opened or while it runs."""
    size = tensor("size", INT64, [len(shape)], shape)
    if folded:
        start = [node("ConstantOfShape", ["size"], ["c"])]
    else:
        start = [
            node("ReduceSum", ["x"], ["r"], keepdims=0),
            node("Expand", ["r", "size"], ["c"]),
        ]
    nodes = [
        *start,
        node("ReduceSum", ["c"], ["s"], keepdims=0),
        node("MatMul", ["x", "w"], ["m"]),
        node("Add", ["m", "s"], ["y"]),
    ]
    return made(nodes, [size, WEIGHT])
