"""Command lines of the programs that serve, measure and evaluate: everything in the YAML, once."""

from dataclasses import replace
from pathlib import Path

import pytest

from builders.engine.trtllm.commands import Bench, Deployed, bench_argv, eval_argv, serve_argv
from builders.errors import PlanError, UsageError

LLM = Deployed(model=Path("/d/checkpoint"), config=Path("/d/llm_api.yaml"))
ENGINE = Deployed(model=Path("/d/engine"), tokenizer=Path("/d/tokenizer"))
BENCH = Bench(kind="throughput", model_name="demo", dataset=Path("/prompts.jsonl"),
              report=Path("/report.json"), requests=100, concurrency=8)  # fmt: skip
LATENCY = Bench(kind="latency", model_name="demo", dataset=Path("/prompts.jsonl"),
                report=Path("/report.json"), requests=10)  # fmt: skip
VERSIONS = ("1.0.0", "1.1.0", "1.2.1", "1.3.0rc20", "1.4.0rc1")


@pytest.mark.parametrize("version", VERSIONS)
def test_serving_says_where_to_listen_and_leaves_the_rest_to_the_yaml(version):
    assert serve_argv(version, LLM, port=9000) == (
        "trtllm-serve", "/d/checkpoint", "--extra_llm_api_options", "/d/llm_api.yaml",
        "--host", "127.0.0.1", "--port", "9000",
    )  # fmt: skip


def test_an_engine_is_served_with_its_tokenizer_where_engines_exist():
    argv = serve_argv("1.2.1", ENGINE)
    assert argv[:6] == (
        "trtllm-serve", "/d/engine", "--backend", "tensorrt", "--tokenizer", "/d/tokenizer",
    )  # fmt: skip
    with pytest.raises(PlanError, match="--backend cannot be 'tensorrt'"):
        serve_argv("1.4.0rc1", ENGINE)


@pytest.mark.parametrize("version", VERSIONS)
def test_throughput_is_measured_on_every_version(version):
    argv = bench_argv(version, LLM, BENCH)
    assert argv[:6] == (
        "trtllm-bench", "--model", "demo", "--model_path", "/d/checkpoint", "throughput",
    )  # fmt: skip
    assert "--streaming" in argv
    assert argv[-2:] == ("--report_json", "/report.json")


def test_latency_takes_its_yaml_from_1_2_on():
    assert "--streaming" not in bench_argv("1.2.1", LLM, LATENCY)
    with pytest.raises(PlanError, match="no option --extra_llm_api_options"):
        bench_argv("1.1.0", LLM, LATENCY)


def test_an_engine_is_measured_where_engines_exist():
    argv = bench_argv("1.2.1", ENGINE, BENCH)
    assert argv[argv.index("--engine_dir") + 1] == "/d/engine"
    with pytest.raises(PlanError, match="no option --engine_dir"):
        bench_argv("1.4.0rc1", ENGINE, BENCH)


@pytest.mark.parametrize("version", VERSIONS)
def test_tasks_are_evaluated_on_every_version(version):
    argv = eval_argv(version, LLM, "mmlu", dataset=Path("/mmlu"))
    assert argv[-3:] == ("mmlu", "--dataset_path", "/mmlu")
    assert argv[:3] == ("trtllm-eval", "--model", "/d/checkpoint")


def test_an_engine_is_evaluated_where_engines_exist():
    assert "--tokenizer" in eval_argv("1.2.1", ENGINE, "mmlu")
    with pytest.raises(PlanError):
        eval_argv("1.4.0rc1", ENGINE, "mmlu")


def test_an_unknown_task_is_refused():
    with pytest.raises(PlanError, match="no command 'mlu'"):
        eval_argv("1.2.1", LLM, "mlu")


def test_versions_without_the_programs_are_refused():
    with pytest.raises(PlanError, match=r"0\.20\.0 has no trtllm-serve"):
        serve_argv("0.20.0", LLM)


@pytest.mark.parametrize("host", ["", "-h", "a b", "a\nb", "a;b", "::1 --port", "a" * 300])
def test_a_host_that_is_none_is_refused(host):
    with pytest.raises(UsageError, match="is no host"):
        serve_argv("1.2.1", LLM, host=host)


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost", "::1", "gpu-1.example.org"])
def test_names_and_addresses_are_hosts(host):
    assert host in serve_argv("1.2.1", LLM, host=host)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(UsageError, match="is no port"):
        serve_argv("1.2.1", LLM, port=port)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Deployed(model=Path("/d")),
        lambda: Deployed(model=Path("/d"), config=Path("/c"), tokenizer=Path("/t")),
        lambda: replace(BENCH, kind="speed"),
        lambda: replace(BENCH, requests=0),
        lambda: replace(BENCH, concurrency=0),
        lambda: replace(BENCH, warmup=-1),
    ],
)  # fmt: skip
def test_half_a_request_is_refused(make):
    with pytest.raises(UsageError):
        make()


def test_paths_and_names_that_could_be_options_are_refused():
    with pytest.raises(UsageError):
        serve_argv("1.2.1", Deployed(model=Path("--config"), config=Path("/c")))
    evil = Bench(
        kind="throughput", model_name="-x", dataset=Path("/d"), report=Path("/r"), requests=1
    )
    with pytest.raises(UsageError):
        bench_argv("1.2.1", LLM, evil)
