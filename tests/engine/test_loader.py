"""Loading is strict: each tensor is used, each parameter filled, or the one at fault is named."""

import ast
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import builders
from builders.engine import EngineSettings
from builders.engine.embedded.linear import Linear
from builders.engine.embedded.loader import load
from builders.engine.embedded.score import forward
from builders.errors import ToolError, UsageError
from builders.formats import Format
from fakes.checkpoints import DEMO, read_safetensors, tiny_llama, write_safetensors

CPU = torch.device("cpu")
TOKENS = torch.arange(5, 45).view(2, 20)
PLAIN = EngineSettings(context=64, dtype=Format.FP32)
FP8 = EngineSettings(context=64, kv_cache=Format.FP8)


def logits(loaded):
    with torch.inference_mode():
        return forward(loaded, TOKENS)


def copied(checkpoint, path, change=None, **config):
    shutil.copytree(checkpoint, path)
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    if change:
        tensors = read_safetensors(path / "model.safetensors")
        change(tensors)
        write_safetensors(path / "model.safetensors", tensors)
    return path


@pytest.mark.parametrize("tied", [False, True])
def test_a_plain_checkpoint_computes_what_transformers_computes(tmp_path, tied):
    path = tiny_llama(tmp_path / "llama", tied=tied)
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.inference_mode():
        expected = theirs(TOKENS).logits
    assert torch.allclose(logits(load(path, PLAIN, CPU)), expected, atol=1e-4)


def test_the_checkpoints_own_format_is_kept_unless_another_is_asked_for(checkpoint):
    assert load(checkpoint, EngineSettings(context=64), CPU).dtype == torch.bfloat16
    assert load(checkpoint, PLAIN, CPU).dtype == torch.float32


@pytest.mark.parametrize("dtype", [Format.BF16, Format.FP16])
def test_sixteen_bits_come_close_to_thirty_two(checkpoint, dtype):
    wide = logits(load(checkpoint, PLAIN, CPU))
    narrow = logits(load(checkpoint, EngineSettings(context=64, dtype=dtype), CPU))
    assert torch.nn.functional.cosine_similarity(wide, narrow, dim=-1).min() > 0.999


def test_every_linear_layer_is_our_own(fp8, tmp_path):
    loaded = load(fp8.write(tmp_path / "source"), FP8, CPU)
    assert not [m for m in loaded.module.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(isinstance(m, Linear) for m in loaded.module.modules()) == 2 * 7 + 1


def test_siblings_share_a_rounder_and_strangers_do_not(fp8, tmp_path):
    layers = load(fp8.write(tmp_path / "source"), FP8, CPU).module.model.layers
    attention = layers[0].self_attn
    assert attention.q_proj.rounder is attention.k_proj.rounder is attention.v_proj.rounder
    assert attention.q_proj.rounder is not layers[1].self_attn.q_proj.rounder


def test_transformers_answers_garbage_from_an_export_and_we_do_not(checkpoint, fp8, tmp_path):
    """Its reader drops the scales without failing: here weights come 256-fold."""
    path = fp8.write(tmp_path / "source")
    plain = logits(load(checkpoint, PLAIN, CPU))
    theirs = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.inference_mode():
        garbage = theirs(TOKENS).logits
    assert torch.isfinite(garbage).all()
    similar = torch.nn.functional.cosine_similarity
    assert similar(garbage, plain, dim=-1).mean() < 0.5
    assert similar(logits(load(path, FP8, CPU)), plain, dim=-1).mean() > 0.98


def calls_of_from_pretrained():
    for file in Path(builders.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "from_pretrained":
                yield file, ast.unparse(node.value).rpartition(".")[2]


def test_nothing_but_the_quantizers_reads_weights_through_transformers():
    harmless = {"AutoConfig", "AutoTokenizer"}
    readers = {
        (file.parent.name, owner)
        for file, owner in calls_of_from_pretrained()
        if owner not in harmless
    }
    assert {room for room, _ in readers} <= {"quantize"}


def spoiled(name, value):
    return lambda tensors: tensors.update({name: value(tensors)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("model.norm.weight"), "needs model.norm.weight, which no file has"),
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "needs model.layers.1.mlp.up_proj"),
        (lambda t: t.pop("lm_head.weight"), "needs lm_head.weight"),
        (spoiled("model.extra", lambda t: t["model.norm.weight"]), "reads model.extra"),
        (spoiled("model.layers.0.self_attn.q_proj.bias", lambda t: t["model.norm.weight"]),
         "reads model.layers.0.self_attn.q_proj.bias"),
        (spoiled("model.norm.weight", lambda t: ("BF16", t["model.norm.weight"][1][:64])),
         r"norm.weight is \[64\], but config.json makes it \[128\]"),
        (spoiled("lm_head.weight", lambda t: ("BF16", t["lm_head.weight"][1][:9])),
         r"lm_head.weight is \[9, 128\]"),
    ],
)  # fmt: skip
def test_missing_extra_and_misshapen_tensors_are_named(checkpoint, tmp_path, change, said):
    with pytest.raises(ToolError, match=said):
        load(copied(checkpoint, tmp_path / "spoiled", change), PLAIN, CPU)


def test_a_plain_weight_that_is_declared_quantized_is_refused(fp8, tmp_path):
    fp8.declared["exclude_modules"] = ["model.embed_tokens"]
    with pytest.raises(ToolError, match="lm_head is stored in BF16, but declared FP8"):
        load(fp8.write(tmp_path / "source"), FP8, CPU)


def test_every_layer_needs_its_kv_scales_when_one_has_them(fp8, tmp_path):
    del fp8.tensors["model.layers.1.self_attn.v_proj.v_scale"]
    with pytest.raises(ToolError, match=r"needs model.layers.1.self_attn.v_proj.v_scale"):
        load(fp8.write(tmp_path / "source"), FP8, CPU)


def test_kv_scales_that_nobody_reads_are_refused(fp8, tmp_path):
    with pytest.raises(ToolError, match=r"reads model.layers.0.self_attn.k_proj.k_scale"):
        load(fp8.write(tmp_path / "source"), EngineSettings(context=64), CPU)


def test_a_kv_cache_without_scales_has_scale_one(checkpoint):
    scales = load(checkpoint, FP8, CPU).kv_scales
    assert set(scales) == {0, 1}
    assert {scale.scale for pair in scales.values() for scale in pair} == {1.0}


def test_tied_weights_may_be_stored_twice_if_they_are_equal(tmp_path):
    path = tiny_llama(tmp_path / "tied", tied=True)

    def twice(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]

    same = copied(path, tmp_path / "same", twice)
    assert torch.equal(logits(load(same, PLAIN, CPU)), logits(load(path, PLAIN, CPU)))


def test_tied_weights_that_differ_are_refused(checkpoint, tmp_path):
    path = copied(checkpoint, tmp_path / "tied", tie_word_embeddings=True)
    with pytest.raises(ToolError, match=r"ties lm_head.weight to model.embed_tokens.weight"):
        load(path, PLAIN, CPU)


@pytest.mark.parametrize("config", [{"model_type": "warp"}, {"model_type": "t5"}])
def test_an_architecture_that_transformers_cannot_make_is_refused(checkpoint, tmp_path, config):
    with pytest.raises(ToolError, match="transformers cannot"):
        load(copied(checkpoint, tmp_path / "other", **config), PLAIN, CPU)


def test_truncated_weights_are_refused(checkpoint, tmp_path):
    path = copied(checkpoint, tmp_path / "cut")
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UsageError, match="truncated or damaged"):
        load(path, PLAIN, CPU)


def test_the_demo_model_loads_in_its_own_format():
    assert load(DEMO, EngineSettings(context=512), CPU).dtype == torch.bfloat16


def test_layers_without_attention_are_refused(checkpoint, tmp_path):
    mixed = {"model_type": "qwen3", "layer_types": ["linear_attention", "full_attention"]}
    with pytest.raises(ToolError, match="has layers of linear_attention"):
        load(copied(checkpoint, tmp_path / "mixed", **mixed), PLAIN, CPU)


def test_buffers_that_initialization_leaves_alone_are_refused(checkpoint, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "_init_weights", lambda self, module: None)
    with pytest.raises(ToolError, match="nothing computes inv_freq of LlamaRotaryEmbedding"):
        load(checkpoint, PLAIN, CPU)


def test_a_model_that_cannot_run_is_refused_on_loading(checkpoint, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    def broken(self, values):
        raise AttributeError("no such thing")

    monkeypatch.setattr(LlamaMLP, "forward", broken)
    with pytest.raises(ToolError, match="cannot run LlamaForCausalLM"):
        load(checkpoint, PLAIN, CPU)
