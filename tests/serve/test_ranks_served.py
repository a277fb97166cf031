"""The ranks of one engine are processes of one mpirun: one answers, all end together."""

import os
import time
from pathlib import Path

import pytest

from builders import render, serve
from builders.serve import Hosting, http
from fakes.stand_ins import StandIn
from fakes.triton_repositories import context
from fakes.trtllm.checkpoints import write_engine

pytestmark = pytest.mark.slow
BIN = Path(__file__).parents[1] / "fakes" / "trtllm" / "bin"


def regions():
    """Return the shared memory of this process's servers; others of the session may still run."""
    return {path.name for path in Path("/dev/shm").glob(f"enginesmith_{os.getpid()}_*")}


def test_two_ranks_start_answer_and_leave_nothing(tmp_path, monkeypatch):
    from builders.render.context import Compiled
    from fakes.checkpoints import DEMO, TOKENIZER_FILES

    monkeypatch.setenv("PATH", os.pathsep.join((str(BIN), os.environ["PATH"])))
    engine = write_engine(tmp_path / "engine", tp=2)
    (engine / "tokenizer").mkdir()
    for name in (*TOKENIZER_FILES, "config.json"):
        (engine / "tokenizer" / name).write_bytes((DEMO / name).read_bytes())
    chosen = context(compiled=Compiled(batch=1))
    render.render("inflight_batcher_llm", chosen, engine, tmp_path / "repository")
    before = regions()
    how = Hosting(runtime=StandIn.make(tmp_path / "env"), ranks=2)
    with serve.tritonserver(tmp_path / "repository", log=tmp_path / "log", how=how) as server:
        ranks = server.workers
        assert len(ranks) == 2
        assert server.alive()
        assert http.generate(server.http_url, "demo", "Return", max_tokens=1).tokens == 1
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in ranks) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    assert regions() <= before
