"""Every tier × shipped recipe × version: whatever is rendered, that version takes."""

from itertools import product
from pathlib import Path

import pytest
import yaml

from builders import ledger
from builders import recipe as recipes
from builders.emit import render_yaml
from builders.engine.trtllm.commands import Bench, Deployed, bench_argv, eval_argv, serve_argv
from builders.engine.trtllm.convert import export_refusals
from builders.engine.trtllm.flags import Places, build_argv
from builders.engine.trtllm.llm_args import llm_args
from builders.engine.trtllm.rewrites import predict_rewrites, refusals
from builders.engine.trtllm.settings import BuildSettings
from builders.engine.trtllm.validate import validate_argv, validate_llm_args
from builders.tiers import TIERS

PLACES = Places(checkpoint=Path("/checkpoint"), engine=Path("/engine"))
LLM = Deployed(model=Path("/checkpoint"), config=Path("/llm_api.yaml"))
BENCH = Bench(kind="throughput", model_name="demo", dataset=Path("/prompts.jsonl"),
              report=Path("/report.json"), requests=10)  # fmt: skip
ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")


def settings_for(tier, recipe, **changed):
    made = BuildSettings.of(
        recipes.shipped()[recipe], TIERS[tier], architecture="LlamaForCausalLM", context=8192,
        concurrency=64,
    )  # fmt: skip
    return BuildSettings(**({name: getattr(made, name) for name in made.__slots__} | changed))


def runs(tier, recipe, version, lane):
    chosen = recipes.shipped()[recipe]
    return not ledger.support(chosen, TIERS[tier], "trtllm", version, only=lane)


def allowed(tier, lane):
    walked = product(recipes.shipped(), ledger.walked("trtllm"))
    return [(recipe, version) for recipe, version in walked if runs(tier, recipe, version, lane)]


@pytest.mark.parametrize("tier", TIERS)
def test_every_engine_that_the_ledger_allows_has_a_sound_command_line(tier):
    for recipe, version in allowed(tier, "tensorrt"):
        for architecture, (tp, pp) in product(ARCHITECTURES, ((1, 1), (2, 1), (4, 2))):
            made = settings_for(tier, recipe, architecture=architecture, tp=tp, pp=pp)
            assert refusals(made, version) == ()
            assert export_refusals(made) == ()
            assert predict_rewrites(made) == ()
            assert validate_argv("trtllm-build", version, build_argv(made, PLACES)) == ()


@pytest.mark.parametrize("tier", TIERS)
def test_every_deployment_that_the_ledger_allows_has_sound_yaml(tier):
    for recipe, version in allowed(tier, "llmapi"):
        args = llm_args(settings_for(tier, recipe, tp=2), version)
        assert validate_llm_args(version, args) == ()
        assert yaml.safe_load(render_yaml(args)) == args
        assert args["kv_cache_config"]["dtype"]


@pytest.mark.parametrize("version", ledger.walked("trtllm"))
def test_every_version_with_the_llm_api_has_sound_commands(version):
    if "llmapi" not in ledger.lane("trtllm", version):
        pytest.skip(f"{version} has no LLM API")
    for argv in (
        serve_argv(version, LLM),
        bench_argv(version, LLM, BENCH),
        eval_argv(version, LLM, "mmlu"),
    ):
        assert validate_argv(argv[0], version, argv) == ()


def test_the_matrix_is_not_empty():
    for lane, least in (("tensorrt", 50), ("llmapi", 50)):
        assert sum(len(allowed(tier, lane)) for tier in TIERS) > least


def test_what_the_ledger_refuses_on_blackwell_trtllm_build_refuses_too():
    for recipe in ("int8_smoothquant", "int4_awq", "w4a8_awq"):
        assert not runs("b200", recipe, "1.2.1", "tensorrt")
        assert any("INT8" in one.reason for one in refusals(settings_for("b200", recipe), "1.2.1"))
