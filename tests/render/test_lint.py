"""Each fault that people meet is found, with its line, in anybody's repository."""

import contextlib
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import cli, render
from builders.errors import UsageError
from builders.render.lint import Severity, lint
from builders.render.lint.pbtxt import Unreadable, read
from fakes import nvidia_templates
from fakes.nvidia_templates import REQUIRED, filled, llm_api, write
from fakes.triton_repositories import context
from fakes.trtllm.checkpoints import engine_config

PARTS = ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble", "tensorrt_llm_bls")


def stops(root):
    return [finding for finding in lint(root) if finding.stops]


def edit(root, part, old, new, count=-1):
    file = root / part / "config.pbtxt"
    text = file.read_text()
    assert old in text, old
    file.write_text(text.replace(old, new, count))
    return text[: text.index(old)].count("\n") + 1


def test_a_filled_repository_of_nvidia_s_shape_is_sound(tmp_path):
    assert stops(filled(tmp_path)) == []


def test_what_was_not_filled_in_is_found_with_its_line(tmp_path):
    found = lint(write(tmp_path))
    bare = [one for one in found if one.rule == "placeholder" and one.stops]
    named = {one.what.split(" ")[0] for one in bare}
    assert named == {
        f"${{{name}}}"
        for contract in nvidia_templates.contracts(nvidia_templates.FAMILY).values()
        for name in contract.bare
        if name != "triton_backend"  # stands in quotes, as the backend's name
    }
    for one in bare:
        part = one.file.partition("/")[0]
        line = (tmp_path / part / "config.pbtxt").read_text().splitlines()[one.line - 1]
        assert one.what.split(" ")[0] in line


def test_an_optional_parameter_that_was_not_filled_in_only_warns(tmp_path):
    quoted = [one for one in lint(filled(tmp_path)) if one.rule == "placeholder"]
    assert quoted
    assert {one.severity for one in quoted} == {Severity.WARN}


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_each_required_variable_is_missed(tmp_path, name):
    write(tmp_path, **{key: value for key, value in REQUIRED.items() if key != name})
    (tmp_path / "tokenizer").mkdir()
    found = [one for one in lint(tmp_path) if one.rule in {"placeholder", "parameter"}]
    assert any(f"${{{name}}}" in one.what for one in found)


def test_the_duplicate_output_of_nvidia_s_own_ensemble_is_found(tmp_path):
    filled(tmp_path / "sound")
    write(tmp_path / "twice", twice=True, **REQUIRED)
    again = [one for one in lint(tmp_path / "twice") if one.rule == "duplicate"]
    (one,) = again
    assert one.what == "output kv_cache_alloc_total_blocks is declared 2 times"
    line = (tmp_path / "twice/ensemble/config.pbtxt").read_text().splitlines()[one.line - 1]
    assert "kv_cache_alloc_total_blocks" in line


FAULTS = [
    ("tensorrt_llm", '"kv_cache_free_gpu_mem_fraction"', '"kv_cache_free_gpu_memory_fraction"',
     "parameter", "kv_cache_free_gpu_memory_fraction is none that tensorrt_llm reads"),
    ("tensorrt_llm", '"inflight_fused_batching"', '"inflight_batching"', "parameter",
     "gpt_model_type cannot be 'inflight_batching'"),
    ("tensorrt_llm", '"${batch_scheduler_policy}"', '"max_throughput"', "parameter",
     "batch_scheduler_policy cannot be 'max_throughput'"),
    ("tensorrt_llm", '"engines/llama"', '"engines/lama"', "path", "engines/lama does not exist"),
    ("tensorrt_llm", "decoupled: true", "decoupled: false", "decoupled",
     "decoupled is true here and false in tensorrt_llm"),
    ("tensorrt_llm_bls", "decoupled: true", "decoupled: false", "decoupled",
     "decoupled is false here and true in tensorrt_llm"),
    ("tensorrt_llm_bls", '"tensorrt_llm"', '"tensorrt_lm"', "wiring", "tensorrt_lm is not in the"),
    ("preprocessing", 'string_value: "tokenizer"', 'string_value: "tokeniser"', "path",
     "tokenizer_dir tokeniser does not exist"),
    ("postprocessing", 'string_value: "tokenizer"', 'string_value: "engines/llama"', "path",
     "tokenizer_dir engines/llama holds no tokenizer"),
    ("preprocessing", 'name: "preprocessing"', 'name: "preprocess"', "name",
     "'preprocess' is not the directory's"),
    ("preprocessing", "max_batch_size: 8", "max_batch_size: -8", "max-batch-size",
     "-8 is negative"),
    ("preprocessing", "max_batch_size: 8", "max_batch_size: 4", "max-batch-size",
     "preferred_batch_size 8 is more than max_batch_size 4"),
    ("ensemble", "max_batch_size: 8", "max_batch_size: 16", "max-batch-size",
     "max_batch_size 16 is more than the 8 of step"),
    ("ensemble", 'model_name: "postprocessing"', 'model_name: "postprocess"', "ensemble",
     "step postprocess is not in the repository"),
    ("ensemble", 'key: "TOKENS_BATCH"', 'key: "TOKEN_BATCH"', "ensemble",
     "step postprocessing has no input TOKEN_BATCH"),
    ("ensemble", 'key: "TOKENS_BATCH"', 'key: "TOKEN_BATCH"', "ensemble",
     "step postprocessing gets no input TOKENS_BATCH"),
    ("ensemble", 'key: "OUTPUT" value: "text_output"', 'key: "OUTPUT" value: "text"', "ensemble",
     "no step produces the tensor text_output"),
    ("ensemble", 'value: "_INPUT_ID"', 'value: "INPUT_ID"', None, None),
    ("tensorrt_llm", "count: 1 kind", "count: 2 kind", "instances",
     "2 instances of one engine need as many lists"),
    ("tensorrt_llm", '"${gpu_device_ids}"', '"0,1"', "world-size",
     "gives an instance 2 GPUs, the engine has 1 ranks"),
    ("tensorrt_llm", "KIND_CPU", "KIND_TPU", "schema", "KIND_TPU"),
    ("tensorrt_llm", "dynamic_batching {", "dynamic_bathing {", "schema", "dynamic_bathing"),
    ("tensorrt_llm", "TYPE_INT32", "TYPE_INT33", "schema", "TYPE_INT33"),
    ("tensorrt_llm", "decoupled: true", "decoupled: true decoupled: true", "schema", "decoupled"),
    ("tensorrt_llm", 'key: "max_beam_width"', 'key: "gpt_model_path"', "duplicate",
     "parameter gpt_model_path is set 2 times"),
    ("preprocessing", "instance_group [", "instance_group {", "syntax", "cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "old", "new", "rule", "said"), FAULTS)
def test_a_planted_fault_is_found_where_it_was_planted(tmp_path, part, old, new, rule, said):
    line = edit(filled(tmp_path), part, old, new, 1)
    found = stops(tmp_path)
    if rule is None:
        assert all(one.rule != "ensemble" or "INPUT_ID" in one.what for one in found)
        return
    match = [one for one in found if one.rule == rule and said in one.what]
    assert match, [str(one) for one in found]
    near = {"path", "name", "parameter", "schema", "world-size"}
    if rule in near:
        assert abs(match[0].line - line) <= 5


def test_limits_that_the_engine_does_not_have_are_found(tmp_path):
    root = filled(
        tmp_path,
        triton_max_batch_size=16,
        enable_kv_cache_reuse="true",
        enable_chunked_context="true",
        max_beam_width=4,
        gpu_weights_percent="0.5",
    )
    config = engine_config(build={
        "max_beam_width": 1, "weight_streaming": False,
        "plugin_config": {"use_paged_context_fmha": False},
    })  # fmt: skip
    (root / "engines/llama/config.json").write_text(json.dumps(config))
    said = " ".join(one.what for one in lint(root))
    for what in (
        "max_batch_size 16 is more than the engine's 8",
        "enable_kv_cache_reuse needs an engine with paged context attention",
        "enable_chunked_context needs an engine",
        "max_beam_width 4 is more than the engine's 1",
        "gpu_weights_percent below 1.0",
    ):
        assert what in said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"version": "1.3.0rc22"}, "1.3.0rc22 built it, which compiles none"),
        ({"version": "banana"}, "banana built it"),
        ({"tp": 2}, "the engine is for 2 ranks, and 1 engines are there"),
    ],
)
def test_an_engine_that_cannot_be_is_found(tmp_path, config, said):
    root = filled(tmp_path)
    (root / "engines/llama/config.json").write_text(json.dumps(engine_config(**config)))
    assert said in " ".join(one.what for one in stops(root))


def test_a_model_without_its_program_or_version_is_found(tmp_path):
    root = filled(tmp_path)
    (root / "preprocessing/1/model.py").unlink()
    (root / "ensemble/1").rmdir()
    assert {(one.file.partition("/")[0], one.what) for one in stops(root)} == {
        ("preprocessing", "version 1 has no model.py"),
        ("ensemble", "has no version directory (1, 2, …)"),
    }


POLICY = "model_transaction_policy { decoupled: true } max_batch_size: 0"
GOOD = {"max_batch_size": 0, "decoupled": True}


@pytest.mark.parametrize(
    ("given", "rule", "said"),
    [
        ({}, "decoupled", "decoupled is false here and true in 1/model.yaml"),
        ({"pbtxt": POLICY, "triton_config": {**GOOD, "decoupled": False}}, "decoupled",
         "decoupled is true here and false"),
        ({"pbtxt": POLICY, "triton_config": {"decoupled": True}}, "argument",
         "triton_config.max_batch_size is missing"),
        ({"pbtxt": POLICY, "triton_config": None}, "argument",
         "triton_config.decoupled is missing"),
        ({"pbtxt": POLICY, "triton_config": {**GOOD, "max_batch_size": 4}}, "max-batch-size",
         "takes one prompt a request"),
        ({"pbtxt": POLICY.replace(": 0", ": 4")}, "max-batch-size", "max_batch_size 4"),
        ({"pbtxt": POLICY, "pytorch_backend_config": {}}, "argument", "pytorch_backend_config was"),
        ({"pbtxt": POLICY, "model": "chekpoint"}, "path", "model chekpoint does not exist"),
        ({"pbtxt": POLICY, "model": None}, "argument", "says no model"),
        ({"pbtxt": POLICY, "count": 2}, "instances", "2 instances need as many lists of GPUs"),
        ({"pbtxt": POLICY + ' parameters { key: "gpu_device_ids" value { string_value: "0,1" } }'},
         "world-size", "tensor × pipeline parallel 1"),
    ],
)  # fmt: skip
def test_an_llm_api_repository_that_contradicts_itself_is_found(tmp_path, given, rule, said):
    found = stops(llm_api(tmp_path, **given))
    assert any(one.rule == rule and said in one.what for one in found), list(map(str, found))


def test_an_llm_api_repository_that_agrees_is_sound(tmp_path):
    assert lint(llm_api(tmp_path, pbtxt=POLICY)) == ()


def test_a_model_that_would_be_fetched_is_warned_of(tmp_path):
    (one,) = lint(llm_api(tmp_path, pbtxt=POLICY, model="org/name"))
    assert "it would be fetched from a hub" in one.what
    assert not one.stops


def test_yaml_that_is_none_is_found(tmp_path):
    root = llm_api(tmp_path, pbtxt=POLICY)
    (root / "tensorrt_llm/1/model.yaml").write_text("a: [1\n")
    assert [one.rule for one in lint(root)] == ["syntax"]


def vllm(root, policy="decoupled: true", said='{"model": "m"}', kind="KIND_MODEL"):
    (root / "v" / "1" / "m").mkdir(parents=True)
    (root / "v" / "1" / "model.json").write_text(said)
    (root / "v" / "config.pbtxt").write_text(
        f'backend: "vllm"\nmodel_transaction_policy {{ {policy} }}\n'
        f"instance_group [ {{ count: 1 kind: {kind} }} ]\n"
    )
    return root


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"policy": ""}, "is not decoupled"),
        ({"said": "{"}, "cannot be read"),
        ({"said": "[]"}, "holds no object"),
        ({"said": "{}"}, "says no model"),
        ({"said": '{"model": "m", "tensor_parallel_size": 2}', "kind": "KIND_GPU"}, "KIND_GPU is"),
    ],
)
def test_a_vllm_repository_that_cannot_work_is_found(tmp_path, given, said):
    assert lint(vllm(tmp_path / "sound")) == ()
    assert said in " ".join(one.what for one in stops(vllm(tmp_path / "bad", **given)))


@pytest.mark.parametrize("variant", ["embedded", "llmapi", "vllm"])
def test_what_we_render_has_no_findings(tmp_path, variant):
    (tmp_path / "engine" / "checkpoint").mkdir(parents=True)
    (tmp_path / "engine" / "checkpoint" / "config.json").write_text("{}")
    render.render(variant, context(), tmp_path / "engine", tmp_path / "out")
    assert lint(tmp_path / "out") == ()


@pytest.mark.parametrize("text", ["a {", "a: [", "a:", "}", "a: }", 'a: "x', "= 1", "a { b: [ 1 }"])
def test_what_is_no_text_format_is_refused_with_its_line(text):
    with pytest.raises(Unreadable) as caught:
        read(f"\n\n{text}")
    assert caught.value.line >= 3


@given(st.text())
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(Unreadable):
        read(text)


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_a_quoted_text_is_read_as_it_was_meant(text):
    from builders.render.environment import quoted

    field = read(f"name: {quoted(text)} x: 1")
    assert (field.said("name"), field.said("x")) == (text, "1")


def test_a_machine_without_triton_s_schema_is_told_what_is_not_seen(tmp_path, monkeypatch):
    root = llm_api(tmp_path, pbtxt=POLICY)
    monkeypatch.setitem(sys.modules, "builders.render.schema", None)
    (one,) = lint(root)
    assert "schema is not installed" in one.what
    assert not one.stops


def test_what_is_no_repository_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such model repository"):
        lint(tmp_path / "absent")
    with pytest.raises(UsageError, match="holds no model"):
        lint(tmp_path)


def test_the_command_says_where_what_and_how_to_mend_it(tmp_path, capsys):
    root = write(tmp_path / "unfilled")
    assert cli.run(["lint", str(root)]) == 10
    out = capsys.readouterr().out
    assert (
        "tensorrt_llm/config.pbtxt:3: ${triton_max_batch_size} was not filled in; fill it in" in out
    )
    assert cli.run(["lint", str(root), "--json"]) == 10
    said = json.loads(capsys.readouterr().out)
    assert said["sound"] is False
    assert {"rule", "severity", "file", "line", "what", "hint"} == set(said["findings"][0])
    assert cli.run(["lint", str(llm_api(tmp_path / "good", pbtxt=POLICY))]) == 0
    assert capsys.readouterr().out == "sound: nothing found\n"
    assert cli.run(["lint", str(tmp_path / "absent")]) == 2
