"""Files that lie or that would run code: each is refused with a sentence."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch


def value(one):
    """The opcodes that push a plain value."""
    return pickle.dumps(one, 2)[2:-1]


def described(key, elements, size, stride, offset=0, kind="torch\nFloatStorage"):
    """The opcodes that push a tensor, described as torch.save would describe it."""
    storage = b"(" + value("storage") + f"c{kind}\n".encode() + value(key) + value("cpu")
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (storage + value(elements) + b"tQ")
        + value(offset)
        + (value(size) + value(stride))
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def state(**tensors):
    """A pickle of a dictionary of tensors; ``_`` stands for the dot in names."""
    items = b"".join(value(f"layers.0.{name}") + opcodes for name, opcodes in tensors.items())
    return b"\x80\x02}(" + items + b"u."


GOOD = {
    "weight": described("0", 6, (2, 3), (3, 1)),
    "bias": described("1", 2, (2,), (1,)),
}


def zip_of(pickled, storages=None, *, more=(), compression=zipfile.ZIP_STORED):
    """What torch.save makes of a pickle and the bytes of its storages."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, content in (storages or {"0": bytes(24), "1": bytes(8)}).items():
            archive.writestr(f"archive/data/{key}", content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of duplicate names, which are the point
            for name, content in more:
                archive.writestr(name, content)
    return stream.getvalue()


def test_the_hand_made_file_is_good_before_it_is_made_bad(convert):
    answer = convert(zip_of(state(**GOOD)), architecture="mlp")
    assert answer.checkpoint["input_shape"] == [3]


class Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_planted_code_is_named_and_never_run(convert, save_somehow, mlp, tmp_path):
    path = tmp_path / "owned"
    for planted in ({**mlp(), "x": Planted(path)}, {"state_dict": mlp(), "x": [Planted(path)]}):
        convert(save_somehow(planted), architecture="mlp").assert_refused("'posix.system'")
    assert not path.exists()


def test_whole_modules_are_refused_with_what_to_save_instead(convert, save_somehow):
    answer = convert(save_somehow(torch.nn.Linear(2, 2)), architecture="mlp")
    answer.assert_refused("'torch.nn.modules.linear.Linear'")
    assert "save model.state_dict() instead" in answer.error["detail"]


def test_torchscript_is_refused_because_it_is_code(convert):
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that TorchScript is going away
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    convert(stream.getvalue()).assert_refused("TorchScript", kind="unsupported")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model/archive_format", "torch.export"),
        ("serialized_exported_program.json", "torch.export"),
        ("x.npy", "NumPy archive"),
        ("word/document.xml", "not one that torch.save wrote"),
        ("data.pkl", "not one that torch.save wrote"),
        ("a/b/data.pkl", "not one that torch.save wrote"),
    ],
)
def test_other_zip_archives_are_told_apart(convert, name, words):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"content")
    convert(stream.getvalue()).assert_refused(words, kind="unsupported")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"\x28\xb5\x2f\xfdrest", "zstandard"),
        (b"<!DOCTYPE html>", "error page"),
        (b'{"a": 1}', "JSON"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\x00", "NumPy array"),
        (b"GGUF\x03", "GGUF"),
        (bytes(257) + b"ustar\x00", "tar archive"),
        (pickle.dumps({"a": 1}), "plain pickle"),
        (b"weights", "no known kind"),
    ],
)
def test_other_files_are_named_with_what_would_be_right(convert, content, words):
    convert(content).assert_refused(words, kind="unsupported")


def test_an_empty_file_is_called_empty(convert):
    convert(b"").assert_refused("the file is empty")


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(5, 6, dtype=torch.int64), "'layers.0.weight' is int64"),
        (torch.zeros(5, 6, dtype=torch.bool), "'layers.0.weight' is bool"),
        (torch.zeros(5, 6, dtype=torch.complex64), "'layers.0.weight' is complex64"),
        (torch.zeros(5, 6, dtype=torch.uint8), "'layers.0.weight' is uint8"),
        (torch.zeros(5, 6, dtype=torch.uint16), "'layers.0.weight' is uint16"),
        (torch.zeros(5, 6).to(torch.float8_e4m3fnuz), "'layers.0.weight' is float8_e4m3fnuz"),
        (torch.zeros(5, 6).to_sparse(), "_rebuild_sparse_tensor"),
        (torch.zeros(5, 6, device="meta"), "_rebuild_meta_tensor_no_storage"),
        (torch.zeros(5, 6, dtype=torch.complex64).conj().imag, "negative bit"),
    ],
)
def test_weights_that_are_no_dense_floats_are_refused(convert, save_somehow, mlp, tensor, words):
    weights = mlp()
    weights["layers.0.weight"] = tensor
    convert(save_somehow(weights), architecture="mlp").assert_refused(words)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float8_e8m0fnu])
def test_safetensors_with_other_dtypes_are_refused(convert, mlp, dtype):
    weights = mlp()
    weights["layers.0.weight"] = weights["layers.0.weight"].abs().to(dtype)
    convert(safetensors.torch.save(weights), architecture="mlp").assert_refused()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_a_counter_must_be_an_integer(convert, save, mlp, dtype):
    weights = mlp()
    weights["norms.0.num_batches_tracked"] = torch.tensor(1, dtype=dtype)
    answer = convert(save(weights), architecture="mlp")
    answer.assert_refused("expected a kind of integer")


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (described("0", 7, (2, 3), (3, 1)), "described with 28 bytes, but 24 are there"),
        (described("0", 5, (2, 3), (3, 1)), "described with 20 bytes, but 24 are there"),
        (described("9", 6, (2, 3), (3, 1)), "but none are there"),
        (described("0", 2**62, (2, 3), (3, 1)), "but 24 are there"),
        (described("0", 2**63, (2, 3), (3, 1)), "wrong types"),
        (described("0", -6, (2, 3), (3, 1)), "wrong types"),
        (described("0", 6.0, (2, 3), (3, 1)), "wrong types"),
        (described("0", True, (2, 3), (3, 1)), "wrong types"),
        (described(0, 6, (2, 3), (3, 1)), "wrong types"),
        (described("0", 6, (2, 3), (3, 1), kind="torch\nSize"), "wrong types"),
        (described("0", 6, (2, 3), (3, 1), offset=1), "reach beyond their storages"),
        (described("0", 6, (2, 3), (4, 1)), "reach beyond their storages"),
        (described("0", 6, (2, 3), (2**62, 2**62)), "reach beyond their storages"),
        (described("0", 6, (2, 3), (3, 1), offset=2**62), "reach beyond their storages"),
        (described("0", 6, (2, 3), (3, 1), offset=-1), "is negative"),
        (described("0", 6, (2, 3), (-3, 1)), "is negative"),
        (described("0", 6, (2, -3), (3, 1)), "is negative"),
        (described("0", 6, (2, 3), (3,)), "differ in length"),
        (described("0", 6, [2, 3], (3, 1)), "no integer"),
        (described("0", 6, (2, 2**70), (3, 1)), "no integer"),
        (described("0", 6, (1,) * 65, (1,) * 65), "no integer"),
        (described("0", 6, (2, 0), (3, 1)), "no inputs or no outputs"),
        (described("0", 3, (2, 3), (3, 1), kind="torch\nDoubleStorage"), "beyond their storages"),
    ],
)
def test_descriptions_that_lie_are_refused(convert, weight, words):
    pickled = state(weight=weight, bias=GOOD["bias"])
    convert(zip_of(pickled), architecture="mlp").assert_refused(words)


def test_one_element_repeated_without_end_is_bounded(convert):
    pickled = state(
        weight=described("0", 6, (2**16, 2**20), (0, 0)),
        bias=described("1", 2, (2**16,), (0,)),
    )
    answer = convert(zip_of(pickled), architecture="mlp")
    answer.assert_refused("at most", kind="too_large")


def test_a_canonical_file_beyond_its_bound_is_too_large(convert, save, mlp):
    convert(save(mlp()), architecture="mlp", max_bytes=500).assert_refused(kind="too_large")
    assert convert(save(mlp()), architecture="mlp", max_bytes=1200).checkpoint


def test_a_storage_described_twice_and_differently_is_refused(convert):
    other = described("0", 3, (2,), (1,), kind="torch\nFloatStorage")
    answer = convert(zip_of(state(weight=GOOD["weight"], bias=other)), architecture="mlp")
    answer.assert_refused("twice and differently")


def test_bytes_after_the_pickle_are_refused(convert):
    convert(zip_of(state(**GOOD) + b"N."), architecture="mlp").assert_refused("bytes follow")


def test_a_file_of_a_big_endian_machine_is_refused(convert, save_legacy, mlp):
    data = zip_of(state(**GOOD), more=[("archive/byteorder", b"big")])
    convert(data, architecture="mlp").assert_refused("big-endian")
    legacy = save_legacy(mlp())
    key = value("little_endian")
    at = legacy.index(key[:-2]) + len(key)
    assert legacy[at : at + 1] == b"\x88"
    convert(legacy[:at] + b"\x89" + legacy[at + 1 :]).assert_refused("big-endian")


def test_duplicate_members_are_refused(convert):
    data = zip_of(state(**GOOD), more=[("archive/data/0", b"x" * 24)])
    convert(data, architecture="mlp").assert_refused("stands twice in the archive")


def test_compressed_members_are_refused(convert):
    data = zip_of(state(**GOOD), compression=zipfile.ZIP_DEFLATED)
    convert(data, architecture="mlp").assert_refused("compressed, which torch.save never")


def directory_entry(data, name):
    """Where the directory's entry of a member starts, and where its local header does."""
    at = data.rindex(name.encode()) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    return at, struct.unpack_from("<I", data, at + 42)[0]


def patched(data, at, layout, *values):
    changed = bytearray(data)
    struct.pack_into(layout, changed, at, *values)
    return bytes(changed)


def test_every_way_to_describe_a_member_wrongly_is_refused(convert):
    data = zip_of(state(**GOOD))
    entry, header = directory_entry(data, "archive/data/0")
    other = directory_entry(data, "archive/data/1")[1]
    utf8 = patched(data, entry + 8, "<H", 0x0800)
    for changed, words in [
        (patched(data, entry + 8, "<H", 1), "encrypted"),
        (patched(data, entry + 10, "<H", 8), "contradicts"),
        (patched(data, entry + 16, "<I", 7), "contradicts"),
        (patched(data, entry + 20, "<II", 25, 25), "contradicts"),
        (patched(data, entry + 20, "<II", 2**31, 2**31), "not lie inside"),
        (patched(data, entry + 20, "<I", 23), "two sizes"),
        (patched(data, entry + 28, "<H", 2000), "zip directory is damaged"),
        (patched(data, entry + 34, "<H", 1), "one part of several"),
        (patched(data, entry + 42, "<I", other), "contradicts"),
        (patched(data, entry + 42, "<I", header + 1), "not where the directory says"),
        (patched(data, entry + 42, "<I", 2**31), "not where the directory says"),
        (patched(utf8, entry + 46, "<B", 0xFF), "not UTF-8"),
        (patched(data, header + 6, "<H", 1), "contradicts"),
        (patched(data, header + 8, "<H", 8), "contradicts"),
        (patched(data, header + 14, "<I", 7), "contradicts"),
        (patched(data, header + 22, "<I", 7), "contradicts"),
        (patched(data, header + 28, "<H", 65000), "not lie inside"),
        (patched(data, header + 30, "<B", ord("b")), "contradicts"),
        (patched(data, len(data) - 14, "<HH", 9, 9), "has 3 members"),
        (patched(data, len(data) - 12, "<H", 2), "one part of several"),
        (patched(data, len(data) - 14, "<HH", 2, 2), "has 3 members"),
        (patched(data, len(data) - 6, "<I", 5), "directory is not where"),
        (patched(data, len(data) - 2, "<H", 5), "bytes after its end"),
        (b"PK\x03\x04" + data, "directory is not where"),
        (data + b"x", "bytes after its end"),
        (data[:-1], "cut off"),
        (data[:100], "cut off"),
        (b"PK\x05\x06" + bytes(17), "cut off"),
    ]:
        convert(changed, architecture="mlp").assert_refused(words)


def test_members_that_overlap_are_refused(convert):
    # The second storage's header and content hide inside of the first one's content.
    inner = zip_of(state(**GOOD))
    _, start = directory_entry(inner, "archive/data/1")
    hidden = inner[start : start + 30 + len("archive/data/1") + 8]
    data = zip_of(state(**GOOD), {"0": hidden, "1": bytes(8)})
    entry, _ = directory_entry(data, "archive/data/1")
    at = directory_entry(data, "archive/data/0")[1] + 30 + len("archive/data/0")
    data = patched(data, entry + 42, "<I", at)
    convert(data, architecture="mlp").assert_refused("overlaps another member")


def test_a_wrong_checksum_is_refused_though_torch_loads_the_file(convert, save, mlp):
    data = save(mlp())
    weights = mlp()["layers.0.weight"].numpy().tobytes()
    at = data.index(weights)
    changed = patched(data, at + 5, "<B", data[at + 5] ^ 0x10)
    assert torch.load(io.BytesIO(changed), weights_only=True)
    convert(changed, architecture="mlp").assert_refused("checksum of")


def test_archives_with_64_bit_fields_are_read(convert):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in {
            "data.pkl": state(**GOOD),
            "data/0": bytes(24),
            "data/1": bytes(8),
        }.items():
            with archive.open(f"archive/{name}", "w", force_zip64=True) as member:
                member.write(content)
    assert convert(stream.getvalue(), architecture="mlp").checkpoint


def test_a_stream_whose_storages_are_missing_or_lie_is_refused(convert, save_legacy, mlp):
    data = save_legacy(mlp())
    bias = mlp()["layers.1.bias"].numpy().tobytes()
    at = data.index(bias) - 8
    assert struct.unpack_from("<q", data, at) == (3,)
    for changed, words in [
        (data[:-1], "truncated"),
        (data[: at + 8], "truncated"),
        (data + b"x", "1 bytes follow"),
        (patched(data, at, "<q", 4), "two sizes"),
        (patched(data, at, "<q", -3), "two sizes"),
        (patched(data, at, "<q", 2**62), "two sizes"),
    ]:
        convert(changed, architecture="mlp").assert_refused(words)


def test_a_stream_with_another_list_of_storages_is_refused(convert):
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    head += pickle.dumps({"little_endian": True, "protocol_version": 1001}, 2)
    body = struct.pack("<q", 6) + bytes(24) + struct.pack("<q", 2) + bytes(8)
    whole = head + state(**GOOD)
    assert convert(whole + pickle.dumps(["0", "1"], 2) + body, architecture="mlp").checkpoint
    for keys in (["0"], ["0", "1", "2"], ["0", "0"], [0, 1], {"0": 1}, None, ["1", "0", "1"]):
        convert(whole + pickle.dumps(keys, 2) + body).assert_refused("list")
    convert(pickle.dumps(0x1950A86A20F9469CFC6C, 2) * 3).assert_refused("goes on otherwise")


def test_safetensors_headers_that_lie_are_refused(convert):
    def file(header, body):
        text = header.encode()
        return struct.pack("<Q", len(text)) + text + body

    good = '{"layers.0.weight":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}'
    weight_only = convert(file(good, bytes(8)), architecture="mlp")
    assert "missing (1): 'layers.0.bias'" in weight_only.error["detail"]
    for header, body in [
        (good, bytes(7)),
        (good, bytes(9)),
        (good.replace("[0,8]", "[0,9]"), bytes(9)),
        (good.replace("[0,8]", "[1,9]"), bytes(9)),
        (good.replace("[2,1]", "[4294967296,4294967296]"), bytes(8)),
        (good.replace("[2,1]", "[-2,-1]"), bytes(8)),
        (good.replace('"F32"', "[]"), bytes(8)),
        (good.replace('"F32"', '"F99"'), bytes(8)),
        (good[:-1] + "," + good[1:], bytes(8)),
        (good[:-1], bytes(8)),
        ('{"__metadata__":{"a":1},' + good[1:], bytes(8)),
        ("{" * 100_000, b""),
        ('{"a":' + "[" * 100_000, b""),
    ]:
        convert(file(header, body), architecture="mlp").assert_refused("damaged")
    lying = struct.pack("<Q", 2**31) + b"{}"
    convert(lying).assert_refused("claims 2147483648 bytes")


def test_a_dataset_of_numpy_is_told_from_a_checkpoint(convert):
    for write in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        write(stream, x=np.zeros(3), y=np.zeros(3))
        convert(stream.getvalue()).assert_refused("NumPy archive", kind="unsupported")
