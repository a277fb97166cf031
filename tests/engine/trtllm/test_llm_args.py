"""The LLM API's arguments: what is tuned, what is asked for, and what each version spells how."""

from pathlib import Path

import pytest

from builders.engine.trtllm.llm_args import Draft, Lora, Options, Speculative, llm_args
from builders.engine.trtllm.validate import validate_llm_args
from builders.errors import PlanError, UsageError
from builders.formats import Format
from fakes.trtllm.settings import plain, settings

EAGLE = Speculative(draft=Draft.EAGLE3, checkpoint=Path("/eagle"))
VERSIONS = ("1.0.0", "1.1.0", "1.2.1", "1.3.0rc20", "1.4.0rc1")


def test_fp8_on_hopper_is_tuned_and_explicit():
    assert llm_args(settings(tp=2), "1.2.1") == {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "max_batch_size": 8,
        "max_num_tokens": 8192,
        "max_seq_len": 4096,
        "max_beam_width": 1,
        "dtype": "auto",
        "trust_remote_code": False,
        "enable_chunked_prefill": True,
        "kv_cache_config": {
            "dtype": "fp8",
            "free_gpu_memory_fraction": 0.9,
            "enable_block_reuse": True,
        },
        "cuda_graph_config": {"max_batch_size": 8, "enable_padding": True},
    }


@pytest.mark.parametrize(
    ("kv_cache", "said"),
    [(Format.BF16, "auto"), (Format.FP8, "fp8"), (Format.NVFP4, "nvfp4")],
)
def test_the_cache_format_is_always_said(kv_cache, said):
    args = llm_args(settings(kv_cache=kv_cache), "1.2.1")
    assert args["kv_cache_config"]["dtype"] == said


@pytest.mark.parametrize("kv_cache", [Format.INT8, Format.FP8_E5M2, Format.MXFP8])
def test_a_cache_that_the_llm_api_lacks_is_refused(kv_cache):
    with pytest.raises(PlanError, match=f"no KV cache in {kv_cache.value}") as caught:
        llm_args(settings(kv_cache=kv_cache), "1.2.1")
    assert "E4M3" in caught.value.hint


@pytest.mark.parametrize("version", VERSIONS)
def test_telemetry_is_off_where_the_version_knows_it(version):
    args = llm_args(settings(), version)
    known = {"telemetry_config": {"disabled": True}}
    assert (args | known == args) is (version == "1.4.0rc1")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(speculative=EAGLE),
        Options(speculative=Speculative(draft=Draft.NGRAM, tokens=4)),
        Options(speculative=Speculative(draft=Draft.MTP, tokens=2)),
        Options(lora=Lora(adapters=(Path("/adapters/one"),))),
        Options(experts=True, ep=2, attention_dp=True),
        Options(batch_sizes=(8, 1, 4)),
        Options(chunked_prefill=False),
    ],
)
def test_every_option_is_taken_by_every_version(version, options):
    assert validate_llm_args(version, llm_args(settings(tp=2), version, options)) == ()


@pytest.mark.parametrize(
    ("version", "draft"),
    [("1.2.1", "Eagle"), ("1.3.0rc5", "Eagle"), ("1.3.0rc20", "Eagle3"), ("1.4.0rc1", "Eagle3")],
)
def test_eagle_is_spelled_as_the_version_spells_it(version, draft):
    assert llm_args(settings(), version, Options(speculative=EAGLE))["speculative_config"] == {
        "decoding_type": draft,
        "max_draft_len": 3,
        "speculative_model_dir": "/eagle",
    }


def test_multi_token_prediction_is_spelled_as_the_version_spells_it():
    options = Options(speculative=Speculative(draft=Draft.MTP, tokens=2))
    old = llm_args(settings(), "1.2.1", options)["speculative_config"]
    new = llm_args(settings(), "1.4.0rc1", options)["speculative_config"]
    assert old == {"decoding_type": "MTP", "num_nextn_predict_layers": 2}
    assert new == {"decoding_type": "MTP", "max_draft_len": 2}


def test_drafts_from_the_prompt_turn_the_overlap_scheduler_off():
    args = llm_args(settings(), "1.2.1", Options(speculative=Speculative(draft=Draft.NGRAM)))
    assert args["disable_overlap_scheduler"] is True
    assert args["speculative_config"]["max_matching_ngram_size"] == 2


def test_nothing_is_on_that_nobody_asked_for():
    args = llm_args(settings(), "1.4.0rc1")
    asked = {
        "speculative_config",
        "lora_config",
        "enable_lora",
        "enable_attention_dp",
        "moe_config",
    }
    assert not asked & set(args)


@pytest.mark.parametrize(
    ("architecture", "sm", "backend"),
    [
        ("MixtralForCausalLM", 90, "CUTLASS"),
        ("GptOssForCausalLM", 90, "TRITON"),
        ("GptOssForCausalLM", 100, "CUTLASS"),
    ],
)
def test_experts_run_on_the_backend_of_their_tier(architecture, sm, backend):
    made = settings(architecture=architecture, sm=sm)
    assert llm_args(made, "1.2.1", Options(experts=True))["moe_config"] == {"backend": backend}
    chosen = llm_args(made, "1.2.1", Options(experts=True, moe_backend="TRTLLM"))
    assert chosen["moe_config"] == {"backend": "TRTLLM"}


def test_captured_batches_are_sorted_and_stand_alone():
    args = llm_args(settings(), "1.2.1", Options(batch_sizes=(8, 1, 8)))
    assert args["cuda_graph_config"] == {"batch_sizes": [1, 8], "enable_padding": True}


def test_a_prompt_that_may_not_be_cut_fits_into_one_step():
    made = plain(max_seq_len=32768)
    assert llm_args(made, "1.2.1")["max_num_tokens"] == 8192
    whole = llm_args(made, "1.2.1", Options(chunked_prefill=False))
    assert whole["max_num_tokens"] == 32768


def test_the_users_own_keys_win_and_tables_are_merged():
    options = Options(extra={"kv_cache_config": {"max_tokens": 9}, "stream_interval": 4})
    args = llm_args(settings(), "1.2.1", options)
    assert args["kv_cache_config"]["dtype"] == "fp8"
    assert args["kv_cache_config"]["max_tokens"] == 9
    assert args["stream_interval"] == 4


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (Options(extra={"sampler_typ": "auto"}), "no key sampler_typ"),
        (Options(extra={"telemetry_config": {"disabled": True}}), "does not know telemetry_config"),
        (Options(kv_fraction=2.0), "free_gpu_memory_fraction cannot be 2.0"),
        (Options(experts=True, moe_backend="CUBLAS"), "moe_config.backend cannot be 'CUBLAS'"),
        (Options(moe_backend="CUTLASS"), "without experts"),
        (Options(ep=2), "ep 2 does not divide"),
        (Options(experts=True, ep=3), "ep 3 does not divide"),
        (Options(batch_sizes=(16,)), "a batch of 16 is outside"),
        (Options(batch_sizes=(0,)), "a batch of 0 is outside"),
    ],
)
def test_what_the_version_would_refuse_is_refused_here(options, reason):
    with pytest.raises(PlanError) as caught:
        llm_args(settings(), "1.2.1", options)
    assert any(reason in one.reason for one in caught.value.refusals)
    assert all(one.hint for one in caught.value.refusals)


def test_a_version_without_the_llm_api_is_refused():
    with pytest.raises(PlanError, match=r"0\.20\.0 is older"):
        llm_args(settings(), "0.20.0")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Speculative(draft=Draft.EAGLE3),
        lambda: Speculative(draft=Draft.NGRAM, checkpoint=Path("/x")),
        lambda: Speculative(draft=Draft.MTP, tokens=0),
        lambda: Lora(adapters=()),
        lambda: Lora(adapters=(Path("/a"),), max_rank=0),
    ],
)
def test_options_that_mean_nothing_cannot_be_made(make):
    with pytest.raises(UsageError) as caught:
        make()
    assert caught.value.hint


def test_a_path_that_could_end_its_quotation_is_refused():
    with pytest.raises(UsageError):
        llm_args(settings(), "1.2.1", Options(lora=Lora(adapters=(Path('/a"b'),))))
