"""Checkpoints as llm-compressor and model makers publish them compute what ModelOpt's do.

Our own exports are rewritten under the names and in the shapes that compressed-tensors 0.20 has for
the same numbers; the logits must not change.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from builders.checkpoint import Checkpoint
from builders.engine.embedded.cache import Passing
from builders.engine.embedded.model import Embedded
from builders.errors import ToolError
from builders.formats import Format
from builders.numerics import blocks, published
from builders.progress import silent
from builders.quantize import quantize
from builders.recipe import Calibration, shipped
from fakes.checkpoints import read_safetensors, write_safetensors

IDS = torch.arange(5, 37)[None] * 7
RANDOM = torch.Generator().manual_seed(2)
FLOAT8 = {"num_bits": 8, "type": "float"}
FLOAT4 = {"num_bits": 4, "type": "float"}
STATIC = FLOAT8 | {"strategy": "tensor", "dynamic": False}
TOKEN = FLOAT8 | {"strategy": "token", "dynamic": True}
MX8, MX4 = (kind | {"group_size": 32} for kind in (FLOAT8, FLOAT4))
LOCAL = FLOAT4 | {"group_size": 16, "dynamic": "local"}


def as_column(entry):
    dtype, data = entry
    return dtype, data.reshape(-1, 1) if data.ndim else data.reshape(1)


def reciprocal(entry):
    dtype, data = entry
    return dtype, (1 / data).astype(np.float32).reshape(1)


def same(entry):
    return entry


COLUMN = {"weight_scale": ("weight_scale", as_column), "input_scale": ("input_scale", as_column)}
FOUR = {"weight": ("weight_packed", same)}
NVFP4 = FOUR | {
    "weight_scale_2": ("weight_global_scale", reciprocal),
    "input_scale": ("input_global_scale", reciprocal),
}
# Our recipe: the layout, its weights and activations, and what becomes of a part.
CASES = {
    "fp8": ("float-quantized", STATIC, STATIC, COLUMN),
    "fp8_per_token": ("float-quantized", FLOAT8 | {"strategy": "channel"}, TOKEN, COLUMN),
    "mxfp8": ("mxfp8-quantized", MX8, MX8, {}),
    "mxfp4": ("mxfp4-pack-quantized", MX4, MX4, FOUR),
    "nvfp4": ("nvfp4-pack-quantized", FLOAT4 | {"group_size": 16}, LOCAL, NVFP4),
    "w4a16_nvfp4": ("nvfp4-pack-quantized", FLOAT4 | {"group_size": 16}, None, NVFP4),
}  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    file.write_text('{"text": "Return the item of the list."}\n')
    return Calibration(files=(file,))


def exported(source, name, texts, out, *, kv_cache=Format.BF16):
    out.mkdir()
    recipe = replace(shipped()[name], kv_cache=kv_cache)
    quantize(Checkpoint.open(source), recipe, texts, out, silent)
    return out


def declare(path, said):
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors", "ignore": ["lm_head"]}
    config["quantization_config"] |= said
    (path / "config.json").write_text(json.dumps(config))


def republished(path: Path, case, **more) -> Path:
    layout, weights, inputs, parts = case
    tensors = {}
    for name, entry in read_safetensors(path / "model.safetensors").items():
        module, _, part = name.rpartition(".")
        renamed, change = parts.get(part, (part, same))
        if part in {"k_scale", "v_scale"}:
            tensors[f"{module.rpartition('.')[0]}.{part}"] = as_column(entry)
        elif "_proj" in module:
            tensors[f"{module}.{renamed}"] = change(entry)
        else:
            tensors[name] = entry
    write_safetensors(path / "model.safetensors", tensors)
    (path / "hf_quant_config.json").unlink()
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    declare(path, {"format": layout, "config_groups": {"group_0": group}} | more)
    return path


def logits(engine):
    with Embedded.load(engine, device="cpu") as model:
        return model._loaded.logits(
            IDS, torch.arange(IDS.shape[1])[None], Passing(model._loaded.kv_scales)
        )


@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers_under_other_names_compute_the_same(
    checkpoint, make_engine, texts, tmp_path, name
):
    ours = exported(checkpoint, name, texts, tmp_path / "ours")
    before = logits(make_engine(ours, dtype=Format.FP32))
    after = logits(make_engine(republished(ours, CASES[name]), dtype=Format.FP32))
    assert not torch.equal(before, torch.zeros_like(before))
    if "nvfp4" in name:  # its global scales went through a reciprocal and back
        assert torch.allclose(before, after, atol=2e-2)
        assert torch.cosine_similarity(before.flatten(), after.flatten(), dim=0) > 0.9999
    else:
        assert torch.equal(before, after)


def test_a_kv_cache_under_its_other_name_computes_the_same(
    checkpoint, make_engine, texts, tmp_path
):
    ours = exported(checkpoint, "fp8", texts, tmp_path / "ours", kv_cache=Format.FP8)
    cached = {"dtype": Format.FP32, "kv_cache": Format.FP8}
    before = logits(make_engine(ours, **cached))
    plain = {"kv_cache_scheme": STATIC}
    after = logits(make_engine(republished(ours, CASES["fp8"], **plain), **cached))
    assert torch.equal(before, after)
    scales = [n for n in Checkpoint.open(ours).tensors if n.endswith("self_attn.k_scale")]
    assert scales
    uncached = exported(checkpoint, "fp8", texts, tmp_path / "uncached")
    assert not torch.equal(before, logits(make_engine(uncached, dtype=Format.FP32)))


FP8_LINEAR = {"weight_scale": "weight_scale_inv", "input_scale": "activation_scale"}


@pytest.mark.parametrize("names", [{}, FP8_LINEAR], ids=["vllm", "transformers"])
def test_a_scale_a_tensor_under_either_name_computes_the_same(
    checkpoint, make_engine, texts, tmp_path, names
):
    path = exported(checkpoint, "fp8", texts, tmp_path / "ours")
    tensors = read_safetensors(path / "model.safetensors")
    for name, (dtype, data) in tensors.items():
        if name.endswith("q_proj.input_scale"):  # whose siblings then round otherwise
            tensors[name] = (dtype, data * np.float32(3))
    write_safetensors(path / "model.safetensors", tensors)
    before = logits(make_engine(path, dtype=Format.FP32))
    for name in [name for name in tensors if name.rpartition(".")[2] in names]:
        module, _, part = name.rpartition(".")
        tensors[f"{module}.{names[part]}"] = tensors.pop(name)
    write_safetensors(path / "model.safetensors", tensors)
    (path / "hf_quant_config.json").unlink()
    declare(path, {"quant_method": "fp8", "activation_scheme": "static"})
    after = logits(make_engine(path, dtype=Format.FP32))
    assert torch.equal(before, after)
    assert before.abs().max() > 0


@pytest.mark.parametrize("name", ["input_scale", "activation_scale"])
def test_tiles_may_have_one_scale_for_all_that_comes_in(name):
    rounding = published.READERS["FP8_BLOCK_SCALES"].rounding({name: torch.tensor(0.5)}, 128)
    assert rounding(torch.tensor([[0.26, 1.0]]))[0].tolist() == [[0.25, 1.0]]


def test_int8_activations_are_rounded_by_each_tokens_largest_value():
    make = published.READERS["W8A8"].rounding
    values = torch.tensor([[127.0, -3.4, 0.6], [0.0, 0.0, 0.0]])
    codes, scale = make({}, 0)(values)
    assert codes.tolist() == [[127.0, -3.0, 1.0], [0.0, 0.0, 0.0]]
    assert scale.flatten().tolist() == pytest.approx([1.0, 1 / 127])


def test_tiles_and_the_activations_beside_them_have_scales_of_their_own():
    reader = published.READERS["FP8_BLOCK_SCALES"]
    weight = torch.randn(130, 200, generator=RANDOM).to(torch.float8_e4m3fn)
    scales = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    wide = reader.decode({"weight": weight, "weight_scale_inv": scales}, 128).matrix
    assert torch.equal(wide[:128, 128:], weight[:128, 128:].float() * 2)
    assert torch.equal(wide[128:, :128], weight[128:, :128].float() * 3)
    values = torch.randn(3, 200, generator=RANDOM)
    rounded, scale = reader.rounding({}, 128)(values)
    assert scale is None
    for part in (slice(0, 128), slice(128, 200)):
        own = blocks.token_scale(values[:, part])
        assert torch.equal(rounded[:, part], blocks.round_e4m3(values[:, part] / own) * own)


def test_tiles_of_another_size_are_refused():
    parts = {"weight": torch.zeros(128, 128), "weight_scale_inv": torch.ones(2, 2)}
    with pytest.raises(ToolError, match=r"scales of \[2, 2\], not of \[1, 1\]"):
        published.READERS["FP8_BLOCK_SCALES"].decode(parts, 64)


def test_scales_published_as_powers_of_two_are_read():
    parts = {"weight": torch.ones(128, 128)}
    parts["weight_scale_inv"] = torch.tensor([[130]], dtype=torch.uint8)
    assert published.READERS["FP8_BLOCK_SCALES"].decode(parts, 128).matrix.unique().item() == 8
