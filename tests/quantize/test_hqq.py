"""HQQ's layers lie in safetensors as hqq itself would save them, and hqq reads them back."""

import pytest
import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from safetensors.torch import load_file

from builders.bundle import Tree
from builders.checkpoint import Checkpoint
from builders.errors import PlanError
from builders.progress import silent
from builders.quantize import quantize
from builders.recipe import Calibration, shipped
from fakes.checkpoints import tiny_llama, tiny_qwen3_moe

RECIPES = ["hqq_int4", "hqq_int8"]
LAYER = "model.layers.1.self_attn.o_proj"
STEP = {"hqq_int4": 15, "hqq_int8": 255}


def parts(path, module=LAYER):
    tensors = load_file(path / "model.safetensors")
    at = f"{module}."
    return {name.removeprefix(at): v for name, v in tensors.items() if name.startswith(at)}


@pytest.mark.parametrize("name", RECIPES)
def test_hqq_reads_a_layer_back_within_a_step_of_its_group(export, source, name):
    weight = load_file(source.path / "model.safetensors")[f"{LAYER}.weight"].float()
    layer = HQQLinear(None, None, compute_dtype=torch.float32, device="cpu")
    layer.load_state_dict(parts(export(name).path))
    groups = weight.reshape(-1, 64)
    step = (groups.amax(1) - groups.amin(1)) / STEP[name]
    error = (layer.dequantize() - weight).reshape(-1, 64).abs().amax(1)
    assert bool((error < 2 * step).all())


@pytest.mark.parametrize("name", RECIPES)
def test_a_layer_is_what_hqq_makes_of_it_alone(export, source, name):
    weight = load_file(source.path / "model.safetensors")[f"{LAYER}.weight"]
    settings = BaseQuantizeConfig(nbits=shipped()[name].weights.bits, group_size=64, axis=1)
    alone = HQQLinear.from_weights(
        weight, None, settings, compute_dtype=torch.float16, device="cpu"
    ).state_dict()
    made = parts(export(name).path)
    assert made.keys() == alone.keys()
    assert all(torch.equal(value, made[part]) for part, value in alone.items())


@pytest.mark.parametrize("name", RECIPES)
def test_equal_inputs_write_equal_bytes_and_no_pickle(export, source, tmp_path, name):
    quantize(source, shipped()[name], Calibration(), tmp_path, silent)
    assert Tree.of(tmp_path).digest == Tree.of(export(name).path).digest
    assert not list(tmp_path.glob("*.pt"))


def test_the_declaration_is_the_one_of_transformers_4(export):
    said = export("hqq_int4").config["quantization_config"]
    assert said["quant_method"] == "hqq"
    assert said["skip_modules"] == ["lm_head"]
    assert said["quant_config"]["weight_quant_params"] == {
        "nbits": 4, "channel_wise": True, "group_size": 64, "optimize": True, "round_zero": True,
        "axis": 1, "view_as_float": False,
    }  # fmt: skip


def test_in_features_that_no_group_divides_and_experts_are_refused(tmp_path):
    odd = Checkpoint.open(tiny_llama(tmp_path / "odd", hidden=96, intermediate=200, layers=1))
    with pytest.raises(PlanError, match="cannot cut into blocks of 64"):
        quantize(odd, shipped()["hqq_int4"], Calibration(), tmp_path, silent)
    experts = Checkpoint.open(tiny_qwen3_moe(tmp_path / "moe"))
    with pytest.raises(PlanError, match="mixture of experts"):
        quantize(experts, shipped()["hqq_int8"], Calibration(), tmp_path, silent)
