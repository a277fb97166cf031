"""The banner's sentence says in plain words why; text from outside cannot steer a terminal."""

from dataclasses import replace

import pytest

from builders.report import words

NAN, INF = float("nan"), float("inf")


def why(report, *verdicts, **changes):
    changed = replace(report, verdicts=verdicts, **({"required": ()} | changes))
    return words.why(changed).replace("\xa0", " ")


def test_go_says_how_many_gates_and_how_sure(report, verdict):
    assert words.why(report).startswith("All 3 gates passed: at 95\xa0% confidence, the candidate")
    assert why(report, verdict()).startswith("The one gate passed")
    assert why(report, verdict(), verdict("b")).startswith("Both gates passed")


def test_no_go_names_the_failed_gates_and_what_they_allow(report, verdict):
    failed = verdict(worse_by=0.5, low=0.42, high=0.6)
    assert why(report, failed, verdict("accuracy")) == (
        "Too much harm: perplexity is at least 42 % worse where 1 % is allowed."
    )


def test_many_failed_gates_are_counted_not_listed(report, verdict):
    failed = [verdict(name, low=0.2, high=0.6) for name in "abcde"]
    assert why(report, *failed).endswith("and 2 more.")


def test_inconclusive_says_what_cannot_be_excluded(report, verdict):
    assert why(report, verdict(high=0.02)) == (
        "Not enough evidence: perplexity may be as much as 2 % worse where 1 % is allowed."
    )
    assert "may be as much as ∞ % worse" in why(report, verdict(low=-INF, high=INF))


@pytest.mark.parametrize("changes", [{"low": NAN, "high": NAN}, {"margin": NAN}])
def test_not_a_number_reads_as_not_measured(report, verdict, changes):
    assert why(report, verdict(**changes)) == "Not enough evidence: perplexity was not measured."


def test_no_verdicts_read_as_nothing_known(report):
    assert why(report) == "No gate was measured, so nothing is known about the candidate."


def test_missing_required_gates_are_named(report, verdict):
    sentence = why(report, verdict(), required=("perplexity", "prompts"))
    assert sentence == "Not enough evidence: prompts is required and was not measured."


@pytest.mark.parametrize("steering", ["\x1b[31m", "\x00", "\x85", "\u202e", "\u2066", "\ud800"])
def test_clean_takes_what_steers_a_terminal_or_cannot_be_written(steering):
    cleaned = words.clean(f"a{steering}b")
    assert steering not in cleaned
    assert "\ufffd" in cleaned
    cleaned.encode()


@pytest.mark.parametrize("text", ["a\n\tb", "مرحبا", "👩\u200d🚀", "naïve 模型"])
def test_clean_leaves_scripts_and_emoji_alone(text):
    assert words.clean(text) == text


def test_an_early_look_is_told_with_what_it_left_unmeasured(report, verdict):
    early = verdict(gate="perplexity", low=0.5, worse_by=0.6, high=0.7, margin=0.01)
    early = replace(early, early=True, units=16)
    told = words.why(replace(report, verdicts=(early,), required=("perplexity", "accuracy")))
    assert told.endswith(
        "An early look at 16 units was enough: no more was measured of it, nor was accuracy."
    )
    assert "nor" not in words.why(replace(report, verdicts=(early,), required=("perplexity",)))
