"""The LLM API's directory: the checkpoint's files, the YAML of one version, and a record."""

import json

import pytest
import yaml

from builders.engine.description import Description, EngineSettings
from builders.engine.trtllm.llm_args import Options
from builders.engine.trtllm.llmapi import build
from builders.engine.trtllm.sidecar import Sidecar, altered, mismatches
from builders.engine.trtllm.validate import validate_llm_args
from builders.errors import PlanError, ToolError, UsageError
from builders.formats import Format
from builders.progress import silent
from fakes.checkpoints import tiny_llama
from fakes.trtllm.settings import host, request_for


def exported(path, *, quant_algo="FP8", kv="FP8", **config):
    """A checkpoint that declares its quantization in both places, as ModelOpt writes it."""
    tiny_llama(path)
    declared = {"quant_algo": quant_algo, "kv_cache_quant_algo": kv, "exclude_modules": []}
    (path / "hf_quant_config.json").write_text(json.dumps({"quantization": declared}))
    whole = json.loads((path / "config.json").read_text()) | config
    (path / "config.json").write_text(json.dumps(whole))
    return path


def test_a_deployable_directory_is_written(tmp_path):
    checkpoint = exported(tmp_path / "checkpoint")
    build(checkpoint, request_for(context=256), tmp_path / "out", silent)
    args = yaml.safe_load((tmp_path / "out" / "llm_api.yaml").read_text())
    assert validate_llm_args("1.2.1", args) == ()
    assert args["kv_cache_config"]["dtype"] == "fp8"
    assert (tmp_path / "out" / "checkpoint" / "hf_quant_config.json").is_file()
    assert Description.read(tmp_path / "out").runtime == "llmapi"
    assert Description.read(tmp_path / "out").version == "1.2.1"


def test_its_record_holds_every_file_and_fits_the_tier(tmp_path):
    build(exported(tmp_path / "c"), request_for(), tmp_path / "out", silent)
    record = Sidecar.read(tmp_path / "out")
    assert altered(record, tmp_path / "out") == ()
    assert {"llm_api.yaml", "engine.json", "checkpoint/model.safetensors"} <= {
        one.path for one in record.files.artifacts
    }
    assert mismatches(record, host()) == ()


def test_equal_requests_write_equal_directories(tmp_path):
    checkpoint = exported(tmp_path / "c")
    for name in ("one", "two"):
        build(checkpoint, request_for(), tmp_path / name, silent)
    for file in ("llm_api.yaml", "engine.json", "enginesmith.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_experts_are_found_in_the_model(tmp_path):
    checkpoint = exported(tmp_path / "c", num_local_experts=8)
    request = request_for(tp=2, options=Options(ep=2))
    build(checkpoint, request, tmp_path / "out", silent)
    args = yaml.safe_load((tmp_path / "out" / "llm_api.yaml").read_text())
    assert args["moe_config"] == {"backend": "CUTLASS"}
    assert args["moe_expert_parallel_size"] == 2


@pytest.mark.parametrize(
    ("made", "request_", "error", "reason"),
    [
        ({"quant_algo": "NVFP4"}, request_for(), ToolError, "declares NVFP4, and fp8 writes FP8"),
        ({"quant_algo": None}, request_for(), ToolError, "declares no quantization"),
        ({}, request_for(kv_cache=Format.BF16), ToolError, "calibrated for a KV cache in fp8"),
        ({"quant_algo": 3}, request_for(), UsageError, "must be a text"),
        ({}, request_for(tier="t4"), PlanError, "Turing"),
        ({}, request_for(version="0.20.0"), PlanError, "0.20.0 is older"),
        ({}, request_for(options=Options(extra={"sampler": 1})), PlanError, "no key sampler"),
    ],
)
def test_what_would_not_start_is_refused(tmp_path, made, request_, error, reason):
    checkpoint = exported(tmp_path / "c", **made)
    with pytest.raises(error, match=reason):
        build(checkpoint, request_, tmp_path / "out", silent)
    assert not (tmp_path / "out").exists()


def test_other_settings_are_refused(tmp_path):
    with pytest.raises(UsageError, match="recipe, a GPU tier and a version"):
        build(tmp_path, EngineSettings(context=8), tmp_path / "out", silent)
