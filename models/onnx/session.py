"""Runs an ONNX network by ONNX Runtime, the same bits for the same input; for workers only.

Whoever imports this needs the extra ``onnx``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import runtime
from models.onnx import protobuf
from models.onnx.graph import Graph

# The official builds send what they run, and for whom, to their maker; read at the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

Array = np.ndarray[Any, Any]

# Where the dataset has no token; see `models.transforms.ExampleType`.
PADDING = -1

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_TORCH_DTYPES = {
    "float32": torch.float32,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
}

# Instructions for which ONNX Runtime has kernels of their own, as Linux calls them: without those
# for eight bits, sums of quantized products saturate.
_INSTRUCTIONS = (
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "avx_vnni", "avx_vnni_int8", "amx_tile", "amx_int8"),
    *("amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme", "sme2"),
)

_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|allocate memory|out of memory|smaller than requested bytes", re.IGNORECASE
)
_LONGEST_WORDS = 300


class NetworkError(Exception):
    """ONNX Runtime cannot run this network.

    Args:
        detail: what it says of it, without paths of its sources.
        out_of_memory: it has not got the memory that it asked for.
    """

    def __init__(self, detail: str, *, out_of_memory: bool) -> None:
        super().__init__(detail)
        self.detail = detail
        self.out_of_memory = out_of_memory


def runs_on(kind: str) -> bool:
    """Whether ONNX Runtime computes on this kind of device here."""
    return kind == "cpu" or _CUDA in onnxruntime.get_available_providers()


def policy(device: str) -> dict[str, Any]:
    """The numeric policy of ONNX networks: what besides its inputs decides the bits.

    It has what that of all others has, because transforms are computed alike.

    Args:
        device: of a kind that it runs on, as `models.runtime.resolve_device` names it.

    Returns:
        JSON values: those of `models.runtime.policy` with ``dtype`` ``as exported``, and
        ``provider``, ``onnxruntime`` (its version) and ``instructions`` (sets that its kernels are
        chosen by).
    """
    return runtime.policy(device) | {
        "dtype": "as exported",
        "provider": _providers(device)[0][0],
        "onnxruntime": onnxruntime.__version__,
        "instructions": _instructions(),
    }


class OnnxNetwork(nn.Module):
    """A graph as a module without parameters, in evaluation mode.

    Args:
        graph: as `models.onnx.graph.Graph.from_metadata` reads it.
        arrays: its tensors, by name.
        device: where its input lies and it computes; its logits lie in the host's memory.
        threads: CPU threads of one operation.
        padding_id: what the network sees where a sequence of token ids has ended; None where
            examples are no such sequences, and -1 is a number as any other.

    Raises:
        NetworkError: ONNX Runtime does not take the graph.
    """

    def __init__(
        self,
        graph: Graph,
        arrays: Mapping[str, Array],
        *,
        device: str,
        threads: int,
        padding_id: int | None,
    ) -> None:
        super().__init__()
        assert graph.input.shape is not None  # noqa: S101 - the reader has settled it
        self._one_by_one = graph.input.shape[0] == 1
        self._dtype = _TORCH_DTYPES[graph.input.dtype]
        self._numpy_dtype = np.dtype(graph.input.dtype)
        self._names = graph.input.name, graph.output.name
        self._padding_id = padding_id
        # of sequences, where the graph fixes it; shorter ones are padded
        shape = graph.input.shape
        self._length = shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None
        self._device = torch.device(device)
        with _told("ONNX Runtime does not take the network"):
            self._session = onnxruntime.InferenceSession(
                protobuf.model(graph, arrays), _options(threads), providers=_providers(device)
            )
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, outputs)``, of the type that the network gives, of examples ``(N, ...)``.

        Args:
            x: of the network's dtype, or integers where it takes wider ones; of those, `PADDING`
                stands for a token that is not there.

        Raises:
            NetworkError: ONNX Runtime fails.
        """
        wide = self._dtype in (torch.int64, torch.int32)
        if wide:
            x = x.to(self._dtype)
        if wide and self._padding_id is not None:
            if self._length is not None and x.shape[1] < self._length:
                x = functional.pad(x, (0, self._length - x.shape[1]), value=PADDING)
            x = x.masked_fill(x == PADDING, self._padding_id)
        x = x.contiguous()
        with _told(f"ONNX Runtime failed on a batch of {len(x)}"):
            if self._one_by_one:
                return torch.cat([self._run(x[index : index + 1]) for index in range(len(x))])
            return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        taken, given = self._names
        binding = self._session.io_binding()
        kind, index = self._device.type, self._device.index or 0
        if kind == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # the session has its own
        binding.bind_input(taken, kind, index, self._numpy_dtype, list(x.shape), x.data_ptr())
        binding.bind_output(given, "cpu")
        self._session.run_with_iobinding(binding)
        (output,) = binding.get_outputs()
        return torch.from_numpy(output.numpy())


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # fatal: whatever else there is to say is raised
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Threads that wait actively between two batches would take cores from other children.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _providers(device: str) -> list[tuple[str, dict[str, Any]]]:
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return [(_CPU, {})]
    # The algorithm of a convolution is not chosen by timing, and sums keep all their bits.
    exact = {"device_id": int(index or 0), "cudnn_conv_algo_search": "DEFAULT", "use_tf32": 0}
    return [(_CUDA, exact), (_CPU, {})]


def _instructions() -> list[str]:
    """Of this machine, in a fixed order; none where Linux does not say them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return []
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    there = set(found[1].split()) if found else set()
    return [name for name in _INSTRUCTIONS if name in there]


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises, which is of many kinds, into one error."""
    try:
        yield
    except Exception as error:
        words = str(error)
        memory = isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(words) is not None
        raise NetworkError(f"{what}: {_plain(words)}", out_of_memory=memory) from error


def _plain(words: str) -> str:
    """The last part of a message of ONNX Runtime, without where in its sources it comes from."""
    words = words.replace("\n", " ").strip()
    node = re.search(r"while running (\w+) node\. Name:'(\d*)'", words)
    words = words.rpartition("Status Message: ")[2]
    words = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", words)
    # A source's path, its line, the signature of the function; and of others what looks so.
    words = re.sub(r"\S*/\S+:\d+ .*?\w\([^)]*\)(?: const)?(?: \[[^\]]*\])? ", "", words)
    words = re.sub(r"\S*(?:/|::)\S* ?", "", words).strip() or "it does not say why"
    if node:
        words = f"node {node[2]} ({node[1]}): {words}"
    return words if len(words) <= _LONGEST_WORDS else words[: _LONGEST_WORDS - 3] + "..."
