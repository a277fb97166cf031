"""What bitsandbytes rounds here is, bit for bit, what transformers saves when it rounds itself."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from builders.bundle import Tree
from builders.checkpoint import Checkpoint
from builders.errors import PlanError, ToolError
from builders.formats import Format
from builders.progress import silent
from builders.quantize import quantize
from builders.quantize.backends import load
from builders.recipe import Calibration, shipped
from fakes.checkpoints import (
    bfloat16,
    read_safetensors,
    tiny_llama,
    tiny_mixtral,
    write_safetensors,
)

RECIPES = ["bnb_int8", "bnb_nf4"]


def run(source, name, out):
    out.mkdir()
    quantize(source, shipped()[name], Calibration(), out, silent)
    return out


BY_TRANSFORMERS = {
    "bnb_int8": {"load_in_8bit": True},
    "bnb_nf4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_tensors_are_those_that_transformers_saves_before_any_forward(
    export, source, tmp_path, name
):
    config = BitsAndBytesConfig(**BY_TRANSFORMERS[name])
    AutoModelForCausalLM.from_pretrained(source.path, quantization_config=config).save_pretrained(
        tmp_path
    )
    theirs, ours = (load_file(path / "model.safetensors") for path in (tmp_path, export(name).path))
    assert theirs.keys() == ours.keys()
    for tensor, value in theirs.items():
        assert value.dtype == ours[tensor].dtype
        assert torch.equal(value, ours[tensor]), tensor


@pytest.mark.parametrize("name", RECIPES)
def test_transformers_reads_it_back_and_computes_nearly_what_the_source_does(export, source, name):
    ids = torch.arange(5, 69)[None] * 7
    with torch.inference_mode():
        read, before = (
            AutoModelForCausalLM.from_pretrained(path)(ids).logits.float().flatten()
            for path in (export(name).path, source.path)
        )
    assert torch.cosine_similarity(read, before, dim=0) > 0.9


@pytest.mark.parametrize("name", RECIPES)
def test_equal_inputs_write_equal_bytes(export, source, tmp_path, name):
    again = run(source, name, tmp_path / "again")
    assert Tree.of(again).digest == Tree.of(export(name).path).digest


@pytest.mark.parametrize("name", RECIPES)
def test_no_text_is_needed_and_the_head_stays(export, source, name):
    made = export(name)
    assert made.tensors["lm_head.weight"].dtype == source.tensors["lm_head.weight"].dtype
    said = made.config["quantization_config"]
    assert said["llm_int8_skip_modules"] == ["lm_head"]
    assert said["quant_method"] == "bitsandbytes"


def test_what_is_excluded_is_left_alone_and_named_for_every_reader(source, tmp_path):
    kept = ("*lm_head*", "*embed_tokens*", "*layers.1.mlp.down_proj")
    recipe = shipped()["bnb_nf4"]
    out = tmp_path / "out"
    out.mkdir()

    quantize(source, replace(recipe, keep=kept), Calibration(), out, silent)
    made = Checkpoint.open(out)
    assert made.tensors["model.layers.1.mlp.down_proj.weight"].dtype == "BF16"
    assert made.config["quantization_config"]["llm_int8_skip_modules"] == [
        "lm_head",
        "model.layers.1.mlp.down_proj",
    ]


def test_int8_rows_are_codes_times_their_largest_over_127(export, source):
    name = "model.layers.0.mlp.up_proj"
    made = read_safetensors(export("bnb_int8").path / "model.safetensors")
    before = read_safetensors(source.path / "model.safetensors")[f"{name}.weight"][1]
    weight = (before.astype(np.uint32) << 16).view(np.float32)
    largest = made[f"{name}.SCB"][1]
    assert np.array_equal(largest, np.abs(weight).max(1))
    wide = made[f"{name}.weight"][1] * (largest / 127)[:, None]
    assert np.abs(wide - weight).max() <= largest.max() / 127 * 0.501


def test_experts_are_refused_before_any_work(tmp_path):
    source = Checkpoint.open(tiny_mixtral(tmp_path / "m"))
    for name in RECIPES:
        with pytest.raises(PlanError, match="transformers 5 fuses experts"):
            run(source, name, tmp_path / name)


def test_a_kv_cache_with_scales_is_refused(source, tmp_path):

    recipe = replace(shipped()["bnb_nf4"], kv_cache=Format.FP8)
    with pytest.raises(PlanError, match="calibrates no KV cache"):
        quantize(source, recipe, Calibration(), tmp_path, silent)


def test_weights_beyond_float16_are_refused_for_int8(tmp_path):
    path = tiny_llama(tmp_path / "m", layers=1)
    tensors = read_safetensors(path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = ("BF16", bfloat16(np.full(tensors[name][1].shape, 1e6, np.float32)))
    write_safetensors(path / "model.safetensors", tensors)
    with pytest.raises(ToolError, match="larger than float16"):
        run(Checkpoint.open(path), "bnb_int8", tmp_path / "out")


@pytest.mark.slow
def test_code_from_the_hub_is_not_run_by_the_import():
    """On some CPUs bitsandbytes asks the library kernels for compiled code as it is imported."""
    code = (
        "import sys, types\n"
        "asked = []\n"
        "trap = types.ModuleType('kernels')\n"
        "trap.get_kernel = lambda *a, **k: asked.append(a)\n"
        "sys.modules['kernels'] = trap\n"
        "from builders.quantize.backends import load\n"
        "load('bitsandbytes')\n"
        "assert not asked and sys.modules['kernels'] is trap\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kernels-community" not in done.stderr


def test_a_missing_library_is_said_with_its_own_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "builders.quantize.bitsandbytes", raising=False)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(ToolError, match="bitsandbytes cannot be loaded") as caught:
        load("bitsandbytes")
    assert "enginesmith[bitsandbytes]" in caught.value.hint


def test_the_configuration_says_both_rotary_forms(export):
    config = json.loads(Path(export("bnb_nf4").path / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10000.0
