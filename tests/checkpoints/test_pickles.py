"""The pickle machine: plain values as pickle itself reads them, and nothing else."""

from __future__ import annotations

import math
import pickle
import random
import struct
from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints.errors import CheckpointError
from checkpoints.reading import pickles
from checkpoints.reading.pickles import Pickle

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**300), 2**300)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(SCALARS, inner)
        | st.dictionaries(SCALARS, inner).map(OrderedDict)
    ),
    max_leaves=30,
)


def load(data):
    reader = Pickle(data, 0, len(data))
    value = reader.load()
    assert reader.position == len(data)
    return value


@given(value=VALUES, protocol=st.integers(2, 5))
@settings(max_examples=150, deadline=None)
def test_plain_values_are_read_as_pickle_reads_them(value, protocol):
    data = pickle.dumps(value, protocol)
    assert load(data) == pickle.loads(data)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_bytes_are_bytes(protocol):
    assert load(pickle.dumps([b"", b"abc", b"x" * 1000], protocol)) == [b"", b"abc", b"x" * 1000]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_shared_and_recursive_values_stay_shared(protocol):
    inner = [1]
    outer = [inner, inner, (inner,)]
    outer.append(outer)
    inner.append((outer,))
    found = load(pickle.dumps(outer, protocol))
    assert found[0] is found[1] is found[2][0]
    assert found[3] is found
    assert found[0][1][0] is found


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_stream_of_several_pickles_is_read_one_after_the_other(protocol):
    values = [1, "two", [3.5], {"four": None}]
    data = b"".join(pickle.dumps(value, protocol) for value in values) + b"rest"
    position, found = 0, []
    for _ in values:
        reader = Pickle(data, position, len(data))
        found.append(reader.load())
        position = reader.position
    assert found == values
    assert data[position:] == b"rest"


def test_strings_of_python_2_are_texts():
    data = b"\x80\x02]q\x00(U\x03abcT\x03\x00\x00\x00defe."
    assert load(data) == ["abc", "def"] == pickle.loads(data)


@pytest.mark.parametrize("cut", range(60))
def test_a_pickle_that_ends_early_is_damaged(cut):
    data = pickle.dumps({"a": [1, 2.5, "text" * 20, OrderedDict(x=(1,))]}, 4)
    with pytest.raises(CheckpointError, match="damaged"):
        load(data[:cut])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends too early"),
        (b".", "stack is empty"),
        (b"\x80\x06N.", "protocol"),
        (b"0.", "stack is empty"),
        (b"t.", "mark is missing"),
        (b"1.", "mark is missing"),
        (b"(\x85.", "stack is empty"),
        (b"]\x86.", "stack is empty"),
        (b"NNa.", "no list"),
        (b"NNNs.", "no dictionary"),
        (b"}(Nu.", "no value"),
        (b"(Nd.", "no value"),
        (b"N(N\x90.", "no set"),
        (b"h\x05.", "did not keep"),
        (b"q\x00.", "stack is empty"),
        (b"\x94.", "stack is empty"),
        (b"NN\x93.", "no text"),
        (b"NNR.", "no function"),
        (b"N)R.", "no function"),
        (b"\x8cA)R.", "ends too early"),
        (b"NNb.", "state is given"),
        (b"NQ.", "described by something else"),
        (b"]Q.", "described by something else"),
        (b"NNNNN\x87Q.", "described by something else"),
        (b"cos\nsystem", "a name does not end"),
        (b"c" + b"x" * 3000 + b"\n\n.", "a name does not end"),
        (b"c\xff\xfe\nx\n.", "not UTF-8"),
        (b"X\x02\x00\x00\x00\xff\xfe.", "not UTF-8"),
        (b"X\xff\xff\xff\x7fab.", "ends too early"),
        (b"\x8e" + b"\xff" * 8 + b".", "ends too early"),
        (b"\x8b\xff\xff\xff\xff.", "more than 256 bytes"),
        (b"\x95" + b"\xff" * 8 + b"N.", "ends too early"),
        (b"I1\n.", "opcode 0x49"),
        (b"Pid\n.", "opcode 0x50"),
        (b"\x82\x01.", "opcode 0x82"),
        (b"(ios\nsystem\n.", "opcode 0x69"),
        (b"(N)o.", "opcode 0x6f"),
        (b"N2.", "opcode 0x32"),
        (b"\x97.", "opcode 0x97"),
        (b"ccollections\nOrderedDict\nN\x85R.", "something else than a list"),
        (b"ccollections\nOrderedDict\n]Na\x85R.", "something else than pairs"),
        (b"ctorch\nSize\n)R.", "something else than a tuple"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "else than a storage"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n)R.", "else than a storage"),
        (b"ctorch._utils\n_rebuild_parameter\n)R.", "else than a tensor"),
    ],
)
def test_what_no_pickler_writes_is_refused(data, words):
    with pytest.raises(CheckpointError, match=words):
        load(data)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "builtins.exec",
        "builtins.getattr",
        "builtins.__import__",
        "__builtin__.eval",
        "subprocess.Popen",
        "torch.load",
        "torch.nn.modules.linear.Linear",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch.storage._load_from_bytes",
        "torch.jit._pickle.restore_type_tag",
        "collections.OrderedDict.fromkeys",
        "__main__.Net",
        "numpy.load",
        "functools.partial",
        "operator.attrgetter",
    ],
)
@pytest.mark.parametrize("form", ["GLOBAL", "STACK_GLOBAL"])
def test_any_other_object_is_refused_by_its_name(name, form):
    module, _, attribute = name.rpartition(".")
    if form == "GLOBAL":
        data = f"c{module}\n{attribute}\n.".encode()
    else:
        words = (module.encode(), attribute.encode())
        data = b"".join(b"\x8c" + bytes([len(one)]) + one for one in words) + b"\x93."
    with pytest.raises(CheckpointError, match=r"save model\.state_dict\(\) instead") as caught:
        load(data)
    assert repr(name) in caught.value.detail


def test_calling_a_known_name_calls_nothing():
    data = b"cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x7f\x85R."  # 0x7f << 40 bytes
    assert load(data).name == "builtins.bytearray"


def test_steps_are_bounded(monkeypatch):
    monkeypatch.setattr(pickles, "MAX_STEPS", 1000)
    with pytest.raises(CheckpointError, match="more than 1000 steps"):
        load(b"N0" * 600 + b"N.")
    # A list that is walked costs its length each time, however short the opcodes that do it.
    pairs = b"ccollections\nOrderedDict\n](" + b"NN\x86" * 200 + b"e\x85q\x01R0"
    again = b"ccollections\nOrderedDict\nh\x01R0"
    load(pairs + b"N.")
    with pytest.raises(CheckpointError, match="more than 1000 steps"):
        load(pairs + again * 3 + b"N.")


def test_deep_nesting_harms_nothing():
    depth = 100_000
    for data in (b"]" * depth + b"a" * (depth - 1), b")" + b"\x85" * depth):
        assert load(data + b".") is not None
    key = b"}" + b")" + b"\x85" * depth + b"Ns"  # hashing this as a key would end the process
    assert len(load(key + b".")) == 1


def test_random_opcodes_are_read_or_refused_and_nothing_else():
    rng = random.Random(7)
    names = [b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"ctorch\nSize\n"]
    names += [b"ctorch._utils\n_rebuild_tensor_v2\n", b"cbuiltins\nset\n", b"K\x05", b"U\x01a"]
    names += [b"K\x00", b"\x8a\x01\xff", b"G" + struct.pack(">d", math.nan), b"U\x07storage"]
    codes = [bytes([code]) for code in pickles._OPERATIONS]
    outcomes = {"read": 0, "refused": 0}
    for _ in range(4000):
        data = b"".join(
            rng.choice(names) if rng.random() < 0.5 else rng.choice(codes) for _ in range(40)
        )
        reader = Pickle(data + b".", 0, len(data) + 1)
        try:
            reader.load()
            outcomes["read"] += 1
        except CheckpointError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 1000
