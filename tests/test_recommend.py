"""The recommendation walks the decision tree, says why, and names only what exists and runs."""

import itertools
import json

import pytest

from builders import ledger
from builders.checkpoint import Checkpoint
from builders.errors import PlanError, UsageError
from builders.recipe import shipped
from builders.recommend import recommend
from builders.tiers import TIERS
from fakes import headers


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    known = {"8b": headers.LLAMA3_8B, "70b": headers.LLAMA3_70B}
    return {
        name: Checkpoint.open(headers.model(root / name, config)) for name, config in known.items()
    }


def asked(models, tier, context=8192, concurrency=8, quality="balanced", model="8b"):
    return recommend(models[model], TIERS[tier], context, concurrency, quality)


@pytest.mark.parametrize(
    ("tier", "recipe", "kv_cache", "runtime", "lane"),
    [
        ("h100", "fp8", "fp8", "trtllm", "tensorrt"),
        ("h200", "fp8", "fp8", "trtllm", "tensorrt"),
        ("l4", "fp8", "fp8", "trtllm", "tensorrt"),
        ("l40s", "fp8", "fp8", "trtllm", "tensorrt"),
        ("a100", "int8_smoothquant", "none", "trtllm", "tensorrt"),
        ("b200", "mxfp8", "fp8", "trtllm", "llmapi"),
        ("cpu", "fp8", "fp8", "embedded", "embedded"),
    ],
)
def test_each_tier_gets_the_branch_of_the_tree(models, tier, recipe, kv_cache, runtime, lane):
    found = asked(models, tier)
    assert (found.recipe.name, found.settings["quantize.kv_cache"]) == (recipe, kv_cache)
    assert (found.runtime, found.lane) == (runtime, lane)
    assert found.capacity.tp == 1


def test_turing_gets_a_memory_saving_outside_tensorrt_llm(models):
    found = asked(models, "t4")
    assert found.runtime in {"vllm", "embedded"}
    assert not found.recipe.activations.quantized or found.recipe.weights.value == "int8"


def test_blackwell_s_recipe_needs_a_candidate_and_is_told_so(models):
    found = asked(models, "b200")
    assert found.version == "1.3.0rc20"
    (runtime,) = [step for step in found.why if step.about == "runtime"]
    assert "release candidate" in runtime.reason
    assert "release:1.3.0rc20" in runtime.reason
    assert any(one.recipe == "fp8" for one in found.alternatives)


@pytest.mark.parametrize(
    ("context", "quality", "kv_cache"),
    [
        (8192, "strict", "none"),
        (32767, "strict", "none"),
        (32768, "strict", "fp8"),
        (8192, "balanced", "fp8"),
        (8192, "compact", "fp8"),
    ],
)
def test_the_cache_follows_context_and_quality(models, context, quality, kv_cache):
    assert asked(models, "h100", context, 1, quality).settings["quantize.kv_cache"] == kv_cache


def test_blackwell_may_have_the_smallest_cache(models):
    found = asked(models, "b200", quality="compact")
    assert (found.recipe.name, found.settings["quantize.kv_cache"]) == ("nvfp4", "nvfp4")
    assert found.lane == "llmapi"  # compiled engines have no NVFP4 cache


def test_a_long_context_prefers_a_quantized_cache_to_the_better_recipe(models):
    short, long = (asked(models, "a100", context) for context in (8192, 32768))
    assert short.recipe.name == "int8_smoothquant"
    assert (long.recipe.name, long.settings["quantize.kv_cache"]) == ("int4_awq", "fp8")
    reasons = {one.recipe: one.why_not for one in long.alternatives}
    assert "no quantized KV cache" in reasons["int8_smoothquant"]


def test_strict_stays_with_eight_bits_and_compact_takes_four(models):
    for tier in ("a100", "l4", "h100", "b200"):
        assert asked(models, tier, quality="strict").recipe.weights.bits == 8
        assert asked(models, tier, quality="compact").recipe.weights.bits == 4


def test_hopper_strict_takes_finer_scales(models):
    assert asked(models, "h100", quality="strict").recipe.name == "fp8_per_token"


def test_gpus_are_added_before_bits_are_taken(models):
    found = asked(models, "h100", model="70b")
    assert (found.recipe.name, found.capacity.tp) == ("fp8", 2)


def test_a_smaller_recipe_is_taken_when_even_eight_gpus_do_not_hold_the_better_one(models):
    found = asked(models, "l4", 8192, 64, model="70b")
    assert found.recipe.weights.bits == 4
    reasons = {one.recipe: one.why_not for one in found.alternatives}
    assert "8 × l4" in reasons["fp8"]


def test_what_nothing_holds_is_refused_with_the_numbers(models):
    with pytest.raises(PlanError) as error:
        asked(models, "l4", 131072, 64, "strict", model="70b")
    (refusal,) = error.value.refusals
    assert "8 × l4 (22.0 GiB usable each)" in refusal.reason
    assert "larger tier" in refusal.hint


def test_the_embedded_runtime_is_not_offered_more_gpus(models):
    with pytest.raises(PlanError) as error:
        asked(models, "t4", model="70b")
    assert "tp" not in error.value.refusals[0].hint


CASES = list(itertools.product(TIERS, ("strict", "balanced", "compact"), (4096, 32768)))


@pytest.mark.parametrize(("tier", "quality", "context"), CASES)
def test_whatever_is_recommended_exists_runs_and_fits(models, tier, quality, context):
    found = asked(models, tier, context, 1, quality)
    assert found.recipe.name in shipped()
    assert ledger.support(found.recipe, TIERS[tier], found.runtime, found.version) == ()
    assert found.lane in ledger.lane(found.runtime, found.version)
    assert found.capacity.fits is not False
    assert all(step.choice and step.reason for step in found.why)
    assert [step.about for step in found.why][:2] == ["tier", "recipe"]


@pytest.mark.parametrize(("tier", "quality", "context"), CASES)
def test_every_other_recipe_is_named_with_the_reason_why_not(models, tier, quality, context):
    found = asked(models, tier, context, 1, quality)
    others = [one.recipe for one in found.alternatives]
    assert set(others) | {found.recipe.name} >= shipped().keys()
    assert len(others) == len(set(others))
    assert found.recipe.name not in others
    assert all(one.why_not for one in found.alternatives)


def test_the_settings_are_keys_of_a_release_file(models):
    assert asked(models, "h100").settings == {
        "quantize.recipe": "fp8",
        "quantize.kv_cache": "fp8",
        "target.tier": "h100",
        "target.runtime": "trtllm",
        "target.runtime_version": "1.2.1",
        "target.tp": 1,
        "serve.context": 8192,
        "serve.concurrency": 8,
    }


def test_the_answer_is_one_json_object(models):
    described = json.loads(json.dumps(asked(models, "h100").as_json()))
    assert described["scheme"] == "W8A8KV8"
    assert described["capacity"]["fits"] is True
    assert {step["about"] for step in described["why"]} >= {"tier", "recipe", "KV cache", "GPUs"}


def test_a_quantized_checkpoint_is_not_quantized_again(tmp_path):
    path = headers.model(tmp_path / "model", headers.LLAMA3_8B)
    (path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    with pytest.raises(PlanError, match="quantized already"):
        recommend(Checkpoint.open(path), TIERS["h100"], 1024, 1)


def test_a_context_beyond_the_model_s_own_is_refused(models):
    with pytest.raises(PlanError, match="more than the model's own 131072"):
        asked(models, "h100", 131073)


def test_an_unknown_quality_names_the_known_ones(models):
    with pytest.raises(UsageError, match="unknown quality 'best'") as error:
        asked(models, "h100", quality="best")
    assert error.value.hint == "known: strict, balanced, compact"
