"""Our safetensors files against the format's own library, and what must be refused."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load, save

from models import tensorfile
from models.tensorfile import TensorFileError, TensorSource

ARRAYS = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).filter(
        lambda name: name != "__metadata__"
    ),
    st.sampled_from(sorted(tensorfile.NUMPY_DTYPES)).flatmap(
        lambda name: arrays.arrays(
            tensorfile.NUMPY_DTYPES[name], arrays.array_shapes(min_dims=0, max_dims=3, min_side=0)
        )
    ),
    max_size=5,
)


def written(tensors, metadata=None):
    stream = io.BytesIO()
    sources = {name: TensorSource.of(array) for name, array in tensors.items()}
    size = tensorfile.write(stream, sources, metadata=metadata or {})
    assert size == len(stream.getvalue())
    return stream.getvalue()


def same(ours, theirs):
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype
        assert array.shape == theirs[name].shape
        assert array.tobytes() == theirs[name].tobytes()


@given(ARRAYS)
def test_the_formats_library_reads_what_we_write(tensors):
    same(tensors, load(written(tensors, {"note": "ä"})))


@given(ARRAYS)
def test_we_read_what_the_formats_library_writes(tensors):
    data = save(tensors, metadata={"note": "ä"})
    found, metadata = tensorfile.parse(data)
    assert metadata == {"note": "ä"}
    same(
        {
            name: np.frombuffer(
                data[info.start : info.end], tensorfile.NUMPY_DTYPES[info.dtype]
            ).reshape(info.shape)
            for name, info in found.items()
        },
        tensors,
    )


@given(ARRAYS)
def test_a_mapped_file_holds_what_was_written(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("mapped") / "file"
    path.write_bytes(written(tensors, {"a": "b"}))
    found, metadata = tensorfile.open_arrays(path)
    assert metadata == {"a": "b"}
    same(found, tensors)
    assert all(array.flags.aligned for array in found.values())


def test_equal_content_has_equal_bytes_whatever_its_order_and_memory():
    a, b = np.arange(6.0).reshape(2, 3), np.arange(4, dtype=np.int32)
    one = written({"a": a, "b": b}, {"x": "1", "y": "2"})
    other = written(
        {"b": np.repeat(b, 2)[::2], "a": np.asfortranarray(a).astype(">f8")}, {"y": "2", "x": "1"}
    )
    assert one == other
    (length,) = struct.unpack("<Q", one[:8])
    assert (8 + length) % 64 == 0
    assert one[8 : 8 + length].rstrip(b" ") == (
        b'{"__metadata__":{"x":"1","y":"2"},'
        b'"a":{"data_offsets":[0,48],"dtype":"F64","shape":[2,3]},'
        b'"b":{"data_offsets":[48,64],"dtype":"I32","shape":[4]}}'
    )


def test_wider_elements_come_first_so_that_every_tensor_is_aligned():
    tensors = {"a": np.ones(3, np.uint8), "b": np.ones(1), "c": np.ones(5, np.int16)}
    found, _ = tensorfile.parse(written(tensors))
    assert sorted(found, key=lambda name: found[name].start) == ["b", "c", "a"]
    assert all(info.start % tensorfile.ITEM_BYTES[info.dtype] == 0 for info in found.values())


def test_writing_to_a_mapped_array_changes_no_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(written({"a": np.zeros(4)}))
    found, _ = tensorfile.open_arrays(path)
    found["a"][:] = 7
    again, _ = tensorfile.open_arrays(path)
    assert again["a"].tolist() == [0.0] * 4


def test_the_disk_begins_to_write_long_before_a_large_file_is_whole(tmp_path, monkeypatch):
    class Libc:
        def sync_file_range(self, *arguments):
            answers.append(real.sync_file_range(*arguments))

    answers, real = [], tensorfile._LIBC
    monkeypatch.setattr(tensorfile, "_LIBC", Libc())
    monkeypatch.setattr(tensorfile, "_UNSENT_BYTES", 30)
    content = bytes(range(100))
    planned = tensorfile.plan({"x": ("U8", (100,))}, metadata={})
    with open(tmp_path / "file", "w+b") as file:
        placer = tensorfile.Placer(file.fileno(), planned)
        for start in range(0, 100, 10):
            placer.append("x", content[start : start + 10])
            assert len(answers) == (start + 10) // 30
    assert set(answers) == {0}
    assert load((tmp_path / "file").read_bytes())["x"].tobytes() == content


def test_a_source_that_gives_other_than_its_shape_says_is_refused():
    for chunks in ([b"1234"], [b"12345678", b"9"]):
        source = TensorSource(dtype="F64", shape=(1,), chunks=chunks)
        with pytest.raises(ValueError, match=f"'a' gave {sum(map(len, chunks))} bytes, not 8"):
            tensorfile.write(io.BytesIO(), {"a": source}, metadata={})


@pytest.mark.parametrize("dtype", [np.complex64, "U3", object])
def test_an_array_that_the_format_has_no_dtype_for_is_refused(dtype):
    with pytest.raises(ValueError, match="no dtype for"):
        TensorSource.of(np.zeros(2, dtype=dtype))


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "ends before its header"),
        (b"\0" * 9, "ends before its header"),
        (struct.pack("<Q", 100) + b"{}", "claims 100 bytes, but the file has only 2"),
        (struct.pack("<Q", 2**63) + b"{}", "claims 9223372036854775808 bytes; at most"),
        (raw(b" {}"), "does not start with"),
        (raw(b"[1]"), "does not start with"),
        (raw(b"{oops}"), "not strict JSON"),
        (raw(b'{"\xff": 1}'), "not strict JSON"),
        (raw(b'{"a": %s, "a": %s}' % ((json.dumps(entry()).encode(),) * 2), b"\0" * 8), "twice"),
        (raw({"__metadata__": {"a": 1}}), "strings to strings"),
        (raw({"__metadata__": ["a"]}), "strings to strings"),
        (raw({"a": entry()}, b"\0" * 7), "truncated or"),
        (raw({"a": entry()}, b"\0" * 9), "trailing bytes"),
        (raw({"a": entry(offsets=(4, 12))}, b"\0" * 12), "holes or overlaps"),
        (raw({"a": entry(), "b": entry()}, b"\0" * 16), "holes or overlaps"),
        (raw({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12), "holes or overlaps"),
        (raw({"a": entry(offsets=(8, 0))}, b"\0" * 8), "has -8 bytes"),
        (raw({"a": entry(shape=(3,))}, b"\0" * 8), "takes 12"),
        (raw({"a": entry(shape=(2**40, 2**40))}, b"\0" * 8), "takes 4835703278458516698824704"),
        (raw({"a": entry(shape=(2, -1))}, b"\0" * 8), "integers >= 0"),
        (raw({"a": entry(shape=(2.0,))}, b"\0" * 8), "integers >= 0"),
        (raw({"a": entry(shape=(True, 2))}, b"\0" * 8), "integers >= 0"),
        (raw({"a": entry(offsets=(0, 4, 8))}, b"\0" * 8), "data_offsets has 2"),
        (raw({"a": entry(shape=[1] * 33, offsets=(0, 4))}, b"\0" * 4), "shape at most 32"),
        (raw({"a": entry(dtype="F31")}, b"\0" * 8), "has dtype 'F31'; known: BOOL"),
        (raw({"a": entry(dtype=["F32"])}, b"\0" * 8), r"has dtype \['F32'\]"),
        (raw({"a": {**entry(), "more": 1}}, b"\0" * 8), "exactly dtype, shape and data_offsets"),
        (raw({"a": 1}), "exactly dtype, shape and data_offsets"),
    ],
)
def test_a_malformed_file_is_refused_with_what_is_wrong(data, complaint, tmp_path):
    with pytest.raises(TensorFileError, match=complaint):
        tensorfile.parse(data)
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(TensorFileError, match=complaint if data else "the file is empty"):
        tensorfile.open_arrays(path)


def test_a_file_cut_anywhere_is_refused():
    whole = written({"a": np.arange(4.0), "b": np.arange(3, dtype=np.uint8)}, {"note": "x"})
    for end in range(len(whole)):
        with pytest.raises(TensorFileError):
            tensorfile.parse(whole[:end])


def test_a_dtype_that_numpy_lacks_can_be_described_but_not_mapped(tmp_path):
    data = raw({"a": entry(dtype="BF16", shape=(4,))}, b"\0" * 8)
    found, _ = tensorfile.parse(data)
    assert found["a"].shape == (4,)
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(TensorFileError, match="BF16, which numpy does not have"):
        tensorfile.open_arrays(path)
