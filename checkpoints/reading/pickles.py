"""A machine that reads pickles and can build nothing but plain values and descriptions.

It knows the opcodes that picklers of protocols 2 to 5 write. Each is a few lines below and none
calls anything that a file names: a reference to an object becomes a `Global`, and what would be a
call becomes what `references.called` says. Work and memory are bounded by the number of opcodes.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from typing import Any

from checkpoints.errors import CheckpointError
from checkpoints.reading.references import (
    Opaque,
    as_key,
    called,
    damaged,
    known,
    storage_of,
)
from checkpoints.reading.tensors import Storage, StoredTensor

MAX_STEPS = 5_000_000
MAX_INTEGER_BYTES = 256
MAX_NAME_BYTES = 1024


class Pickle:
    """Reads one pickle.

    Args:
        data: bytes that hold it.
        start: its first byte.
        end: one past the last byte that it may use.

    Attributes:
        position: after `load`, one past its last byte.
        storages: by key, every storage that it described.
    """

    def __init__(self, data: mmap.mmap | bytes, start: int, end: int) -> None:
        self.position = start
        self.storages: dict[str, Storage] = {}
        self._data = data
        self._end = end
        self._steps = MAX_STEPS
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark that is open
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The value.

        Raises:
            CheckpointError: damaged, too long, or in need of something that is not loaded.
        """
        while True:
            code = self._take(1)[0]
            if code == _STOP:
                return self._pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise damaged(f"opcode {code:#04x} is not one that torch.save writes")
            self._work(1)
            operation(self)

    def _work(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise CheckpointError(
                f"the pickle in the file takes more than {MAX_STEPS} steps; save "
                "model.state_dict() alone"
            )

    def _take(self, size: int) -> bytes:
        start = self.position
        if size > self._end - start:
            raise damaged("it ends too early")
        self.position = start + size
        return self._data[start : start + size]

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise damaged("a text is not UTF-8") from None

    def _line(self) -> str:
        end = self._data.find(b"\n", self.position, min(self._end, self.position + MAX_NAME_BYTES))
        if end < 0:
            raise damaged("a name does not end")
        text = self._text(end - self.position)
        self.position += 1
        return text

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            raise damaged("its stack is empty")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise damaged("its stack is empty")
        return self._stack[-1]

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop_to_mark(self) -> list[Any]:
        if not self._below:
            raise damaged("a mark is missing")
        items, self._stack = self._stack, self._below.pop()
        return items

    def _long(self, size: int) -> None:
        if size > MAX_INTEGER_BYTES:
            raise damaged(f"an integer has more than {MAX_INTEGER_BYTES} bytes")
        self._push(int.from_bytes(self._take(size), "little", signed=True))

    def _tuple(self, size: int) -> None:
        items = [self._pop() for _ in range(size)]
        self._push(tuple(reversed(items)))

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Opaque):
            raise damaged("items are put into what is no list")

    def _update(self, target: Any, items: list[Any]) -> None:
        if len(items) % 2:
            raise damaged("a key has no value")
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[as_key(key)] = value
        elif not isinstance(target, Opaque):
            raise damaged("items are put into what is no dictionary")

    def _new_dict(self) -> None:
        found: dict[Any, Any] = {}
        self._update(found, self._pop_to_mark())
        self._push(found)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._update(self._top(), [key, value])

    def _set_items(self) -> None:
        items = self._pop_to_mark()
        self._update(self._top(), items)

    def _append(self) -> None:
        value = self._pop()
        self._extend([value])

    def _extend_from_mark(self) -> None:
        items = self._pop_to_mark()
        self._extend(items)

    def _new_set(self) -> None:
        self._push(Opaque("set"))

    def _add_items(self) -> None:
        self._pop_to_mark()
        if not isinstance(self._top(), Opaque):
            raise damaged("items are put into what is no set")

    def _new_frozenset(self) -> None:
        self._pop_to_mark()
        self._push(Opaque("frozenset"))

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise damaged("it refers to a value that it did not keep")
        self._push(self._memo[index])

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _global(self) -> None:
        module = self._line()
        self._push(known(f"{module}.{self._line()}"))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise damaged("the name of an object is no text")
        self._push(known(f"{module}.{name}"))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if isinstance(arguments, tuple):  # a list in it may be walked, once for each such opcode
            self._work(sum(len(one) for one in arguments[:1] if isinstance(one, list)))
        self._push(called(function, arguments))

    def _new_object_with_keywords(self) -> None:
        self._pop()
        self._reduce()

    def _build(self) -> None:
        """State of an object: ``_metadata`` of a state dict, or of what is opaque anyway."""
        self._pop()
        if not isinstance(self._top(), (dict, Opaque, StoredTensor)):
            raise damaged("state is given to what has none")

    def _persistent(self) -> None:
        storage = storage_of(self._pop())
        first = self.storages.setdefault(storage.key, storage)
        if first.size_bytes != storage.size_bytes:
            raise damaged("a storage is described twice and differently")
        self._push(storage)

    def _protocol(self) -> None:
        if self._number(1) > 5:
            raise damaged("its protocol is not one of 2 to 5")

    def _frame(self) -> None:
        if self._number(8) > self._end - self.position:
            raise damaged("it ends too early")


def _float(pickle: Pickle) -> None:
    pickle._push(struct.unpack(">d", pickle._take(8))[0])


_STOP = ord(".")

_OPERATIONS: dict[int, Callable[[Pickle], object]] = {
    0x80: Pickle._protocol,
    0x95: Pickle._frame,
    ord("N"): lambda p: p._push(None),
    0x88: lambda p: p._push(True),
    0x89: lambda p: p._push(False),
    ord("K"): lambda p: p._push(p._number(1)),
    ord("M"): lambda p: p._push(p._number(2)),
    ord("J"): lambda p: p._long(4),
    0x8A: lambda p: p._long(p._number(1)),
    0x8B: lambda p: p._long(p._number(4)),
    ord("G"): _float,
    ord("X"): lambda p: p._push(p._text(p._number(4))),
    0x8C: lambda p: p._push(p._text(p._number(1))),
    0x8D: lambda p: p._push(p._text(p._number(8))),
    ord("U"): lambda p: p._push(p._text(p._number(1))),  # Python 2's str
    ord("T"): lambda p: p._push(p._text(p._number(4))),
    ord("B"): lambda p: p._push(p._take(p._number(4))),
    ord("C"): lambda p: p._push(p._take(p._number(1))),
    0x8E: lambda p: p._push(p._take(p._number(8))),
    0x96: lambda p: p._push(p._take(p._number(8))),
    ord("]"): lambda p: p._push([]),
    ord("l"): lambda p: p._push(p._pop_to_mark()),
    ord("a"): Pickle._append,
    ord("e"): Pickle._extend_from_mark,
    ord(")"): lambda p: p._push(()),
    ord("t"): lambda p: p._push(tuple(p._pop_to_mark())),
    0x85: lambda p: p._tuple(1),
    0x86: lambda p: p._tuple(2),
    0x87: lambda p: p._tuple(3),
    ord("}"): lambda p: p._push({}),
    ord("d"): Pickle._new_dict,
    ord("s"): Pickle._set_item,
    ord("u"): Pickle._set_items,
    0x8F: Pickle._new_set,
    0x90: Pickle._add_items,
    0x91: Pickle._new_frozenset,
    ord("("): Pickle._mark,
    ord("0"): Pickle._pop,
    ord("1"): Pickle._pop_to_mark,
    ord("h"): lambda p: p._get(p._number(1)),
    ord("j"): lambda p: p._get(p._number(4)),
    ord("q"): lambda p: p._put(p._number(1)),
    ord("r"): lambda p: p._put(p._number(4)),
    0x94: lambda p: p._put(len(p._memo)),
    ord("c"): Pickle._global,
    0x93: Pickle._stack_global,
    ord("R"): Pickle._reduce,
    0x81: Pickle._reduce,
    0x92: Pickle._new_object_with_keywords,
    ord("b"): Pickle._build,
    ord("Q"): Pickle._persistent,
}
