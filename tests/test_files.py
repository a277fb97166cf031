"""A killed or failing writer leaves the old file or the new one, and never a piece."""

import errno
import os
import threading

import pytest

from builders import files
from builders.errors import ToolError


def test_write_atomic_replaces_the_whole_file(tmp_path):
    path = tmp_path / "deep" / "f"
    files.write_atomic(path, "old")
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["f"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "f"
    files.write_atomic(path, "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_failed_block_discards_its_directory(tmp_path):
    def block():
        with files.discard_on_failure(tmp_path / "out") as out:
            (out / "half").write_text("x")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        block()
    assert not (tmp_path / "out").exists()


def test_disk_errors_say_what_was_written_and_what_to_do():
    full = OSError(errno.ENOSPC, "No space left on device", "/full")
    what = "write the bundle"
    with pytest.raises(ToolError, match=f"{what}: No space") as caught, files.disk_errors(what):
        raise full
    assert "free space" in caught.value.hint


def test_a_lock_makes_the_second_holder_wait(tmp_path):
    order = []
    entered = threading.Event()

    def second():
        entered.wait()
        with files.locked(tmp_path / "lock"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with files.locked(tmp_path / "lock"):
        entered.set()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_the_digest_is_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2
    assert files.digest(tmp_path / "f") == expected
