"""TensorRT-LLM's lanes on the road: what a laptop can do is done, the rest is refused at once."""

import json
import os
import time
from pathlib import Path

import pytest
import yaml

from builders import pipeline
from builders.engine.trtllm import compiled
from builders.engine.trtllm.adopt import adopt
from builders.engine.trtllm.sidecar import Sidecar
from builders.errors import PlanError
from builders.home import Home
from builders.pipeline import lanes
from builders.pipeline.request import Request
from builders.pipeline.stages import Side
from builders.progress import silent
from builders.render.lint import lint
from fakes.checkpoints import tiny_llama
from fakes.trtllm.settings import host

BIN = Path(__file__).parents[1] / "fakes" / "trtllm" / "bin"
RELEASE = """
[model]
path = "model"
[quantize]
recipe = "{recipe}"
[quantize.calibration]
files = ["texts.jsonl"]
samples = 4
length = 32
[target]
tier = "{tier}"
runtime = "trtllm"
lane = "{lane}"
[serve]
name = "tiny"
context = 256
concurrency = 2
"""


class Quiet:
    """Hears everything and keeps the names of the stages that ran."""

    progress = staticmethod(silent)

    def __init__(self):
        self.ran = []

    def started(self, name):
        self.ran.append(name)

    def finished(self, stage): ...

    def waiting(self, name): ...

    def say(self, line): ...


@pytest.fixture
def project(tmp_path):
    def made(
        lane="llmapi",
        recipe="fp8",
        tier="h100",
        policy='[prompts]\nfile = "prompts.jsonl"\nmargin = 0.5\n',
    ):
        if not (tmp_path / "model").exists():
            tiny_llama(tmp_path / "model")
        texts = [{"text": f"Return the value number {n} of the mapping."} for n in range(8)]
        (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)) + "\n")
        prompts = [{"prompt": f"{n}", "scorer": "contains", "expect": "a"} for n in range(40)]
        (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)) + "\n")
        (tmp_path / "policy.toml").write_text(policy)
        file = tmp_path / "release.toml"
        file.write_text(RELEASE.format(lane=lane, recipe=recipe, tier=tier))
        return Request(
            file=file, overrides=(), store=None, home=Home(root=tmp_path / ".enginesmith")
        )

    return made


def refusals(request):
    with pytest.raises(PlanError) as caught:
        pipeline.plan(request)
    return " ".join(refusal.reason for refusal in caught.value.refusals)


def test_a_release_file_names_its_lane(project):
    assert pipeline.plan(project("llmapi")).runtime.lane == "llmapi"
    assert pipeline.plan(project("tensorrt")).runtime.lane == "tensorrt"


def test_a_lane_that_there_is_not_is_refused(project):
    assert "trtllm has no lane engine" in refusals(project("engine"))


def test_a_lane_that_cannot_take_the_recipe_is_refused(project):
    assert refusals(project("tensorrt", recipe="mxfp8", tier="b200"))


@pytest.mark.parametrize("lane", ["llmapi", "tensorrt"])
def test_judging_without_the_gpu_is_refused_in_a_moment_with_the_remedy(project, lane):
    begun = time.monotonic()
    with pytest.raises(PlanError, match=r"needs 1 of them, and here is no GPU") as caught:
        pipeline.gate(project(lane), Quiet(), None)
    assert time.monotonic() - begun < 5
    assert "nvcr.io/nvidia/tritonserver" in caught.value.hint
    assert "on 1 × h100" in caught.value.hint


def test_gates_that_need_log_probabilities_are_refused_where_there_are_none(project):
    plan = pipeline.plan(project("tensorrt"))
    with pytest.raises(PlanError, match="tells no log-probabilities") as caught:
        lanes.refuse_to_measure(plan, {"scorer"}, host())
    assert "llmapi" in caught.value.hint
    lanes.refuse_to_measure(plan, {"endpoint"}, host())


def test_the_llm_api_lane_tells_log_probabilities(project):
    lanes.refuse_to_measure(pipeline.plan(project("llmapi")), {"scorer", "endpoint"}, host())


@pytest.mark.parametrize(
    ("here", "said"),
    [
        (
            {"tensorrt_llm": "1.2.1+standin"},
            r"needs TensorRT-LLM 1\.2\.1, and here is 1\.2\.1\+standin",
        ),
        ({"tensorrt_llm": "1.1.0"}, r"here is 1\.1\.0"),
        ({"gpus": ()}, "no GPU"),
    ],
)
def test_a_stand_in_another_version_or_another_gpu_does_not_measure(project, here, said):
    from dataclasses import replace

    with pytest.raises(PlanError, match=said):
        lanes.refuse_to_measure(pipeline.plan(project()), {"endpoint"}, replace(host(), **here))


@pytest.mark.slow
def test_the_llm_api_lane_is_built_and_rendered_without_a_gpu(project):
    watcher = Quiet()
    with pipeline.stages(project(), watcher, judging=False) as opened:
        sides = {side: opened.repository(side).path for side in Side}
    for side, kv_cache in ((Side.CANDIDATE, "fp8"), (Side.BASELINE, "auto")):
        assert lint(sides[side]) == ()
        said = yaml.safe_load((sides[side] / "tiny/1/model.yaml").read_text())
        assert said["kv_cache_config"]["dtype"] == kv_cache
        assert said["max_seq_len"] == 256
        record = Sidecar.read(sides[side] / "tiny/1/engine")
        assert (record.lane, record.version, record.gpu.sm) == ("llmapi", "1.2.1", 90)
    assert watcher.ran == [
        "quantize",
        "build",
        "render",
        "build/baseline",
        "render/baseline",
    ] or set(watcher.ran) == {"quantize", "build", "render", "build/baseline", "render/baseline"}
    with pytest.raises(PlanError, match="this machine has no GPU"):
        lanes.hosting(sides[Side.CANDIDATE])


@pytest.mark.slow
def test_the_engine_lane_exports_compiles_and_renders_on_its_gpu(project, monkeypatch):
    """With a stand-in for trtllm-build; the export is ModelOpt's own."""
    monkeypatch.setenv("PATH", os.pathsep.join((str(BIN), os.environ["PATH"])))
    for module in (compiled, lanes):
        monkeypatch.setattr(module, "machine", host)
    request = project("tensorrt")
    with pipeline.stages(request, Quiet(), judging=False) as opened:
        exported = opened.quantized().path
        assert adopt(exported).quant_algo == "FP8"
        built = opened.engine(Side.CANDIDATE).path
        assert adopt(built).quant_algo == "FP8"
        assert (built / "tokenizer" / "tokenizer.json").is_file()
        sides = {side: opened.repository(side).path for side in Side}
        assert adopt(opened.engine(Side.BASELINE).path).quant_algo == ""
    for repository in sides.values():
        assert lint(repository) == ()
        how = lanes.hosting(repository)
        assert (how.ranks, how.engine) == (1, "tensorrt_llm")
    again = Quiet()
    with pipeline.stages(request, again, judging=False) as opened:
        opened.repository(Side.CANDIDATE)
    assert again.ran == []


@pytest.mark.slow
def test_the_engine_lane_without_its_gpu_says_where_to_build(project):
    with pytest.raises(PlanError, match="1 ranks need 1 GPUs, and here are 0") as caught:
        pipeline.build(project("tensorrt"), Quiet(), None)
    assert "build in nvcr.io/nvidia/tritonserver" in caught.value.hint
