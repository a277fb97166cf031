"""Each known way in which a checkpoint lies or is broken is planted, and found where it is."""

import json

import numpy as np
import pytest

from builders.autopsy import Severity, inspect
from builders.autopsy.layers import Role, named_role
from fakes.checkpoints import bfloat16
from fakes.quantized import LAYER, rules, sound

HEAD = "lm_head.weight"


def _beside(fake) -> dict:
    return fake.files["hf_quant_config.json"]["quantization"]


def _exclude(fake, names) -> None:
    _beside(fake)["exclude_modules"] = names
    fake.declare(ignore=names)


def _quantize_head(fake) -> None:
    fake.tensors[HEAD] = ("F8_E4M3", np.full((4096, 128), 0x38, np.uint8))
    for part in ("weight_scale", "input_scale"):
        fake.tensors[f"lm_head.{part}"] = ("F32", np.array(0.02, np.float32))


def _reset(suffix: str, value: float):
    def change(fake):
        for name, (_, data) in fake.tensors.items():
            if name.endswith(suffix):
                data[...] = value

    return change


# --- what is declared against what is stored


def test_exclusions_that_name_a_quantized_layer_are_found(spoiled):
    lie = ["lm_head", "model.embed_tokens", "model.layers.1.mlp*"]
    found = spoiled("modelopt nvfp4", lambda fake: _exclude(fake, lie))
    assert not found.sound
    assert [f.where for f in found.findings if f.rule == "layer-undeclared"] == [
        f"model.layers.1.mlp.{name}_proj" for name in ("down", "gate", "up")
    ]
    assert "is stored quantized (U8), but the declaration leaves it out" in found.findings[0].what


def test_exclusions_that_forget_a_layer_left_alone_are_found(spoiled):
    found = spoiled("modelopt nvfp4", lambda fake: _exclude(fake, ["model.embed_tokens"]))
    assert rules(found) == {"layer-unquantized": "lm_head"}
    assert found.findings[0].what == "is stored in BF16, but declared NVFP4"


def test_two_declarations_that_disagree_are_found(spoiled):
    def change(fake):
        fake.declare(ignore=["lm_head"], quant_algo="NVFP4")

    found = spoiled("modelopt fp8", change)
    assert [f.what for f in found.findings] == [
        "and hf_quant_config.json disagree about quant_algo",
        "and hf_quant_config.json disagree about exclude_modules",
    ]


@pytest.mark.parametrize("method", ["modelopt_mixed", "modelopt_fp4", None])
def test_modelopts_other_names_for_itself_are_no_contradiction(spoiled, method):
    def change(fake):
        if method is None:
            del fake.config["quantization_config"]["quant_method"]
        else:
            fake.declare(quant_method=method)

    assert rules(spoiled("modelopt mixed", change)) == {}


def test_a_declaration_of_another_method_beside_modelopts_is_found(spoiled):
    found = spoiled("modelopt fp8", lambda fake: fake.declare(quant_method="fp8"))
    assert rules(found) == {"declarations-disagree": "config.json"}


def test_quantized_layers_without_any_declaration_are_found(spoiled):
    def forget(fake):
        del fake.config["quantization_config"]

    found = spoiled("fp8 block", forget)
    assert rules(found) == {"declaration-missing": "config.json"}
    assert "14 such layers" in found.findings[0].what


@pytest.mark.parametrize("excluded", [True, False])
def test_a_quantized_output_layer_stops_the_line(spoiled, excluded):
    def change(fake):
        _quantize_head(fake)
        _exclude(fake, [*(["lm_head"] if excluded else []), "model.embed_tokens"])

    found = spoiled("modelopt fp8", change)
    rule = "layer-undeclared" if excluded else "layer-sensitive"
    assert rules(found) == {rule: "lm_head"}
    assert not found.sound


def test_an_output_layer_that_is_declared_by_name_only_warns(spoiled):
    def change(fake):
        _quantize_head(fake)
        layers = _beside(fake)["quantized_layers"] | {"lm_head": {"quant_algo": "FP8"}}
        _beside(fake)["quantized_layers"] = layers
        fake.declare(quantized_layers=layers)

    found = spoiled("modelopt mixed", change)
    assert rules(found) == {"layer-sensitive": "lm_head"}
    assert found.sound


def test_an_embedding_that_mixed_precision_names_stops_the_line_all_the_same(spoiled):
    """ModelOpt's NVFP4_FP8_MHA_CONFIG has no exclusions, and its export names all it did."""

    def change(fake):
        fake.tensors["model.embed_tokens.weight"] = (
            "F8_E4M3",
            np.full((4096, 128), 0x38, np.uint8),
        )
        for part in ("weight_scale", "input_scale"):
            fake.tensors[f"model.embed_tokens.{part}"] = ("F32", np.array(0.02, np.float32))
        layers = _beside(fake)["quantized_layers"]
        layers["model.embed_tokens"] = {"quant_algo": "FP8"}
        fake.declare(quantized_layers=layers)

    found = spoiled("modelopt mixed", change)
    assert rules(found) == {"layer-sensitive": "model.embed_tokens"}
    assert not found.sound


@pytest.mark.parametrize(
    ("module", "severity"),
    [
        ("model.layers.0.mlp.gate", Severity.STOP),
        ("model.embed_tokens", Severity.STOP),
        ("model.vision_tower.fc", Severity.WARN),
    ],
)
def test_a_router_an_embedding_and_a_vision_tower_are_not_quantized_unasked(
    spoiled, module, severity
):
    def change(fake):
        fake.tensors[f"{module}.weight"] = ("F8_E4M3", np.full((64, 128), 0x38, np.uint8))
        for part in ("weight_scale", "input_scale"):
            fake.tensors[f"{module}.{part}"] = ("F32", np.array(0.02, np.float32))
        _exclude(fake, ["lm_head"])

    found = spoiled("modelopt fp8", change)
    assert [(f.rule, f.where, f.severity) for f in found.findings] == [
        ("layer-sensitive", module, severity)
    ]


def test_a_quantized_norm_is_found(spoiled):
    def change(fake):
        fake.tensors["model.norm.weight"] = ("F8_E4M3", np.full(128, 0x38, np.uint8))

    assert rules(spoiled("modelopt fp8", change)) == {"norm-quantized": "model.norm"}


def test_layers_left_alone_in_silence_are_told_once(spoiled):
    def change(fake):
        for name in ("qweight", "qzeros", "scales", "g_idx"):
            del fake.tensors[f"{LAYER}.{name}"]
        fake.tensors[f"{LAYER}.weight"] = ("BF16", bfloat16(np.ones((128, 256))))

    found = spoiled("gptq", change)
    assert rules(found) == {"layers-kept-silently": LAYER}
    assert found.sound


# --- the parts of one layer

PARTS = [
    ("modelopt fp8", "weight_scale", "part-missing"),
    ("modelopt fp8", "input_scale", "input-scale-missing"),
    ("modelopt nvfp4", "weight_scale_2", "part-missing"),
    ("modelopt nvfp4", "input_scale", "input-scale-missing"),
    ("compressed fp8", "input_scale", "input-scale-missing"),
    ("compressed nvfp4", "input_global_scale", "input-scale-missing"),
    ("compressed w4a16", "weight_shape", "part-missing"),
    ("compressed w4a16 zeros", "weight_zero_point", "part-missing"),
    ("gptq", "qzeros", "part-missing"),
    ("awq", "scales", "part-missing"),
    ("bitsandbytes int8", "SCB", "part-missing"),
    ("bitsandbytes nf4 double", "weight.nested_absmax", "part-missing"),
    ("hqq", "zero", "part-missing"),
    ("fp8 block", "weight_scale_inv", "part-missing"),
    ("fp8 static", "input_scale", "input-scale-missing"),
    ("fp8 static inv", "weight_scale_inv", "part-missing"),
    ("fp8 static inv", "activation_scale", "input-scale-missing"),
]


@pytest.mark.parametrize(("name", "part", "rule"), PARTS)
def test_a_part_that_is_missing_is_named(spoiled, name, part, rule):
    found = spoiled(name, lambda fake: fake.tensors.pop(f"{LAYER}.{part}"))
    assert rules(found) == {rule: f"{LAYER}.{part}"}
    assert not found.sound


def test_a_stack_of_experts_without_its_scales_is_named(spoiled):
    scales = "model.layers.0.mlp.experts.down_proj_scales"
    assert rules(spoiled("mxfp4", lambda fake: fake.tensors.pop(scales))) == {
        "part-missing": scales
    }


# --- experts stacked in one tensor

STACK = "model.layers.1.feed_forward.experts.down_proj"
STACKED = ["modelopt fp8 experts", "modelopt nvfp4 experts", "modelopt mixed experts"]
STACKED += ["fp8 block experts"]


@pytest.mark.parametrize("name", ["unquantized experts", *STACKED])
def test_stacked_experts_that_were_never_written_are_found(spoiled, name):
    assert rules(spoiled(name, _reset("experts.down_proj", 0))) == {
        "weights-zero": STACK.replace("1", "0")
    }


@pytest.mark.parametrize("name", STACKED)
def test_nan_among_the_scales_of_stacked_experts_is_found(spoiled, name):
    suffix = "_scale_inv" if name.startswith("fp8") else "_weight_scale"

    def change(fake):
        dtype, data = fake.tensors[f"{STACK}{suffix}"]
        data[...] = 0x7F if dtype == "F8_E4M3" else np.nan

    assert rules(spoiled(name, change)) == {"scale-nan": f"{STACK}{suffix}"}


@pytest.mark.parametrize(
    ("name", "suffix", "rule"),
    [
        ("modelopt fp8 experts", "_weight_scale", "part-missing"),
        ("modelopt fp8 experts", "_input_scale", "input-scale-missing"),
        ("modelopt nvfp4 experts", "_weight_scale_2", "part-missing"),
        ("modelopt mixed experts", "_weight_scale_2", "part-missing"),
        ("fp8 block experts", "_scale_inv", "part-missing"),
        ("modelopt nvfp4 experts", "", "part-orphan"),
    ],
)
def test_stacked_experts_that_lost_a_tensor_are_named(spoiled, name, suffix, rule):
    found = spoiled(name, lambda fake: fake.tensors.pop(f"{STACK}{suffix}"))
    where = f"{STACK}{suffix or '_input_scale'}"
    assert rules(found) == {rule: where}


def test_stacked_codes_whose_declaration_was_lost_are_found(spoiled):
    def change(fake):
        del fake.config["quantization_config"]
        del fake.files["hf_quant_config.json"]
        fake.tensors = {
            name: data for name, data in fake.tensors.items() if ".self_attn." not in name
        }

    found = spoiled("modelopt nvfp4 experts", change)
    assert rules(found) == {"declaration-missing": "config.json"}
    assert "(4 such layers)" in found.findings[0].what


def test_block_scales_of_stacked_experts_that_were_not_turned_are_found(spoiled):
    name = f"{STACK}_weight_scale"

    def change(fake):
        dtype, data = fake.tensors[name]
        fake.tensors[name] = (dtype, np.ascontiguousarray(data.swapaxes(1, 2)))

    found = spoiled("modelopt nvfp4 experts", change)
    assert rules(found) == {"part-shape": name}
    assert found.findings[0].what == "has shape [4, 128, 16], not [4, 16, 128]"


def test_a_scale_for_each_stacked_expert_is_as_good_as_one_for_all(spoiled):
    def change(fake):
        for name in (f"{STACK}_weight_scale_2", f"{STACK}_input_scale"):
            fake.tensors[name] = ("F32", np.full(4, 0.02, np.float32))

    assert rules(spoiled("modelopt nvfp4 experts", change)) == {}


def _widen(fake) -> None:
    """Leave the experts as they were."""
    for full in list(fake.tensors):
        if ".experts." in full:
            del fake.tensors[full]
        if full.endswith("experts.down_proj"):
            fake.tensors[full] = ("BF16", bfloat16(np.ones((4, 256, 128))))


def test_stacked_experts_that_were_left_alone_must_be_excluded(spoiled, tmp_path):
    found = spoiled("modelopt fp8 experts", _widen)
    assert rules(found) == {"layer-unquantized": STACK.replace("1", "0")}
    fake = sound("modelopt fp8 experts")
    _widen(fake)
    experts = [f"model.layers.{number}.feed_forward.experts" for number in (0, 1)]
    _exclude(fake, [*_beside(fake)["exclude_modules"], *experts])
    assert rules(inspect(fake.write(tmp_path / "m"))) == {}


def test_stacked_experts_that_a_class_of_modules_does_not_reach_are_told(spoiled):
    """compressed-tensors' target Linear: experts in one tensor are no module of that class."""

    def change(fake):
        fake.tensors[STACK] = ("BF16", bfloat16(np.ones((4, 256, 128))))

    found = spoiled("compressed fp8 dynamic", change)
    assert rules(found) == {"layers-kept-silently": STACK}
    assert found.sound


@pytest.mark.parametrize("name", ["fp8 static", "fp8 static inv"])
def test_scales_under_names_of_two_tools_in_one_checkpoint_are_found(spoiled, name):
    here, there = ("input_scale", "activation_scale")[:: 1 if name == "fp8 static" else -1]

    def change(fake):
        fake.tensors[f"{LAYER}.{there}"] = fake.tensors.pop(f"{LAYER}.{here}")

    assert rules(spoiled(name, change)) == {
        "input-scale-missing": f"{LAYER}.{here}",
        "part-stray": f"{LAYER}.{there}",
    }


def test_scales_without_a_weight_are_found(spoiled):
    found = spoiled("modelopt fp8", lambda fake: fake.tensors.pop(f"{LAYER}.weight"))
    assert rules(found) == {"part-orphan": f"{LAYER}.input_scale"}


# What each method's codes look like when they were packed along the other side, or not at all.
PACKED = [
    ("modelopt nvfp4", "weight", "U8", (64, 256)),
    ("modelopt int4 awq", "weight", "U8", (128, 128)),
    ("compressed w4a16", "weight_packed", "I32", (16, 256)),
    ("compressed nvfp4", "weight_packed", "U8", (64, 256)),
    ("gptq", "qweight", "I32", (256, 16)),
    ("awq", "qweight", "I32", (32, 128)),
    ("bitsandbytes nf4", "weight", "U8", (128, 128)),
    ("hqq", "W_q", "U8", (128, 128)),
]


@pytest.mark.parametrize(("name", "part", "dtype", "shape"), PACKED)
def test_codes_packed_along_the_wrong_side_are_found(spoiled, name, part, dtype, shape):
    def change(fake):
        kind = np.int32 if dtype == "I32" else np.uint8
        fake.tensors[f"{LAYER}.{part}"] = (dtype, np.full(shape, 3, kind))

    found = spoiled(name, change)
    assert set(rules(found)) <= {"part-shape", "size-differs"}
    assert rules(found)["part-shape"].startswith(f"{LAYER}.")
    assert not found.sound


def test_absmax_in_the_layout_of_a_cpu_kernel_is_found(spoiled):
    """bitsandbytes saves it so after one forward on some CPUs, and reads it back as garbage."""

    def change(fake):
        fake.tensors[f"{LAYER}.weight.absmax"] = ("BF16", np.full((4, 128), 0x3F00, np.uint16))

    assert rules(spoiled("bitsandbytes nf4", change)) == {"part-dtype": f"{LAYER}.weight.absmax"}


def test_a_scale_that_the_format_has_not_is_found(spoiled):
    def change(fake):
        fake.tensors[f"{LAYER}.pre_quant_scale"] = ("F32", np.full(256, 0.5, np.float32))

    found = spoiled("modelopt fp8", change)
    assert rules(found) == {"part-stray": f"{LAYER}.pre_quant_scale"}
    assert found.findings[0].what == "has no place in this format (FP8)"


def test_a_layer_stored_wider_than_declared_shows_in_the_size(spoiled):
    def widen(fake):
        for name, (_, data) in list(fake.tensors.items()):
            if name.endswith("proj.weight_scale"):
                fake.tensors[name] = ("F32", np.full((*data.shape, 64), 0.5, np.float32))

    found = spoiled("modelopt nvfp4", widen)
    assert "size-differs" in rules(found)
    assert found.size.bits > found.size.exact_bits


# --- projections that runtimes fuse


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("modelopt fp8", "weight_scale"),
        ("modelopt nvfp4", "weight_scale_2"),
        ("fp8 static inv", "weight_scale_inv"),
    ],
)
def test_fused_projections_with_scales_of_their_own_are_told_once_for_all_layers(
    spoiled, name, part
):
    found = spoiled(name, _reset(f"v_proj.{part}", 0.5))
    assert rules(found) == {"scales-apart": "model.layers.0.self_attn.{q_proj,k_proj,v_proj}"}
    assert found.findings[0].what == f"have each their own {part} (2 such groups)"
    assert found.sound


def test_tiles_of_fused_projections_have_scales_of_their_own(spoiled):
    assert rules(spoiled("fp8 block", _reset("v_proj.weight_scale_inv", 0.5))) == {}


def test_projections_that_nobody_fuses_may_have_scales_of_their_own(spoiled):
    assert rules(spoiled("modelopt fp8", _reset("o_proj.weight_scale", 0.5))) == {}


# --- values


@pytest.mark.parametrize("byte", [0x7F, 0xFF])
def test_one_nan_byte_among_block_scales_is_found(spoiled, byte):
    def change(fake):
        fake.tensors[f"{LAYER}.weight_scale"][1][3, 3] = byte

    found = spoiled("modelopt nvfp4", change)
    assert rules(found) == {"scale-nan": f"{LAYER}.weight_scale"}
    assert not found.sound


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("modelopt fp8", "_proj.weight_scale"),
        ("modelopt fp8", "_proj.input_scale"),
        ("compressed fp8", "_proj.input_scale"),
        ("fp8 static inv", "_proj.activation_scale"),
    ],
)
def test_scales_that_are_all_one_are_found(spoiled, name, suffix):
    def change(fake):
        for full, (dtype, data) in fake.tensors.items():
            if full.endswith(suffix):
                data[...] = 1 if dtype == "F32" else 0x3F80

    found = spoiled(name, change)
    assert rules(found) == {"scale-ones": f"every {suffix.partition('.')[2]}"}
    assert "nothing was calibrated" in found.findings[0].what


def test_weights_that_were_never_written_are_found(spoiled):
    """Offloaded layers whose meta tensors a tool saved as zeros."""
    found = spoiled("modelopt fp8", _reset("down_proj.weight", 0))
    assert [f.where for f in found.findings] == [
        f"model.layers.{number}.mlp.down_proj.weight" for number in (0, 1)
    ]
    assert {f.rule for f in found.findings} == {"weights-zero"}
    assert not found.sound


@pytest.mark.parametrize("name", ["compressed mxfp4", "mxfp4"])
def test_powers_of_two_that_were_never_written_are_found(spoiled, name):
    """A file that was laid out and never filled: every byte is zero, which is a number in E8M0."""
    found = spoiled(
        name, _reset("down_proj_scales" if name == "mxfp4" else "down_proj.weight_scale", 0)
    )
    assert set(rules(found)) == {"scale-not-positive"}
    assert "never written" in found.findings[0].what
    assert not found.sound


def test_an_embedding_and_a_norm_of_zeros_are_found(spoiled):
    found = spoiled("unquantized", _reset("embed_tokens.weight", 0))
    assert rules(found) == {"weights-zero": "model.embed_tokens.weight"}


def test_a_norm_of_zeros_warns(spoiled):
    found = spoiled("unquantized", _reset("model.norm.weight", 0))
    assert rules(found) == {"norm-zero": "model.norm.weight"}
    assert found.sound


def test_a_bias_of_zeros_is_nothing_special(spoiled):
    def change(fake):
        fake.tensors[f"{LAYER}.bias"] = ("BF16", np.zeros(128, np.uint16))

    assert rules(spoiled("unquantized", change)) == {}


# --- the KV cache


@pytest.mark.parametrize("name", ["modelopt fp8", "compressed fp8"])
def test_kv_scales_that_are_all_one_are_found(spoiled, name):
    found = spoiled(name, _reset("k_scale", 1))
    assert rules(found) == {"scale-ones": "every k_scale"}
    assert "fp8_cast" in found.findings[0].hint
    assert not found.sound


def _made_by(fake, version, name="modelopt") -> None:
    fake.files["hf_quant_config.json"]["producer"] = {"name": name, "version": version}


def _reset_kv(fake, *, keys, values) -> None:
    _reset("k_scale", keys)(fake)
    _reset("v_scale", values)(fake)


@pytest.mark.parametrize("version", ["0.42.0", "0.29.0", "0.9.1"])
def test_kv_scales_that_an_old_modelopt_clamped_only_warn(spoiled, version):
    def change(fake):
        _reset_kv(fake, keys=1, values=1)
        _made_by(fake, version)

    found = spoiled("modelopt fp8", change)
    assert [f.where for f in found.findings] == ["every k_scale", "every v_scale"]
    assert {f.rule for f in found.findings} == {"scale-ones"}
    assert f"clamped at 1 by ModelOpt {version}: what was" in found.findings[0].what
    assert "0.43" in found.findings[0].hint
    assert found.sound


def test_kv_scales_that_an_old_modelopt_clamped_beside_larger_ones_only_warn(spoiled):
    def change(fake):
        _reset_kv(fake, keys=1.5, values=1)
        _made_by(fake, "0.42.0")

    found = spoiled("modelopt fp8", change)
    assert rules(found) == {"scale-ones": "every v_scale"}
    assert found.sound


def test_an_old_modelopt_is_known_by_config_json_alone_too(spoiled):
    def change(fake):
        _reset_kv(fake, keys=1, values=1)
        fake.declare(producer={"name": "modelopt", "version": "0.42.0"})

    assert spoiled("modelopt flat", change).sound


@pytest.mark.parametrize(
    ("version", "name", "keys"),
    [
        ("0.43.0", "modelopt", 1),
        ("0.47.0", "modelopt", 1),
        ("1.0", "modelopt", 1),
        ("", "modelopt", 1),
        (None, "modelopt", 1),
        ("0.42.0", "another", 1),
        ("0.42.0", "modelopt", 0.012),  # which was not clamped: somebody wrote the ones
    ],
)
def test_kv_scales_of_one_that_nobody_clamped_stop_the_line(spoiled, version, name, keys):
    def change(fake):
        _reset_kv(fake, keys=keys, values=1)
        _made_by(fake, version, name)

    found = spoiled("modelopt fp8", change)
    assert set(rules(found)) == {"scale-ones"}
    assert "nothing was calibrated" in found.findings[0].what
    assert not found.sound


def test_scales_of_weights_that_are_all_one_stop_the_line_whoever_wrote_them(spoiled):
    def change(fake):
        _reset("_proj.weight_scale", 1)(fake)
        _made_by(fake, "0.42.0")

    assert not spoiled("modelopt fp8", change).sound


def test_a_kv_scale_that_is_missing_is_named(spoiled):
    name = "model.layers.0.self_attn.v_proj.v_scale"
    found = spoiled("modelopt fp8", lambda fake: fake.tensors.pop(name))
    assert rules(found) == {"kv-scale-missing": name}


def _drop_kv(fake) -> None:
    fake.tensors = {k: v for k, v in fake.tensors.items() if k[-7:] not in {"k_scale", "v_scale"}}


def test_a_kv_cache_without_scales_is_noted_as_a_cast(spoiled):
    found = spoiled("modelopt fp8", _drop_kv)
    assert rules(found) == {"kv-cast": "KV cache"}
    assert found.sound


def test_promised_kv_scales_that_are_all_missing_stop_the_line(spoiled):
    found = spoiled("compressed fp8", _drop_kv)
    assert len(found.findings) == 4
    assert set(rules(found)) == {"kv-scale-missing"}


def test_kv_scales_that_nobody_declared_warn(spoiled):
    def change(fake):
        _beside(fake)["kv_cache_quant_algo"] = None
        fake.declare(kv_cache_scheme=None)

    found = spoiled("modelopt fp8", change)
    assert set(rules(found)) == {"kv-scale-undeclared"}
    assert found.sound


def test_a_kv_scale_of_many_numbers_is_found(spoiled):
    name = "model.layers.0.self_attn.k_proj.k_scale"

    def change(fake):
        fake.tensors[name] = ("F32", np.full(4, 0.01, np.float32))

    assert rules(spoiled("modelopt fp8", change)) == {"part-shape": name}


def test_an_attention_bias_under_an_fp8_cache_warns(spoiled):
    name = "model.layers.0.self_attn.k_proj.bias"

    def change(fake):
        fake.tensors[name] = ("BF16", bfloat16(np.ones(64)))

    found = spoiled("modelopt fp8", change)
    assert rules(found) == {"kv-attention-bias": name}
    assert found.sound


# --- the model as a whole


def _tie(fake, *, broken: bool) -> None:
    fake.config["tie_word_embeddings"] = True
    dtype, data = fake.tensors["model.embed_tokens.weight"]
    fake.tensors[HEAD] = (dtype, data + broken)


def test_a_tie_that_is_broken_is_found(spoiled):
    assert rules(spoiled("unquantized", lambda fake: _tie(fake, broken=True))) == {
        "tied-broken": HEAD
    }


def test_a_tie_that_was_written_twice_is_sound(spoiled):
    assert rules(spoiled("unquantized", lambda fake: _tie(fake, broken=False))) == {}


@pytest.mark.parametrize(("tied", "sound_without"), [(True, True), (False, False), (None, True)])
def test_a_missing_output_layer_is_found_where_nothing_is_tied(spoiled, tied, sound_without):
    def change(fake):
        del fake.tensors[HEAD]
        fake.config["tie_word_embeddings"] = tied

    assert spoiled("unquantized", change).sound is sound_without


@pytest.mark.parametrize("name", ["output", "lm_head", "transformer.output_layer", "embed_out"])
def test_an_output_layer_is_known_by_each_of_its_names(spoiled, name):
    def change(fake):
        fake.tensors[f"{name}.weight"] = fake.tensors.pop(HEAD)
        fake.config["tie_word_embeddings"] = False

    assert rules(spoiled("unquantized", change)) == {}


def test_a_projection_that_is_called_output_inside_a_layer_is_no_output_layer():
    assert named_role("output") is Role.OUTPUT
    assert named_role("encoder.layer.0.attention.output") is Role.LINEAR


def test_a_decoder_layer_that_is_missing_is_named(spoiled):
    def change(fake):
        fake.tensors = {k: v for k, v in fake.tensors.items() if ".layers.0." not in k}

    assert rules(spoiled("unquantized", change)) == {"layer-missing": "model.layers.0"}


def test_tensors_that_nobody_uses_warn(spoiled):
    def change(fake):
        for name in (
            "model.layers.7.mlp.up_proj.weight",
            "model.layers.0.mlp.up_proj.weight_quantizer._amax",
            "model.layers.0.self_attn.rotary_emb.inv_freq",
        ):
            fake.tensors[name] = ("BF16", bfloat16(np.ones((4, 4))))

    found = spoiled("unquantized", change)
    assert {f.rule for f in found.findings} == {"tensor-unused"}
    assert len(found.findings) == 3
    assert found.sound


def test_a_layer_for_predicting_further_tokens_is_used(spoiled):
    def change(fake):
        fake.config["num_nextn_predict_layers"] = 1
        fake.tensors["model.layers.2.eh_proj.weight"] = ("BF16", bfloat16(np.ones((4, 4))))

    assert rules(spoiled("unquantized", change)) == {}


def test_what_stops_the_line_comes_first(tmp_path):
    fake = sound("modelopt fp8")
    _drop_kv(fake)
    fake.tensors[f"{LAYER}.weight_scale"][1][...] = np.nan
    found = inspect(fake.write(tmp_path / "m"))
    assert [f.rule for f in found.findings] == ["scale-nan", "kv-cast"]
    assert json.loads(json.dumps(found.as_json()))["findings"][0]["severity"] == "stop"
