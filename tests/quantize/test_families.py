"""Every shipped recipe × family of models: quantized, examined, built, loaded and scored on a CPU.

What is refused is refused before the work, with the reason. `quantize` examines its own export.
"""

import json

import numpy as np
import pytest

from builders import engine
from builders.checkpoint import Checkpoint
from builders.engine import EngineSettings
from builders.formats import Format
from builders.progress import silent
from builders.quantize import quantize
from builders.quantize.shapes import shape_refusals
from builders.recipe import shipped
from fakes.checkpoints import (
    tiny_gemma3,
    tiny_llama,
    tiny_mixtral,
    tiny_phi3,
    tiny_qwen2,
    tiny_qwen3,
    tiny_qwen3_moe,
)

# Wide enough that every layer has more than one tile of 128 by 128.
WIDE = {"hidden": 256, "intermediate": 384, "kv_heads": 4}
FAMILIES = {
    "llama": (tiny_llama, WIDE),
    "llama-tied": (tiny_llama, WIDE | {"tied": True}),
    "qwen2": (tiny_qwen2, WIDE | {"head_dim": 64}),  # biases in attention
    "qwen3": (tiny_qwen3, WIDE | {"kv_heads": 2}),  # norms on queries and keys
    "gemma3": (tiny_gemma3, WIDE | {"head_dim": 64}),
    "phi3": (tiny_phi3, WIDE | {"head_dim": 64}),  # fused projections
    "mixtral": (tiny_mixtral, {}),
    "qwen3_moe": (tiny_qwen3_moe, {}),
}
MIXTURES = {"mixtral", "qwen3_moe"}
NO_EXPERTS = {"fp8_block", "int4_awq", "int4_rtn", "int8_smoothquant", "nvfp4_awq", "w4a8_awq"}
OURS = {name: one for name, one in shipped().items() if one.backend == "modelopt"}
ROWS = [[(7 * row * row + 3 * at) % 4096 for at in range(40)] for row in range(6)]
# How far log-probabilities of a random model may lie from the original's, in the mean: three
# times what was measured of each width, so that a scale read wrong is seen and noise is not.
FAR = {8: 1.2, 4: 3.0}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A family's model, and its log-probabilities before it was quantized."""
    make, sizes = FAMILIES[request.param]
    source = Checkpoint.open(make(tmp_path_factory.mktemp(request.param) / "m", **sizes))
    return request.param, source, scored(source, Format.BF16, tmp_path_factory.mktemp("base"))


def scored(checkpoint, kv_cache, place):
    settings = EngineSettings(context=64, kv_cache=kv_cache)
    engine.build("embedded", checkpoint.path, settings, place, silent)
    with engine.scorer(place) as scorer:
        return np.concatenate([one.logprobs for one in scorer.score(ROWS)])


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_a_recipe_is_quantized_examined_loaded_and_scored(
    family, name, calibration, tmp_path_factory
):
    kind, source, before = family
    recipe = OURS[name]
    refusals = shape_refusals(source, recipe)
    if kind in MIXTURES and name in NO_EXPERTS:
        assert [refusal.reason for refusal in refusals]
        return
    assert refusals == ()
    out = tmp_path_factory.mktemp(name)
    quantize(source, recipe, calibration, out, silent)
    after = scored(Checkpoint.open(out), recipe.kv_cache, tmp_path_factory.mktemp("engine"))
    assert np.abs(after - before).mean() < FAR[8 if recipe.weights.bits == 8 else 4]
    assert abs(after.mean() - before.mean()) < 0.15


@pytest.mark.parametrize("make", [tiny_mixtral, tiny_qwen3_moe])
def test_routers_are_declared_as_left_alone(make, calibration, tmp_path):
    source = Checkpoint.open(make(tmp_path / "source"))
    out = tmp_path / "out"
    out.mkdir()
    quantize(source, shipped()["fp8"], calibration, out, silent)
    declared = json.loads((out / "hf_quant_config.json").read_text())["quantization"]
    routers = [name for name in declared["exclude_modules"] if name.endswith("gate")]
    assert len(routers) == source.layers


def test_experts_that_no_token_reaches_still_get_an_input_scale(calibration, tmp_path):
    source = Checkpoint.open(tiny_mixtral(tmp_path / "source", experts=64))
    out = tmp_path / "out"
    out.mkdir()
    quantize(source, shipped()["fp8"], calibration, out, silent)
    scales = [name for name in Checkpoint.open(out).tensors if name.endswith("input_scale")]
    assert len(scales) == 2 * (4 + 64 * 3)
