"""Reading ahead changes nothing but time: it ends with its block, whatever the files are."""

import threading

import pytest

from builders.checkpoint import Checkpoint
from builders.quantize import ahead, memory
from fakes.checkpoints import tiny_llama


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint.open(tiny_llama(tmp_path / "llama"))


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "read ahead"]


def test_no_thread_outlives_the_block(checkpoint):
    with ahead.reading(checkpoint):
        pass
    assert not readers()


def test_a_file_that_is_gone_is_left_to_the_loader_to_report(checkpoint):
    with ahead.reading(checkpoint):
        for file in checkpoint.path.glob("*.safetensors"):
            file.unlink()
    assert not readers()


def test_more_than_memory_takes_is_not_read(checkpoint, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda: 10)
    with ahead.reading(checkpoint):
        assert not readers()


def test_an_error_in_the_block_passes_through(checkpoint):
    with pytest.raises(ZeroDivisionError), ahead.reading(checkpoint):
        1 / 0  # noqa: B018
    assert not readers()
