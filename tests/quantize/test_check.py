"""The autopsy finds each planted bug in an export, names the tensor, and passes sound exports."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from builders.checkpoint import Checkpoint
from builders.errors import ToolError, UsageError
from builders.formats import Format
from builders.quantize.check import check, findings
from builders.recipe import shipped
from fakes.checkpoints import bfloat16, read_safetensors, write_safetensors

LAYER = "model.layers.1.mlp.down_proj"
FP8 = shipped()["fp8"]
# Quantizers that need an environment of their own are tested where there is one.
HERE = [name for name, recipe in shipped().items() if recipe.backend not in {"gptq", "awq"}]


@pytest.fixture
def plant(export, tmp_path):
    """Copy an export, change its tensors and its two configuration files, and open it again."""

    def make(change=lambda tensors: None, *, recipe="fp8", say=None):
        path = tmp_path / "planted"
        shutil.copytree(export(recipe).path, path)
        tensors = read_safetensors(path / "model.safetensors")
        change(tensors)
        write_safetensors(path / "model.safetensors", tensors)
        for name, key in (("hf_quant_config.json", "quantization"),) if say else ():
            data = json.loads((path / name).read_text())
            data[key] |= say
            (path / name).write_text(json.dumps(data))
        return Checkpoint.open(path)

    return make


def found(exported, source, recipe=FP8):
    return [(finding.where, finding.what) for finding in findings(exported, source, recipe)]


@pytest.mark.parametrize("name", HERE)
def test_a_sound_export_has_no_findings(export, source, name):
    assert findings(export(name), source, shipped()[name]) == ()


def test_a_copy_through_the_helpers_is_still_sound(plant, source):
    assert found(plant(), source) == []


def test_a_missing_declaration_is_found(plant, source):
    planted = plant()
    (planted.path / "hf_quant_config.json").unlink()
    assert found(planted, source) == [
        ("hf_quant_config.json", "is missing, only config.json tells")
    ]
    (planted.path / "hf_quant_config.json").write_text('{"quantization": []}')
    with pytest.raises(UsageError, match=r"hf_quant_config\.json: holds no object"):
        findings(planted, source, FP8)


def test_an_algorithm_that_was_not_asked_is_found(export, source):
    wheres = found(export("fp8"), source, shipped()["int4_rtn"])
    for what, said, wanted in (
        ("algorithm", "FP8", "W4A16_AWQ"),
        ("weights", "fp8", "int4"),
        ("KV cache", "fp8", "bf16"),
    ):
        sentence = f"says {what} {said!r} where int4_rtn asks for {wanted!r}"
        assert ("the declaration", sentence) in wheres


def test_another_method_than_asked_is_found(export, source):
    other = replace(FP8, backend="gptq", preset="gptq")
    assert ("the declaration", "says method 'modelopt' where fp8 asks for 'gptq'") in found(
        export("fp8"), source, other
    )


def test_a_kv_cache_that_was_not_asked_is_found(export, source):
    wanted = replace(FP8, kv_cache=Format.BF16)
    assert found(export("fp8"), source, wanted) == [
        ("the declaration", "says KV cache 'fp8' where fp8 asks for 'bf16'")
    ]


def test_an_exclusion_that_lies_is_found(plant, source):
    planted = plant(say={"exclude_modules": ["lm_head", "model.layers.1.mlp*"]})
    wheres = found(planted, source)
    assert ("config.json", "and hf_quant_config.json disagree about exclude_modules") in wheres
    lie = "is stored quantized (F8_E4M3), but the declaration leaves it out"
    assert (LAYER, lie) in wheres
    assert (LAYER, "is declared left alone, but fp8 quantizes it") in wheres


def test_a_layer_that_the_recipe_leaves_alone_is_not_declared_quantized(export, source):
    careful = replace(FP8, keep=(*FP8.keep, "*down_proj"))
    assert (LAYER, "is declared quantized, but fp8 leaves it alone") in found(
        export("fp8"), source, careful
    )


def test_smoothing_scales_that_were_asked_are_there(export, plant, source):
    recipe = shipped()["int8_smoothquant"]
    name = f"{LAYER}.pre_quant_scale"
    planted = plant(lambda tensors: tensors.pop(name), recipe="int8_smoothquant")
    assert found(planted, source, recipe) == [(name, "is missing")]


def test_an_uncalibrated_static_format_is_found(plant, source):
    planted = plant(lambda tensors: tensors.pop(f"{LAYER}.input_scale"))
    assert found(planted, source) == [(f"{LAYER}.input_scale", "is missing")]
    with pytest.raises(ToolError, match=f"{LAYER}.input_scale is missing") as caught:
        check(planted, source, FP8)
    assert "more or longer calibration texts" in caught.value.hint


def test_a_layer_that_was_not_quantized_is_found(plant, source):
    def undo(tensors):
        tensors[f"{LAYER}.weight"] = read_safetensors(source.path / "model.safetensors")[
            f"{LAYER}.weight"
        ]
        del tensors[f"{LAYER}.weight_scale"], tensors[f"{LAYER}.input_scale"]

    assert found(plant(undo), source) == [(LAYER, "is stored in BF16, but declared FP8")]


def test_a_quantized_lm_head_is_found(plant, source):
    def quantize(tensors):
        shape = tensors["lm_head.weight"][1].shape
        tensors["lm_head.weight"] = ("F8_E4M3", np.full(shape, 0x38, np.uint8))
        tensors["lm_head.weight_scale"] = ("F32", np.float32(0.5).reshape(()))

    assert found(plant(quantize), source) == [
        ("lm_head", "is stored quantized (F8_E4M3), but the declaration leaves it out"),
        ("lm_head.weight", "is F8_E4M3, in the base BF16"),
    ]


def test_a_tensor_that_was_lost_or_came_in_is_found(plant, source):
    def swap(tensors):
        tensors["model.norm.weight_quantizer._amax"] = tensors.pop("model.norm.weight")

    assert found(plant(swap), source) == [
        ("model.norm.weight", "of the base is missing"),
        ("model.norm.weight_quantizer._amax", "does not belong to the base"),
        ("model.norm.weight_quantizer._amax", "is used by no reader"),
    ]


def test_a_wrong_shape_is_found(plant, source):
    def widen(tensors):
        tensors[f"{LAYER}.weight_scale"] = ("F32", np.full(128, 0.5, np.float32))

    assert found(plant(widen), source) == [(f"{LAYER}.weight_scale", "has shape [128], not []")]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (np.nan, "holds NaN"),
        (np.inf, "is not finite"),
        (-np.inf, "is not finite"),
        (0.0, "is zero or negative"),
        (-1.0, "is zero or negative"),
    ],
)
def test_a_scale_that_cannot_be_right_is_found(plant, source, value, complaint):
    def spoil(tensors):
        tensors[f"{LAYER}.weight_scale"][1][...] = value

    assert found(plant(spoil), source) == [(f"{LAYER}.weight_scale", complaint)]


def test_kv_scales_that_are_all_one_are_found(plant, source):
    def reset(tensors):
        for name, (_, data) in tensors.items():
            if name.endswith("k_scale"):
                data[...] = 1

    planted = plant(reset)
    assert found(planted, source) == [("every k_scale", "is exactly 1: nothing was calibrated")]


def test_a_missing_kv_scale_is_found(plant, source):
    name = "model.layers.0.self_attn.v_proj.v_scale"
    assert found(plant(lambda tensors: tensors.pop(name)), source) == [(name, "is missing")]


def test_a_smoothing_scale_of_every_width_is_judged(plant, source):
    recipe = shipped()["int8_smoothquant"]
    name = f"{LAYER}.pre_quant_scale"
    for dtype, values in (
        ("F32", np.full(256, -1, np.float32)),
        ("F16", np.full(256, -1, np.float16)),
        ("BF16", bfloat16(np.full(256, -1, np.float32))),
    ):
        planted = plant(
            lambda tensors, new=(dtype, values): tensors.update({name: new}),
            recipe="int8_smoothquant",
        )
        assert found(planted, source, recipe) == [(name, "is zero or negative")]
        shutil.rmtree(planted.path)


def test_a_scale_without_a_place_in_the_format_is_found(plant, source):
    def smooth(tensors):
        tensors[f"{LAYER}.pre_quant_scale"] = ("F32", np.full(256, 0.5, np.float32))

    assert found(plant(smooth), source) == [
        (f"{LAYER}.pre_quant_scale", "has no place in this format (FP8)")
    ]


@pytest.mark.parametrize(
    ("recipe", "byte", "complaint"),
    [
        ("nvfp4", 0x7F, "holds NaN"),
        ("nvfp4", 0xFF, "holds NaN"),
        ("nvfp4", 0x00, "holds blocks whose scale is zero"),
        ("nvfp4", 0xB8, "is zero or negative"),
        ("mxfp8", 0xFF, "holds NaN"),
        ("mxfp4", 0xFF, "holds NaN"),
    ],
)
def test_a_block_scale_that_cannot_be_right_is_found(plant, source, recipe, byte, complaint):
    def spoil(tensors):
        tensors[f"{LAYER}.weight_scale"][1][3, 3] = byte

    assert found(plant(spoil, recipe=recipe), source, shipped()[recipe]) == [
        (f"{LAYER}.weight_scale", complaint)
    ]


@pytest.mark.parametrize(("recipe", "one"), [("nvfp4", 0x38), ("mxfp8", 127)])
def test_block_scales_that_are_all_one_are_found(plant, source, recipe, one):
    def reset(tensors):
        for name, (_, data) in tensors.items():
            if name.endswith("weight_scale"):
                data[...] = one

    assert found(plant(reset, recipe=recipe), source, shipped()[recipe]) == [
        ("every weight_scale", "is exactly 1: nothing was calibrated")
    ]
