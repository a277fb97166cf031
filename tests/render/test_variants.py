"""Each variant holds all that NVIDIA's contract asks for, and says why it leaves out the rest."""

import ast
import json
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig

from builders import render
from builders.errors import ToolError, UsageError
from builders.render import inflight, llmapi, vllm
from builders.render.context import Compiled, LlmApi, Vllm
from builders.render.contract import contracts, document
from fakes.triton_repositories import context

PROGRAMS = sorted((Path(render.__file__).parent / "programs").glob("[a-z]*.py"))
BREAKOUT = (
    'x" } }\nbackend: "python"\nparameters { key: "EXECUTION_ENV_PATH" value { string_value: "/m'
)


@pytest.fixture
def engine(tmp_path):
    (tmp_path / "engine" / "checkpoint").mkdir(parents=True)
    (tmp_path / "engine" / "checkpoint" / "config.json").write_text("{}")
    return tmp_path / "engine"


def configs(variant, chosen):
    return {
        path.partition("/")[0]: text_format.Parse(text, ModelConfig())
        for path, text in render.texts(variant, chosen).items()
        if path.endswith("config.pbtxt")
    }


@pytest.mark.parametrize("part", contracts(inflight.FAMILY))
def test_every_parameter_of_the_contract_is_set_or_left_out_for_a_reason(part):
    known = set(contracts(inflight.FAMILY)[part].parameters)
    chosen = context()
    said = set(inflight.parameters(part, chosen, chosen.compiled))
    gone = set(inflight.PARAMETERS_LEFT_OUT[part])
    assert not said & gone
    assert known <= said | gone
    assert said - known <= {"engine_digest", "enginesmith", "max_tokens"}
    assert all(inflight.PARAMETERS_LEFT_OUT[part].values())


def test_what_the_contract_requires_is_set():
    for part, contract in contracts(inflight.FAMILY).items():
        chosen = context()
        said = inflight.parameters(part, chosen, chosen.compiled)
        for key, parameter in contract.parameters.items():
            assert key in said or not parameter.required, key
            assert not parameter.choices or said.get(key, parameter.choices[0]) in parameter.choices


@pytest.mark.parametrize("part", contracts(inflight.FAMILY))
def test_every_tensor_of_the_contract_is_there_or_left_out_for_a_reason(part):
    contract, gone = contracts(inflight.FAMILY)[part], inflight.TENSORS_LEFT_OUT[part]
    assert set(gone) <= {*contract.inputs, *contract.outputs}
    name = "demo" if part == "tensorrt_llm_bls" else part
    config = configs(inflight.FAMILY, context())[name]
    for tensors, known in ((config.input, contract.inputs), (config.output, contract.outputs)):
        assert {tensor.name for tensor in tensors} >= set(known) - set(gone)


@pytest.mark.parametrize(("variant", "module", "model"), [
    ("llmapi", llmapi, "tensorrt_llm"), ("vllm", vllm, "vllm"),
])  # fmt: skip
def test_the_one_model_has_every_tensor_that_is_not_left_out(variant, module, model):
    contract = contracts(variant)[model]
    known = {*contract.inputs, *contract.outputs, *contract.parameters}
    assert set(module.LEFT_OUT) <= known
    config = configs(variant, context())["demo"]
    said = {t.name for t in (*config.input, *config.output)} | set(config.parameters)
    assert known - set(module.LEFT_OUT) <= said


def test_model_yaml_and_config_pbtxt_say_the_same_of_streaming():
    texts = render.texts("llmapi", context())
    config = configs("llmapi", context())["demo"]
    said = yaml.safe_load(texts["demo/1/model.yaml"])
    assert said.pop("triton_config") == {
        "max_batch_size": config.max_batch_size,
        "decoupled": config.model_transaction_policy.decoupled,
    }
    assert set(document("llmapi")["triton_config"]["required"]) == {"max_batch_size", "decoupled"}
    assert said == {"model": "engine/checkpoint", **context().llmapi.arguments}


def test_every_variant_answers_to_the_names_that_our_client_uses():
    ours = {"text_input", "max_tokens", "stream", "temperature", "seed", "stop", "ignore_eos"}
    for variant in ("embedded", "llmapi", inflight.FAMILY):
        config = configs(variant, context())["demo"]
        assert ours <= {tensor.name for tensor in config.input}, variant
        assert [t.name for t in config.input if not t.optional] == ["text_input"], variant
        outputs = {tensor.name for tensor in config.output}
        assert {"text_output", "token_ids", "token_count", "finish_reason"} <= outputs, variant


def test_vllm_is_told_where_its_checkpoint_lies():
    said = json.loads(render.texts("vllm", context())["demo/1/model.json"])
    assert said == {"model": "demo/1/engine/checkpoint", **context().vllm.arguments}


@pytest.mark.parametrize("variant", ["llmapi", "vllm", inflight.FAMILY])
def test_a_rendered_repository_says_what_was_meant(tmp_path, engine, variant):
    for batch, paged in ((1, True), (64, False)):
        chosen = context(compiled=Compiled(batch=batch, paged_context=paged, kv_fraction=0.85))
        render.render(variant, chosen, engine, tmp_path / f"out{batch}")
        render.check(tmp_path / f"out{batch}", variant, chosen)


def test_the_engine_of_five_models_lies_in_one_of_them(tmp_path, engine):
    render.render(inflight.FAMILY, context(), engine, tmp_path / "out")
    places = list((tmp_path / "out").glob("*/1/engine/checkpoint/config.json"))
    assert [place.relative_to(tmp_path / "out").parts[0] for place in places] == ["tensorrt_llm"]


TEXTS = st.text(alphabet=st.characters(exclude_categories=("Cs",)))


@settings(max_examples=40)
@given(
    variant=st.sampled_from(("llmapi", "vllm", "inflight_batcher_llm")),
    text=TEXTS | st.just(BREAKOUT),
    number=st.floats(allow_nan=False, allow_infinity=False),
    batch=st.integers(1, 2**31 - 1),
    fraction=st.floats(0.01, 1.0),
)
def test_no_value_escapes_its_place(variant, text, number, batch, fraction):
    table = {"note": text, "list": [text, number], "inner": {"key": text}}
    chosen = context(
        enginesmith=text.replace("${", "$"),
        compiled=Compiled(batch=batch, kv_fraction=fraction),
        llmapi=LlmApi(arguments=table),
        vllm=Vllm(arguments=table),
    )
    texts = render.texts(variant, chosen)
    for model in render.models(variant, chosen):
        written = text_format.Parse(texts[f"{model.name}/config.pbtxt"], ModelConfig())
        from google.protobuf import json_format

        assert written == json_format.ParseDict(dict(model.meant), ModelConfig())
    if variant == "llmapi":
        said = yaml.safe_load(texts["demo/1/model.yaml"])
        assert {key: said[key] for key in table} == table
        assert set(said) == {"model", "triton_config", *table}
    if variant == "vllm":
        assert json.loads(texts["demo/1/model.json"]) == {
            "model": "demo/1/engine/checkpoint", **table
        }  # fmt: skip


@pytest.mark.parametrize(("variant", "fact"), [
    ("llmapi", "llmapi"), ("vllm", "vllm"), (inflight.FAMILY, "compiled"),
])  # fmt: skip
def test_a_variant_without_its_facts_is_refused(variant, fact):
    with pytest.raises(UsageError, match=f"the {variant} repository needs"):
        render.texts(variant, context(**{fact: None}))


@pytest.mark.parametrize("name", inflight.PARTS)
def test_a_release_cannot_take_the_name_of_a_part(name):
    with pytest.raises(UsageError, match="one of the repository's parts"):
        render.texts(inflight.FAMILY, context(name=name))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Compiled(batch=0), "max_batch_size"),
        (lambda: Compiled(batch=True), "max_batch_size"),
        (lambda: Compiled(batch=1, kv_fraction=0.0), "free memory"),
        (lambda: Compiled(batch=1, kv_fraction=1.5), "free memory"),
        (lambda: LlmApi(arguments={"model": "/x"}), "model"),
        (lambda: LlmApi(arguments={"triton_config": {}}), "triton_config"),
        (lambda: Vllm(arguments={"model": "/x"}), "model"),
    ],
)
def test_facts_that_have_no_place_are_refused(made, said):
    with pytest.raises(UsageError, match=said):
        made()


def test_an_argument_that_yaml_cannot_say_is_refused():
    with pytest.raises((UsageError, ToolError)):
        render.texts("llmapi", context(llmapi=LlmApi(arguments={"a": object()})))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_imports_nothing_of_enginesmith(program):
    tree = ast.parse(program.read_text())
    imported = {
        name.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    } | {
        str(node.module).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert "builders" not in imported
