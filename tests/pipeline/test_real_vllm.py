"""A real vLLM on this machine's CPU serves and scores what the lane builds; skipped without one.

It is looked for on the path: PATH=$PATH:ENVIRONMENT/bin pytest tests/pipeline/test_real_vllm.py
"""

import asyncio
import math
import shutil

import pytest

from builders import engine
from builders.engine import EngineSettings
from builders.engine.vllm import program
from builders.engine.vllm.arguments import VllmSettings
from builders.formats import Format
from builders.home import Home
from builders.pipeline import speaking
from builders.pipeline.subjects import Subjects
from builders.progress import silent
from builders.recipe import shipped
from builders.tiers import TIERS
from pipeline.conftest import ROOT
from pipeline.test_speaking import answer

VERSION = "0.32.0"
FOUND = [one for one in program.find(()) if one.version == VERSION] if shutil.which("vllm") else []
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not FOUND, reason=f"no vLLM {VERSION} on the path"),
]
MODEL = ROOT / "demo" / "model"
TEXTS = (
    "The return statement leaves the current function call with the expression list as value.",
    "Return a new dictionary initialized from an optional positional argument and keywords.",
)


def test_it_scores_and_answers_as_the_embedded_runtime_does(tmp_path):
    settings = VllmSettings(
        context=512, concurrency=2, recipe=shipped()["fp8_per_token"], tier=TIERS["cpu"],
        version=VERSION, kv_cache=Format.BF16,
    )  # fmt: skip
    engine.build("vllm", MODEL, settings, tmp_path / "vllm", silent)
    engine.build("embedded", MODEL, EngineSettings(context=512), tmp_path / "embedded", silent)
    home = Home(root=tmp_path / "home")
    with engine.scorer(tmp_path / "embedded") as ours:
        rows = [ours.tokenize(text) for text in TEXTS]
        expected = [one.logprobs.tolist() for one in ours.score(rows)]
    with Subjects(name="demo", home=home) as subjects:
        theirs = subjects.open("scorer", [tmp_path / "vllm"])
        assert [list(theirs.tokenize(text)) for text in TEXTS] == rows
        found = [one.logprobs.tolist() for one in theirs.score(rows)]
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other)
        assert math.fsum(one) / len(one) == pytest.approx(math.fsum(other) / len(other), abs=0.02)
    with speaking.served(tmp_path / "vllm", "demo", log=tmp_path / "log", home=home) as server:
        assert sum(asyncio.run(answer(speaking.endpoint(server, "demo")))) == 3
    assert not server.alive()
