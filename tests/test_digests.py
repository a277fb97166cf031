"""Large files are hashed once as long as they stay as they are; whatever touches them is seen."""

import hashlib
import os
from pathlib import Path

import pytest

from builders import digests, files


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large and was last touched long ago, and the hashing that it took."""
    monkeypatch.setattr(digests, "LARGE", 4)
    monkeypatch.setattr(digests, "_FRESH_S", -1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hashed = []
    whole = files.digest
    monkeypatch.setattr(files, "digest", lambda path: hashed.append(path) or whole(path))
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    return path, hashed


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_large_file_is_hashed_once(large):
    path, hashed = large
    assert [digests.digest(path) for _ in range(3)] == [sha256(b"weights")] * 3
    assert hashed == [path]


def test_a_write_that_restores_size_and_time_is_seen(large):
    path, _ = large
    digests.digest(path)
    before = path.stat()
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digests.digest(path) == sha256(b"WEIGHTS")


def test_another_file_put_in_its_place_is_seen(large):
    path, _ = large
    digests.digest(path)
    other = path.with_name("other")
    other.write_bytes(b"another")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    assert digests.digest(path) == sha256(b"another")


def test_a_file_touched_a_moment_ago_is_not_remembered(large, monkeypatch):
    path, hashed = large
    monkeypatch.setattr(digests, "_FRESH_S", 2.0)
    digests.digest(path)
    digests.digest(path)
    assert len(hashed) == 2


def test_small_files_leave_no_trace(large, monkeypatch, tmp_path):
    path, _ = large
    monkeypatch.setattr(digests, "LARGE", 1 << 20)
    assert digests.digest(path) == sha256(b"weights")
    assert not (tmp_path / "cache").exists()


def test_a_damaged_note_is_not_believed(large, tmp_path):
    path, hashed = large
    digests.digest(path)
    (note,) = (tmp_path / "cache").rglob("*/digests/*")
    note.write_text("no digest")
    assert digests.digest(path) == sha256(b"weights")
    assert len(hashed) == 2


def test_a_cache_that_cannot_be_written_costs_time_only(large, monkeypatch, tmp_path):
    path, _ = large
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert digests.digest(path) == sha256(b"weights")


def test_many_files_come_back_in_their_order(tmp_path: Path):
    paths = [tmp_path / str(number) for number in range(20)]
    for path in paths:
        path.write_bytes(path.name.encode())
    assert digests.digests(paths) == [sha256(path.name.encode()) for path in paths]
