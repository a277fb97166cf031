"""What a recipe cannot take is refused from headers alone, before anything heavy starts."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from builders.checkpoint import Checkpoint
from builders.quantize.shapes import TRANSPOSED, is_kept, quantized, shape_refusals
from builders.recipe import shipped
from fakes.checkpoints import tiny_llama, tiny_mixtral, tiny_qwen3_moe


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A Llama whose in features do not divide by 128 everywhere."""
    path = tiny_llama(tmp_path_factory.mktemp("odd") / "m", hidden=96, intermediate=200, layers=1)
    return Checkpoint.open(path)


@pytest.mark.parametrize("name", shipped())
def test_a_llama_whose_sizes_divide_is_not_refused(source, name):
    assert shape_refusals(source, shipped()[name]) == ()


def test_groups_that_modelopts_preset_does_not_have_are_refused(source):
    (refusal,) = shape_refusals(source, replace(shipped()["int4_rtn"], group=32))
    assert "INT4_BLOCKWISE_WEIGHT_ONLY_CFG has groups of 128, not 32" in refusal.reason
    assert shape_refusals(source, replace(shipped()["hqq_int4"], group=32)) == ()


def test_matrices_that_are_stored_transposed_are_refused(tmp_path):
    path = tiny_llama(tmp_path / "m")
    config = json.loads((path / "config.json").read_text())
    config["architectures"] = ["GPT2LMHeadModel"]
    (path / "config.json").write_text(json.dumps(config))
    (refusal,) = shape_refusals(Checkpoint.open(path), shipped()["mxfp8"])
    assert "GPT2LMHeadModel stores its matrices transposed" in refusal.reason


def test_every_causal_model_of_transformers_that_stores_them_so_is_known():
    package = Path(transformers.__file__).parent / "models"
    users = [f for f in package.glob("*/modeling_*.py") if "import Conv1D" in f.read_text()]
    names = {file.parent.name.replace("openai", "openai-gpt") for file in users}
    causal = {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(name) for name in names}
    assert causal - {None} == TRANSPOSED


def test_in_features_that_do_not_divide_by_the_group_are_refused_with_layer_and_number(odd):
    (refusal,) = shape_refusals(odd, shipped()["int4_rtn"])
    assert refusal.reason == (
        "model.layers.0.mlp.down_proj has 200 in features, which int4_rtn cannot cut into blocks "
        "of 128 (and 6 more layers)"
    )
    assert "fp8" in refusal.hint


@pytest.mark.parametrize("name", ["fp8", "int8_smoothquant"])
def test_scales_that_span_a_channel_or_a_tensor_take_any_size(odd, name):
    assert shape_refusals(odd, shipped()[name]) == ()


def test_layers_left_alone_are_not_refused(odd):
    some = replace(shipped()["int4_rtn"], keep=("*mlp*", "*_proj"))
    assert "would quantize nothing" in shape_refusals(odd, some)[0].reason


def test_odd_out_features_cannot_be_packed_in_pairs(tmp_path):
    path = tiny_llama(tmp_path / "m", heads=1, kv_heads=1, hidden=128, intermediate=129, layers=1)
    reasons = [r.reason for r in shape_refusals(Checkpoint.open(path), shipped()["int4_rtn"])]
    assert "model.layers.0.mlp.gate_proj has 129 out features" in reasons[1]


@pytest.mark.parametrize("family", [tiny_mixtral, tiny_qwen3_moe])
def test_experts_are_refused_where_modelopt_cannot_write_them(family, tmp_path):
    source = Checkpoint.open(family(tmp_path / "m"))
    recipes = {name: one for name, one in shipped().items() if one.backend == "modelopt"}
    refused = {name for name, recipe in recipes.items() if shape_refusals(source, recipe)}
    assert refused == {
        "fp8_block", "int4_awq", "int4_rtn", "int8_smoothquant", "nvfp4_awq", "w4a8_awq",
    }  # fmt: skip


def test_routers_are_left_alone(tmp_path):
    layers = quantized(Checkpoint.open(tiny_mixtral(tmp_path / "m")), shipped()["fp8"])
    assert len(layers) == 2 * (4 + 4 * 3)
    assert not any(name.endswith("gate") for name in layers)


def test_an_unknown_preset_is_refused_with_the_nearest_known(source):
    (refusal,) = shape_refusals(source, replace(shipped()["fp8"], preset="FP8_DEFAULT_CONFIG"))
    assert refusal.hint == "did you mean FP8_DEFAULT_CFG?"


def test_an_exclusion_that_matches_nothing_is_refused_with_a_suggestion(source):
    wrong = replace(shipped()["fp8"], keep=("*lm_head*", "*dwn_proj*"))
    (refusal,) = shape_refusals(source, wrong)
    assert "'*dwn_proj*' matches no module" in refusal.reason
    assert refusal.hint == "did you mean down_proj?"


def test_outputs_and_embeddings_are_left_alone_even_if_the_recipe_forgets_them(source):
    layers = quantized(source, replace(shipped()["fp8"], keep=()))
    assert len(layers) == 2 * 7
    assert not any("embed" in name or "lm_head" in name for name in layers)


def test_a_pattern_matches_a_module_and_all_that_lies_in_it():
    name = "model.layers.1.self_attn.q_proj"
    for pattern in ("*q_proj", "*self_attn", "*layers.1", "*.layers.1.*", name):
        assert is_kept(name, [pattern])
    for pattern in ("q_proj", "*layers.10", "*mlp*", "model.layers.1.self_attn.q"):
        assert not is_kept(name, [pattern])


def test_the_door_of_the_room_and_its_refusals_load_no_heavy_library():
    heavy = ("torch", "transformers", "modelopt", "numpy", "safetensors")
    code = f"import sys, builders.quantize; print([m for m in {heavy} if m in sys.modules])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout == "[]\n"
