"""Values come out of every form of file as they went in; torch and safetensors are the oracles."""

from __future__ import annotations

import hashlib
import json
import math
import struct

import numpy as np
import pytest
import safetensors.torch
import torch

FLOATS = {
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}


def assert_same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor.detach(), rtol=0, atol=0, equal_nan=True)


def cast(state, dtype):
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}


def floats(state):
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def test_what_torch_save_wrote_comes_back_exactly(convert, save_somehow, mlp):
    answer = convert(save_somehow(mlp()), architecture="mlp")
    assert_same(answer.tensors, mlp())
    assert answer.checkpoint["tensors"] == 9
    assert answer.checkpoint["parameters"] == 6 * 5 + 5 + 5 + 5 + 5 * 3 + 3
    assert answer.checkpoint["warnings"] == []
    assert answer.checkpoint["adjustments"] == []


def test_what_safetensors_wrote_comes_back_exactly(convert, convnet):
    answer = convert(safetensors.torch.save(convnet), architecture="convnet")
    assert_same(answer.tensors, convnet)
    assert answer.checkpoint["format"] == "safetensors"
    assert answer.checkpoint["input_shape"] == [2, None, None]
    assert answer.checkpoint["hyperparameters"]["widths"] == [4, 6]


def test_the_same_weights_have_the_same_digest_however_they_were_saved(
    convert, save, save_legacy, mlp
):
    state = mlp()
    parameters = {k: torch.nn.Parameter(v, v.is_floating_point()) for k, v in state.items()}
    backwards = dict(reversed(list(state.items())))
    files = [
        save(state),
        save(state, pickle_protocol=5),
        save(parameters),
        save(backwards),
        save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}),
        save_legacy(state),
        save_legacy({"model": parameters}),
        safetensors.torch.save(state),
        safetensors.torch.save(backwards, metadata={"format": "pt"}),
    ]
    digests = {convert(data, architecture="mlp").digest for data in files}
    assert len(digests) == 1


def test_the_canonical_file_is_read_back_to_the_same_digest_without_declaring_anything(
    convert, save, mlp
):
    first = convert(
        save(mlp()),
        architecture="mlp",
        hyperparameters={"dropout": 0.25},
        classes=["a", "b", "c"],
    )
    again = convert(first.content)
    assert again.content == first.content
    assert again.checkpoint == {**first.checkpoint, "format": "safetensors"}
    assert again.checkpoint["assumed"] == ["activation", "transforms"]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("writer", ["zip", "legacy", "safetensors"])
def test_other_floats_become_float32_as_torch_converts_them(
    convert, save, save_legacy, mlp, name, writer
):
    state = cast(mlp(), FLOATS[name])
    writers = {"zip": save, "legacy": save_legacy, "safetensors": safetensors.torch.save}
    answer = convert(writers[writer](state), architecture="mlp")
    assert_same(answer.tensors, floats(state))
    assert answer.checkpoint["adjustments"] == [f"converted 8 tensors from {name} to float32"]


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_every_bit_pattern_of_a_narrow_float_is_converted_as_torch_does(convert, save, name):
    dtype = FLOATS[name]
    codes = torch.arange(2 ** (8 * dtype.itemsize), dtype=torch.int64)
    codes = codes.to(torch.uint8 if dtype.itemsize == 1 else torch.uint16)
    weight = codes.view(dtype).reshape(-1, 8)
    state = {"layers.0.weight": weight, "layers.0.bias": torch.zeros(len(weight))}
    answer = convert(save(state), architecture="mlp")
    assert_same(answer.tensors, floats(state))
    bad = int((~torch.isfinite(weight.float())).sum())
    assert answer.checkpoint["warnings"] == [
        f"'layers.0.weight' holds {bad} values that are not finite"
    ]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.int8])
def test_a_counter_may_have_any_integer_dtype(convert, save, mlp, dtype):
    state = mlp()
    state["norms.0.num_batches_tracked"] = torch.tensor(100, dtype=dtype)
    answer = convert(save(state), architecture="mlp")
    assert answer.tensors["norms.0.num_batches_tracked"].dtype == torch.int64
    assert int(answer.tensors["norms.0.num_batches_tracked"]) == 100
    name = str(dtype).removeprefix("torch.")
    assert answer.checkpoint["adjustments"] == [f"converted 1 tensor from {name} to int64"]


def test_an_unsigned_counter_beyond_int64_is_refused(convert, save, mlp):
    state = mlp()
    state["norms.0.num_batches_tracked"] = torch.tensor([-1]).view(torch.uint64).reshape(())
    assert "more than 64 bits" in convert(save(state), architecture="mlp").error["detail"]


def test_views_are_read_through_their_strides(convert, save_somehow, mlp):
    state = mlp()
    big = torch.randn(40, 40, generator=torch.Generator().manual_seed(5))
    state["layers.0.weight"] = big[3:13:2, 30:36]
    state["layers.1.weight"] = big[:5, :3].t()
    state["layers.1.bias"] = big[7, 10:13]
    state["norms.0.weight"] = big[1, :1].expand(5)
    assert_same(convert(save_somehow(state), architecture="mlp").tensors, state)


def test_tied_weights_are_written_for_each_name(convert, save_somehow, mlp):
    state = mlp((4, 4, 4))
    state["layers.1.weight"] = state["layers.0.weight"]
    assert_same(convert(save_somehow(state), architecture="mlp").tensors, state)


def test_parameters_count_as_tensors(convert, save_somehow):
    layer = torch.nn.Linear(7, 2)
    layer.weight.note = "an attribute of a parameter"
    state = {f"layers.0.{k}": p for k, p in layer.named_parameters()}
    assert_same(convert(save_somehow(state), architecture="mlp").tensors, state)


def test_tensors_larger_than_a_chunk_are_whole(convert, save):
    generator = torch.Generator().manual_seed(2)
    wide = torch.randn(3, 700_000, generator=generator)
    for weight in (wide, wide.double(), wide.t().contiguous().t(), wide.bfloat16()):
        state = {"layers.0.weight": weight, "layers.0.bias": torch.zeros(3)}
        answer = convert(save(state), architecture="mlp", max_bytes=2**25)
        assert_same(answer.tensors, floats(state))


def test_a_finite_value_beyond_float32_is_refused_by_name(convert, save, mlp):
    state = cast(mlp(), torch.float64)
    state["layers.1.bias"][1] = 1e39
    error = convert(save(state), architecture="mlp").error
    assert "'layers.1.bias' holds finite float64 values beyond" in error["detail"]


def test_values_that_are_not_finite_are_kept_and_warned_of(convert, save, mlp):
    state = mlp()
    state["layers.1.bias"][0] = math.nan
    state["layers.0.weight"][:, 0] = -math.inf
    wide = cast(state, torch.float64)
    for data in (save(state), save(wide), safetensors.torch.save(state)):
        answer = convert(data, architecture="mlp")
        assert_same(answer.tensors, state)
        assert answer.checkpoint["warnings"] == [
            "'layers.0.weight' holds 5 values that are not finite",
            "'layers.1.bias' holds 1 value that is not finite",
        ]


def test_the_canonical_file_is_sorted_aligned_and_holds_nothing_that_varies(convert, save, mlp):
    state = mlp()
    content = convert(save(state), architecture="mlp").content
    (length,) = struct.unpack("<Q", content[:8])
    assert (8 + length) % 64 == 0
    header = json.loads(content[8 : 8 + length])
    names = [name for name in header if name != "__metadata__"]
    assert names == sorted(state)
    manifest = json.loads(header["__metadata__"]["holdout"])
    assert manifest == {
        "architecture": "mlp",
        "assumed": ["activation", "classes", "transforms"],
        "classes": None,
        "hyperparameters": {
            "activation": "relu",
            "batch_norm": True,
            "dropout": 0.0,
            "hidden": [5],
        },
        "input_shape": [6],
        "outputs": 3,
        "transforms": None,
    }
    body = np.frombuffer(
        content, "<f4", 15, 8 + length + header["layers.1.weight"]["data_offsets"][0]
    )
    np.testing.assert_array_equal(body, state["layers.1.weight"].numpy().reshape(-1))
    assert hashlib.sha256(content).hexdigest() == convert(save(state), architecture="mlp").digest


def test_what_people_keep_beside_the_weights_is_passed_over(convert, save_somehow, mlp, tmp_path):
    import argparse
    import collections
    import pathlib
    import types

    network = torch.nn.Sequential(torch.nn.Linear(6, 5))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 6)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 7])
    everything = {
        "state_dict": mlp(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "args": argparse.Namespace(lr=0.1, data=pathlib.Path("/data")),
        "config": types.SimpleNamespace(a=1),
        "best": np.float64(0.5),
        "history": np.arange(5.0),
        "numpy_rng": np.random.default_rng(0).bit_generator.state,
        "old_numpy_rng": np.random.RandomState(0).get_state(),
        "torch_rng": torch.get_rng_state(),
        "names": {"a", "b"},
        "frozen": frozenset({1}),
        "counts": collections.Counter("aab"),
        "queue": collections.deque([1, 2]),
        "by_name": collections.defaultdict(list, a=[1]),
        "by_pair": {(0, "a"): 1, b"x": 2, None: 3},
        "torch_version": torch.__version__,
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "shape": torch.Size([1, 2]),
        "bytes": b"raw",
        "bytearray": bytearray(b"raw"),
        "complex": 1 + 2j,
        "range": range(3),
        "large": 2**200,
        "negative": -(2**40),
        "flags": (True, False, None),
    }
    everything["itself"] = everything
    answer = convert(save_somehow(everything), architecture="mlp")
    assert_same(answer.tensors, mlp())
    assert answer.checkpoint["adjustments"] == ["took the state dict under 'state_dict'"]


def test_a_pickled_module_state_dict_with_metadata_is_read(convert, save_somehow):
    network = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(4, 2)])})
    answer = convert(save_somehow(network.state_dict()), architecture="mlp")
    assert_same(answer.tensors, network.state_dict())
