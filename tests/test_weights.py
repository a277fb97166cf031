"""Bytes of exported weights are exact, and what lies on one GPU is what its share comes to."""

import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from builders.checkpoint import Checkpoint
from builders.formats import Format
from builders.recipe import Recipe, shipped
from builders.weights import Weights, stages
from fakes import headers
from fakes.checkpoints import tiny_llama

MEASURED = json.loads((Path(__file__).parent / "assets" / "export_sizes.json").read_text())
FORMATS = {
    "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG": ("fp8", "bf16"),
    "FP8_*": ("fp8", "fp8"),
    "MXFP8_*": ("mxfp8", "mxfp8"),
    "MXFP4_*": ("mxfp4", "mxfp4"),
    "W4A16_NVFP4_CFG": ("nvfp4", "bf16"),
    "NVFP4_*": ("nvfp4", "nvfp4"),
    "W4A8_AWQ_BETA_CFG": ("int4", "fp8"),
    "INT4_*": ("int4", "bf16"),
    "INT8_WEIGHT_ONLY_CFG": ("int8", "bf16"),
    "INT8_*": ("int8", "int8"),
}
# Linear weights of Llama 3 by hand: q and o, k and v, gate and up and down.
LINEAR_8B = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096)
LINEAR_70B = 80 * (2 * 8192 * 8192 + 2 * 1024 * 8192 + 3 * 28672 * 8192)
KEPT_70B = 2 * (2 * 128256 * 8192 + 161 * 8192)  # embedding, head and 161 norms in BF16


def recipe(preset, *, kv_cache="bf16", backend="modelopt", formats=None, **changes):
    weights, activations = formats or next(
        value for pattern, value in FORMATS.items() if fnmatchcase(preset, pattern)
    )
    return Recipe(
        name="test", summary="A test.", backend=backend, preset=preset, weights=Format(weights),
        activations=Format(activations), kv_cache=Format(kv_cache), **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return {tied: Checkpoint.open(tiny_llama(root / str(tied), tied=tied)) for tied in (0, 1)}


@pytest.fixture(scope="module")
def llama8(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama8") / "model"
    return Checkpoint.open(headers.model(path, headers.LLAMA3_8B))


@pytest.fixture(scope="module")
def llama70(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama70") / "model"
    return Checkpoint.open(headers.model(path, headers.LLAMA3_70B))


@pytest.mark.parametrize(
    "export", MEASURED["exports"], ids=lambda e: f"{e['preset']}-{e['kv_cache']}-{e['tied']}"
)
def test_the_bytes_are_those_of_a_real_export(tiny, export):
    made = recipe(export["preset"], kv_cache=export["kv_cache"])
    weights = Weights(tiny[export["tied"]], made)
    assert weights.exported_bytes == export["tensor_bytes"]
    assert weights.exact


def test_every_shipped_recipe_of_modelopt_was_held_against_an_export():
    measured = {export["preset"] for export in MEASURED["exports"]}
    ours = [one for one in shipped().values() if one.backend == "modelopt" and not one.mixed]
    assert {one.preset for one in ours} <= measured


def test_a_mixture_takes_its_bits_in_the_mean(llama8):
    mixed = Weights(llama8, shipped()["mixed"])
    kept = 2 * (2 * 128256 * 4096 + 65 * 4096) + 8 * 32
    assert mixed.exported_bytes == pytest.approx(LINEAR_8B * 6 / 8 + kept, rel=1e-6)
    assert not mixed.exact


@pytest.mark.parametrize(
    ("name", "gigabytes"), [("fp8", 9.08), ("nvfp4", 6.03), ("int4_awq", 5.81), ("mxfp8", 9.30)]
)
def test_an_8b_llama_takes_the_gigabytes_that_were_written_on_an_h200(llama8, name, gigabytes):
    assert Weights(llama8, shipped()[name]).exported_bytes / 1e9 == pytest.approx(
        gigabytes, abs=0.01
    )


@pytest.mark.parametrize(
    ("preset", "bits"),
    [
        ("FP8_DEFAULT_CFG", 8),
        ("MXFP8_DEFAULT_CFG", 8 + 8 / 32),
        ("NVFP4_DEFAULT_CFG", 4 + 8 / 16),
        ("MXFP4_DEFAULT_CFG", 4 + 8 / 32),
        ("INT4_BLOCKWISE_WEIGHT_ONLY_CFG", 4 + 32 / 128),
    ],
)
def test_llama_3_70b_takes_so_many_bits_a_weight(llama70, preset, bits):
    exported = Weights(llama70, recipe(preset)).exported_bytes
    scalars = 560 * 8 if preset in {"FP8_DEFAULT_CFG", "NVFP4_DEFAULT_CFG"} else 0
    assert exported == LINEAR_70B * bits / 8 + KEPT_70B + scalars


def test_llama_3_70b_unquantized_is_141_gigabytes(llama70):
    none = recipe("none", formats=("bf16", "bf16"))
    exported = Weights(llama70, none).exported_bytes
    assert exported == llama70.weight_bytes == 2 * LINEAR_70B + KEPT_70B
    assert round(exported / 1e9) == 141


def test_excluded_modules_keep_their_own_bytes(llama8):
    all_of_it = Weights(llama8, recipe("FP8_DEFAULT_CFG")).exported_bytes
    without = recipe("FP8_DEFAULT_CFG", keep=("*lm_head*", "*embed_tokens*", "*layers.0.mlp*"))
    kept = 3 * 14336 * 4096
    assert Weights(llama8, without).exported_bytes == all_of_it + kept - 3 * 8


def test_a_recipe_s_own_group_sets_the_number_of_scales(llama8):
    wide = Weights(llama8, recipe("INT4_BLOCKWISE_WEIGHT_ONLY_CFG", group=128)).exported_bytes
    fine = Weights(llama8, recipe("INT4_BLOCKWISE_WEIGHT_ONLY_CFG", group=32)).exported_bytes
    assert fine - wide == 4 * LINEAR_8B * (1 / 32 - 1 / 128)


def test_routers_stay_as_they_are_and_experts_do_not(tmp_path):
    small = headers.LLAMA3_8B | {"num_hidden_layers": 2, "hidden_size": 256, "head_dim": 8}
    model = Checkpoint.open(headers.model(tmp_path / "moe", small, experts=4))
    exported = Weights(model, recipe("FP8_DEFAULT_CFG")).exported_bytes
    routers = 2 * 4 * 256
    linear = 2 * (2 * 256 * 256 + 2 * 64 * 256 + 4 * 3 * 14336 * 256)
    kept = 2 * (2 * 128256 * 256 + 5 * 256 + routers)
    assert exported == linear + kept + 8 * 2 * (4 + 12)


def test_stacked_experts_are_counted_like_single_ones(tmp_path):
    small = headers.LLAMA3_8B | {"num_hidden_layers": 1, "hidden_size": 256, "head_dim": 8}
    path = headers.model(tmp_path / "stack", small)
    tensors = dict(headers.shapes(small)) | {"model.layers.0.mlp.experts.up_proj": (4, 512, 256)}
    headers.write(path / "model.safetensors", tensors)
    stacked = Weights(Checkpoint.open(path), recipe("NVFP4_DEFAULT_CFG")).exported_bytes
    headers.write(path / "model.safetensors", dict(headers.shapes(small)))
    plain = Weights(Checkpoint.open(path), recipe("NVFP4_DEFAULT_CFG")).exported_bytes
    assert stacked - plain == 4 * (512 * 256 * 9 // 16 + 8)


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (2, 4), (1, 3)])
def test_the_gpus_together_hold_at_least_the_whole_model(llama70, tp, pp):
    for name in ("fp8", "nvfp4", "int4_awq"):
        one = Weights(llama70, shipped()[name])
        fullest = one.gpu_bytes(tp, pp)
        assert fullest * tp * pp >= one.exported_bytes - 8 * 80
        assert fullest < one.exported_bytes / (tp * pp) + 4.3e9  # embedding, head, evenness


def test_tensor_parallelism_cuts_every_layer_and_the_head_but_not_the_embedding(llama70):
    split = Weights(llama70, recipe("FP8_DEFAULT_CFG")).gpu_bytes(8, 1)
    embedding, norms = 2 * 128256 * 8192, 2 * 161 * 8192
    assert split == LINEAR_70B // 8 + embedding + embedding // 8 + norms + 560 * 8


def test_a_gpu_keeps_a_whole_kv_head_when_there_are_fewer_heads_than_gpus(tmp_path):
    few = headers.LLAMA3_8B | {"num_key_value_heads": 2, "num_hidden_layers": 1}
    model = Checkpoint.open(headers.model(tmp_path / "few", few))
    none = recipe("none", formats=("bf16", "bf16"))
    two, eight = (Weights(model, none).gpu_bytes(tp, 1) for tp in (2, 8))
    key_value = 2 * 2 * 256 * 4096
    cut = 2 * (2 * 4096 * 4096 + 3 * 14336 * 4096 + 128256 * 4096)
    assert two - eight == cut // 2 - cut // 8  # keys and values are the same half in both
    assert key_value // 2 < two


def test_scales_are_padded_to_the_tile_in_gpu_memory_only(tmp_path):
    odd = headers.LLAMA3_8B | {
        "num_hidden_layers": 1, "hidden_size": 96, "intermediate_size": 96,
        "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 24, "vocab_size": 96,
    }  # fmt: skip
    model = Checkpoint.open(headers.model(tmp_path / "odd", odd))
    weights = Weights(model, recipe("NVFP4_DEFAULT_CFG"))
    on_disk, padded = 96 * 6, 128 * 8
    assert weights.gpu_bytes(1, 1) - weights.exported_bytes == 7 * (padded - on_disk)


def test_a_tied_head_needs_its_embedding_on_the_last_gpu_as_well(tmp_path):
    tied = headers.LLAMA3_8B | {"tie_word_embeddings": True, "num_hidden_layers": 4}
    model = Checkpoint.open(headers.model(tmp_path / "tied", tied))
    layers = (LINEAR_8B // 32) * 2
    embedding = 2 * 128256 * 4096
    half = Weights(model, recipe("FP8_DEFAULT_CFG")).gpu_bytes(1, 2)
    assert half == layers + embedding + 2 * 2 * 2 * 4096 + 14 * 8 + 2 * 4096


def test_layers_are_cut_into_groups_whose_first_take_what_is_left_over():
    assert stages(8, pp=3) == [(0, 3), (3, 6), (6, 8)]
    assert stages(2, pp=4) == [(0, 1), (1, 2), (2, 2), (2, 2)]


@pytest.mark.parametrize(
    ("preset", "tp", "what"),
    [
        ("FP8_DEFAULT_CFG", 8, ""),
        ("NVFP4_DEFAULT_CFG", 8, ""),
        ("INT4_AWQ_CFG", 8, "the 14336 inputs of layer 0 down_proj into blocks of 512"),
    ],
)
def test_a_cut_inside_a_block_is_found(llama8, preset, tp, what):
    group = 512 if what else 0
    assert Weights(llama8, recipe(preset, group=group)).indivisible(tp) == what


def test_an_unknown_quantizer_counts_what_is_stored(llama8):
    unknown = Weights(llama8, recipe("x", backend="quip", formats=("int4", "bf16")))
    assert unknown.exported_bytes == llama8.weight_bytes
    assert unknown.indivisible(1) == ""
    assert not unknown.exact
