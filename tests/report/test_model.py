"""A report's outcome follows from its verdicts and the policy, and fails closed."""

from dataclasses import replace

import pytest

from builders.verdict import Outcome

NAN = float("nan")


def test_all_passed_is_passed(report):
    assert report.outcome is Outcome.PASSED


def test_one_failed_gate_fails_the_report(report, verdict):
    bad = verdict(worse_by=0.5, low=0.4, high=0.6)
    assert replace(report, verdicts=(*report.verdicts, bad)).outcome is Outcome.FAILED


@pytest.mark.parametrize("required", [(), ("perplexity",)])
def test_no_verdict_at_all_is_inconclusive(report, required):
    assert replace(report, verdicts=(), required=required).outcome is Outcome.INCONCLUSIVE


def test_a_required_gate_without_a_verdict_is_inconclusive(report):
    lacking = replace(report, required=("perplexity", "prompts"))
    assert lacking.missing == ("prompts",)
    assert lacking.outcome is Outcome.INCONCLUSIVE


def test_a_missing_gate_does_not_hide_a_failed_one(report, verdict):
    bad = replace(report, required=("prompts",), verdicts=(verdict(low=0.4, high=0.6),))
    assert bad.outcome is Outcome.FAILED


def test_several_verdicts_of_one_gate_answer_for_it(report):
    assert replace(report, required=("latency",)).missing == ()


def test_a_gate_with_a_longer_name_does_not_answer_for_a_shorter_one(report, verdict):
    other = replace(report, verdicts=(verdict("latencyfree"),), required=("latency",))
    assert other.missing == ("latency",)


def test_bounds_that_are_not_numbers_are_inconclusive(report, verdict):
    unmeasured = verdict(worse_by=NAN, low=NAN, high=NAN)
    assert replace(report, verdicts=(unmeasured,)).outcome is Outcome.INCONCLUSIVE
