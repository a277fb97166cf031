"""Code of the user's own runs only where the policy names it, and its faults are named."""

import json

import pytest

from builders.errors import EvidenceError, UsageError
from builders.gate.answering import answers, custom

MINE = """
from dataclasses import dataclass

@dataclass
class Rule:
    word: str

def close(prompt, answer):
    return min(len(answer) / len(prompt["expect"][0]), 1) if prompt["expect"] else answer == "x"

def wild(prompt, answer):
    return {"nan": float("nan"), "two": 2, "text": "1", "none": None}[answer]

def broken(prompt, answer):
    return 1 / 0

number = 3
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def ask(folder, scorer, own, **keys):
    path = folder / "prompts.jsonl"
    lines = [{"prompt": "?", "scorer": scorer, "id": f"q{n}"} | keys for n in range(2)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return answers.read(path, max_tokens=4, own=own)[0]


def test_a_function_beside_the_prompts_scores_them(folder):
    assert ask(folder, "mine:close", ["mine:close"], expect="abcd").score("ab") == 0.5
    assert ask(folder, "mine:close", ["mine:close"]).score("x") == 1.0


def test_an_installed_function_scores_too(folder):
    made = ask(folder, "operator:contains", ["operator:contains"])
    assert made.score("id") == 1.0
    assert made.score("elsewhere") == 0.0


def test_code_that_the_policy_does_not_name_is_not_run(folder):
    (folder / "mine.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UsageError, match=r"prompts\.jsonl:1: the policy does not let mine:close"):
        ask(folder, "mine:close", [])


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("mine:closer", "mine has no such function"),
        ("mine:number", "mine has no such function"),
        ("mine:", "mine has no such function"),
        ("nowhere:close", "cannot be loaded: ImportError: no module nowhere"),
    ],
)
def test_a_scorer_that_is_not_there_is_refused(folder, name, complaint):
    with pytest.raises(UsageError, match=complaint):
        ask(folder, name, [name])


def test_a_module_that_fails_to_load_is_refused(folder):
    (folder / "mine.py").write_text("import nowhere_at_all")
    with pytest.raises(UsageError, match="mine:close cannot be loaded: ModuleNotFoundError"):
        ask(folder, "mine:close", ["mine:close"])


@pytest.mark.parametrize("answer", ["nan", "two", "text", "none"])
def test_a_score_that_is_no_share_is_no_verdict(folder, answer):
    with pytest.raises(EvidenceError, match="prompt q0: the scorer mine:wild returned"):
        ask(folder, "mine:wild", ["mine:wild"]).score(answer)


def test_a_scorer_that_fails_is_no_verdict(folder):
    with pytest.raises(EvidenceError, match="mine:broken failed: ZeroDivisionError"):
        ask(folder, "mine:broken", ["mine:broken"]).score("a")


def test_changed_code_is_another_measurement(folder):
    before = custom.digest("mine:close", beside=folder)
    (folder / "mine.py").write_text(MINE + "\n# changed\n")
    assert custom.digest("mine:close", beside=folder) != before
    assert custom.digest("json:loads", beside=folder) != ""
