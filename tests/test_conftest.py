"""The guards of the test suite hold: no network, no GPU, no home, and tiny models are real."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders.bundle import Tree
from builders.checkpoint import Checkpoint
from fakes.checkpoints import tiny_llama


def test_a_socket_beyond_loopback_raises():
    with socket.socket() as outside, pytest.raises(RuntimeError, match=r"192\.0\.2\.1"):
        outside.connect(("192.0.2.1", 80))


def test_loopback_is_open():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


def test_the_home_is_not_the_users():
    child = "import pathlib; print(pathlib.Path.home())"
    seen = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert "enginesmith-tests-" in seen.stdout
    assert Path.home() == Path(os.environ["HOME"])


def test_no_gpu_is_visible_and_the_hub_is_offline():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_tiny_llama_is_a_complete_checkpoint_and_the_same_every_time(tmp_path):
    begin = time.perf_counter()
    one = tiny_llama(tmp_path / "one")
    assert time.perf_counter() - begin < 5
    checkpoint = Checkpoint.open(one)
    assert checkpoint.architecture == "LlamaForCausalLM"
    assert checkpoint.layers == 2
    assert Tree.of(one) == Tree.of(tiny_llama(tmp_path / "two"))
    assert Tree.of(one) != Tree.of(tiny_llama(tmp_path / "other", seed=1))
