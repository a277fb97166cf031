"""The autopsy finds each planted bug in an export, names the tensor, and passes sound exports."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from builders.checkpoint import Checkpoint
from builders.errors import ToolError
from builders.formats import Format
from builders.quantize.check import check, findings
from builders.recipe import shipped
from fakes.checkpoints import bfloat16, read_safetensors, write_safetensors

LAYER = "model.layers.1.mlp.down_proj"
FP8 = shipped()["fp8"]


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


@pytest.mark.parametrize("name", shipped())
def test_a_sound_export_has_no_findings(export, source, name):
    assert findings(export(name), source, shipped()[name]) == ()


def test_a_copy_through_the_helpers_is_still_sound(plant, source):
    assert found(plant(), source) == []


def test_a_missing_declaration_is_found(plant, source):
    planted = plant()
    (planted.path / "hf_quant_config.json").unlink()
    assert found(planted, source) == [("hf_quant_config.json", "is missing or cannot be read")]
    (planted.path / "hf_quant_config.json").write_text('{"quantization": []}')
    assert found(planted, source) == [("hf_quant_config.json", "is missing or cannot be read")]


def test_an_algorithm_that_was_not_asked_is_found(export, source):
    assert (
        "hf_quant_config.json",
        "says quant_algo 'FP8' where int4_rtn asks for 'W4A16_AWQ'",
    ) in found(export("fp8"), source, shipped()["int4_rtn"])


def test_a_kv_cache_that_was_not_asked_is_found(export, source):
    wanted = replace(FP8, kv_cache=Format.BF16)
    assert [where for where, _ in found(export("fp8"), source, wanted)] == [
        "hf_quant_config.json",
        *(f"model.layers.{n}.self_attn.{x}_proj.{x}_scale" for n in (0, 1) for x in "kv"),
    ]


def test_an_exclusion_that_lies_is_found(plant, source):
    planted = plant(say={"exclude_modules": ["lm_head", "model.layers.1.mlp*"]})
    wheres = dict(found(planted, source))
    assert wheres["config.json"] == "and hf_quant_config.json disagree about exclude_modules"
    assert wheres[LAYER] == "is quantized, but exclude_modules names it"


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

    assert found(plant(undo), source) == [
        (f"{LAYER}.weight", "is BF16, not F8_E4M3"),
        (f"{LAYER}.weight_scale", "is missing"),
        (f"{LAYER}.input_scale", "is missing"),
    ]


def test_a_quantized_lm_head_is_found(plant, source):
    def quantize(tensors):
        shape = tensors["lm_head.weight"][1].shape
        tensors["lm_head.weight"] = ("F8_E4M3", np.full(shape, 0x38, np.uint8))
        tensors["lm_head.weight_scale"] = ("F32", np.float32(0.5).reshape(()))

    wheres = dict(found(plant(quantize), source))
    assert "must be left alone" in wheres["lm_head.weight"]
    assert "scale of a kept layer" in wheres["lm_head.weight_scale"]


def test_a_tensor_that_was_lost_or_came_in_is_found(plant, source):
    def swap(tensors):
        tensors["model.norm.weight_quantizer._amax"] = tensors.pop("model.norm.weight")

    assert [where for where, _ in found(plant(swap), source)] == [
        "model.norm.weight",
        "model.norm.weight_quantizer._amax",
    ]


def test_a_wrong_shape_is_found(plant, source):
    def widen(tensors):
        tensors[f"{LAYER}.weight_scale"] = ("F32", np.full(128, 0.5, np.float32))

    assert found(plant(widen), source) == [(f"{LAYER}.weight_scale", "has shape [128], not []")]


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (np.nan, "is not finite"),
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
        (f"{LAYER}.pre_quant_scale", "has no place in this format")
    ]


@pytest.mark.parametrize(
    ("recipe", "byte", "complaint"),
    [
        ("nvfp4", 0x7F, "holds NaN"),
        ("nvfp4", 0xFF, "holds NaN"),
        ("nvfp4", 0x00, "is zero or negative"),
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
