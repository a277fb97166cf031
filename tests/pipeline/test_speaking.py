"""vLLM's lane on the road: found, refused where it is another, served, asked, and always ended."""

import asyncio
import json
import os
import signal
import socket
import time
from dataclasses import replace

import pytest

from builders import engine, pipeline
from builders.engine.vllm.arguments import VllmSettings
from builders.errors import PlanError, ToolError
from builders.formats import Format
from builders.home import Home
from builders.pipeline import lanes, speaking
from builders.pipeline.request import Request
from builders.pipeline.stages import Side
from builders.pipeline.subjects import Subjects
from builders.progress import silent
from builders.recipe import shipped
from builders.render.lint import lint
from builders.serve import TritonRuntime
from builders.tiers import TIERS
from fakes.checkpoints import tiny_llama
from fakes.scorers import Arithmetic
from fakes.trtllm.settings import host
from fakes.vllm_program import install
from pipeline.conftest import POLICY, ROOT, make
from pipeline.test_lanes import Quiet

RELEASE = """
[model]
path = "model"
[quantize]
recipe = "fp8_per_token"
[target]
tier = "{tier}"
runtime = "vllm"
[serve]
name = "tiny"
context = 256
concurrency = 2
"""
PROMPTS = '[prompts]\nfile = "prompts.jsonl"\nmargin = 0.5\n'
SETTINGS = VllmSettings(
    context=256, recipe=shipped()["fp8_per_token"], tier=TIERS["cpu"], version="0.32.0",
    kv_cache=Format.BF16,
)  # fmt: skip


@pytest.fixture
def home(tmp_path):
    return Home(root=tmp_path / ".enginesmith")


@pytest.fixture
def project(tmp_path, home):
    def made(tier="cpu"):
        if not (tmp_path / "model").exists():
            tiny_llama(tmp_path / "model")
        prompts = [{"prompt": f"{n}", "scorer": "contains", "expect": "a"} for n in range(40)]
        (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)) + "\n")
        (tmp_path / "policy.toml").write_text(PROMPTS)
        (tmp_path / "release.toml").write_text(RELEASE.format(tier=tier))
        return Request(file=tmp_path / "release.toml", overrides=(), store=None, home=home)

    return made


@pytest.fixture
def built(tmp_path):
    """A built engine of the demo model, whose tokenizer has words."""
    out = tmp_path / "engine"
    engine.build("vllm", ROOT / "demo" / "model", SETTINGS, out, silent)
    return out


@pytest.mark.parametrize(
    ("version", "said"),
    [("", r"here is 0\.32\.0\+standin"), ("0.20.2", r"here is 0\.20\.2"), (None, "here is none")],
)
def test_judging_by_another_vllm_is_refused_in_a_moment_with_the_remedy(
    project, tmp_path, monkeypatch, version, said
):
    if version is None:
        monkeypatch.setenv("PATH", "/usr/bin:/bin")
    else:
        install(tmp_path / "bin", monkeypatch, version=version)
    request = project()
    begun = time.monotonic()
    with pytest.raises(PlanError, match=rf"need vLLM 0\.32\.0, and {said}") as caught:
        pipeline.gate(request, Quiet(), None)
    assert time.monotonic() - begun < 5
    assert "enginesmith env create vllm-cpu" in caught.value.hint
    assert not (request.home.root / "store" / "records").exists()


def test_measuring_for_a_gpu_is_refused_where_there_is_none(project):
    plan = pipeline.plan(project("h100"))
    lanes.refuse_to_measure(plan, {"scorer", "endpoint"}, host())
    with pytest.raises(PlanError, match="needs 1 of them, and here is no GPU") as caught:
        pipeline.gate(project("h100"), Quiet(), None)
    assert "on 1 × h100" in caught.value.hint


@pytest.mark.slow
def test_both_sides_are_built_and_rendered_without_a_vllm(project, tmp_path, monkeypatch):
    monkeypatch.setattr(speaking, "programs", lambda _: ())
    with pipeline.stages(project("h100"), Quiet(), judging=False) as opened:
        sides = {side: opened.repository(side).path for side in Side}
    for path in sides.values():
        assert lint(path) == ()
        said = json.loads((path / "tiny" / "1" / "model.json").read_text())
        assert (said["model"], said["max_model_len"]) == ("tiny/1/engine/checkpoint", 256)
        assert speaking.speaks(speaking.engine_of(path))
        with pytest.raises(ToolError, match="no vLLM backend") as caught:
            lanes.hosting(path)
        assert "--openai" in caught.value.hint
    (tmp_path / "backends" / "vllm").mkdir(parents=True)
    image = replace(TritonRuntime.locate(), backends=tmp_path / "backends")
    monkeypatch.setattr(TritonRuntime, "locate", lambda: image)
    assert lanes.hosting(sides[Side.CANDIDATE]).ranks == 1


def test_a_scorer_asks_the_program_about_exactly_its_tokens(built, home, tmp_path, monkeypatch):
    install(tmp_path / "bin", monkeypatch, version="0.32.0")
    rows = [[5, 17, 9, 300], [7, 7, 12]]
    with Subjects(name="tiny", home=home) as subjects:
        scorer = subjects.open("scorer", [built])
        found = [one.logprobs.tolist() for one in scorer.score(rows)]
        assert subjects.open("scorer", [built]) is scorer
    expected = [one.logprobs.tolist() for one in Arithmetic().score(rows)]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)
    assert "startup complete" in (home.runs / "vllm-0.log").read_text()


def test_endpoints_answer_and_their_servers_end_with_the_block(built, home, tmp_path, monkeypatch):
    install(tmp_path / "bin", monkeypatch, version="0.32.0")
    with speaking.served(built, "tiny", log=tmp_path / "log", home=home) as server:
        assert server.models == ("tiny",)
        assert asyncio.run(answer(speaking.endpoint(server, "tiny"))) == [1, 1, 1]
        os.kill(server.child.pid, signal.SIGKILL)
        server.child.wait()
        with pytest.raises(ToolError, match=r"ended with -9(.|\n)*startup complete"):
            asyncio.run(answer(speaking.endpoint(server, "tiny")))
    assert not server.alive()


async def answer(opened):
    async with opened() as endpoint:
        asked = endpoint.stream(
            "Hello", max_tokens=3, temperature=0.0, seed=0, stop=(), ignore_eos=True
        )
        return [piece.tokens async for piece in asked if piece.tokens]


def test_serving_by_another_version_is_refused(built, home, tmp_path, monkeypatch):
    install(tmp_path / "bin", monkeypatch, version="0.20.2")
    with (
        pytest.raises(PlanError, match=r"need vLLM 0\.32\.0"),
        speaking.served(built, "tiny", log=tmp_path / "log", home=home),
    ):
        pass


def test_a_port_that_another_server_has_is_refused(built, home, tmp_path, monkeypatch):
    install(tmp_path / "bin", monkeypatch, version="0.32.0")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        at = speaking.At(port=other.getsockname()[1])
        with (
            pytest.raises(ToolError, match="cannot be used"),
            speaking.served(built, "tiny", log=tmp_path / "log", home=home, at=at),
        ):
            pass


ASKED = (
    "demo/release.toml", "--set", "target.runtime=vllm", "--set", "quantize.recipe=fp8_per_token",
    "--set", "release.channel=cpu/vllm",
)  # fmt: skip


@pytest.mark.slow
def test_a_program_that_knows_no_language_is_found_out_by_the_controls(tmp_path, monkeypatch):
    install(tmp_path / "bin", monkeypatch, version="0.32.0")
    workshop = make(tmp_path / "work", POLICY.partition("[accuracy]")[0])
    _, said = workshop.run("gate", *ASKED, code=5)
    assert "perplexity: void, a baseline damaged on purpose" in said
