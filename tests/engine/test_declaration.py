"""The embedded runtime reads what other quantizers wrote, and names what it does not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hqq.core.quantize import HQQLinear
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from builders.autopsy import compressed, recognize
from builders.checkpoint import Checkpoint
from builders.engine.description import Description
from builders.engine.embedded import layers
from builders.engine.embedded.cache import Passing
from builders.engine.embedded.declaration import Declaration
from builders.engine.embedded.model import Embedded
from builders.errors import ToolError, UsageError
from builders.formats import Format
from builders.progress import silent
from builders.quantize import quantize, worker
from builders.recipe import Calibration, shipped
from fakes import gptqmodel_worker
from fakes.checkpoints import read_safetensors, tiny_qwen3_moe, write_safetensors
from fakes.environments import ready
from fakes.quantized import SOUND, sound

STAND_IN = Path(gptqmodel_worker.__file__)
IDS = torch.arange(5, 37)[None] * 7
RECIPES = ["bnb_int8", "bnb_nf4", "hqq_int4", "hqq_int8", "gptq_int4", "awq_int4"]


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    file.write_text('{"text": "Return the item of the list."}\n')
    return Calibration(files=(file,))


@pytest.fixture
def export(tmp_path, monkeypatch, texts):
    """Quantize by a recipe's name; GPTQModel's place is taken by a stand-in."""
    monkeypatch.setattr(worker, "script", lambda _name: STAND_IN)
    ready(tmp_path, monkeypatch)

    def make(source, name, **changed):
        out = tmp_path / name
        out.mkdir()
        recipe = replace(shipped()[name], **changed)
        quantize(Checkpoint.open(source), recipe, texts, out, silent)
        return out

    return make


def logits(engine):
    with Embedded.load(engine, device="cpu") as model:
        return model._loaded.logits(IDS, torch.arange(IDS.shape[1])[None], Passing({}))


def widened(source, exported, widen):
    """Compute with transformers what a source computes with other weights."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tensors = load_file(exported / "model.safetensors")
    for name, layer in model.named_modules():
        if name.endswith("_proj"):
            at = f"{name}."
            parts = {k.removeprefix(at): v for k, v in tensors.items() if k.startswith(at)}
            layer.weight.data = widen(parts, layer.weight.data).float()
    with torch.inference_mode():
        return model(IDS).logits


def by_hqq(parts, _before):
    layer = HQQLinear(None, None, compute_dtype=torch.float32, device="cpu")
    layer.load_state_dict(dict(parts))
    return layer.dequantize()


def by_rounding(parts, before):
    symmetric = "g_idx" in parts
    codes, zeros, scales = gptqmodel_worker.rounded(before.numpy(), 128, symmetric=symmetric)
    stored = parts["scales"].float().numpy()  # rounded to 16 bits
    assert np.allclose(stored, scales, rtol=2**-8)
    spread = (np.repeat(part, 128, axis=0) for part in (zeros, stored))
    zeros, scales = spread
    return torch.from_numpy(((codes - zeros) * scales).T.copy())


@pytest.mark.parametrize("name", RECIPES)
def test_the_engine_says_whose_it_is_and_computes_nearly_what_the_source_does(
    checkpoint, make_engine, export, tiny, name
):
    engine = make_engine(export(checkpoint, name))
    assert Description.read(engine).quantization in {
        "BNB_INT8", "BNB_NF4", "HQQ_INT4", "HQQ_INT8", "W4A16_GPTQ", "AWQ",
    }  # fmt: skip
    before = tiny._loaded.logits(IDS, torch.arange(IDS.shape[1])[None], Passing({}))
    assert torch.cosine_similarity(logits(engine).flatten(), before.flatten(), dim=0) > 0.9


@pytest.mark.parametrize(
    ("name", "widen"),
    [
        ("hqq_int4", by_hqq),
        ("hqq_int8", by_hqq),
        ("gptq_int4", by_rounding),
        ("awq_int4", by_rounding),
    ],
)
def test_weights_are_read_as_their_maker_means_them(checkpoint, make_engine, export, name, widen):
    exported = export(checkpoint, name)
    ours = logits(make_engine(exported, dtype=Format.FP32))
    theirs = widened(checkpoint, exported, widen)
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("name", ["bnb_int8", "bnb_nf4"])
def test_bitsandbytes_checkpoints_compute_what_transformers_computes(
    checkpoint, make_engine, export, name
):
    exported = export(checkpoint, name)
    with torch.inference_mode():
        theirs = AutoModelForCausalLM.from_pretrained(exported)(IDS).logits.float()
    ours = logits(make_engine(exported))
    assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999


def test_layers_left_alone_are_read_as_they_are(checkpoint, make_engine, export):
    kept = ("*lm_head*", "*embed_tokens*", "*mlp*")
    exported = export(checkpoint, "bnb_nf4", keep=kept)
    assert Declaration.read(Checkpoint.open(exported)).scheme("model.layers.0.mlp.up_proj") is None
    logits(make_engine(exported))


def test_experts_of_gptq_are_read_one_by_one(tmp_path, make_engine, export):
    exported = export(tiny_qwen3_moe(tmp_path / "moe"), "gptq_int4")
    assert "model.layers.0.mlp.experts.3.up_proj.qweight" in Checkpoint.open(exported).tensors
    logits(make_engine(exported))


@pytest.mark.parametrize("name", SOUND)
def test_whom_the_autopsy_names_as_a_reader_reads_it(tmp_path, make_engine, name):
    path = sound(name).write(tmp_path / "m")
    known = recognize(Checkpoint.open(path))
    if "embedded" in known.runtimes:
        assert logits(make_engine(path, kv_cache=known.kv_cache)).isfinite().all()
    else:
        with pytest.raises(ToolError, match="the embedded runtime cannot read"):
            Declaration.read(Checkpoint.open(path))


def test_every_reader_of_other_tools_formats_can_be_reached():
    named = {f"W{bits}A16_GPTQ{second}" for bits in (4, 8) for second in ("", "_V2")}
    named |= {"BNB_INT8", "BNB_NF4", "HQQ_INT4", "HQQ_INT8", "AWQ", "FP8_BLOCK_SCALES"}
    assert named | compressed.EMBEDDED | compressed.EMBEDDED_PACKED == layers.FOREIGN.keys()


def test_zero_points_that_no_reader_minds_are_refused(tmp_path):
    fake = sound("compressed fp8 dynamic")
    group = fake.config["quantization_config"]["config_groups"]["group_0"]
    group["weights"]["symmetric"] = False
    for name in [name for name in fake.tensors if name.endswith("weight_scale")]:
        shape = fake.tensors[name][1].shape
        zeros = ("F8_E4M3", np.zeros(shape, np.uint8))
        fake.tensors[name.replace("weight_scale", "weight_zero_point")] = zeros
    with pytest.raises(ToolError, match="cannot read FP8_DYNAMIC of compressed-tensors"):
        Declaration.read(Checkpoint.open(fake.write(tmp_path / "m")))


def test_a_kv_cache_whose_scales_are_found_while_serving_is_refused(tmp_path):
    fake = sound("compressed fp8 dynamic")
    scheme = {"num_bits": 8, "type": "float", "dynamic": True}
    fake.config["quantization_config"]["kv_cache_scheme"] = scheme
    with pytest.raises(ToolError, match="no KV cache in fp8 as compressed-tensors declares it"):
        Declaration.read(Checkpoint.open(fake.write(tmp_path / "m")))


def spoiled(path, spoil):
    tensors = read_safetensors(path / "model.safetensors")
    spoil(tensors)
    write_safetensors(path / "model.safetensors", tensors)
    return path


def test_a_lost_scale_is_named_before_anything_is_built(checkpoint, make_engine, export):
    name = "model.layers.1.mlp.down_proj.SCB"
    path = spoiled(export(checkpoint, "bnb_int8"), lambda tensors: tensors.pop(name))
    with pytest.raises(ToolError, match=name):
        make_engine(path)


def test_codes_in_a_layer_declared_as_left_alone_are_refused(checkpoint, make_engine, export):
    path = export(checkpoint, "bnb_nf4")
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"]["llm_int8_skip_modules"].append("model.layers.1.mlp.down_proj")
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ToolError, match=r"layers\.1\.mlp\.down_proj"):
        make_engine(path)


def test_a_format_that_only_others_compute_is_refused_with_the_runtime_that_does(
    tmp_path, make_engine
):
    fake = sound("compressed w4a16")
    by_token = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
    group = fake.config["quantization_config"]["config_groups"]["group_0"]
    group["input_activations"] = by_token
    with pytest.raises(ToolError, match="the embedded runtime cannot read W4A8") as caught:
        make_engine(fake.write(tmp_path / "m"))
    assert "vllm" in caught.value.hint


def test_a_quantizer_that_nobody_knows_is_refused(tmp_path, make_engine):
    fake = sound("gptq")
    fake.declare(quant_method="quip")
    with pytest.raises(UsageError, match="quip"):
        make_engine(fake.write(tmp_path / "m"))
