"""Silent changes are predicted: the stand-in compiler changes by its own reading of the source."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from builders.engine.trtllm.effective import Effective, compare
from builders.engine.trtllm.flags import Places, build_argv, flags
from builders.engine.trtllm.rewrites import effective_flags, predict_rewrites, refusals
from builders.formats import Format
from fakes.trtllm.checkpoints import trtllm_config
from fakes.trtllm.settings import plain, settings

FAKE = Path(__file__).parents[2] / "fakes" / "trtllm" / "bin" / "trtllm-build"
PLACES = Places(checkpoint=Path("/checkpoint"), engine=Path("/engine"))
AWQ = {"quant_algo": "W4A16_AWQ", "weights": Format.INT4, "activations": Format.BF16}
SQ = {"quant_algo": "W8A8_SQ_PER_CHANNEL", "weights": Format.INT8, "activations": Format.INT8,
      "kv_cache": Format.BF16}  # fmt: skip
NVFP4 = {"quant_algo": "NVFP4", "weights": Format.NVFP4, "activations": Format.NVFP4, "sm": 100}
KV = {Format.FP8: "FP8", Format.INT8: "INT8", Format.BF16: None}


@pytest.fixture(scope="module")
def compiler():
    """The stand-in trtllm-build, as a module."""
    loader = importlib.machinery.SourceFileLoader("fake_trtllm_build", str(FAKE))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, kept = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = kept
    module.log = lambda *_, **__: None
    return module


def compiled(compiler, asked):
    """Return what the stand-in compiler records for these settings."""
    model = trtllm_config(
        tp=asked.tp, pp=asked.pp, architecture=asked.architecture,
        quant_algo=asked.quant_algo or None, kv=KV[asked.kv_cache],
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(build_argv(asked, PLACES)))
        patch.setattr(compiler, "SM", asked.sm)
        build = compiler.change(compiler.parse(), model)
    return Effective(version="1.2.1", pretrained=model, build=build)


def changes(asked):
    return {one.flag: one.effective for one in predict_rewrites(asked)}


@pytest.mark.parametrize(
    "asked",
    [settings(), plain(), settings(tp=4), settings(sm=89), settings(**SQ), settings(**NVFP4),
     settings(**AWQ), settings(**(AWQ | {"kv_cache": Format.BF16, "sm": 80}))],
)  # fmt: skip
def test_tuned_defaults_are_taken_as_they_are(compiler, asked):
    assert predict_rewrites(asked) == ()
    assert compare(asked, compiled(compiler, asked)) == ()


def over(**overrides):
    return tuple(overrides.items())


REDUCE = over(reduce_fusion="enable")


@pytest.mark.parametrize(
    ("asked", "change"),
    [
        (settings(overrides=over(reduce_fusion="enable")), {"reduce_fusion": "disable"}),
        (
            settings(architecture="MistralForCausalLM", tp=2, overrides=REDUCE),
            {"reduce_fusion": "disable"},
        ),
        (
            settings(tp=2, overrides=over(reduce_fusion="disable", user_buffer="enable")),
            {"user_buffer": "disable"},
        ),
        (settings(overrides=over(norm_quant_fusion="enable")), {"norm_quant_fusion": "disable"}),
        (plain(overrides=over(use_fp8_context_fmha="enable")), {"use_fp8_context_fmha": "disable"}),
        (
            settings(**AWQ, overrides=over(use_paged_context_fmha="enable")),
            {"use_paged_context_fmha": "disable"},
        ),
        (
            settings(overrides=over(use_fp8_context_fmha="disable")),
            {"use_fp8_context_fmha": "enable"},
        ),
        (
            settings(kv_cache=Format.BF16, overrides=over(use_fp8_context_fmha="enable")),
            {"use_fp8_context_fmha": "disable"},
        ),
        (
            settings(overrides=over(context_fmha="disable")),
            {"use_fp8_context_fmha": "disable", "use_paged_context_fmha": "disable"},
        ),
        (
            plain(kv_cache=Format.INT8, overrides=over(use_paged_context_fmha="enable")),
            {"use_paged_context_fmha": "disable"},
        ),
        (settings(**NVFP4, overrides=over(gemm_plugin="auto")), {"gemm_plugin": "nvfp4"}),
        (settings(**NVFP4, overrides=over(gemm_plugin="disable")), {}),
        (settings(max_num_tokens=1 << 20), {"max_num_tokens": "32768"}),
        (settings(max_num_tokens=8), {"max_num_tokens": "32"}),
        (
            plain(max_num_tokens=8, max_input_len=512, overrides=over(context_fmha="disable")),
            {"max_num_tokens": "512", "use_paged_context_fmha": "disable"},
        ),
        (
            settings(overrides=over(multiple_profiles="disable", opt_num_tokens="99999")),
            {"opt_num_tokens": "8192"},
        ),
        (settings(**AWQ, overrides=over(use_fused_mlp="enable")), {"use_fused_mlp": "disable"}),
        (
            settings(overrides=over(speculative_decoding_mode="medusa", max_draft_len="2000")),
            {"max_seq_len": "6096", "max_num_tokens": "16008"},
        ),
        (settings(max_input_len=1024), {"max_input_len": "ignored"}),
    ],
)  # fmt: skip
def test_a_silent_change_is_predicted(asked, change):
    assert changes(asked) == change
    assert all(one.reason for one in predict_rewrites(asked))


def test_a_change_reads_as_a_sentence():
    (only,) = predict_rewrites(settings(overrides=over(reduce_fusion="enable")))
    assert str(only) == "reduce_fusion: enable becomes disable (tp is 1)"
    assert only.as_json()["asked"] == "enable"


switches = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(("enable", "disable"))
        for name in ("reduce_fusion", "user_buffer", "norm_quant_fusion", "context_fmha",
                     "use_paged_context_fmha", "use_fp8_context_fmha", "multiple_profiles")
    } | {"gemm_plugin": st.sampled_from(("auto", "disable", "nvfp4"))},
)  # fmt: skip
asked_for = st.builds(
    settings,
    architecture=st.sampled_from(("LlamaForCausalLM", "MistralForCausalLM", "Gemma2ForCausalLM")),
    sm=st.sampled_from((80, 89, 90)),
    quant_algo=st.sampled_from(("", "FP8", "W4A16_AWQ", "W4A8_AWQ", "W8A16", "NVFP4")),
    kv_cache=st.sampled_from((Format.BF16, Format.FP8, Format.INT8)),
    tp=st.sampled_from((1, 2)),
    max_batch_size=st.integers(1, 4096),
    max_seq_len=st.integers(1, 1 << 17),
    max_num_tokens=st.sampled_from((0, 1, 512, 16384)),
    overrides=switches.map(lambda chosen: tuple(chosen.items())),
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(asked=asked_for)
def test_predictions_hold_for_any_flags_against_the_stand_in(compiler, asked):
    found = compiled(compiler, asked)
    expected = effective_flags(asked)
    unlike = [one for one in compare(asked, found) if one.what != "use_fused_mlp"]
    assert unlike == [], (flags(asked), expected)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (settings(**(SQ | {"sm": 100})), "no INT8 and no INT4 on SM100"),
        (settings(**(AWQ | {"sm": 100})), "no INT8 and no INT4 on SM100"),
        (settings(sm=100, kv_cache=Format.INT8), "no INT8 and no INT4 on SM100"),
        (settings(sm=103, quant_algo="FP8_PER_CHANNEL_PER_TOKEN"), "per channel and token"),
        (settings(sm=100, overrides=over(gemm_swiglu_plugin="fp8")), "gemm_swiglu_plugin does not"),
        (settings(sm=100, overrides=over(low_latency_gemm_plugin="fp8")), "low_latency_gemm"),
        (settings(overrides=over(opt_num_tokens="64")), "beside multiple_profiles"),
        (settings(overrides=over(streamingllm="enable")), "streamingllm is no longer"),
        (settings(overrides=over(pp_reduce_scatter="enable")), "is for Mixtral only"),
        (plain(overrides=over(gemm_swiglu_plugin="fp8")), "needs FP8 weights"),
        (
            settings(overrides=over(gather_context_logits="", max_draft_len="2")),
            "beside draft tokens",
        ),
        (
            settings(max_batch_size=1024, overrides=over(speculative_decoding_mode="eagle")),
            "EAGLE takes max_batch_size up to 512",
        ),
        (settings(architecture="NewForCausalLM"), "knows no engine of NewForCausalLM"),
        (settings(kv_cache=Format.NVFP4), "no KV cache in nvfp4"),
        (settings(kv_cache=Format.FP8_E5M2), "no KV cache in fp8_e5m2"),
        (settings(overrides=over(gemm_plugin="fp16")), "--gemm_plugin cannot be 'fp16'"),
    ],
)  # fmt: skip
def test_what_trtllm_build_would_refuse_is_refused_here(asked, reason):
    found = refusals(asked, "1.2.1")
    assert any(reason in one.reason for one in found), found
    assert all(one.hint for one in found)


def test_tuned_settings_are_refused_nowhere_that_they_run():
    for asked in (settings(), plain(), settings(tp=2), settings(**NVFP4), settings(**SQ)):
        assert refusals(asked, "1.2.1") == ()
        assert refusals(asked, "1.3.0rc20") == ()


def test_a_version_without_the_compiler_says_which_had_it():
    (only,) = refusals(settings(), "1.4.0rc1")
    assert "1.4.0rc1 has no trtllm-build" in only.reason
    assert "1.2.1" in only.hint
