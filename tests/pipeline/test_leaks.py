"""Calibration texts that hold what the gates ask are refused before any work."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from builders.errors import UsageError
from builders.gate.policy import Policy
from builders.pipeline import leaks
from builders.recipe import Calibration, shipped

QUESTION = "Which of the two moons of Mars is the larger one, and how long does its orbit take?"
ARTICLE = "The larger moon of Mars is called Phobos and it goes around once in under eight hours. "
POLICY = """
[perplexity]
corpus = ["corpus.jsonl"]
[accuracy]
task = "task.yaml"
[prompts]
file = "prompts.jsonl"
"""


@pytest.fixture
def policy(tmp_path):
    write(tmp_path / "corpus.jsonl", {"text": ARTICLE})
    write(tmp_path / "items.jsonl", {"context": "Of what is the Moon made?", "choices": [QUESTION]})
    prompt = {"id": "a", "prompt": QUESTION.replace("Mars", "Uranus"), "scorer": "contains"}
    write(tmp_path / "prompts.jsonl", prompt | {"expect": "Titania"})
    (tmp_path / "task.yaml").write_text("task: t\ndata_files:\n  test: items.jsonl\n")
    (tmp_path / "policy.toml").write_text(POLICY)
    return Policy.read(tmp_path / "policy.toml")


def write(path: Path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check(tmp_path, policy, *texts, **settings):
    rows = [{"text": text} if isinstance(text, str) else text for text in texts]
    file = write(tmp_path / "calib.jsonl", *rows)
    plan = SimpleNamespace(
        recipe=shipped()["fp8"], calibration=Calibration(files=(file,), **settings)
    )
    said = []
    leaks.check(plan, policy, said.append)
    return said


def test_other_texts_are_let_through_without_a_word(tmp_path, policy):
    assert check(tmp_path, policy, "Something else.", "And more of it.") == []


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        (ARTICLE, "perplexity"),
        (QUESTION, "accuracy"),
        (
            {"messages": [{"role": "user", "content": QUESTION.replace("Mars", "Uranus")}]},
            "prompts",
        ),
    ],
)
def test_what_a_gate_asks_is_found_and_counted(tmp_path, policy, text, gate):
    with pytest.raises(UsageError, match=rf"runs of 13 words .* the {gate} gate reads") as caught:
        check(tmp_path, policy, "Something else.", text)
    assert "calib.jsonl:2" in str(caught.value)
    assert "quantize.calibration.overlap" in caught.value.hint


def test_what_is_allowed_is_said(tmp_path, policy):
    said = check(tmp_path, policy, ARTICLE, overlap=1.0)
    assert said == [
        "calibration texts share 5 of 5 runs of 13 words (100.00%) with the perplexity gate"
    ]


def test_without_a_policy_nothing_can_leak_but_texts_are_read(tmp_path):
    assert check(tmp_path, None, ARTICLE) == []
    with pytest.raises(UsageError, match="text is empty"):
        check(tmp_path, None, "")
