"""Files that can be made again: made once, shared, bounded, and never seen half."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints.cache import FileCache


def key(name):
    return hashlib.sha256(str(name).encode()).hexdigest()


def writing(data):
    return lambda descriptor: os.write(descriptor, data)


@pytest.fixture
def cache(tmp_path):
    return FileCache(tmp_path / "cache", max_bytes=1000)


@pytest.fixture
def kept(tmp_path):
    return lambda names: [name for name in names if (tmp_path / "cache" / key(name)).exists()]


def test_a_file_is_made_once_and_then_found(cache):
    made = []

    def make(descriptor):
        made.append(descriptor)
        os.write(descriptor, b"content")

    for _ in range(3):
        assert cache.get(key("a"), make, Path.read_bytes) == b"content"
    assert len(made) == 1


def test_a_failure_leaves_nothing_and_the_next_one_makes_it(cache, tmp_path):
    def fail(descriptor):
        os.write(descriptor, b"half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        cache.get(key("a"), fail, Path.read_bytes)
    assert not [one for one in (tmp_path / "cache").iterdir() if one.suffix != ".lock"]
    assert cache.get(key("a"), writing(b"whole"), Path.read_bytes) == b"whole"


def test_the_longest_unused_goes_first_when_there_is_no_room(cache, kept):
    for index, name in enumerate("abc"):
        path = cache.get(key(name), writing(b"x" * 300), Path)
        os.utime(path, (index, index))
    cache.get(key("a"), writing(b""), Path)  # used again, so b is the oldest now
    cache.get(key("d"), writing(b"x" * 300), Path)
    assert kept("abcd") == ["a", "c", "d"]


def test_a_file_larger_than_the_room_stays_while_it_is_the_one_in_use(cache, kept):
    cache.get(key("a"), writing(b"x" * 300), Path)
    assert cache.get(key("large"), writing(b"x" * 5000), Path).stat().st_size == 5000
    assert kept(["a", "large"]) == ["large"]


def test_who_has_a_file_open_keeps_it_when_it_is_removed(cache, kept):
    with cache.get(key("a"), writing(b"x" * 900), lambda path: open(path, "rb")) as file:
        cache.get(key("b"), writing(b"y" * 900), Path)
        assert kept("ab") == ["b"]
        assert file.read() == b"x" * 900


def test_a_file_that_goes_before_it_is_opened_is_made_again(cache):
    tries = []

    def use(path):
        tries.append(path)
        if len(tries) == 1:
            path.unlink()  # as another process does that needs the room
        return path.read_bytes()

    assert cache.get(key("a"), writing(b"content"), use) == b"content"
    assert len(tries) == 2


def test_what_a_maker_that_died_left_is_removed(cache, tmp_path):
    (tmp_path / "cache" / f"{key('dead')}.part").write_bytes(b"half")
    cache.get(key("a"), writing(b"x"), Path)
    assert not list((tmp_path / "cache").glob("*.part"))


@pytest.mark.parametrize("name", ["", "../x", "A" * 64, key("a")[:-1]])
def test_what_is_no_key_is_refused(cache, name):
    with pytest.raises(ValueError, match="not a key"):
        cache.get(name, writing(b""), Path)


MAKER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from checkpoints.cache import FileCache
def make(descriptor):
    print("made")
    time.sleep(0.3)
    os.write(descriptor, b"content")
sys.stdin.readline()
print(FileCache(Path({folder!r}), max_bytes=1000).get({key!r}, make, Path.read_bytes))
"""


def test_of_several_processes_one_makes_the_file_and_all_get_it_whole(tmp_path):
    root = str(Path(__file__).parents[2])
    code = MAKER.format(root=root, folder=str(tmp_path / "cache"), key=key("a"))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60) for process in processes]
    heard = [line for printed, _ in answers for line in printed.splitlines()]
    assert heard.count("made") == 1, answers
    assert heard.count("b'content'") == 4
