"""Each family computes what transformers computes, whole and token by token, or is refused."""

import pytest
import torch

from builders.engine import EngineSettings
from builders.engine.embedded.cache import Slots
from builders.engine.embedded.loader import load
from builders.engine.embedded.score import forward
from builders.errors import ToolError
from builders.formats import Format
from fakes.families import divergence, opened, save, simulate

CPU = torch.device("cpu")
TOKENS = torch.arange(5, 101).view(2, 48)
PLAIN = EngineSettings(context=64, dtype=Format.FP32)
FP8_KV = EngineSettings(context=64, dtype=Format.FP32, kv_cache=Format.FP8)
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
LATENT = {
    "num_key_value_heads": 4, "head_dim": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 16, "kv_lora_rank": 16, "q_lora_rank": 16, "first_k_dense_replace": 1,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "n_group": 2,
    "topk_group": 1,
}  # fmt: skip
SLIDING = {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 16}
FAMILIES = {
    "llama": {"rope_parameters": LLAMA3},
    "mistral": {"sliding_window": 16},  # shorter than the texts here
    "ministral": {"head_dim": 16, "sliding_window": 16},
    "qwen2": SLIDING,  # biases in attention
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},  # norms of queries and keys
    "phi": {},
    "phi3": {"sliding_window": 16},  # fused projections
    "gemma": {"head_dim": 16},  # a buffer that scales embeddings
    "gemma2": {"head_dim": 16, "sliding_window": 16},  # caps, every other layer slides
    "gemma3_text": {"head_dim": 16, "sliding_window": 16},
    "vaultgemma": {"head_dim": 16, "sliding_window": 16},
    "cohere2": {"sliding_window": 16},
    "olmo3": {"sliding_window": 16},
    "exaone4": {"sliding_window": 16},
    "smollm3": {},  # some layers without positions
    "starcoder2": {"sliding_window": 16},
    "granite": {"embedding_multiplier": 3.0, "logits_scaling": 2.0},
    "nemotron": {},
    "glm4": {"head_dim": 16},
    "gpt2": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},  # learned positions
    "mixtral": {"num_local_experts": 4, "sliding_window": 16},
    "qwen2_moe": MOE | SLIDING,  # says its window in config.json alone
    "qwen3_moe": MOE | {"head_dim": 16},
    "olmoe": MOE,
    "deepseek_v3": LATENT,  # keys and values of different widths
}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_computes_what_transformers_computes(tmp_path, family):
    path = save(tmp_path / family, family, **FAMILIES[family])
    loaded = load(path, PLAIN, CPU)
    with torch.inference_mode():
        expected = opened(path)(TOKENS).logits
        found = forward(loaded, TOKENS)
        steps = decoded(loaded)
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.allclose(steps, expected, atol=1e-4)


def decoded(loaded):
    """Two rows, a token at a time after prompts of 20 and 21 tokens."""
    cache, prompts = Slots({}, slots=2, context=64), (20, 21)
    pieces = [[], []]
    for row, length in enumerate(prompts):
        cache.begin(row)
        places = torch.arange(length)[None]
        pieces[row].append(loaded.logits(TOKENS[row : row + 1, :length], places, cache)[0])
    for step in range(27):
        at = [length + step for length in prompts]
        tokens = TOKENS[[0, 1], at][:, None]
        made = loaded.logits(tokens, cache.advance(at, CPU), cache)
        for row in range(2):
            pieces[row].append(made[row])
    cache.begin(0)
    last = loaded.logits(TOKENS[:1, :47], torch.arange(47)[None], cache)
    alone = loaded.logits(TOKENS[:1, 47:], cache.advance([47], CPU), cache)
    assert torch.allclose(last[0], torch.cat(pieces[0]), atol=1e-4)
    return torch.stack([torch.cat([*pieces[0], alone[0]]), torch.cat(pieces[1])])


REFUSED = {
    "stablelm": ({}, "in its own old way"),
    "gptj": ({"rotary_dim": 8}, "in its own old way"),
    "falcon": ({}, "in its own old way"),
    "doge": ({}, "cannot run DogeForCausalLM"),
    "llama4_text": ({}, "has layers of chunked_attention"),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "has layers of conv"),
    "phimoe": ({"num_local_experts": 4}, "cannot run PhimoeForCausalLM"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_what_is_not_computed_here_is_refused_on_loading(tmp_path, family):
    config, said = REFUSED[family]
    path = save(tmp_path / family, family, **config)
    with pytest.raises(ToolError, match=said):
        load(path, PLAIN, CPU)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        "mistral",
        "qwen2",
        "qwen3",
        "phi3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gpt_neox",
        "starcoder2",
    ],
)
def test_exports_of_each_family_compute_what_modelopt_simulates(tmp_path, family):
    path = save(tmp_path / family, family, **FAMILIES[family])
    simulated = simulate(path, tmp_path / "export", TOKENS, "FP8_DEFAULT_CFG", "FP8_KV_CFG")
    with torch.inference_mode():
        found = forward(load(simulated.export, FP8_KV, CPU), TOKENS)
    harm = divergence(simulated.plain, simulated.logits)
    assert divergence(simulated.plain, found) == pytest.approx(harm, rel=0.05)
    assert divergence(simulated.logits, found) < harm / 100


NVFP4_KV = EngineSettings(context=64, dtype=Format.FP32, kv_cache=Format.NVFP4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3", "gemma2", "phi3", "gpt_neox"])
def test_a_cache_in_nvfp4_computes_what_modelopt_simulates(tmp_path, family):
    path = save(tmp_path / family, family, **FAMILIES[family])
    simulated = simulate(path, tmp_path / "export", TOKENS, "FP8_DEFAULT_CFG", "NVFP4_KV_CFG")
    with torch.inference_mode():
        found = forward(load(simulated.export, NVFP4_KV, CPU), TOKENS)
    harm = divergence(simulated.plain, simulated.logits)
    assert divergence(simulated.logits, found) < harm / 100


@pytest.mark.slow
def test_an_affine_cache_in_nvfp4_takes_the_mean_off(tmp_path):
    """ModelOpt calibrates without the mean, but simulates with it: its model is harmed more."""
    path = save(tmp_path / "qwen3", "qwen3", **FAMILIES["qwen3"])
    kv = "NVFP4_AFFINE_KV_CFG"
    simulated = simulate(path, tmp_path / "export", TOKENS, "FP8_DEFAULT_CFG", kv)
    loaded = load(simulated.export, NVFP4_KV, CPU)
    biases = [scale.bias for pair in loaded.kv_scales.values() for scale in pair]
    assert [tuple(bias.shape) for bias in biases] == [(1, 2, 1, 16)] * 4
    with torch.inference_mode():
        ours = divergence(simulated.plain, forward(loaded, TOKENS))
    assert ours < divergence(simulated.plain, simulated.logits)
