"""Scores agree with the libraries that others score with, and a schema never reads the network."""

import json

import pytest

from builders.errors import EvidenceError, UsageError
from builders.gate.answering.answers import Defaults, Prompt

# rouge_score 0.1.2, RougeScorer(["rougeL"]).score(expected, answer)["rougeL"].fmeasure
RECORDED = [
    ("the cat sat on the mat", "the cat sat on the mat", 1.0),
    ("the cat sat on the mat", "a cat lay on a mat", 0.5),
    ("The cat, sat! on-the mat", "the CAT sat on the mat?", 1.0),
    ("police killed the gunman", "the gunman police killed", 0.5),
    ("police killed the gunman", "police kill the gunman", 0.75),
    ("one two three", "four five", 0.0),
    ("one two three", "", 0.0),
    ("a_b c3 d", "a b c3", 0.8571428571428571),
    ("to be or not to be that is the question", "be that as it may to be is the answer", 0.5),
]
OBJECT = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/age"}},
    "required": ["name"],
    "$defs": {"age": {"type": "integer", "minimum": 0}},
}


def prompt(scorer, expect, **keys):
    line = {"prompt": "?", "scorer": scorer, "expect": expect} | keys
    defaults = Defaults(id="line-1", max_tokens=16, own={})
    return Prompt.parse(line, place="prompts.jsonl:1", defaults=defaults)


@pytest.mark.parametrize(("expected", "answer", "score"), RECORDED)
def test_rouge_l_is_as_rouge_score_has_it(expected, answer, score):
    assert prompt("rouge-l", expected).score(answer) == pytest.approx(score, abs=1e-12)


def test_the_recorded_values_are_those_of_the_library():
    library = pytest.importorskip("rouge_score.rouge_scorer")
    judge = library.RougeScorer(["rougeL"])
    for expected, answer, score in RECORDED:
        assert judge.score(expected, answer)["rougeL"].fmeasure == pytest.approx(score, abs=1e-12)


def test_the_best_of_several_texts_counts():
    made = prompt("rouge-l", ["nothing of it", "the cat sat"])
    assert made.score("the cat sat") == 1.0


def test_words_of_other_scripts_count():
    assert prompt("rouge-l", "Größe in Zürich").score("größe IN zürich") == 1.0
    assert prompt("rouge-l", "кот сидел").score("кот лежал") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"name": "Ada"}', 1.0),
        (' {"name": "Ada", "age": 36}\n', 1.0),
        ('```json\n{"name": "Ada"}\n```', 1.0),
        ('```\n{"name": "Ada"}\n```\n', 1.0),
        ('{"name": "Ada", "age": -1}', 0.0),
        ('{"age": 3}', 0.0),
        ('{"name": "Ada", "age": NaN}', 0.0),
        ('Here it is: {"name": "Ada"}', 0.0),
        ('{"name": "Ada"', 0.0),
        ("[" * 100_000, 0.0),
        ("", 0.0),
    ],
)
def test_an_answer_is_right_when_it_is_json_of_that_shape(answer, score):
    assert prompt("json-schema", OBJECT).score(answer) == score


def test_one_of_several_schemas_is_enough():
    made = prompt("json-schema", [json.dumps({"type": "string"}), json.dumps({"type": "null"})])
    assert made.score("null") == made.score('"a"') == 1.0
    assert made.score("3") == 0.0


def test_a_schema_that_refers_elsewhere_is_no_verdict_and_reads_nothing():
    made = prompt("json-schema", {"$ref": "http://localhost:1/schema.json"})
    with pytest.raises(
        EvidenceError, match="prompt line-1: the schema refers to what is not in it"
    ):
        made.score("{}")


def test_a_schema_whose_pattern_runs_away_is_no_verdict():
    made = prompt("json-schema", {"type": "string", "pattern": "^(a+)+$"})
    with pytest.raises(EvidenceError, match="pattern takes too long"):
        made.score(json.dumps("a" * 60 + "!"))


@pytest.mark.parametrize("expect", ["not json", {"type": "objekt"}, {"required": 3}])
def test_what_is_no_schema_is_refused(expect):
    with pytest.raises(UsageError, match=r"prompts\.jsonl:1: expect is no JSON schema"):
        prompt("json-schema", expect)
