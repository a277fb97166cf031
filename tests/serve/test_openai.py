"""A server that speaks the OpenAI protocol is entered when it is healthy, and always ended."""

import os
import signal
from pathlib import Path

import pytest

from builders.engine.trtllm.commands import Deployed, serve_argv
from builders.errors import ToolError
from builders.serve.openai import openai_server
from builders.serve.ports import Ports

BIN = Path(__file__).parents[1] / "fakes" / "trtllm" / "bin"


@pytest.fixture
def serving(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.pathsep.join((str(BIN), os.environ["PATH"])))
    (tmp_path / "llm_api.yaml").write_text("max_batch_size: 4\n")

    def made(mode="", deadline=20.0):
        monkeypatch.setenv("FAKE_SERVE", mode)
        port = Ports().free().http
        deployed = Deployed(model=tmp_path / "checkpoint", config=tmp_path / "llm_api.yaml")
        argv = serve_argv("1.2.1", deployed, port=port)
        return openai_server(argv, port=port, log=tmp_path / "log", deadline=deadline)

    return made


def test_it_is_entered_when_healthy_and_ended_with_the_block(serving):
    with serving() as server:
        assert server.models == ("checkpoint",)
        assert server.alive()
        assert server.url.endswith("/v1")
        assert server.obituary() == ""
        os.kill(server.child.pid, signal.SIGKILL)
        server.child.wait()
        assert "the server ended with -9" in server.obituary()
    assert not server.alive()


@pytest.mark.parametrize(("mode", "said"), [
    ("fail", r"ended with 1 while starting(.|\n)*out of memory"),
    ("empty", "names no model"),
    ("mute", "healthy and does not answer"),
])  # fmt: skip
def test_one_that_cannot_serve_says_why(serving, mode, said):
    with pytest.raises(ToolError, match=said), serving(mode):
        pass


def test_one_that_is_never_healthy_is_ended(serving):
    with pytest.raises(ToolError, match="not healthy within 1 s"), serving("slow", deadline=1.0):
        pass


def test_a_program_that_is_not_there_is_named(tmp_path):
    with (
        pytest.raises(ToolError, match="no-such-server"),
        openai_server(["no-such-server"], port=1, log=tmp_path / "log"),
    ):
        pass
