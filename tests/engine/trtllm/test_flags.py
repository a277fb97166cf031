"""trtllm-build's command line: each tuned default, for each tier's reason."""

from pathlib import Path

import pytest

from builders.engine.trtllm.flags import Places, build_argv, defaults, flags
from builders.engine.trtllm.validate import validate_argv
from builders.errors import UsageError
from builders.formats import Format
from fakes.trtllm.settings import plain, settings

PLACES = Places(checkpoint=Path("/checkpoint"), engine=Path("/engine"))


def test_fp8_on_hopper_computes_attention_in_fp8_and_leaves_its_gemms_to_tensorrt():
    made = flags(settings())
    assert made["gemm_plugin"] == "disable"
    assert made["use_fp8_context_fmha"] == "enable"
    assert made["use_paged_context_fmha"] == "enable"
    assert made["multiple_profiles"] == "enable"
    assert made["kv_cache_type"] == "paged"


def test_plain_weights_get_the_gemm_plugin():
    made = flags(plain())
    assert made["gemm_plugin"] == "auto"
    assert made["use_fp8_context_fmha"] == "disable"
    assert made["use_paged_context_fmha"] == "enable"


def test_nvfp4_gets_its_own_gemm_plugin():
    made = flags(settings(sm=100, weights=Format.NVFP4, activations=Format.NVFP4,
                          quant_algo="NVFP4"))  # fmt: skip
    assert made["gemm_plugin"] == "nvfp4"
    assert made["use_fused_mlp"] == "disable"


def test_an_fp8_cache_under_integer_weights_gives_up_paged_attention():
    made = flags(settings(quant_algo="W4A16_AWQ", weights=Format.INT4, activations=Format.BF16))
    assert made["use_paged_context_fmha"] == "disable"
    assert made["use_fp8_context_fmha"] == "disable"


def test_without_chunks_a_step_holds_the_longest_prompt():
    made = flags(settings(quant_algo="W4A16_AWQ", weights=Format.INT4, activations=Format.BF16,
                          max_seq_len=32768))  # fmt: skip
    assert made["max_num_tokens"] == "32768"
    assert flags(settings(max_seq_len=32768))["max_num_tokens"] == "8192"


@pytest.mark.parametrize(
    ("changed", "tokens"),
    [
        ({}, "8192"),
        ({"sm": 89}, "4096"),
        ({"max_seq_len": 512}, "4096"),
        ({"max_batch_size": 1, "max_seq_len": 8}, "32"),
        ({"max_batch_size": 16384}, "16384"),
        ({"max_num_tokens": 1000}, "1000"),
    ],
)
def test_tokens_a_step_follow_the_tier_and_the_limits(changed, tokens):
    assert flags(settings(**changed))["max_num_tokens"] == tokens


@pytest.mark.parametrize(
    ("changed", "fused"),
    [
        ({}, "disable"),
        ({"tp": 2}, "enable"),
        ({"tp": 2, "architecture": "Gemma2ForCausalLM"}, "enable"),
        ({"tp": 2, "architecture": "MistralForCausalLM"}, "disable"),
        ({"pp": 2}, "disable"),
    ],
)
def test_all_reduce_is_fused_where_trtllm_build_would_not_undo_it(changed, fused):
    assert flags(settings(**changed))["reduce_fusion"] == fused


def test_the_users_flags_win_and_unknown_ones_are_left_to_the_contract():
    made = flags(settings(overrides=(("gemm_plugin", "fp8"), ("max_beam_width", "4"))))
    assert (made["gemm_plugin"], made["max_beam_width"]) == ("fp8", "4")


def test_the_command_line_is_one_that_the_version_takes():
    argv = build_argv(settings(max_input_len=1024, overrides=(("strip_plan", ""),)), PLACES)
    assert argv[:5] == (
        "trtllm-build", "--checkpoint_dir", "/checkpoint", "--output_dir", "/engine",
    )  # fmt: skip
    assert argv[-1] == "--strip_plan"
    assert validate_argv("trtllm-build", "1.2.1", argv) == ()


def test_the_timing_cache_is_read_and_written_apart():
    places = Places(checkpoint=Path("/c"), engine=Path("/e"), timing_in=Path("/kept.cache"),
                    timing_out=Path("/new.cache"))  # fmt: skip
    argv = build_argv(settings(), places)
    assert argv[argv.index("--input_timing_cache") + 1] == "/kept.cache"
    assert argv[argv.index("--output_timing_cache") + 1] == "/new.cache"


def test_paths_that_could_be_read_as_something_else_are_refused():
    with pytest.raises(UsageError):
        build_argv(settings(), Places(checkpoint=Path("-c"), engine=Path("/e")))
    with pytest.raises(UsageError):
        build_argv(settings(), Places(checkpoint=Path("/c"), engine=Path("/e'")))


def test_equal_settings_give_equal_command_lines():
    assert build_argv(settings(), PLACES) == build_argv(settings(), PLACES)


def test_the_programs_own_defaults_are_those_of_the_contract():
    own = defaults()
    assert (own["max_batch_size"], own["tokens_per_block"]) == ("2048", "32")
    assert "dry_run" not in own
