"""Declarations sum up as ModelOpt's do, and say what ModelOpt's leave out."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from builders.checkpoint import Checkpoint
from builders.progress import silent
from builders.quantize import quantize
from builders.quantize.backends import load
from builders.quantize.declaration import excluded
from builders.recipe import shipped
from fakes.checkpoints import tiny_gemma3, tiny_qwen3_moe

LAYERS = [
    f"model.layers.{layer}.{part}"
    for layer in (0, 1, 10)
    for part in ("mlp.up_proj", "mlp.up_proj_extra", "mlp.down_proj", "self_attn.q_proj")
]


def test_the_shortest_names_that_match_nothing_else_are_said():
    taken = {"model.layers.0.mlp.up_proj", "model.layers.10.mlp.up_proj"}
    kept = ["lm_head", "model.embed_tokens", *(n for n in LAYERS if n not in taken)]
    assert excluded(kept, taken) == [
        "lm_head",
        "model.embed_tokens",
        "model.layers.0.mlp.down_proj",
        "model.layers.0.mlp.up_proj_extra",
        "model.layers.0.self_attn*",
        "model.layers.1.*",
        "model.layers.10.mlp.down_proj",
        "model.layers.10.mlp.up_proj_extra",
        "model.layers.10.self_attn*",
    ]


@settings(deadline=None)
@given(st.sets(st.sampled_from(LAYERS), max_size=len(LAYERS) - 1))
def test_the_names_are_those_that_modelopt_finds(kept):
    load("modelopt")  # it warns of itself where it is imported first
    from modelopt.torch.export.quant_utils import _prefix_wildcard_summarize_exclude_modules

    taken = [name for name in LAYERS if name not in kept]
    theirs = _prefix_wildcard_summarize_exclude_modules(sorted(kept), taken)
    assert excluded(sorted(kept), taken) == sorted(theirs)


def test_embeddings_of_a_class_of_their_own_are_declared_as_left_alone(calibration, tmp_path):
    source = Checkpoint.open(tiny_gemma3(tmp_path / "m"))
    out = tmp_path / "out"
    out.mkdir()
    quantize(source, shipped()["mxfp8"], calibration, out, silent)
    beside = json.loads((out / "hf_quant_config.json").read_text())["quantization"]
    inside = json.loads((out / "config.json").read_text())["quantization_config"]
    assert "model.embed_tokens" in beside["exclude_modules"]
    assert inside["ignore"] == beside["exclude_modules"]


def test_a_mixture_names_experts_one_by_one(calibration, tmp_path):
    source = Checkpoint.open(tiny_qwen3_moe(tmp_path / "m"))
    out = tmp_path / "out"
    out.mkdir()
    quantize(source, shipped()["mixed"], calibration, out, silent)
    beside = json.loads((out / "hf_quant_config.json").read_text())["quantization"]
    inside = json.loads((out / "config.json").read_text())["quantization_config"]
    assert inside["quantized_layers"] == beside["quantized_layers"]
    assert "model.layers.0.mlp.experts.3.up_proj" in beside["quantized_layers"]
    targets = {name for group in inside["config_groups"].values() for name in group["targets"]}
    assert targets == set(beside["quantized_layers"])
