"""The short forms: Markdown that no name can break, plain terminal lines, stable JSON."""

import json
from dataclasses import replace

import pytest

from builders.report import Attempt, Landing, Stage, as_html, as_json, as_markdown, as_text

NAN, INF = float("nan"), float("inf")
PROMOTED = Landing(release="sha256:" + "ab" * 32, promoted=True, bundle="store/bundles/ab")


def rows(markdown):
    return [line for line in markdown.splitlines() if line.startswith("|")]


def test_json_has_the_promised_keys_in_their_order(report):
    data = as_json(report, PROMOTED)
    wanted = ["release", "channel", "promoted", "outcome", "stages", "gates", "bundle"]
    assert list(data) == wanted
    assert list(data["stages"][0]) == ["name", "key", "cached", "seconds"]
    bounds = ["worse_by", "low", "high", "margin"]
    gate = [
        "gate",
        "outcome",
        *bounds,
        "units",
        "unit",
        "detail",
        "label",
        "band",
        "needed",
        "early",
    ]
    assert list(data["gates"][0]) == gate
    assert (data["outcome"], data["promoted"], data["bundle"]) == ("passed", True, PROMOTED.bundle)


def test_json_before_landing_has_no_release(report):
    data = as_json(report)
    assert (data["release"], data["promoted"], data["bundle"]) == (None, False, "")


def test_json_is_strict_even_for_numbers_that_are_not_finite(report, verdict):
    stage = Stage(name="a", key="k", cached=False, seconds=NAN)
    odd = replace(report, verdicts=(verdict(worse_by=NAN, low=-INF, high=INF),), stages=(stage,))
    (gate,) = json.loads(json.dumps(as_json(odd), allow_nan=False))["gates"]
    assert (gate["worse_by"], gate["low"], gate["high"]) == (None, None, None)
    assert gate["outcome"] == "inconclusive"


def test_text_says_outcome_reason_gates_and_place(report):
    lines = as_text(report, PROMOTED).splitlines()
    assert lines[0] == "GO  tiny-llama → cpu/stable"
    assert lines[1].startswith("All 3 gates passed: at 95 % confidence")
    assert lines[2] == "  ✓ perplexity    +0.300 % [+0.100, +0.500], margin 1 %, 280 units"
    assert lines[5] == "weights 8.40 MB → 4.20 MB (−50 %)"
    assert lines[6:] == [f"promoted {PROMOTED.release} to cpu/stable", f"bundle {PROMOTED.bundle}"]


def test_text_says_that_nothing_moved(report, verdict):
    failed = replace(report, verdicts=(verdict(low=0.4, high=0.6),), sizes=None, required=("x",))
    text = as_text(failed, Landing())
    assert text.startswith("NO-GO  ")
    assert "  ? x           required, not measured\n" in text
    assert text.endswith("cpu/stable was not moved\n")


def test_text_says_not_measured_once(report, verdict):
    odd = replace(report, verdicts=(verdict(worse_by=NAN, low=NAN, high=NAN, units=1),))
    assert "  ? perplexity  not measured, margin 1 %, 1 unit\n" in as_text(odd)


def test_text_of_no_verdicts_is_still_an_answer(report):
    assert as_text(replace(report, verdicts=(), required=())).startswith("INCONCLUSIVE  tiny-llama")


def test_a_name_can_neither_break_a_line_nor_steer_the_terminal(report, verdict):
    nasty = "a\nb\x1b[31m\u202e\u2028c" + "long" * 20
    text = as_text(replace(report, title=nasty, verdicts=(verdict(nasty),), required=()))
    assert len(text.splitlines()) == 4
    assert not {"\x1b", "\u202e", "\u2028"} & set(text)
    assert max(len(line) for line in text.splitlines()[2:3]) < 100


def test_markdown_has_a_row_for_every_gate(report):
    markdown = as_markdown(replace(report, required=("prompts",)), PROMOTED)
    assert markdown.startswith("## ? INCONCLUSIVE: tiny-llama → cpu/stable\n")
    gates = rows(markdown)[:6]
    first = "| ✓ passed, within-margin | perplexity | +0.300\xa0% | \\[+0.100, +0.500\\] | 1\xa0% "
    assert gates[2] == f"{first}| 280 |"
    assert gates[5] == "| ? inconclusive | prompts | not measured |  |  |  |"
    assert "| torch | 2.13.0 |" in markdown


def test_markdown_without_verdicts_has_no_table_of_gates(report):
    markdown = as_markdown(replace(report, verdicts=(), required=()))
    assert "| Outcome |" not in markdown
    assert "No gate was measured" in markdown


def test_markdown_keeps_hostile_text_in_its_cell(report, verdict, hostile):
    odd = replace(
        report, title=hostile, facts=((hostile, hostile + "\nb"),), verdicts=(verdict(hostile),)
    )
    markdown = as_markdown(odd)
    assert "<script" not in markdown
    assert "<img" not in markdown
    unescaped = [row.replace("\\|", "").count("|") for row in rows(markdown)]
    assert set(unescaped) == {3, 7}


@pytest.mark.parametrize("start", ["# a", "- a", "1. a", "---", "+ a", "==="])
def test_no_name_opens_a_block(report, start):
    lines = as_markdown(replace(report, channel=start, sizes=None), Landing()).splitlines()
    (said,) = [line for line in lines if "was not moved" in line]
    assert "\\" in said.removeprefix("- ")[:3]


@pytest.mark.parametrize("form", [as_text, as_markdown])
def test_equal_reports_give_equal_words(report, form):
    assert form(report, PROMOTED) == form(replace(report), PROMOTED)


def test_more_candidates_than_the_policy_allows_for_are_said_everywhere(report):
    tries = tuple(
        Attempt(candidate=letter * 64, recipe=f"recipe {letter}", outcome=outcome, at="2026-01-01")
        for letter, outcome in (("a", "failed"), ("b", "void"), ("c", "passed"))
    )
    many = replace(report, attempts=tries)
    assert many.tried == 2
    for text in (as_text(many), as_markdown(many), as_html(many)):
        assert "This is candidate 2 against the same baseline" in text
    assert "recipe a" in as_html(many)
    enough = replace(many, candidates=2)
    assert "This is candidate" not in as_text(enough)
