"""The seam of `checkpoints.store`: every store behaves like this."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from checkpoints.errors import DamagedBlob, MissingBlob, StoreError
from checkpoints.store import Blob, LocalStore, Store


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture(params=[LocalStore])
def store(request, root) -> Store:
    return request.param(root)


def publish(store, data):
    with store.draft() as draft:
        draft.write(data)
        return draft.publish()


def files(root):
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_a_blob_has_the_digest_of_its_bytes(store):
    blob = publish(store, b"weights")
    assert blob == Blob(digest=sha256(b"weights"), size_bytes=7)
    assert store.exists(blob.digest)
    assert store.path(blob.digest).read_bytes() == b"weights"
    assert store.size_bytes(blob.digest) == 7


def test_a_blob_whose_bytes_have_changed_is_set_aside_and_can_be_published_again(store):
    blob = publish(store, b"weights")
    store.verify(blob.digest)
    store.path(blob.digest).write_bytes(b"weighty")
    with pytest.raises(DamagedBlob, match=blob.digest):
        store.verify(blob.digest)
    assert not store.exists(blob.digest)
    with pytest.raises(MissingBlob):
        store.verify(blob.digest)
    assert publish(store, b"weights") == blob
    store.verify(blob.digest)


def test_a_draft_hashes_what_is_written_piece_by_piece(store):
    pieces = [os.urandom(1000) for _ in range(20)]
    with store.draft() as draft:
        for piece in pieces:
            draft.write(piece)
        assert draft.size_bytes == 20_000
        assert draft.sha256 == sha256(b"".join(pieces))
        assert draft.publish().digest == sha256(b"".join(pieces))


def test_what_another_process_wrote_through_the_descriptor_is_hashed_again(store):
    with store.draft() as draft:
        code = f"import os; os.write({draft.fileno()}, b'from elsewhere' * 100_000)"
        subprocess.run([sys.executable, "-c", code], check=True, pass_fds=[draft.fileno()])
        assert draft.size_bytes == 1_400_000
        blob = draft.publish()
    assert blob.digest == sha256(b"from elsewhere" * 100_000)
    assert store.path(blob.digest).read_bytes() == b"from elsewhere" * 100_000


def test_a_draft_that_is_not_hashed_in_time_is_not_published(store, root):
    with store.draft() as draft:
        os.write(draft.fileno(), b"from elsewhere")
        with pytest.raises(TimeoutError):
            draft.publish(deadline=time.monotonic() - 1)
    assert files(root) == []
    with store.draft() as draft:
        os.write(draft.fileno(), b"from elsewhere")
        blob = draft.publish(deadline=time.monotonic() + 60)
    assert blob.digest == sha256(b"from elsewhere")


def test_the_descriptor_of_a_draft_can_be_read(store):
    with store.draft() as draft:
        draft.write(b"abcdef")
        assert os.pread(draft.fileno(), 3, 2) == b"cde"


def test_an_empty_blob_is_a_blob(store):
    with store.draft() as draft:
        assert draft.publish() == Blob(digest=sha256(b""), size_bytes=0)


def test_a_draft_that_is_not_published_leaves_nothing(store, root):
    with store.draft() as draft:
        draft.write(b"half")

    def fail():
        with store.draft() as draft:
            draft.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert files(root) == []
    assert not store.exists(sha256(b"half"))


def test_publishing_the_same_bytes_again_gives_the_same_blob_and_no_second_file(store, root):
    first = publish(store, b"same")
    before = store.path(first.digest).stat()
    assert publish(store, b"same") == first
    assert store.path(first.digest).stat().st_ino == before.st_ino
    assert len(files(root)) == 1


def test_many_threads_publish_the_same_bytes_at_once(store, root):
    data = os.urandom(50_000)
    found = []
    barrier = threading.Barrier(8)

    def work():
        barrier.wait()
        found.append(publish(store, data))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Blob(digest=sha256(data), size_bytes=50_000)] * 8
    assert len(files(root)) == 1


def test_a_blob_that_is_not_there_is_missing(store):
    digest = sha256(b"nothing")
    assert not store.exists(digest)
    for ask in (store.path, store.size_bytes):
        with pytest.raises(MissingBlob):
            ask(digest)


def test_deleting_says_whether_there_was_something(store):
    blob = publish(store, b"gone")
    with store.path(blob.digest).open("rb") as reader:
        assert store.delete(blob.digest)
        assert reader.read() == b"gone"  # who has it open keeps it
    assert not store.delete(blob.digest)
    assert not store.exists(blob.digest)
    assert publish(store, b"gone") == blob


@pytest.mark.parametrize(
    "digest",
    ["", "abc", "../" * 10, "A" * 64, "0" * 63 + "/", "0" * 64 + "\n", "/etc/passwd", "é" * 64],
)
def test_what_is_no_digest_never_touches_a_path(store, digest):
    for ask in (store.path, store.exists, store.size_bytes, store.delete):
        with pytest.raises(ValueError, match="is not a digest"):
            ask(digest)


@pytest.mark.parametrize("name", ["", "..", "../blobs", "a/b", "A" * 32, "0" * 32 + "\n"])
def test_what_is_no_name_of_an_upload_never_touches_a_path(store, name):
    for ask in (store.upload_path, store.drop_upload):
        with pytest.raises(ValueError, match="is not the name of an upload"):
            ask(name)


def test_an_upload_is_kept_until_it_is_dropped(store, root):
    with store.draft() as draft:
        draft.write(b"upload")
        name = draft.keep()
    assert store.upload_path(name).read_bytes() == b"upload"
    assert not store.exists(sha256(b"upload"))
    store.drop_upload(name)
    store.drop_upload(name)
    assert files(root) == []


def test_two_uploads_of_the_same_bytes_are_two(store):
    names = set()
    for _ in range(2):
        with store.draft() as draft:
            draft.write(b"upload")
            names.add(draft.keep())
    assert len(names) == 2


def test_sweeping_removes_old_drafts_only(store, root):
    now = time.time()
    kept = publish(store, b"blob")
    with store.draft() as upload:
        upload.write(b"upload")
        name = upload.keep()
    with store.draft() as young:
        young.write(b"young")
        (young_path,) = (root / "tmp").iterdir()
        stale = root / "tmp" / "0123"
        stale.write_bytes(b"left by a dead process")
        os.utime(stale, (now - 100, now - 100))
        for path in (store.path(kept.digest), store.upload_path(name)):
            os.utime(path, (now - 1000, now - 1000))
        assert store.sweep(60.0, now) == 1
        assert list((root / "tmp").iterdir()) == [young_path]
    assert store.exists(kept.digest)
    assert store.upload_path(name).exists()


def test_sweeping_leaves_a_draft_that_another_process_still_has_open(store, root):
    code = "import sys; print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with store.draft() as draft:
        command = [sys.executable, "-c", code]
        other = subprocess.Popen(command, pass_fds=[draft.fileno()], **pipes)
        other.stdout.readline()
        (path,) = (root / "tmp").iterdir()
        spare = root / "spare"
        os.link(path, spare)  # as if the one that made it had died without dropping it
    spare.rename(path)
    assert store.sweep(60.0, time.time() + 1000) == 0
    other.communicate()
    assert store.sweep(60.0, time.time() + 1000) == 1
    assert files(root) == []


def test_sweeping_leaves_the_old_draft_of_a_living_process(store):
    with store.draft() as draft:
        draft.write(b"slow")
        assert store.sweep(60.0, time.time() + 1000) == 0
        blob = draft.publish()
    assert store.path(blob.digest).read_bytes() == b"slow"


def test_only_uploads_that_have_lain_for_so_long_are_stale(store):
    names = []
    for _ in range(2):
        with store.draft() as draft:
            draft.write(b"upload")
            names.append(draft.keep())
    now = time.time()
    os.utime(store.upload_path(names[0]), (now - 100, now - 100))
    assert store.stale_uploads(60.0, now) == names[:1]


def test_two_stores_on_one_folder_see_each_others_blobs(store, root):
    blob = publish(store, b"shared")
    assert LocalStore(root).path(blob.digest).read_bytes() == b"shared"


def test_nobody_else_can_read_what_is_stored(store, root):
    blob = publish(store, b"private")
    for path in [root, *(one for one in root.rglob("*") if one.is_dir())]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path(blob.digest).stat().st_mode) == 0o600


def test_bytes_then_names_reach_the_disk_before_a_blob_is_acknowledged(store, root, monkeypatch):
    done = []
    real = os.fsync, Path.rename

    def name_of(descriptor):
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(root).parts[0]

    def fsync(descriptor):
        done.append(f"sync {name_of(descriptor)}")
        real[0](descriptor)

    def rename(self, target):
        done.append("rename")
        return real[1](self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    publish(store, b"durable")
    assert done == ["sync tmp", "rename", "sync blobs"]
    done.clear()
    with store.draft() as draft:
        draft.write(b"upload")
        draft.keep()
    assert done == ["sync tmp", "rename", "sync uploads"]


def test_a_process_that_is_killed_while_it_writes_leaves_no_blob(store, root):
    code = f"""
import os, sys
from pathlib import Path
from checkpoints.store import LocalStore
with LocalStore(Path({str(root)!r})).draft() as draft:
    draft.write(b"half of it")
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert [path.parent.name for path in files(root)] == ["tmp"]
    assert store.sweep(0.0, time.time() + 1) == 1


def test_no_space_is_an_oserror_and_leaves_nothing(root):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    store = LocalStore(root)
    with store.draft() as draft, full.open("r+b", buffering=0) as device:
        os.dup2(device.fileno(), draft.fileno())
        with pytest.raises(OSError, match="No space") as caught:
            draft.write(b"x")
        assert caught.value.errno == errno.ENOSPC
    assert files(root) == []


def test_checking_says_why_nothing_can_be_written(store, root):
    store.check()
    assert files(root) == []
    (root / "tmp").rmdir()
    with pytest.raises(StoreError, match="No such file or directory"):
        store.check()
