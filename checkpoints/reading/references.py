"""The names of Python objects that a checkpoint may refer to, and what becomes of each.

None of them is ever imported, looked up or called. A few build descriptions of tensors; the rest
stand beside the weights in people's files (arguments, counters, random states) and become opaque.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from checkpoints.errors import CheckpointError, quoted
from checkpoints.reading.tensors import DTYPES, Storage, StoredTensor

MAX_AXES = 64


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """Something whose name is known and whose content is not looked at."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A reference to a known object, by ``module.name``."""

    name: str


STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.storage.UntypedStorage": "uint8",
    "torch.UntypedStorage": "uint8",
}

_DTYPE_GLOBALS = {f"torch.{name}": name for name in DTYPES}

_BUILTINS = (
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list"),
    *("long", "object", "range", "set", "slice", "str", "tuple", "unicode", "xrange"),
)

INERT = frozenset(
    {f"builtins.{name}" for name in _BUILTINS}
    | {f"__builtin__.{name}" for name in _BUILTINS}  # what protocol 2 calls them
    | {
        "_codecs.encode",  # how protocol 2 writes bytes
        "argparse.Namespace",
        "collections.Counter",
        "collections.deque",
        "datetime.date",
        "datetime.datetime",
        "datetime.timedelta",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.numeric._frombuffer",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy.core.numeric._frombuffer",
        "torch.device",
        "torch.storage.TypedStorage",
        "torch.torch_version.TorchVersion",
        "types.SimpleNamespace",
    }
    | {
        f"{module}.{pure}{kind}Path"
        for module in ("pathlib", "pathlib._local")  # Python 3.13 names the latter
        for pure in ("", "Pure")
        for kind in ("", "Posix", "Windows")
    }
)


def known(name: str) -> Global:
    """The reference, if a checkpoint may make it.

    Raises:
        CheckpointError: it may not; names it and says what to save instead.
    """
    if name in BUILDERS or name in STORAGES or name in _DTYPE_GLOBALS or name in INERT:
        return Global(name)
    raise CheckpointError(
        f"the file refers to {quoted(name)}, which is neither a plain value nor a dense tensor, "
        "and code in uploads is never run; save model.state_dict() instead"
    )


def called(function: Any, arguments: Any) -> Any:
    """What stands for the result of calling a global: nothing is called.

    Raises:
        CheckpointError: not something to call, or a tensor is described in a way that is wrong.
    """
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise damaged("something is called that is no function")
    builder = BUILDERS.get(function.name)
    return builder(arguments) if builder else Opaque(function.name)


def damaged(why: str) -> CheckpointError:
    """The error for a pickle that no pickler writes."""
    return CheckpointError(f"the pickle in the file is damaged: {why}")


def storage_of(reference: Any) -> Storage:
    """What a persistent id describes: ``("storage", class, key, location, elements, ...)``.

    Raises:
        CheckpointError: it is not such a tuple.
    """
    if not isinstance(reference, tuple) or len(reference) not in (5, 6):
        raise damaged("a storage is described by something else than a tuple of 5 or 6")
    tag, kind, key, _location, elements, *view = reference
    dtype = STORAGES.get(kind.name) if isinstance(kind, Global) else None
    if tag != "storage" or dtype is None or type(key) is not str or not _is_count(elements):
        raise damaged("a storage's description has the wrong types")
    if view and view[0] is not None:
        raise CheckpointError(
            "the file holds a view of a storage, as PyTorch before 0.4 wrote them; load it with "
            "PyTorch and save it again"
        )
    return Storage(key, dtype, elements * DTYPES[dtype].item_bytes)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_counts(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= MAX_AXES and all(map(_is_count, value))


def _tensor(dtype: str, arguments: tuple[Any, ...]) -> StoredTensor:
    storage, offset, shape, strides = arguments[:4]
    if not (_is_count(offset) and _is_counts(shape) and _is_counts(strides)):
        raise damaged("a tensor's offset, size or stride is no integer, or is negative")
    if len(shape) != len(strides):
        raise damaged("a tensor's size and stride differ in length")
    return StoredTensor(storage, dtype, shape, strides, offset)


def _rebuild_tensor(arguments: tuple[Any, ...]) -> StoredTensor:
    """``(storage, offset, size, stride[, requires_grad, hooks[, metadata]])``."""
    if len(arguments) not in (4, 6, 7) or not isinstance(arguments[0], Storage):
        raise damaged("a tensor is built from something else than a storage")
    _check_metadata(arguments[6:])
    return _tensor(arguments[0].dtype, arguments)


def _rebuild_tensor_v3(arguments: tuple[Any, ...]) -> StoredTensor:
    """``(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])``."""
    if len(arguments) not in (7, 8) or not isinstance(arguments[0], Storage):
        raise damaged("a tensor is built from something else than a storage")
    _check_metadata(arguments[7:])
    dtype = _DTYPE_GLOBALS.get(arguments[6].name) if isinstance(arguments[6], Global) else None
    if dtype is None:
        raise damaged("a tensor's dtype is none")
    return _tensor(dtype, arguments)


def _check_metadata(metadata: tuple[Any, ...]) -> None:
    if metadata and metadata[0]:
        raise CheckpointError(
            "the file holds a tensor with its conjugate or negative bit set; save "
            "tensor.resolve_conj().resolve_neg() instead"
        )


def _rebuild_parameter(arguments: tuple[Any, ...]) -> StoredTensor:
    """``(tensor, requires_grad, hooks[, state])``."""
    if len(arguments) not in (3, 4) or not isinstance(arguments[0], StoredTensor):
        raise damaged("a parameter is built from something else than a tensor")
    return arguments[0]


def _mapping(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """An OrderedDict, empty or from pairs as Python 2 wrote it."""
    found: dict[Any, Any] = {}
    if arguments:
        pairs = arguments[0]
        if len(arguments) != 1 or not isinstance(pairs, list):
            raise damaged("an OrderedDict is built from something else than a list")
        for pair in pairs:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise damaged("an OrderedDict is built from something else than pairs")
            found[as_key(pair[0])] = pair[1]
    return found


def _defaultdict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """A defaultdict is pickled empty, with its factory, and filled afterwards."""
    return {}


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) != 1 or not isinstance(arguments[0], tuple):
        raise damaged("a torch.Size is built from something else than a tuple")
    return arguments[0]


def as_key(value: Any) -> Any:
    """Scalars stand for themselves; hashing what a file nests at will could end the process."""
    if value is None or type(value) in (str, int, float, bool, bytes):
        return value
    return Opaque("key")


BUILDERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _defaultdict,
    "torch.Size": _size,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
}
