"""The commands that ask the ledger print the same facts to people and to scripts."""

import json

import pytest
from click.testing import CliRunner

from builders import recipe
from builders.cli import matrix_of_support, recommend, tiers
from builders.errors import PlanError, UsageError
from builders.tiers import TIERS
from fakes import headers


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return headers.model(tmp_path_factory.mktemp("cli") / "model", headers.LLAMA3_8B)


def run(module, *arguments):
    done = CliRunner().invoke(module.command, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_tiers_are_a_list_of_objects():
    rows = json.loads(run(tiers, "--json"))
    assert [row["name"] for row in rows] == list(TIERS)
    h100 = next(row for row in rows if row["name"] == "h100")
    assert h100["sm"] == 90
    assert "fp8" in h100["trtllm"]
    assert h100["usable_bytes"] < h100["memory_bytes"]
    assert next(row for row in rows if row["name"] == "t4")["trtllm"] == []


def test_tiers_are_a_table_for_people():
    text = run(tiers)
    assert text.splitlines()[0].split() == [
        "name", "architecture", "sm", "usable", "native", "trtllm", "vllm",
    ]  # fmt: skip
    assert "79.2 GiB" in text


def test_the_matrix_is_a_list_of_objects_that_can_be_narrowed():
    narrow = ("--tier", "b200", "--recipe", "fp8", "--runtime", "trtllm", "--json")
    rows = json.loads(run(matrix_of_support, *narrow))
    assert {(row["tier"], row["recipe"], row["runtime"]) for row in rows} == {
        ("b200", "fp8", "trtllm")
    }
    newest = rows[-1]
    assert newest["version"] == "1.4.0rc1"
    assert newest["lanes"] == ["llmapi"]
    assert newest["refusals"] == []


def test_the_matrix_says_why_not_in_its_last_column():
    text = run(matrix_of_support, "--tier", "t4", "--recipe", "fp8", "--runtime", "trtllm")
    head, *lines = text.splitlines()
    assert head == matrix_of_support.HEAD
    assert all(
        line.endswith("TensorRT-LLM does not support Turing (SM75) since 0.14") for line in lines
    )


def test_every_column_of_the_matrix_stands_under_its_head():
    lines = run(matrix_of_support).splitlines()
    starts = [lines[0].index(word) for word in ("recipe", "scheme", "runtime", "version", "lanes")]
    for text in lines[1:]:
        assert all(text[at - 1] == " " for at in starts if at < len(text))
    assert len(lines) == 1 + len(TIERS) * len(recipe.shipped()) * 9


def test_an_unknown_recipe_gets_its_nearest_neighbour():
    with pytest.raises(UsageError, match="unknown recipe 'fp9'") as error:
        run(matrix_of_support, "--recipe", "fp9")
    assert "fp8" in error.value.hint


def test_a_recommendation_says_every_step_and_the_next_command(model):
    text = run(recommend, model, "--tier", "h100", "--context", 32768, "--concurrency", 16)
    assert "fp8 (W8A8KV8)" in text
    assert "KV cache" in text
    assert "why not" in text
    assert "enginesmith plan release.toml --set quantize.recipe=fp8" in text
    assert "--set serve.concurrency=16" in text


def test_a_recommendation_is_one_object_for_scripts(model):
    found = json.loads(run(recommend, model, "--tier", "b200", "--quality", "compact", "--json"))
    assert found["recipe"] == "nvfp4"
    assert found["capacity"]["context"] == 131072  # the model's own, when none is asked
    assert found["settings"]["target.tier"] == "b200"


def test_what_cannot_fit_is_refused_before_any_work(model):
    with pytest.raises(PlanError, match="of KV cache"):
        run(recommend, model, "--tier", "t4", "--concurrency", 64)


@pytest.mark.parametrize(
    "arguments", [["--tier", "h100", "--concurrency", "0"], ["--tier", "v100"], []]
)
def test_a_wrong_flag_is_a_usage_error(model, arguments):
    done = CliRunner().invoke(recommend.command, [str(model), *arguments])
    assert done.exit_code == 2
