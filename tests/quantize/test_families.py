"""Every shipped recipe on every family of models it is not refused for gives a sound export."""

import json

import pytest

from builders.checkpoint import Checkpoint
from builders.progress import silent
from builders.quantize import quantize
from builders.quantize.shapes import shape_refusals
from builders.recipe import shipped
from fakes.checkpoints import tiny_mixtral, tiny_qwen2, tiny_qwen3, tiny_qwen3_moe


@pytest.mark.slow
@pytest.mark.parametrize("family", [tiny_qwen2, tiny_qwen3, tiny_mixtral, tiny_qwen3_moe])
def test_every_recipe_that_is_not_refused_passes_the_autopsy(family, calibration, tmp_path):
    source = Checkpoint.open(family(tmp_path / "source"))
    for name, recipe in shipped().items():
        elsewhere = recipe.backend in {"gptq", "awq"}  # they need an environment of their own
        if not elsewhere and not shape_refusals(source, recipe):
            out = tmp_path / name
            out.mkdir()
            quantize(source, recipe, calibration, out, silent)


@pytest.mark.parametrize("family", [tiny_mixtral, tiny_qwen3_moe])
def test_routers_are_declared_as_left_alone(family, calibration, tmp_path):
    source = Checkpoint.open(family(tmp_path / "source"))
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
