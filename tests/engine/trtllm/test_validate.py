"""Command lines and YAML are held against the version's contract, and every fault is told."""

import pytest

from builders.engine.trtllm.validate import validate_argv, validate_llm_args

GOOD = ("trtllm-build", "--checkpoint_dir", "/c", "--max_batch_size", "8", "--multiple_profiles",
        "enable")  # fmt: skip


def reasons(refusals):
    assert all(one.hint for one in refusals)
    return [one.reason for one in refusals]


def test_a_sound_command_line_is_taken():
    assert validate_argv("trtllm-build", "1.2.1", GOOD) == ()
    assert validate_argv("trtllm-build", "1.2.1", ("/usr/bin/trtllm-build", *GOOD[1:])) == ()
    assert validate_argv("trtllm-build", "1.2.1", ("trtllm-build", "--max_batch_size=8")) == ()


def test_every_fault_is_told_not_only_the_first():
    argv = (
        *GOOD,
        "--max_seqlen",
        "5",
        "--gemm_plugin",
        "int8",
        "--max_num_tokens",
        "many",
        "--dry_run",
        "x",
    )
    found = reasons(validate_argv("trtllm-build", "1.2.1", argv))
    assert found == [
        "trtllm-build 1.2.1 has no option --max_seqlen",
        "trtllm-build 1.2.1: '5' belongs to no option",
        "trtllm-build 1.2.1: --gemm_plugin cannot be 'int8'",
        "trtllm-build 1.2.1: --max_num_tokens cannot be 'many'",
        "trtllm-build 1.2.1: 'x' belongs to no option",
    ]


def test_a_mistyped_flag_names_its_neighbour():
    (only,) = validate_argv("trtllm-build", "1.2.1", (*GOOD, "--max_seqlen=5"))
    assert only.hint == "did you mean --max_seq_len?"


def test_abbreviations_that_argparse_would_guess_are_refused():
    found = reasons(validate_argv("trtllm-build", "1.2.1", ("trtllm-build", "--max_batch", "8")))
    assert "has no option --max_batch" in found[0]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--max_batch_size", "8", "--max_batch_size", "9"), "given twice"),
        (("--max_seq_len", "8", "--max_decoder_seq_len", "9"), "given twice"),
        (("--max_batch_size",), "needs a value"),
        (("--max_batch_size", "--dry_run"), "needs a value"),
        (("--dry_run=yes",), "takes no value"),
        (("--max_batch_size", "8.5"), "cannot be '8.5'"),
        (("--max_batch_size", "٣"), "cannot be"),
        (("--max_batch_size", "1_000"), "cannot be '1_000'"),
        (("--kv_cache_type", "PAGED"), "cannot be 'PAGED'"),
        (("--output_dir", "-rf"), "cannot be '-rf'"),
        (("--output_dir", "a\nb"), "cannot be"),
        (("--output_dir", ""), "cannot be ''"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused(words, reason):
    found = reasons(validate_argv("trtllm-build", "1.2.1", ("trtllm-build", *words)))
    assert any(reason in one for one in found), found


def test_an_option_that_takes_many_values_takes_them_all():
    argv = ("trtllm-build", "--lora_target_modules", "attn_q", "attn_k", "--max_lora_rank", "8")
    assert validate_argv("trtllm-build", "1.2.1", argv) == ()


def test_negative_numbers_are_values():
    argv = ("trtllm-bench", "--model", "m", "throughput", "--eos_id", "-1")
    assert validate_argv("trtllm-bench", "1.2.1", argv) == ()


def test_a_program_that_a_version_lacks_is_refused():
    (only,) = validate_argv("trtllm-build", "1.4.0rc1", GOOD)
    assert only.reason == "TensorRT-LLM 1.4.0rc1 has no trtllm-build"
    assert "before 1.3.0rc21" in only.hint


def test_another_program_is_refused():
    assert "must start with" in validate_argv("trtllm-serve", "1.2.1", GOOD)[0].reason
    assert "must start with" in validate_argv("trtllm-serve", "1.2.1", ())[0].reason


@pytest.mark.parametrize(
    ("tool", "argv", "reason"),
    [
        ("trtllm-serve", ("trtllm-serve",), "needs MODEL"),
        ("trtllm-serve", ("trtllm-serve", "m", "n"), "'n' belongs to no option"),
        ("trtllm-bench", ("trtllm-bench", "--model", "m"), "needs a command"),
        ("trtllm-bench", ("trtllm-bench", "throughput"), "needs --model"),
        ("trtllm-bench", ("trtllm-bench", "--model", "m", "thruput"), "has no command 'thruput'"),
        ("trtllm-bench", ("trtllm-bench", "throughput", "--model", "m"), "no option --model"),
        ("trtllm-eval", ("trtllm-eval", "mmlu"), "needs --model"),
        ("trtllm-eval", ("trtllm-eval", "--model", "m", "mlu"), "has no command 'mlu'"),
    ],
)
def test_commands_and_arguments_stand_where_they_belong(tool, argv, reason):
    found = reasons(validate_argv(tool, "1.2.1", argv))
    assert any(reason in one for one in found), found


def test_a_latency_run_takes_no_yaml_before_1_2():
    argv = ("trtllm-bench", "--model", "m", "latency", "--extra_llm_api_options", "/x.yaml")
    assert validate_argv("trtllm-bench", "1.2.1", argv) == ()
    assert "no option --extra_llm" in validate_argv("trtllm-bench", "1.1.0", argv)[0].reason


def test_sound_arguments_are_taken():
    args = {
        "max_batch_size": 8,
        "dtype": "auto",
        "kv_cache_config": {"dtype": "fp8", "free_gpu_memory_fraction": 0.9, "max_tokens": None},
        "cuda_graph_config": {"batch_sizes": [1, 2, 8], "max_batch_size": 8},
        "speculative_config": None,
    }
    assert validate_llm_args("1.2.1", args) == ()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"max_batchsize": 8}, "has no key max_batchsize"),
        ({"max_batch_size": "8"}, "max_batch_size cannot be '8'"),
        ({"max_batch_size": True}, "max_batch_size cannot be True"),
        ({"max_batch_size": None}, "max_batch_size cannot be None"),
        ({"trust_remote_code": 1}, "trust_remote_code cannot be 1"),
        ({"dtype": "fp8"}, "dtype cannot be 'fp8'"),
        ({"kv_cache_config": {"dtype": "fp8_e5m2"}}, "kv_cache_config.dtype cannot be 'fp8_e5m2'"),
        ({"kv_cache_config": {"dytpe": "fp8"}}, "has no key kv_cache_config.dytpe"),
        ({"kv_cache_config": "fp8"}, "kv_cache_config cannot be 'fp8'"),
        ({"kv_cache_config": {"free_gpu_memory_fraction": 1.5}}, "cannot be 1.5"),
        ({"kv_cache_config": {"free_gpu_memory_fraction": float("nan")}}, "cannot be nan"),
        ({"cuda_graph_config": {"batch_sizes": [1, 4], "max_batch_size": 8}}, "end at 4"),
        ({"cuda_graph_config": {"batch_sizes": ["1"]}}, "batch_sizes cannot be"),
        ({"pytorch_backend_config": {}}, "pytorch_backend_config is no key"),
        ({"build_config": {}}, "build_config is no key"),
        ({"telemetry_config": {"disabled": True}}, "1.2.1 does not know telemetry_config"),
        ({"speculative_config": {"decoding_type": "Medusa"}}, "decoding_type cannot be 'Medusa'"),
        ({"speculative_config": {"decoding_type": "NGram"}}, "max_draft_len is missing"),
        (
            {"speculative_config": {"decoding_type": "MTP", "max_draft_len": 1}},
            "does not know speculative_config.max_draft_len",
        ),
        ({"speculative_config": 3}, "decoding_type cannot be ''"),
    ],
)
def test_a_key_that_the_version_refuses_is_named(args, reason):
    found = reasons(validate_llm_args("1.2.1", args))
    assert any(reason in one for one in found), found


def test_a_retired_key_says_what_to_do_instead():
    (only,) = validate_llm_args("1.2.1", {"quant_config": {}})
    assert "hf_quant_config.json" in only.hint


@pytest.mark.parametrize(
    ("version", "key", "taken"),
    [
        ("1.2.1", {"sampler_type": "auto"}, True),
        ("1.4.0rc1", {"sampler_type": "auto"}, False),
        ("1.2.1", {"kv_cache_config": {"onboard_blocks": True}}, True),
        ("1.4.0rc1", {"kv_cache_config": {"onboard_blocks": True}}, False),
        ("1.4.0rc1", {"telemetry_config": {"disabled": True}}, True),
        ("1.3.0rc20", {"telemetry_config": {"disabled": True}}, False),
    ],
)
def test_keys_come_and_go_with_versions(version, key, taken):
    assert (validate_llm_args(version, key) == ()) is taken


def test_a_version_without_the_llm_api_is_refused():
    assert "older than" in validate_llm_args("0.20.0", {})[0].reason
