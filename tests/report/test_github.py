"""GitHub's annotations name every gate that did not pass, one line each, whatever its name."""

from dataclasses import replace

from builders.report import Attempt, annotations
from builders.report.github import unmeasured


def test_gates_that_passed_need_no_annotation(report):
    assert annotations(report) == ()


def test_each_gate_that_did_not_pass_has_one(report, verdict):
    bad = (verdict("a", low=0.4, high=0.6), verdict("b", low=-0.1, high=0.6), verdict("c"))
    found = annotations(replace(report, verdicts=bad, required=("c", "prompts")))
    assert [line.partition("::worse")[0].partition("::required")[0] for line in found] == [
        "::error title=a%3A failed",
        "::error title=b%3A inconclusive",
        "::error title=prompts%3A could not be measured",
    ]


def test_an_alarm_of_a_gate_that_passed_is_a_warning(report, verdict):
    odd = verdict(detail="perplexity 5 → 5.1; alarm: 30.0% of the first choices changed")
    (line,) = annotations(replace(report, verdicts=(odd,), required=()))
    assert line == "::warning title=perplexity::30.0%25 of the first choices changed"


def test_too_many_candidates_are_a_warning(report):
    tries = tuple(Attempt(candidate=c, recipe="r", outcome="failed", at="t") for c in "ab")
    (line,) = annotations(replace(report, attempts=tries))
    assert line.startswith("::warning title=many candidates::This is candidate 2")


def test_text_from_outside_can_begin_no_command_of_its_own(report, verdict):
    nasty = "x\n::set-output name=a::b\r,:%"
    (line,) = annotations(
        replace(report, verdicts=(verdict(nasty, low=0.5, high=0.6, detail=nasty),), required=())
    )
    assert "\n" not in line
    assert "\r" not in line
    assert line.count("::error") == 1
    title = line.removeprefix("::error title=").partition("::")[0]
    assert not set(",:\n\r") & set(title)
    assert "\n" not in unmeasured(nasty, nasty)
