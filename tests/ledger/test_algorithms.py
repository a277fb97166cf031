"""Patterns of excluded modules mean what the shell's wildcards mean, however they are matched."""

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from builders.formats import Format
from builders.ledger import algorithm
from builders.ledger.algorithms import algorithms
from builders.recipe import Recipe, shipped

PARTS = st.sampled_from(
    ["model", "layers", "0", "10", "mlp", "gate", "q_proj", "lm_head", "visual"]
)
MODULES = st.lists(PARTS, min_size=1, max_size=6).map(".".join)
PATTERNS = st.lists(
    st.sampled_from(["*", "?", "[0-9]", ".", "0", "mlp", "gate", "lm_head", "q_proj"]), max_size=4
).map("".join)


@given(MODULES, st.lists(PATTERNS, max_size=3))
def test_a_module_is_kept_when_it_or_one_it_lies_in_matches_a_pattern(module, patterns):
    weightless = Recipe(
        name="x", summary="A test.", backend="modelopt", preset="FP8_DEFAULT_CFG",
        weights=Format.FP8, activations=Format.FP8, keep=tuple(patterns),
    )  # fmt: skip
    without = Recipe(
        name="x", summary="A test.", backend="modelopt", preset="FP8_DEFAULT_CFG",
        weights=Format.FP8, activations=Format.FP8, keep=(),
    )  # fmt: skip
    found = algorithm(weightless)
    matched = any(fnmatchcase(module, p) or fnmatchcase(module, f"{p}.*") for p in patterns)
    assert found.covers(module, weightless) is (found.covers(module, without) and not matched)


def test_heads_embeddings_routers_and_vision_towers_are_never_quantized():
    fp8 = shipped()["fp8"]
    for module in (
        "lm_head", "model.embed_tokens", "model.layers.3.mlp.gate", "visual.blocks.0.attn.qkv",
        "model.layers.3.block_sparse_moe.gate", "model.layers.3.mlp.shared_expert_gate",
        "vision_tower.encoder.layers.0.mlp.fc1", "mtp.layers.0.mlp.up_proj",
    ):  # fmt: skip
        assert not algorithm(fp8).covers(module, fp8), module
    for module in ("model.layers.3.mlp.gate_proj", "model.layers.3.mlp.experts.7.w1", "x.o_proj"):
        assert algorithm(fp8).covers(module, fp8), module


@given(
    st.sampled_from(algorithms()),
    st.integers(0, 300),
    st.integers(0, 300),
    st.sampled_from([1, 4]),
)
def test_a_weight_takes_its_bits_and_more_and_is_no_smaller_in_gpu_memory(
    one, outputs, inputs, experts
):
    recipe = shipped()["int4_rtn"]
    alone, stacked = (outputs, inputs), (experts, outputs, inputs)
    size = one.bytes("o_proj", alone, recipe)
    assert size >= outputs * inputs // 2
    assert one.bytes("o_proj", alone, recipe, loaded=True) >= size
    assert one.bytes("o_proj", stacked, recipe) == experts * size
