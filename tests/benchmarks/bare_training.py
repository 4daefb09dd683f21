"""Training loops over tensors in memory and nothing else, for comparison.

``python bare_training.py THREADS DATA NETWORK EPOCHS`` answers each line of its input (``tensors``
or ``loader``) with a line of JSON: the seconds that a training took, each epoch with a validation.
``loader`` goes through torch's DataLoader, as tutorials do. The data is an npz file with ``x``,
``y``, ``vx`` and ``vy``; x is float32.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from models.catalog import ARCHITECTURES
from models.runtime import configure

BATCH_SIZE = 64


def network(name):
    if name == "mlp":
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10))
    entry = ARCHITECTURES[name]
    return entry.load()(entry.parameters(stem="cifar"), (3, 32, 32), 10)


def batches(kind, x, y):
    if kind == "loader":
        return DataLoader(TensorDataset(x, y), batch_size=BATCH_SIZE, shuffle=True)
    order = torch.randperm(len(x)).split(BATCH_SIZE)
    return ((x[indices], y[indices]) for indices in order)


def trained(kind, name, x, y, vx, vy, epochs):
    torch.manual_seed(0)
    model = network(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    for _ in range(epochs):
        model.train()
        for inputs, targets in batches(kind, x, y):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            logits = torch.cat([model(part) for part in vx.split(256)])
            loss = functional.cross_entropy(logits, vy).item()
            (logits.argmax(1) == vy).float().mean().item()
        scheduler.step(loss)


def main(threads, data, name, epochs):
    configure("cpu", int(threads))
    arrays = {key: torch.from_numpy(one) for key, one in np.load(data).items()}
    for line in sys.stdin:
        began = time.perf_counter()
        trained(line.strip(), name, **arrays, epochs=int(epochs))
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
