"""The server works on a face of links; what was signed stays as it was."""

import os

import pytest

from builders.bundle import Tree
from builders.errors import ToolError, UsageError
from builders.serve.shadow import shadow
from fakes import triton_repositories


@pytest.fixture
def repository(tmp_path):
    return triton_repositories.echo(tmp_path)


def test_every_file_shows_through(repository, tmp_path):
    (repository / "echo" / "1" / "engine").mkdir()
    (repository / "echo" / "1" / "engine" / "weights.bin").write_bytes(b"\1")
    assert shadow(repository, tmp_path / "shadow") == ("echo",)
    for artifact in Tree.of(repository).artifacts:
        linked = tmp_path / "shadow" / artifact.path
        assert linked.is_symlink()
        assert linked.read_bytes() == (repository / artifact.path).read_bytes()


def test_what_is_written_beside_the_links_does_not_reach_the_repository(repository, tmp_path):
    before = Tree.of(repository)
    shadow(repository, tmp_path / "shadow")
    (tmp_path / "shadow" / "echo" / "1" / "__pycache__").mkdir()
    (tmp_path / "shadow" / "echo" / "1" / "__pycache__" / "model.pyc").write_bytes(b"\0")
    assert Tree.of(repository) == before


def test_links_hold_from_any_folder(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository.parent)
    shadow(repository.relative_to(repository.parent), tmp_path / "shadow")
    monkeypatch.chdir("/")
    assert (tmp_path / "shadow" / "echo" / "config.pbtxt").is_file()


def test_a_missing_repository_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such model repository"):
        shadow(tmp_path / "nothing", tmp_path / "shadow")


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no model with a config\.pbtxt"):
        shadow(tmp_path / "empty", tmp_path / "shadow")


def test_what_is_neither_file_nor_directory_is_refused(repository, tmp_path):
    os.mkfifo(repository / "echo" / "pipe")
    with pytest.raises(ToolError, match="neither a file nor a directory"):
        shadow(repository, tmp_path / "shadow")
