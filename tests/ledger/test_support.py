"""The ledger agrees with what NVIDIA's and vLLM's own tables say, cell by cell.

The tables stand here as they were read, with their source; where the ledger differs on purpose, the
exception and its reason stand beside it.
"""

import pytest

from builders import ledger
from builders.formats import Format
from builders.recipe import Recipe, shipped
from builders.tiers import TIERS, Tier

FP8, INT4, INT8, BF16 = Format.FP8, Format.INT4, Format.INT8, Format.BF16


def made(preset, weights, activations=BF16, *, backend="modelopt", kv_cache=BF16):
    return Recipe(
        name=preset.lower(), summary="A test.", backend=backend, preset=preset, weights=weights,
        activations=activations, kv_cache=kv_cache,
    )  # fmt: skip


def sm(number):
    return Tier(name=f"sm{number}", architecture="x", sm=number, memory_bytes=1, native=frozenset())


def runs(recipe, tier, lane, version):
    return ledger.support(recipe, tier, RUNTIME[lane], version, only=lane) == ()


RUNTIME = {"tensorrt": "trtllm", "llmapi": "trtllm", "vllm": "vllm", "embedded": "embedded"}
RECIPES = {
    "NVFP4": made("NVFP4_DEFAULT_CFG", Format.NVFP4, Format.NVFP4),
    "MXFP4": made("gpt-oss", Format.MXFP4, backend="import"),
    "FP8_per_tensor": made("FP8_DEFAULT_CFG", FP8, FP8),
    "FP8_block_scales": made("FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG", FP8),
    "FP8_rowwise": made("FP8_PER_CHANNEL_PER_TOKEN_CFG", FP8, FP8),
    "W4A8_AWQ": made("W4A8_AWQ_BETA_CFG", INT4, FP8),
    "W4A16_AWQ": made("INT4_AWQ_CFG", INT4),
    "W4A16_GPTQ": made("gptq", INT4, backend="gptq"),
    "W8A8_SQ": made("INT8_SMOOTHQUANT_CFG", INT8, INT8),
    "W8A16": made("INT8_WEIGHT_ONLY_CFG", INT8),
    "MXFP8": made("MXFP8_DEFAULT_CFG", Format.MXFP8, Format.MXFP8),
    "KV_FP8": made("none", BF16, kv_cache=FP8),
    "KV_NVFP4": made("none", BF16, kv_cache=Format.NVFP4),
    "KV_INT8": made("none", BF16, kv_cache=INT8),
}

# TensorRT-LLM docs/source/features/quantization.md, newest copy, hardware support matrix of the
# PyTorch backend (W4A8_GPTQ, which no quantizer here makes, left out).
COLUMNS = (
    "NVFP4", "MXFP4", "FP8_per_tensor", "FP8_block_scales", "FP8_rowwise", "KV_FP8", "KV_NVFP4",
    "W4A8_AWQ", "W4A16_AWQ", "W4A16_GPTQ",
)  # fmt: skip
PYTORCH = {
    120: "Y Y Y . . Y . . . .",
    100: "Y Y Y Y . Y Y Y Y Y",
    103: "Y Y Y Y . Y Y Y Y Y",
    90: ". . Y Y Y Y . Y Y Y",
    89: ". . Y . . Y . Y Y Y",
    86: ". . . . . Y . . Y Y",
    80: ". . . . . Y . . Y Y",
}
# On Hopper TensorRT-LLM has Marlin kernels for NVFP4 weights since 1.3.0rc20 (pull request 13476),
# and reads MXFP4 checkpoints as W4A16; the page leaves both cells empty.
EXCEPTIONS = {(90, "NVFP4"), (90, "MXFP4")}
# The copy of 1.0 to 1.1 (@09d4c79b) had no AWQ and GPTQ on SM 100; nothing else differs below.
LATER = {"W4A8_AWQ", "W4A16_AWQ", "W4A16_GPTQ"}


def cells(table, columns):
    return [
        (number, column, word == "Y")
        for number, row in table.items()
        for column, word in zip(columns, row.split(), strict=True)
    ]


@pytest.mark.parametrize(("number", "column", "listed"), cells(PYTORCH, COLUMNS))
def test_the_llm_api_runs_what_its_hardware_matrix_lists(number, column, listed):
    recipe, tier = RECIPES[column], sm(number)
    if (number, column) in EXCEPTIONS:
        assert runs(recipe, tier, "llmapi", "1.3.0rc20")
        return
    assert runs(recipe, tier, "llmapi", "1.3.0rc20") is listed
    older = listed and not (number in {100, 103} and column in LATER)
    assert runs(recipe, tier, "llmapi", "1.1.0") is older


# Compiled engines. docs/source/legacy/reference/support-matrix.md@17552a44 lists precisions by SM;
# its footnote asks SM 89 for INT4 with FP8 activations; tensorrt_llm/builder.py raises for INT8,
# INT4, SmoothQuant and INT8 KV caches on SM 100 to 119 and for row-wise FP8 on SM 100. GPTQ is left
# out: TensorRT-LLM's own converter reads it, but nothing here makes an engine's checkpoint of it.
ENGINE_COLUMNS = (
    "FP8_per_tensor", "NVFP4", "W8A8_SQ", "W8A16", "W4A16_AWQ", "W4A16_GPTQ", "W4A8_AWQ", "KV_INT8",
    "FP8_rowwise", "MXFP8", "KV_NVFP4",
)  # fmt: skip
ENGINES = {
    100: "Y Y . . . . . . . . .",
    90: "Y . Y Y Y . Y Y Y . .",
    89: "Y . Y Y Y . Y Y . . .",
    80: ". . Y Y Y . . Y . . .",
    75: ". . . . . . . . . . .",
}


@pytest.mark.parametrize(("number", "column", "listed"), cells(ENGINES, ENGINE_COLUMNS))
def test_engines_are_built_where_the_builder_does_not_raise(number, column, listed):
    for version in ("0.20.0", "1.2.1", "1.3.0rc20"):
        assert runs(RECIPES[column], sm(number), "tensorrt", version) is listed
    assert not runs(RECIPES[column], sm(number), "tensorrt", "1.3.0rc21")


# vllm/model_executor/layers/quantization/modelopt.py (QUANT_ALGOS and minimum capability), and what
# vLLM 0.20.2 loaded or refused on one H200; docs/features/quantization/README.md for the rest.
VLLM_COLUMNS = (
    "FP8_per_tensor", "FP8_rowwise", "FP8_block_scales", "NVFP4", "MXFP8", "W4A16_AWQ", "W4A8_AWQ",
    "W8A8_SQ", "W8A16", "W4A16_GPTQ",
)  # fmt: skip
VLLM = {
    100: "Y Y Y Y Y . . . . .",
    90: "Y Y Y Y Y . . . . Y",
    89: "Y Y Y Y . . . . . Y",
    80: ". . . Y . . . . . Y",
    75: ". . . . . . . . . Y",
}


@pytest.mark.parametrize(("number", "column", "listed"), cells(VLLM, VLLM_COLUMNS))
def test_vllm_loads_what_its_own_lists_name(number, column, listed):
    assert runs(RECIPES[column], sm(number), "vllm", "0.20.2") is listed


def test_mxfp8_begins_with_1_3_0rc20_on_blackwell_and_only_in_the_llm_api():
    recipe, b200 = RECIPES["MXFP8"], TIERS["b200"]
    assert runs(recipe, b200, "llmapi", "1.3.0rc20")
    (newer, never) = ledger.support(recipe, b200, "trtllm", "1.2.1")
    assert "from version 1.3.0rc20 on, not in 1.2.1" in newer.reason
    assert newer.hint == 'target.runtime_version = "1.3.0rc20" or newer'
    assert "never part of trtllm-build" in never.reason
    assert not runs(recipe, TIERS["h100"], "llmapi", "1.4.0rc1")


def test_turing_has_no_tensorrt_llm_and_one_reason_says_so():
    for recipe in RECIPES.values():
        (refusal,) = ledger.support(recipe, TIERS["t4"], "trtllm", "1.2.1")
        assert refusal.reason == "TensorRT-LLM does not support Turing (SM75) since 0.14"
        assert '"embedded" or "vllm"' in refusal.hint


def test_bitsandbytes_is_turing_s_way_in_vllm_and_embedded():
    for weights in (INT8, Format.NF4):
        recipe = made("bnb", weights, backend="bitsandbytes")
        assert runs(recipe, TIERS["t4"], "vllm", "0.20.2")
        assert runs(recipe, TIERS["t4"], "embedded", "")
        assert "cannot read" in ledger.support(recipe, TIERS["h100"], "trtllm", "")[0].reason


def test_what_a_newer_vllm_has_dropped_names_the_last_version_that_had_it():
    recipe = made("bnb", Format.NF4, backend="bitsandbytes")
    (refusal,) = ledger.support(recipe, TIERS["h100"], "vllm", "0.32.0")
    assert "up to version 0.20.2, not in 0.32.0" in refusal.reason
    assert refusal.hint == 'target.runtime_version = "0.20.2"'


def test_what_a_newer_vllm_has_begun_to_take_names_it():
    recipe = made("w4a16_nvfp4", Format.NVFP4)
    assert runs(recipe, TIERS["h100"], "vllm", "0.32.0")
    (refusal,) = ledger.support(recipe, TIERS["h100"], "vllm", "0.20.2")
    assert refusal.hint == 'target.runtime_version = "0.32.0" or newer'


def test_a_cpu_runs_the_embedded_runtime_and_what_vllm_was_seen_to_load_there():
    for name, recipe in RECIPES.items():
        if name not in {"MXFP4", "KV_NVFP4", "KV_INT8"}:
            assert runs(recipe, TIERS["cpu"], "embedded", "")
        (refusal,) = ledger.support(recipe, TIERS["cpu"], "trtllm", "")
        assert "needs a GPU tier, not cpu" in refusal.reason
    taken = {name for name in RECIPES if runs(RECIPES[name], TIERS["cpu"], "vllm", "0.32.0")}
    assert taken == {"FP8_rowwise", "W4A16_GPTQ"}
    assert runs(made("none", BF16), TIERS["cpu"], "vllm", "0.32.0")
    assert not runs(made("none", BF16), TIERS["cpu"], "vllm", "0.20.2")
    (cache,) = ledger.support(RECIPES["KV_FP8"], TIERS["cpu"], "vllm", "")
    assert "5 % apart" in cache.reason
    for name, said in (
        ("FP8_per_tensor", "AMX"),
        ("NVFP4", "no kernel"),
        ("W4A16_AWQ", "ModelOpt"),
    ):
        assert said in ledger.support(RECIPES[name], TIERS["cpu"], "vllm", "")[0].reason


@pytest.mark.parametrize(("tier", "fits"), [("t4", False), ("a100", False), ("l4", True)])
def test_the_embedded_runtime_asks_for_native_activations_on_a_gpu(tier, fits):
    recipe = RECIPES["FP8_per_tensor"]
    assert runs(recipe, TIERS[tier], "embedded", "") is fits
    if not fits:
        (refusal,) = ledger.support(recipe, TIERS[tier], "embedded", "")
        assert f"needs FP8 activations, which {tier}" in refusal.reason
        assert "int8_smoothquant" in refusal.hint


@pytest.mark.parametrize("runtime", ["embedded", "trtllm"])
def test_an_e5m2_cache_is_refused_with_e4m3_as_the_remedy(runtime):
    recipe = made("FP8_DEFAULT_CFG", FP8, FP8, kv_cache=Format.FP8_E5M2)
    (refusal,) = ledger.support(recipe, TIERS["h100"], runtime, "")
    assert "KV cache in fp8_e5m2" in refusal.reason
    assert "E4M3" in refusal.hint


@pytest.mark.parametrize(
    ("recipe", "fits"),
    [
        (made("FP8_DEFAULT_CFG", FP8, FP8, kv_cache=Format.FP8_E5M2), False),
        (made("gptq", INT4, backend="gptq", kv_cache=Format.FP8_E5M2), True),
        (made("none", BF16, kv_cache=Format.FP8_E5M2), True),
    ],
)
def test_vllm_takes_e5m2_under_unquantized_and_integer_weights_only(recipe, fits):
    assert runs(recipe, TIERS["h100"], "vllm", "") is fits
    assert not runs(recipe, TIERS["t4"], "vllm", "")


@pytest.mark.parametrize(
    ("cache", "tier", "version", "fits"),
    [
        (
            FP8,
            "a100",
            "1.2.1",
            False,
        ),  # engines know no FP8 cache on Ampere; SmoothQuant no LLM API
        (INT8, "a100", "1.2.1", True),
        (INT8, "a100", "1.4.0rc1", False),
        (BF16, "a100", "1.2.1", True),
    ],
)
def test_the_cache_must_run_in_the_same_lane_as_the_weights(cache, tier, version, fits):
    recipe = made("INT8_SMOOTHQUANT_CFG", INT8, INT8, kv_cache=cache)
    assert (ledger.support(recipe, TIERS[tier], "trtllm", version) == ()) is fits


def test_only_the_cache_is_blamed_where_a_lane_takes_the_weights():
    recipe = made("INT8_SMOOTHQUANT_CFG", INT8, INT8, kv_cache=FP8)
    (refusal,) = ledger.support(recipe, TIERS["a100"], "trtllm", "1.2.1")
    assert refusal.reason == "TensorRT-LLM lists no KV cache in fp8 on a100 (SM80)"
    assert refusal.hint == 'quantize.kv_cache = "none"'


def test_the_lane_is_engines_up_to_1_2_1_where_they_take_the_recipe():
    fp8, awq, rtn = RECIPES["FP8_per_tensor"], RECIPES["W4A16_AWQ"], shipped()["int4_rtn"]
    mxfp8 = RECIPES["MXFP8"]
    for recipe, tier, version, lane in [
        (fp8, "h100", "", "tensorrt"),
        (fp8, "h100", "1.2.1", "tensorrt"),
        (fp8, "h100", "1.3.0rc20", "llmapi"),
        (awq, "b200", "1.3.0rc20", "llmapi"),
        (rtn, "h100", "1.2.1", "llmapi"),
        (RECIPES["W8A8_SQ"], "a100", "1.3.0rc20", "tensorrt"),
        (mxfp8, "b200", "1.2.1", "tensorrt"),  # refused; the lane that leads is named
    ]:
        assert ledger.choose_lane(recipe, TIERS[tier], "trtllm", version) == lane
    assert ledger.choose_lane(fp8, TIERS["h100"], "vllm", "") == "vllm"
    assert ledger.choose_lane(fp8, TIERS["h100"], "trtllm", "0.1") == ""


def test_asking_a_newer_version_for_engines_gets_the_way_back():
    recipe = RECIPES["FP8_per_tensor"]
    (refusal,) = ledger.support(recipe, TIERS["h100"], "trtllm", "1.4.0rc1", only="tensorrt")
    assert "1.4.0rc1 has no trtllm-build" in refusal.reason
    assert '"1.2.1"' in refusal.hint
    (refusal,) = ledger.support(recipe, TIERS["h100"], "trtllm", "1.2.1", only="pytorch")
    assert refusal.hint == "its lanes are tensorrt, llmapi"


def test_a_version_older_than_the_ledger_is_refused_for_every_lane():
    refusals = ledger.support(RECIPES["FP8_per_tensor"], TIERS["h100"], "trtllm", "0.8")
    assert len(refusals) == 2
    (refusal,) = ledger.support(RECIPES["FP8_per_tensor"], TIERS["h100"], "vllm", "0.19.1")
    assert "0.20.2" in refusal.hint


def test_a_quantizer_that_nobody_wrote_down_is_refused_everywhere_with_the_file_to_mend():
    recipe = made("secret", INT4, backend="quip")
    for runtime in ledger.RUNTIMES:
        (refusal,) = ledger.support(recipe, TIERS["h100"], runtime, "")
        assert "'quip'" in refusal.reason
        assert "algorithms.toml" in refusal.hint


def test_a_recipe_of_ones_own_is_known_by_its_formats():
    own = made("general/ptq/nvfp4_default-kv_fp8", Format.NVFP4, Format.NVFP4, kv_cache=FP8)
    assert ledger.algorithm(own).name == "NVFP4"
    assert runs(own, TIERS["b200"], "llmapi", "")


def test_every_shipped_recipe_declares_something_the_ledger_knows():
    for recipe in shipped().values():
        assert ledger.algorithm(recipe) is not None, recipe.name


def test_every_refusal_of_every_shipped_recipe_has_a_remedy():
    for row in ledger.matrix():
        assert bool(row.lanes) is not bool(row.refusals)
        assert all(refusal.reason and refusal.hint for refusal in row.refusals)


def test_a_remedy_that_names_recipes_names_some_that_run():
    recipes = shipped()
    for row in ledger.matrix():
        for refusal in row.refusals:
            head, _, names = refusal.hint.partition(f"on {row.tier} use ")
            if head == "" and names and "target.runtime" not in names:
                for name in names.split(", "):
                    assert (
                        ledger.support(recipes[name], TIERS[row.tier], row.runtime, row.version)
                        == ()
                    )
