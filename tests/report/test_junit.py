"""A CI sees a case for each gate, and nothing but a pass looks like one."""

from dataclasses import replace
from xml.etree import ElementTree as Xml

from builders.report import as_junit
from builders.report.junit import unmeasured


def suite(text):
    assert text.startswith("<?xml version=")
    return Xml.fromstring(text.partition("\n")[2]).find("testsuite")


def cases(report, **more):
    return {case.get("name"): case for case in suite(as_junit(report, **more)).findall("testcase")}


def test_a_gate_that_passed_is_a_case_without_a_fault(report):
    found = suite(as_junit(report))
    assert (found.get("tests"), found.get("failures"), found.get("errors")) == ("3", "0", "0")
    case = cases(report)["perplexity"]
    assert case.get("classname") == "enginesmith.demo"
    assert case.find("failure") is None
    assert "worse by +0.300 % [+0.100, +0.500], margin 1 %, 280 units" in case.findtext(
        "system-out"
    )
    assert "baseline_ppl 12.31" in case.findtext("system-out")


def test_failed_and_inconclusive_gates_are_failures_of_their_own_kind(report, verdict):
    bad = (verdict("a", low=0.4, high=0.6), verdict("b", low=-0.1, high=0.6))
    found = cases(replace(report, verdicts=bad, required=()))
    kinds = {name: case.find("failure").get("type") for name, case in found.items()}
    assert kinds == {"a": "failed", "b": "inconclusive"}
    assert "margin 1 %" in found["a"].find("failure").get("message")


def test_a_gate_without_a_verdict_is_an_error(report):
    found = cases(replace(report, required=("perplexity", "prompts")))
    assert "not measured" in found["prompts"].find("error").get("message")
    single = suite(unmeasured("release.toml", "accuracy", "void, the baseline guesses"))
    assert (single.get("tests"), single.get("errors")) == ("1", "1")
    assert single.find("testcase/error").get("message") == "void, the baseline guesses"


def test_no_name_breaks_the_file(report, verdict, hostile):
    odd = verdict(hostile + "\x00\x1b", detail=hostile, low=0.5, high=0.6)
    found = suite(as_junit(replace(report, title=hostile, verdicts=(odd,), policy=hostile)))
    assert found.get("name") == hostile
    assert hostile in found.find("testcase").get("name")


def test_equal_reports_give_equal_files(report):
    assert as_junit(report) == as_junit(replace(report))
