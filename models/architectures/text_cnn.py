"""The convolutional network for text (Kim, 2014)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.architectures.tokens import Embedding
from models.layouts import OpenShape, text_cnn
from models.layouts.text_cnn import TextCNNParameters


class TextCNN(nn.Module):
    """Embeddings, convolutions of several sizes with ReLU, the maximum over time, a linear head.

    The maximum is over the windows that lie wholly within a sequence, as if it were convolved by
    itself and without padding. A sequence that is shorter than a window is filled up with zeros to
    one window. So nothing depends on how long the other sequences of a dataset are.

    Args:
        parameters: the hyperparameters.
        input_shape: ``(length,)``, of any length.
        outputs: number of logits.

    Raises:
        SpecError: ``input_shape`` has not exactly one axis.
    """

    def __init__(self, parameters: TextCNNParameters, input_shape: OpenShape, outputs: int) -> None:
        super().__init__()
        shapes = text_cnn.tensors(parameters, input_shape, outputs)
        width, channels = parameters.width, parameters.channels
        self.embedding = Embedding(parameters.vocabulary, width)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, channels, kernel_size=size) for size in parameters.kernel_sizes
        )
        self.sizes = parameters.kernel_sizes
        self.dropout = nn.Dropout(parameters.dropout)
        self.head = nn.Linear(shapes["head.weight"].shape[1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 ``(N, outputs)``, of token ids, int32 ``(N, L)``, -1 behind the end."""
        lengths = (x >= 0).sum(dim=1, keepdim=True)
        features = self.embedding(x).transpose(1, 2)
        features = functional.pad(features, (0, max(0, max(self.sizes) - x.shape[1])))
        found = []
        for conv, size in zip(self.convs, self.sizes, strict=True):
            windows = functional.relu(conv(features))
            starts = torch.arange(windows.shape[2], device=x.device)
            beyond = starts > (lengths - size).clamp(min=0)
            # 0 is the least that a ReLU gives; amax, for the gradient of max scatters on CUDA
            found.append(windows.masked_fill(beyond[:, None], 0.0).amax(dim=2))
        logits: Tensor = self.head(self.dropout(torch.cat(found, dim=1)))
        return logits
