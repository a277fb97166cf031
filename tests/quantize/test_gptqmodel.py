"""GPTQ and AWQ: the job that the worker gets, and what becomes of what it writes.

The worker's library is in an environment of its own; where that is ready, the real one runs too.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from builders.bundle import Tree
from builders.checkpoint import Checkpoint
from builders.environment import Environment
from builders.errors import PlanError, ToolError, UsageError
from builders.home import Home
from builders.progress import silent
from builders.quantize import quantize, worker
from builders.quantize.calibration import Corpus
from builders.quantize.rows import tokenize
from builders.recipe import Calibration, shipped
from fakes.checkpoints import tiny_llama, tiny_mixtral, tiny_qwen2, tiny_qwen3_moe
from fakes.environments import ready

RECIPES = ["gptq_int4", "awq_int4"]
STAND_IN = Path(__file__).parents[1] / "fakes" / "gptqmodel_worker.py"
REAL = Environment.find(
    "gptq", Home.find(Path(__file__).parents[2], {"ENGINESMITH_HOME": ".enginesmith"})
)
needs_gptq = pytest.mark.skipif(REAL.state != "ready", reason="enginesmith env create gptq")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Let the stand-in do the work."""
    monkeypatch.setattr(worker, "script", lambda _name: STAND_IN)
    return ready(tmp_path, monkeypatch)


def run(source, recipe, calibration, out):
    out.mkdir(exist_ok=True)
    quantize(source, recipe, calibration, out, silent)
    return Checkpoint.open(out)


@pytest.mark.parametrize("name", RECIPES)
def test_what_the_worker_wrote_passes_the_autopsy_and_nothing_else_stays(
    stand_in, source, calibration, tmp_path, name
):
    made = run(source, shipped()[name], calibration, tmp_path / "out")
    left = {path.name for path in made.path.iterdir()}
    assert {"quantize_config.json", "quant_log.csv"}.isdisjoint(left)
    assert (made.path / "tokenizer.json").read_bytes() == (
        source.path / "tokenizer.json"
    ).read_bytes()
    assert made.config["rope_theta"] == 10000.0
    assert "model.layers.0.mlp.up_proj.qweight" in made.tensors


def test_the_job_says_everything_that_the_worker_needs(stand_in, source, calibration, tmp_path):
    recipe = replace(
        shipped()["gptq_int4"], preset="gptq_desc_act", keep=("*lm_head*", "*layers.1.mlp*")
    )
    made = run(source, recipe, calibration, tmp_path / "out")
    job = json.loads((made.path / "job.json").read_text())
    assert (job["method"], job["bits"], job["group"], job["desc_act"]) == ("gptq", 4, 128, True)
    assert job["kept"] == [f"model.layers.1.mlp.{n}_proj" for n in ("down", "gate", "up")]
    assert len(job["documents"]) == 16
    assert {document["special"] for document in job["documents"]} == {True}
    assert job["length"] == 64
    assert made.config["quantization_config"]["desc_act"] is True


def test_awq_names_what_it_left_alone_in_the_words_of_its_readers(
    stand_in, source, calibration, tmp_path
):
    recipe = replace(shipped()["awq_int4"], keep=("*lm_head*", "*layers.1.mlp.up_proj"))
    said = run(source, recipe, calibration, tmp_path / "out").config["quantization_config"]
    assert said["modules_to_not_convert"] == ["lm_head", "model.layers.1.mlp.up_proj"]


def told(tmp_path, template):
    """Return a model with this chat template, and a file with a conversation beside a text."""
    model = Checkpoint.open(tiny_llama(tmp_path / "m", layers=1))
    (model.path / "chat_template.jinja").write_text(template)
    file = tmp_path / "chat.jsonl"
    said = [{"messages": [{"role": "user", "content": "hello"}]}, {"text": "Return the list."}]
    file.write_text("".join(json.dumps(line) + "\n" for line in said))
    return model, Calibration(files=(file,), length=64)


@pytest.mark.slow
def test_conversations_reach_the_worker_as_texts_and_become_the_tokens_of_other_recipes(
    stand_in, tmp_path, monkeypatch
):
    monkeypatch.setenv("GPTQMODEL_CPU_WORKERS", "2")  # which importing the worker would set
    from builders.quantize.envs import gptqmodel_worker

    model, calibration = told(tmp_path, "{% for m in messages %}{{ m.content }}</s>{% endfor %}")
    made = run(model, shipped()["gptq_int4"], calibration, tmp_path / "out")
    job = json.loads((made.path / "job.json").read_text())
    assert {"text": "hello</s>", "special": False} in job["documents"]
    assert {"text": "Return the list.", "special": True} in job["documents"]
    rows = [row["input_ids"] for row in gptqmodel_worker.tokens(job)]
    corpus = Corpus.read(calibration)
    assert rows == tokenize(model, corpus, vocabulary=model.config["vocab_size"])


@pytest.mark.slow
def test_a_chat_template_that_never_ends_is_stopped_before_the_worker_starts(stand_in, tmp_path):
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    model, calibration = told(tmp_path, endless)
    before = time.monotonic()
    with pytest.raises(UsageError, match=r"chat\.jsonl:1: the chat template .* 5 seconds"):
        run(model, shipped()["gptq_int4"], calibration, tmp_path / "out")
    assert time.monotonic() - before < 60
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", RECIPES)
def test_without_the_environment_the_line_that_makes_it_is_told_at_once(
    source, calibration, tmp_path, monkeypatch, name
):
    monkeypatch.setenv("ENGINESMITH_HOME", str(tmp_path / "home"))
    with pytest.raises(ToolError, match="the environment gptq is absent") as caught:
        run(source, shipped()[name], calibration, tmp_path / "out")
    assert "enginesmith env create gptq" in caught.value.hint


@pytest.mark.parametrize("name", RECIPES)
def test_shapes_and_mixtral_are_refused_before_any_environment_is_asked_for(
    calibration, tmp_path, name
):
    odd = Checkpoint.open(tiny_llama(tmp_path / "odd", hidden=96, intermediate=200, layers=1))
    with pytest.raises(PlanError, match="cannot cut into blocks of 128"):
        run(odd, shipped()[name], calibration, tmp_path / "a")
    mixtral = Checkpoint.open(tiny_mixtral(tmp_path / "mixtral"))
    with pytest.raises(PlanError, match="under names that are not those of the original"):
        run(mixtral, shipped()[name], calibration, tmp_path / "b")


def test_texts_are_needed(source, tmp_path):
    with pytest.raises(UsageError, match="names none"):
        run(source, shipped()["gptq_int4"], Calibration(), tmp_path / "out")


@needs_gptq
@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("family", [tiny_qwen2, tiny_qwen3_moe])
def test_gptqmodel_itself_passes_the_autopsy(calibration, tmp_path, monkeypatch, family, name):
    monkeypatch.setenv("ENGINESMITH_HOME", str(REAL.root.parents[1]))
    run(Checkpoint.open(family(tmp_path / "m")), shipped()[name], calibration, tmp_path / "out")


@needs_gptq
@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_gptqmodel_itself_writes_equal_bytes(source, calibration, tmp_path, monkeypatch, name):
    monkeypatch.setenv("ENGINESMITH_HOME", str(REAL.root.parents[1]))
    once, again = (
        run(source, shipped()[name], calibration, tmp_path / out) for out in ("once", "again")
    )
    assert Tree.of(once.path).digest == Tree.of(again.path).digest


@needs_gptq
@pytest.mark.slow
def test_gptqmodel_s_own_failures_are_told_in_one_line(calibration, tmp_path, monkeypatch):
    monkeypatch.setenv("ENGINESMITH_HOME", str(REAL.root.parents[1]))
    path = tiny_llama(tmp_path / "m", layers=1)
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="the tokenizer cannot be read"):
        run(Checkpoint.open(path), shipped()["gptq_int4"], calibration, tmp_path / "out")
