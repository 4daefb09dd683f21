"""A ResNet-18 for small images over tensors in memory and nothing else, for comparison.

``python bare.py THREADS WEIGHTS IMAGES BATCH_SIZE`` answers each line of its input with a line of
JSON: the seconds that one forward pass over all images took, and how often each class was
predicted. The weights are a safetensors file, the images an npz file with ``x``, uint8.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from models.runtime import configure


def resnet18(state, x):
    def convolved(x, convolution, norm, stride=1):
        weight = state[f"{convolution}.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{norm}.{name}"] for name in names))

    x = functional.relu_(convolved(x, "conv1", "bn1"))
    for stage in range(1, 5):
        for block in (f"layer{stage}.0", f"layer{stage}.1"):
            stride = 2 if stage > 1 and block.endswith("0") else 1
            inner = convolved(x, f"{block}.conv1", f"{block}.bn1", stride)
            inner = convolved(functional.relu_(inner), f"{block}.conv2", f"{block}.bn2")
            if stride == 2:
                x = convolved(x, f"{block}.downsample.0", f"{block}.downsample.1", 2)
            x = functional.relu_(inner.add_(x))
    return functional.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def main(threads, weights, images, batch_size):
    configure("cpu", int(threads))
    state = load_file(weights)
    batches = (torch.from_numpy(np.load(images)["x"]) / 255).split(int(batch_size))
    for _ in sys.stdin:
        began = time.perf_counter()
        with torch.inference_mode():
            logits = torch.cat([resnet18(state, batch) for batch in batches])
        taken_s = time.perf_counter() - began
        predicted = torch.bincount(logits.argmax(1), minlength=logits.shape[1]).tolist()
        print(json.dumps({"seconds": taken_s, "predicted": predicted}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
