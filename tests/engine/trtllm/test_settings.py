"""Settings hold what both lanes need, and no name in them can be read as anything else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import recipe as recipes
from builders.engine.trtllm import settings as module
from builders.engine.trtllm.settings import BuildSettings, name, path, quant_algo
from builders.errors import UsageError
from builders.formats import Format
from builders.tiers import TIERS
from fakes.trtllm.settings import settings

EVIL = ("'", '"', "\n", "\r", "\x00", "$", "`", "\\", ";", "|", "&", "<", "\u2028", "😀", "\x7f")


def test_settings_come_from_a_recipe_and_a_tier():
    made = BuildSettings.of(
        recipes.shipped()["fp8"], TIERS["h100"], architecture="LlamaForCausalLM", context=2048,
        concurrency=16,
    )  # fmt: skip
    assert (made.sm, made.quant_algo, made.kv_cache) == (90, "FP8", Format.FP8)
    assert (made.max_batch_size, made.max_seq_len, made.world) == (16, 2048, 1)


UNREADABLE = {
    "mxfp4", "w4a16_nvfp4", "nvfp4_awq", "awq_int4", "bnb_int8", "bnb_nf4", "hqq_int4", "hqq_int8",
}  # fmt: skip


@pytest.mark.parametrize("recipe", sorted(recipes.shipped()))
def test_every_shipped_recipe_has_a_name_here_or_is_refused_with_a_remedy(recipe):
    chosen = recipes.shipped()[recipe]
    if recipe in UNREADABLE:
        with pytest.raises(UsageError, match="cannot read what") as caught:
            quant_algo(chosen)
        assert caught.value.hint
    else:
        assert quant_algo(chosen) in module.ALGORITHMS


def test_fp8_blocks_are_called_as_tensorrt_llm_calls_them():
    assert quant_algo(recipes.shipped()["fp8_block"]) == "FP8_BLOCK_SCALES"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"tp": 0}, "tp must be at least 1"),
        ({"max_batch_size": 0}, "max_batch_size must be at least 1"),
        ({"max_num_tokens": -1}, "cannot be negative"),
        ({"quant_algo": "FP7"}, "FP7 is no algorithm"),
        ({"dtype": Format.FP8}, "fp8 is no format to compute in"),
        ({"architecture": "Llama'); drop"}, "architecture cannot be"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changed, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        settings(**changed)
    assert caught.value.hint


@given(st.text(max_size=20), st.sampled_from(EVIL), st.text(max_size=20))
def test_no_name_carries_a_sign_that_ends_a_quotation(before, evil, after):
    with pytest.raises(UsageError):
        name(before + evil + after, "the name")


@given(st.text(max_size=20), st.sampled_from(EVIL), st.text(max_size=20))
def test_no_path_carries_a_sign_that_ends_a_quotation(before, evil, after):
    with pytest.raises(UsageError):
        path(Path(before + evil + after), "the path")


@given(st.text(min_size=1, max_size=60))
def test_whatever_path_is_taken_is_absolute_printable_and_the_same_again(text):
    try:
        taken = path(Path(text), "the path")
    except UsageError:
        return
    assert taken.startswith("/")
    assert taken.isprintable()
    assert ".." not in Path(taken).parts
    assert path(Path(taken), "the path") == taken


@given(st.text(max_size=200))
def test_whatever_name_is_taken_is_one_plain_word(text):
    try:
        taken = name(text, "the name")
    except UsageError:
        return
    assert taken == text
    assert taken.isascii()
    assert taken[0].isalnum()
    assert not set(taken) & set(" /'\"$\\")


@pytest.mark.parametrize("text", ["-rf", "--output_dir", "a/../b", ".."])
def test_options_and_ways_out_are_no_paths(text):
    with pytest.raises(UsageError):
        path(Path(text), "the path")


def test_a_checkpoint_that_trtllm_build_would_take_for_a_configuration_is_refused():
    with pytest.raises(UsageError, match="configuration file"):
        path(Path("/models/llama.json"), "the checkpoint")
    assert path(Path("/models/llama.json"), "the report") == "/models/llama.json"
