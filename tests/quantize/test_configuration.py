"""The KV cache dial, recipes that ModelOpt ships, mixtures and exclusions come out as asked."""

import json
from dataclasses import replace

import pytest

from builders import recipe as recipes
from builders.checkpoint import Checkpoint
from builders.errors import PlanError, ToolError, UsageError
from builders.formats import Format
from builders.progress import silent
from builders.quantize import quantize
from builders.quantize.backends import load
from builders.recipe import Calibration, Unreached, shipped
from fakes.checkpoints import tiny_mixtral

FP8 = shipped()["fp8"]
REFERENCE = """
name = "omlp"
summary = "NVFP4 where ModelOpt's own recipe has it."
backend = "modelopt"
modelopt = "{path}"
weights = "{weights}"
activations = "{activations}"
kv_cache = "fp8"
keep = ["*lm_head*", "*embed_tokens*", "*q_proj", "*k_proj", "*v_proj"]
"""


def run(source, calibration, tmp_path, recipe):
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    quantize(source, recipe, calibration, out, silent)
    return Checkpoint.open(out)


def declared(checkpoint):
    return json.loads((checkpoint.path / "hf_quant_config.json").read_text())["quantization"]


def test_a_kv_cache_in_nvfp4_is_declared_and_has_scales(source, calibration, tmp_path):
    made = run(source, calibration, tmp_path, replace(FP8, kv_cache=Format.NVFP4))
    assert declared(made)["kv_cache_quant_algo"] == "NVFP4"
    assert "model.layers.1.self_attn.k_proj.k_scale" in made.tensors


def test_a_kv_cache_in_e5m2_is_left_to_the_runtime(source, tmp_path):
    """It has no scales: nothing is written, and no calibration is needed for it."""
    recipe = replace(shipped()["int4_rtn"], kv_cache=Format.FP8_E5M2)
    made = run(source, Calibration(), tmp_path, recipe)
    assert declared(made)["kv_cache_quant_algo"] is None


def test_a_kv_cache_in_int8_is_refused_with_the_reason(source, calibration, tmp_path):
    with pytest.raises(PlanError, match="fails to export a KV cache in int8"):
        run(source, calibration, tmp_path, replace(FP8, kv_cache=Format.INT8))


def mine(tmp_path, **filled):
    path = "general/ptq/nvfp4_omlp_only-kv_fp8"
    text = REFERENCE.format(**({"path": path, "weights": "nvfp4", "activations": "nvfp4"} | filled))
    (tmp_path / "mine.toml").write_text(text)
    return recipes.find("mine.toml", beside=tmp_path)


def test_a_recipe_that_modelopt_ships_is_taken_by_reference(source, calibration, tmp_path):
    made = run(source, calibration, tmp_path, mine(tmp_path))
    assert declared(made)["quant_algo"] == "NVFP4"
    assert "model.layers.0.self_attn.o_proj.weight_scale_2" in made.tensors
    assert "model.layers.0.self_attn.q_proj.weight_scale" not in made.tensors


def test_a_reference_must_make_what_the_recipe_says(source, calibration, tmp_path):
    with pytest.raises(UsageError, match="makes nvfp4 of what input_quantizer rounds"):
        run(source, calibration, tmp_path, mine(tmp_path, activations="bf16"))
    with pytest.raises(PlanError, match="mxfp8 weights under nvfp4 activations"):
        run(source, calibration, tmp_path, mine(tmp_path, weights="mxfp8"))


def test_a_reference_to_nothing_is_named(source, calibration, tmp_path):
    with pytest.raises(UsageError, match="ships no quantization recipe 'general/ptq/nvfp5'"):
        run(source, calibration, tmp_path, mine(tmp_path, path="general/ptq/nvfp5"))


def test_a_reference_never_leads_out_of_modelopts_own_recipes(tmp_path):
    for path in ("/etc/recipes/x", "general/../../x", "fp8"):
        with pytest.raises(UsageError, match="no path inside ModelOpt's own recipes"):
            mine(tmp_path, path=path)


@pytest.mark.slow
def test_a_mixture_gives_every_layer_a_format_and_keeps_to_its_bits(source, calibration, tmp_path):
    made = run(source, calibration, tmp_path, shipped()["mixed"])
    layers = declared(made)["quantized_layers"]
    assert {layer["quant_algo"] for layer in layers.values()} == {"NVFP4", "FP8"}
    taken = {"NVFP4": 4.5, "FP8": 8.0}
    sizes = {name: source.tensors[f"{name}.weight"].shape for name in layers}
    weights = {name: shape[0] * shape[1] for name, shape in sizes.items()}
    bits = sum(weights[name] * taken[layer["quant_algo"]] for name, layer in layers.items())
    assert bits / sum(weights.values()) <= 6.0
    for layer in range(source.layers):
        fused = [f"model.layers.{layer}.self_attn.{name}_proj" for name in "qkv"]
        assert len({layers[name]["quant_algo"] for name in fused}) == 1
    assert "model.layers.1.self_attn.v_proj.v_scale" in made.tensors


def test_a_mixture_that_cannot_reach_its_bits_says_so(source, calibration, tmp_path):
    with pytest.raises(ToolError, match="effective_bits"):
        run(source, calibration, tmp_path, replace(shipped()["mixed"], bits=3.0))


def test_a_mixture_of_what_is_no_recipe_is_refused(source, calibration, tmp_path):
    odd = replace(shipped()["mixed"], formats=("nvfp4", "fp9"))
    with pytest.raises(PlanError, match="'fp9' is no recipe to mix"):
        run(source, calibration, tmp_path, odd)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    return Checkpoint.open(tiny_mixtral(tmp_path_factory.mktemp("mixtral") / "m", experts=64))


@pytest.mark.parametrize("pattern", ["*experts*", "*block_sparse_moe*"])
def test_experts_are_left_alone_by_their_names_on_the_hub(mixtral, calibration, tmp_path, pattern):
    made = run(mixtral, calibration, tmp_path, replace(FP8, keep=(*FP8.keep, pattern)))
    assert not any("experts" in name and "scale" in name for name in made.tensors)
    assert "model.layers.0.self_attn.q_proj.weight_scale" in made.tensors


@pytest.mark.parametrize("pattern", ["*w2", "*experts.3.*"])
def test_some_weights_of_experts_alone_are_refused_before_the_work(
    mixtral, calibration, tmp_path, pattern
):
    with pytest.raises(PlanError, match="transformers holds them as one"):
        run(mixtral, calibration, tmp_path, replace(FP8, keep=(*FP8.keep, pattern)))


def test_experts_that_no_token_meets_are_told_or_refused(mixtral, calibration, tmp_path):
    told = []
    few = replace(calibration, samples=1, length=8)
    out = tmp_path / "told"
    out.mkdir()
    quantize(mixtral, FP8, few, out, lambda what, *done, unit="": told.append((what, *done)))
    _, met, all_of_them = next(entry for entry in told if "experts met" in entry[0])
    assert met < all_of_them == 2 * 64
    with pytest.raises(ToolError, match=r"no calibration token reached \d+ experts of model"):
        run(mixtral, replace(few, unreached=Unreached.FAIL), tmp_path, FP8)


def test_modelopt_leaves_layers_that_predict_further_tokens_alone():
    """Where transformers has code for them, they are modules that ModelOpt would round."""
    load("modelopt")  # which imports it without its warnings
    from builders.quantize.configuration import exclusions

    assert {"quantizer_name": "mtp.*", "enable": False} in exclusions(shipped()["fp8"], None)
