"""Lines such as ``cat: 1 2 3``."""

import numpy as np

from models.datasets import arrayfiles
from models.datasets.arrays import Array, bad_file


def take(intake):
    labels, rows = [], []
    for number, line in enumerate(intake.source[:].decode().splitlines(), start=1):
        label, colon, numbers = line.partition(":")
        if not colon:
            raise bad_file(f"line {number} has no colon")
        labels.append(label)
        rows.append([float(one) for one in numbers.split()])
    x, y = np.array(rows, np.float32), np.array(labels)
    return arrayfiles.take({"x": Array.of("x", x), "y": Array.of("y", y)}, intake)
