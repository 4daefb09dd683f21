"""Damage of every kind, seeded: the reader refuses or reads, and never fails in another way."""

from __future__ import annotations

import io
import random
import struct
import zipfile

import pytest


def mutations(data, rng, number):
    """Seeded damage: flipped bits, changed, cut, doubled and foreign bytes."""
    for _ in range(number):
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
            at = rng.randrange(len(changed))
            match rng.randrange(6):
                case 0:
                    changed[at] ^= 1 << rng.randrange(8)
                case 1:
                    changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
                case 2:
                    del changed[at : at + rng.randrange(1, 9)]
                case 3:
                    changed[at:at] = changed[at : at + rng.randrange(1, 30)]
                case 4:
                    changed[at:at] = rng.randbytes(rng.randrange(1, 9))
                case _:
                    size = rng.choice([1, 2, 4, 8])
                    changed[at : at + size] = rng.choice([b"\xff", b"\x00", b"\x7f"]) * size
            if len(changed) < 2:
                break
        yield bytes(changed)


def assert_sane(answer):
    if "error" in answer.value:
        answer.assert_refused(kind=answer.error["kind"])
        assert answer.error["detail"]
    else:
        assert set(answer.value) == {"checkpoint"}


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors", "protocol 5"])
def test_no_damage_makes_the_reader_fail_otherwise_than_by_refusing(
    convert, save, save_legacy, mlp, form
):
    nested = {"state_dict": mlp(), "architecture": "mlp", "classes": ["a", "b", "c"]}
    data = {
        "zip": lambda: save(nested),
        "legacy": lambda: save_legacy(nested),
        "safetensors": lambda: convert(save(nested)).content,
        "protocol 5": lambda: save(nested, pickle_protocol=5),
    }[form]()
    assert convert(data).checkpoint
    for changed in mutations(data, random.Random(f"damage {form}"), 150):
        assert_sane(convert(changed))
    for end in range(0, len(data), max(1, len(data) // 60)):
        assert "error" in convert(data[:end]).value


def test_no_damage_inside_a_pickle_with_right_checksums_makes_the_reader_fail(convert, save, mlp):
    source = zipfile.ZipFile(io.BytesIO(save({"model": mlp(), "history": [1.5, (2, "x")]})))
    members = {name: source.read(name) for name in source.namelist()}
    pickled = next(name for name in members if name.endswith("/data.pkl"))
    rng = random.Random(11)
    refused = 0
    for changed in mutations(members[pickled], rng, 400):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, changed if name == pickled else content)
        answer = convert(stream.getvalue(), architecture="mlp")
        assert_sane(answer)
        refused += "error" in answer.value
    assert refused > 100


def test_flipped_bits_in_stored_bytes_are_never_accepted(convert, save, mlp):
    data = save(mlp())
    rng = random.Random(3)
    found = zipfile.ZipFile(io.BytesIO(data)).infolist()
    for _ in range(100):
        member = rng.choice([one for one in found if one.file_size])
        name, extra = struct.unpack_from("<HH", data, member.header_offset + 26)
        start = member.header_offset + 30 + name + extra
        at = start + rng.randrange(member.file_size)
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        convert(bytes(changed), architecture="mlp").assert_refused("checksum of")


def test_random_bytes_behind_each_signature_are_refused(convert):
    rng = random.Random(5)
    for head in (
        b"PK\x03\x04",
        b"\x80\x02",
        struct.pack("<Q", 60) + b"{",
        b"",
        b"\x80\x02\x8a\x0a",
    ):
        for _ in range(20):
            assert "error" in convert(head + rng.randbytes(rng.randrange(200))).value
