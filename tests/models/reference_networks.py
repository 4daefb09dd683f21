"""Networks as functions of a state dict, written from the papers and without the modules.

Each takes the tensors by name and images ``(N, channels, H, W)`` of the same dtype, and gives
logits ``(N, outputs)`` of the network in evaluation mode.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def normalized(state, name, x, eps=1e-5):
    """Batch normalization by the running statistics."""
    mean, variance, scale, shift = (
        state[f"{name}.{one}"][:, None, None]
        for one in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(variance + eps) * scale + shift


def resnet(state, x, *, cifar=False):
    """He et al. (2015); in a bottleneck the 3x3 convolution has the stride."""

    def convolved(name, x, stride=1):
        weight = state[f"{name}.weight"]
        return functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = convolved("conv1", x, 1 if cifar else 2)
    x = normalized(state, "bn1", x).clamp(min=0)
    if not cifar:
        x = functional.max_pool2d(x, 3, 2, 1)
    for stage in (1, 2, 3, 4):
        index = 0
        while (block := f"layer{stage}.{index}") + ".conv1.weight" in state:
            stride = 2 if stage > 1 and index == 0 else 1
            last = 3 if f"{block}.conv3.weight" in state else 2
            inner = x
            for number in range(1, last + 1):
                strided = number == last - 1
                inner = convolved(f"{block}.conv{number}", inner, stride if strided else 1)
                inner = normalized(state, f"{block}.bn{number}", inner)
                inner = inner.clamp(min=0) if number < last else inner
            if f"{block}.downsample.0.weight" in state:
                x = convolved(f"{block}.downsample.0", x, stride)
                x = normalized(state, f"{block}.downsample.1", x)
            x = (x + inner).clamp(min=0)
            index += 1
    return functional.linear(x.flatten(2).mean(2), state["fc.weight"], state["fc.bias"])


def hard_sigmoid(x):
    return (x + 3).clamp(0, 6) / 6


def hard_swish(x):
    return x * hard_sigmoid(x)


def relu(x):
    return x.clamp(min=0)


# Of each block: nonlinearity, stride, and the names of what is in it.
MOBILENET_BLOCKS = [
    (relu, 2, "depthwise squeeze narrow"),
    (relu, 2, "widen depthwise narrow"),
    (relu, 1, "widen depthwise narrow"),
    (hard_swish, 2, "widen depthwise squeeze narrow"),
    *[(hard_swish, 1, "widen depthwise squeeze narrow")] * 4,
    (hard_swish, 2, "widen depthwise squeeze narrow"),
    *[(hard_swish, 1, "widen depthwise squeeze narrow")] * 2,
]


def mobilenet_v3_small(state, x):
    """Howard et al. (2019), table 2."""

    def convolved(name, x, stride=1):
        weight = state[f"{name}.0.weight"]
        groups = x.shape[1] // weight.shape[1]
        padding = weight.shape[-1] // 2
        x = functional.conv2d(x, weight, stride=stride, padding=padding, groups=groups)
        return normalized(state, f"{name}.1", x, eps=1e-3)

    def weighed(name, x):
        means = x.flatten(2).mean(2)
        for layer, activation in (("fc1", relu), ("fc2", hard_sigmoid)):
            weight = state[f"{name}.{layer}.weight"].flatten(1)
            means = activation(means @ weight.T + state[f"{name}.{layer}.bias"])
        return x * means[:, :, None, None]

    x = hard_swish(convolved("features.0", x, 2))
    for number, (activation, stride, parts) in enumerate(MOBILENET_BLOCKS, 1):
        before = x
        for index, part in enumerate(parts.split()):
            name = f"features.{number}.block.{index}"
            if part == "squeeze":
                x = weighed(name, x)
            elif part == "narrow":
                x = convolved(name, x)
            else:
                x = activation(convolved(name, x, stride if part == "depthwise" else 1))
        if x.shape == before.shape and stride == 1:
            x = x + before
    x = hard_swish(convolved("features.12", x)).flatten(2).mean(2)
    x = hard_swish(x @ state["classifier.0.weight"].T + state["classifier.0.bias"])
    return x @ state["classifier.3.weight"].T + state["classifier.3.bias"]


def vit(state, x, *, heads):
    """Dosovitskiy et al. (2020); attention is PyTorch's function."""
    weight, bias = state["conv_proj.weight"], state["conv_proj.bias"]
    width, _, side, _ = weight.shape
    patches = functional.unfold(x, side, stride=side).transpose(1, 2)
    x = patches @ weight.flatten(1).T + bias
    x = torch.cat([state["class_token"].expand(len(x), 1, width), x], dim=1)
    x = x + state["encoder.pos_embedding"]

    def layer_normalized(name, x):
        centred = x - x.mean(-1, keepdim=True)
        deviation = torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6)
        return centred / deviation * state[f"{name}.weight"] + state[f"{name}.bias"]

    index = 0
    while (layer := f"encoder.layers.encoder_layer_{index}") + ".ln_1.weight" in state:
        attention = f"{layer}.self_attention"
        inner = layer_normalized(f"{layer}.ln_1", x).transpose(0, 1)
        inner, _ = functional.multi_head_attention_forward(
            *(inner, inner, inner, width, heads),
            in_proj_weight=state[f"{attention}.in_proj_weight"],
            in_proj_bias=state[f"{attention}.in_proj_bias"],
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=state[f"{attention}.out_proj.weight"],
            out_proj_bias=state[f"{attention}.out_proj.bias"],
            training=False,
        )
        x = x + inner.transpose(0, 1)
        inner = layer_normalized(f"{layer}.ln_2", x)
        inner = inner @ state[f"{layer}.mlp.0.weight"].T + state[f"{layer}.mlp.0.bias"]
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        x = x + inner @ state[f"{layer}.mlp.3.weight"].T + state[f"{layer}.mlp.3.bias"]
        index += 1
    x = layer_normalized("encoder.ln", x[:, 0])
    return x @ state["heads.head.weight"].T + state["heads.head.bias"]
