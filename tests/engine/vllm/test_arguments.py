"""vLLM is told only what it knows, and each thing once."""

from dataclasses import replace

import pytest

from builders.engine import EngineSettings
from builders.engine.vllm import arguments as module
from builders.engine.vllm.arguments import VllmSettings, arguments, known, require
from builders.errors import PlanError, UsageError
from builders.formats import Format
from builders.recipe import shipped
from builders.tiers import TIERS

SETTINGS = VllmSettings(
    context=1024, concurrency=4, kv_cache=Format.FP8, recipe=shipped()["fp8"],
    tier=TIERS["h100"], version="0.32.0", tp=2,
)  # fmt: skip


def test_a_gpu_gives_a_share_of_its_memory():
    assert arguments(SETTINGS) == {
        "dtype": "auto",
        "kv_cache_dtype": "fp8",
        "max_model_len": 1024,
        "max_num_seqs": 4,
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "generation_config": "vllm",
        "seed": 0,
        "gpu_memory_utilization": 0.9,
    }


def test_a_cpu_is_told_bytes_twice_what_the_load_fills_and_compiles_nothing():
    cpu = replace(SETTINGS, tier=TIERS["cpu"], kv_bytes=1 << 30)
    args = arguments(cpu)
    assert args["kv_cache_memory_bytes"] == 2 << 30
    assert args["enforce_eager"] is True
    assert "gpu_memory_utilization" not in args
    assert arguments(replace(cpu, kv_bytes=1))["kv_cache_memory_bytes"] == 256 << 20


@pytest.mark.parametrize(
    ("cache", "said"),
    [(Format.BF16, "auto"), (Format.FP8, "fp8"), (Format.FP8_E5M2, "fp8_e5m2")],
)
def test_the_format_of_the_cache_is_always_said(cache, said):
    assert arguments(replace(SETTINGS, kv_cache=cache))["kv_cache_dtype"] == said


def test_a_cache_that_vllm_has_no_word_for_is_refused_with_the_remedy():
    with pytest.raises(PlanError, match="no KV cache in int8") as caught:
        arguments(replace(SETTINGS, kv_cache=Format.INT8))
    assert "kv_cache" in caught.value.hint


def test_the_format_that_is_computed_in_is_said_where_somebody_chose_it():
    assert arguments(replace(SETTINGS, dtype=Format.FP16))["dtype"] == "float16"


def test_every_word_is_one_that_vllm_has(monkeypatch):
    for tier in TIERS.values():
        assert arguments(replace(SETTINGS, tier=tier)).keys() <= known()
    monkeypatch.setattr(module, "known", lambda: known() - {"seed"})
    with pytest.raises(PlanError, match="no argument seed"):
        arguments(SETTINGS)


def test_settings_of_another_runtime_are_refused():
    assert require(SETTINGS) is SETTINGS
    with pytest.raises(UsageError, match="vLLM needs a recipe"):
        require(EngineSettings(context=1))
