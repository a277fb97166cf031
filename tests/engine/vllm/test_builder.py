"""vLLM's engine is made without vLLM: the checkpoint, its arguments and a record."""

import json
from dataclasses import replace

import pytest
import yaml

from builders import engine
from builders.engine.description import Description
from builders.engine.vllm.arguments import VllmSettings, arguments
from builders.engine.vllm.builder import on_gpu
from builders.errors import PlanError, ToolError, UsageError
from builders.formats import Format
from builders.progress import silent
from builders.recipe import shipped
from builders.tiers import TIERS
from fakes.checkpoints import tiny_llama

SETTINGS = VllmSettings(
    context=64, concurrency=2, recipe=replace(shipped()["fp8_per_token"], kv_cache=Format.BF16),
    tier=TIERS["cpu"], version="0.32.0",
)  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    made = tiny_llama(tmp_path / "model")
    (made / "pytorch_model.bin").write_bytes(b"pickled")
    return made


def declare(checkpoint, **said):
    quantization = {"quantization": {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN", **said}}
    (checkpoint / "hf_quant_config.json").write_text(json.dumps(quantization))


def build(checkpoint, out, settings=SETTINGS):
    engine.build("vllm", checkpoint, settings, out, silent)
    return out


def test_it_holds_the_checkpoint_the_arguments_and_a_record(checkpoint, tmp_path):
    made = build(checkpoint, tmp_path / "out")
    assert yaml.safe_load((made / "vllm.yaml").read_text()) == arguments(SETTINGS)
    copied = {path.name for path in (made / "checkpoint").iterdir()}
    assert {"config.json", "model.safetensors"} <= copied
    assert "pytorch_model.bin" not in copied
    record = json.loads((made / "enginesmith.json").read_text())
    assert (record["lane"], record["version"], record["tier"]) == ("vllm", "0.32.0", "cpu")
    said = Description.read(made)
    assert (said.runtime, said.version) == ("vllm", "0.32.0")
    assert said.quantization == "FP8_PER_CHANNEL_PER_TOKEN"
    assert not on_gpu(made)
    assert on_gpu(build(checkpoint, tmp_path / "gpu", replace(SETTINGS, tier=TIERS["h100"])))


def test_equal_inputs_make_equal_bytes(checkpoint, tmp_path):
    one, other = build(checkpoint, tmp_path / "one"), build(checkpoint, tmp_path / "other")
    for path in one.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (other / path.relative_to(one)).read_bytes()


@pytest.mark.parametrize("recipe", ["int4_awq", "mxfp4", "fp8", "nvfp4"])
def test_what_vllm_cannot_load_is_refused_before_anything_is_written(checkpoint, tmp_path, recipe):
    with pytest.raises(PlanError):
        build(checkpoint, tmp_path / "out", replace(SETTINGS, recipe=shipped()[recipe]))
    assert not (tmp_path / "out").exists()


def test_a_cache_that_the_checkpoint_was_calibrated_for_must_be_asked_for(checkpoint, tmp_path):
    declare(checkpoint, kv_cache_quant_algo="FP8")
    with pytest.raises(ToolError, match="calibrated for a KV cache in fp8, and none"):
        build(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_context_beyond_the_model_s_own_is_refused(checkpoint, tmp_path):
    with pytest.raises(UsageError, match="made for 512 tokens"):
        build(checkpoint, tmp_path / "out", replace(SETTINGS, context=513))
