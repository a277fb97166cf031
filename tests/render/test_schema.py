"""Reading back finds what differs from what was meant, and what Triton's schema does not see."""

import pytest

from builders import render
from builders.errors import ToolError
from builders.render.lint import lint
from fakes.triton_repositories import context


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "engine").mkdir()
    render.render("embedded", context(), tmp_path / "engine", tmp_path / "repository")
    return tmp_path / "repository"


def edit(repository, old, new):
    config = repository / "demo" / "config.pbtxt"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"1024"', '"2048"', "parameters"),
        ("KIND_CPU", "KIND_GPU", "instance_group"),
        ("decoupled: true", "decoupled: false", "model_transaction_policy"),
        ('backend: "python"', 'backend: "onnxruntime"', "backend"),
        ("max_batch_size: 0", "max_batch_size: 8", "max_batch_size"),
        ("TYPE_UINT64", "TYPE_INT64", "input"),
        ("TYPE_FP32 dims: [ -1 ]", "TYPE_FP32 dims: [ 1 ]", "output"),
    ],
)
def test_a_changed_field_is_named(repository, old, new, named):
    edit(repository, old, new)
    with pytest.raises(ToolError, match=rf"demo/config.pbtxt: {named}: not what was meant"):
        render.check(repository, "embedded", context())


def test_a_smuggled_parameter_is_found(repository):
    env = 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/tmp/e" } }'
    edit(repository, "max_batch_size: 0", f"max_batch_size: 0\n{env}")
    with pytest.raises(ToolError, match="parameters"):
        render.check(repository, "embedded", context())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_batch_size: 0", "max_batch_size: ${triton_max_batch_size}", "was not filled in"),
        ("max_batch_size: 0", "max_batch_sise: 0", "max_batch_sise"),
        ("KIND_CPU", "KIND_TPU", "KIND_TPU"),
        ('backend: "python"', 'backend: "python" backend: "python"', "backend"),
        ("max_batch_size: 0", "max_batch_size: -1", "max_batch_size -1 is negative"),
        ('name: "demo"', 'name: "other"', "name 'other' is not the directory's"),
        ('"1024"', '"${context}"', r"\$\{context\} was not filled in"),
        ('name: "top_p"', 'name: "seed"', "input seed is declared 2 times"),
        ('name: "logprobs"', 'name: "token_ids"', "output token_ids is declared 2 times"),
    ],
)
def test_a_defect_is_found_without_a_server(repository, old, new, said):
    edit(repository, old, new)
    with pytest.raises(ToolError, match=said):
        render.check(repository, "embedded", context())
    assert lint(repository)


def test_a_sound_repository_has_no_findings(repository):
    assert lint(repository) == ()


def test_a_model_that_nobody_meant_is_found(repository):
    (repository / "other" / "1").mkdir(parents=True)
    (repository / "other" / "config.pbtxt").write_text('backend: "identity"')
    with pytest.raises(ToolError, match=r"other/config\.pbtxt: is not meant to be there"):
        render.check(repository, "embedded", context())


def test_a_model_without_a_configuration_is_found(repository):
    (repository / "demo" / "config.pbtxt").unlink()
    with pytest.raises(ToolError, match=r"demo/config.pbtxt: is missing.*and 1 more"):
        render.check(repository, "embedded", context())


def test_a_python_model_without_its_script_is_found(repository):
    (repository / "demo" / "1" / "model.py").unlink()
    assert [str(f) for f in lint(repository)] == ["demo/config.pbtxt: version 1 has no model.py"]


def test_a_version_directory_that_triton_ignores_does_not_count(repository):
    (repository / "demo" / "1").rename(repository / "demo" / "01")
    assert "no version directory" in str(lint(repository)[0])


STEP = """
name: "whole"
platform: "ensemble"
input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "answer" data_type: TYPE_STRING dims: [ 1 ] } ]
ensemble_scheduling { step [ {
  model_name: "MODEL" model_version: -1
  input_map { key: "INPUT" value: "text" }
  output_map { key: "OUTPUT" value: "ANSWER" }
} ] }
"""


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, []),
        ({"MODEL": "dmo"}, ["step dmo is not in the repository"]),
        (
            {"INPUT": "prompt"},
            ["step demo has no input prompt", "step demo gets no input text_input"],
        ),
        ({"OUTPUT": "text"}, ["step demo has no output text"]),
        ({"ANSWER": "other"}, ["no step produces the tensor answer"]),
    ],
)
def test_an_ensemble_is_followed_from_its_inputs_to_its_outputs(repository, changed, found):
    sound = {"MODEL": "demo", "INPUT": "text_input", "OUTPUT": "text_output", "ANSWER": "answer"}
    text = STEP
    for placeholder, value in (sound | changed).items():
        text = text.replace(f'"{placeholder}"', f'"{value}"')
    (repository / "whole" / "1").mkdir(parents=True)
    (repository / "whole" / "config.pbtxt").write_text(text)
    assert sorted(finding.what for finding in lint(repository)) == sorted(found)
