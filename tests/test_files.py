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


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(bytes(range(256)) * 5000)
    path.chmod(0o400)
    return path


def refuse(*_):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_what_is_ours_is_placed_as_a_link(source, tmp_path):
    files.place(source, tmp_path / "target", owned=True)
    assert (tmp_path / "target").samefile(source)


def test_what_is_a_users_is_placed_as_a_copy(source, tmp_path):
    files.place(source, tmp_path / "target", owned=False)
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert os.access(tmp_path / "target", os.W_OK)
    assert source.stat().st_nlink == 1


def test_files_are_copied_where_neither_links_nor_shared_blocks_are(source, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    files.place(source, tmp_path / "target", owned=True)
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert source.stat().st_nlink == 1


def test_a_copy_that_the_kernel_ends_early_is_finished(source, tmp_path, monkeypatch):
    some, given = os.copy_file_range, []

    def once(*args):
        given.append(args)
        return some(*args[:2], 1000) if len(given) == 1 else refuse()

    monkeypatch.setattr(os, "copy_file_range", once)
    files.place(source, tmp_path / "target", owned=False)
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_a_link_in_a_cache_is_followed(source, tmp_path):
    (tmp_path / "link").symlink_to(source)
    for owned in (True, False):
        files.place(tmp_path / "link", tmp_path / f"{owned}", owned=owned)
        assert not (tmp_path / f"{owned}").is_symlink()
