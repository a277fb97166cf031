"""A prompt file is refused by line before any work, and answers are scored as its line says."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.errors import EvidenceError, UsageError
from builders.gate.answering import answers, patterns, scorers
from builders.gate.answering.answers import Defaults, Prompt

DEMO = Path(__file__).parents[3] / "demo" / "prompts.jsonl"
GOOD = {"prompt": "Return the absolute", "scorer": "contains", "expect": "value"}


def written(tmp_path, *lines):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines))
    return path


def read(path):
    return answers.read(path, max_tokens=16)


def prompt(**keys):
    defaults = Defaults(id="line-1", max_tokens=16, own={})
    return Prompt.parse(GOOD | keys, place="prompts.jsonl:1", defaults=defaults)


def test_a_line_may_leave_everything_but_the_question_to_defaults(tmp_path):
    first, second = read(written(tmp_path, GOOD, "", GOOD | {"id": "b", "max_tokens": 3}))
    assert (first.id, first.max_tokens, first.expect) == ("line-1", 16, ("value",))
    assert (second.id, second.max_tokens) == ("b", 3)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "prompts.jsonl:2: "),
        ("[]", "prompts.jsonl:2: not an object"),
        (GOOD | {"scorer": "contain"}, "prompts.jsonl:2: unknown scorer 'contain'"),
        (GOOD | {"max_token": 3}, "prompts.jsonl:2: unknown key max_token"),
        (GOOD | {"expect": None}, "prompts.jsonl:2: expect is missing"),
        ({"prompt": "a", "scorer": "exact"}, "prompts.jsonl:2: an empty prompt or expectation"),
        (GOOD | {"expect": []}, "prompts.jsonl:2: an empty prompt or expectation"),
        (GOOD | {"expect": ["a", ""]}, "prompts.jsonl:2: an empty prompt or expectation"),
        (GOOD | {"prompt": ""}, "prompts.jsonl:2: an empty prompt or expectation"),
        (GOOD | {"expect": True}, "prompts.jsonl:2: expect must be a list of strings"),
        (GOOD | {"max_tokens": 0}, "prompts.jsonl:2: max_tokens must be a whole number"),
        (GOOD | {"id": "line-1"}, "prompts.jsonl:2: id 'line-1' stands in an earlier line too"),
        (GOOD | {"scorer": "regex", "expect": "("}, "prompts.jsonl:2: expect: '(' is no regular"),
        (GOOD | {"scorer": "choice", "expect": "A"}, "prompts.jsonl:2: choices [] for expect"),
        (
            GOOD | {"scorer": "choice", "expect": "C", "choices": ["A", "B"]},
            "prompts.jsonl:2: choices ['A', 'B'] for expect ['C']",
        ),
        (GOOD | {"scorer": "numeric", "expect": "six"}, "prompts.jsonl:2: expect 'six' is not a"),
        (
            GOOD | {"scorer": "rouge-l", "expect": "..."},
            "prompts.jsonl:2: expect '...' has no word",
        ),
        (
            GOOD | {"scorer": "mine:close"},
            "prompts.jsonl:2: the policy does not let mine:close run",
        ),
        (GOOD | {"scorer": "json-schema"}, "prompts.jsonl:2: expect is no JSON schema: "),
        (
            GOOD | {"scorer": "json-schema", "expect": {"type": 3}},
            "2: expect is no JSON schema: 3 ",
        ),
    ],
)
def test_a_faulty_line_is_named(tmp_path, line, complaint):
    with pytest.raises(UsageError) as caught:
        read(written(tmp_path, GOOD, line))
    assert complaint in str(caught.value)


def test_a_near_miss_of_a_scorer_gets_a_hint(tmp_path):
    with pytest.raises(UsageError) as caught:
        read(written(tmp_path, GOOD, GOOD | {"scorer": "contain"}))
    assert caught.value.hint == "did you mean contains?"


def test_a_file_without_enough_prompts_is_refused(tmp_path):
    with pytest.raises(UsageError, match="1 prompts"):
        read(written(tmp_path, GOOD))
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(x*)*y", r"(\w+\s?)*!"])
def test_a_pattern_that_can_run_away_is_refused_before_any_work(pattern):
    with pytest.raises(UsageError, match="can take forever"):
        prompt(scorer="regex", expect=pattern)


def test_a_pattern_that_runs_away_on_an_answer_is_no_verdict():
    made = prompt(scorer="regex", expect="^(?:q|qu|uq|u)*$")
    started = time.process_time()
    with pytest.raises(EvidenceError, match="prompt line-1: the pattern"):
        made.score("qu" * 40 + "!")
    assert time.process_time() - started < 20


def test_an_ordinary_pattern_is_not_refused():
    for pattern in (r"^\s*\d+(?:,\d{3})*$", r"\breturns?\b.*\barray\b", "(?:yes|no)"):
        prompt(scorer="regex", expect=pattern)


def test_a_pattern_reads_only_the_beginning_of_an_answer():
    made = prompt(scorer="regex", expect="end")
    assert made.score("x" * 100 + "end") == 1.0
    assert made.score("x" * patterns.LONGEST_SEARCHED + "end") == 0.0


@pytest.mark.parametrize(
    ("keys", "answer", "score"),
    [
        ({"scorer": "exact", "expect": "np"}, " np\n", 1.0),
        ({"scorer": "exact", "expect": "np"}, " np as", 0.0),
        ({"scorer": "exact", "expect": ["pd", "np"]}, "np", 1.0),
        ({"scorer": "exact", "expect": "NP"}, "np", 0.0),
        ({"scorer": "exact", "expect": "NP", "ignore_case": True}, "np", 1.0),
        ({"scorer": "contains", "expect": "value"}, " the Value", 0.0),
        ({"scorer": "contains", "expect": "value", "ignore_case": True}, " the Value", 1.0),
        ({"scorer": "contains", "expect": ["no", "ye"]}, "yes", 1.0),
        ({"scorer": "regex", "expect": r"^\s*3\]"}, " 3])", 1.0),
        ({"scorer": "regex", "expect": "^A"}, "a", 0.0),
        ({"scorer": "regex", "expect": "^A", "ignore_case": True}, "a", 1.0),
        ({"scorer": "choice", "expect": "B", "choices": ["A", "B"]}, "Answer: B, not A", 1.0),
        ({"scorer": "choice", "expect": "B", "choices": ["A", "B"]}, " A or B", 0.0),
        ({"scorer": "choice", "expect": "B", "choices": ["A", "B"]}, "neither", 0.0),
        ({"scorer": "choice", "expect": "no", "choices": ["no", "not sure"]}, "not sure", 0.0),
        ({"scorer": "numeric", "expect": 1234.5}, "so it is 1,234.50.", 1.0),
        ({"scorer": "numeric", "expect": "6"}, "2 * 3 = 6", 1.0),
        ({"scorer": "numeric", "expect": -6}, "6", 0.0),
        ({"scorer": "numeric", "expect": 6}, "six", 0.0),
        ({"scorer": "numeric", "expect": 6, "tolerance": 0.1}, "about 6.09", 1.0),
        ({"scorer": "numeric", "expect": 6, "tolerance": 0.1}, "about 6.2", 0.0),
    ],
)
def test_answers_are_scored(keys, answer, score):
    assert prompt(**keys).score(answer) == score


@settings(deadline=None)
@given(answer=st.text())
def test_no_answer_upsets_a_scorer(answer):
    for keys in (
        {"scorer": "exact", "expect": "a"},
        {"scorer": "contains", "expect": "a"},
        {"scorer": "regex", "expect": "a.c"},
        {"scorer": "choice", "expect": "a", "choices": ["a", "b"]},
        {"scorer": "numeric", "expect": 1},
        {"scorer": "json-schema", "expect": {"type": "object"}},
    ):
        assert prompt(**keys).score(answer) in {0.0, 1.0}
    assert 0.0 <= prompt(scorer="rouge-l", expect="a b").score(answer) <= 1.0


def test_the_prompts_that_ship_are_valid_and_use_every_scorer_of_right_and_wrong():
    prompts = read(DEMO)
    assert len(prompts) >= 60
    assert {prompt.scorer for prompt in prompts} == scorers.SCORERS.keys() - {"rouge-l"}
    assert max(prompt.max_tokens for prompt in prompts) <= 16
    assert len({prompt.prompt for prompt in prompts}) == len(prompts)
