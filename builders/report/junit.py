"""JUnit's XML, which every CI reads: a case for each gate. What is not passed is never a pass."""

from collections.abc import Mapping
from xml.etree import ElementTree as Xml

from builders.report import numbers, words
from builders.report.model import Report
from builders.verdict import Outcome, Verdict

_SUITE = "enginesmith"


def as_junit(report: Report, unmeasured: Mapping[str, str] | None = None) -> str:
    """Return a suite with a case for each verdict; ``unmeasured`` says why a gate has none.

    A gate that failed or is inconclusive is a failure, one that could not be measured an error.
    """
    lacking = dict.fromkeys(report.missing, "required by the policy and not measured")
    errors = {**lacking, **(unmeasured or {})}
    bad = [verdict for verdict in report.verdicts if verdict.outcome is not Outcome.PASSED]
    counts = {
        "tests": len(report.verdicts) + len(errors),
        "failures": len(bad),
        "errors": len(errors),
    }
    shown = {name: str(count) for name, count in counts.items()}
    suites = Xml.Element("testsuites", {"name": _SUITE, **shown})
    suite = Xml.SubElement(suites, "testsuite", {"name": words.clean(report.title), **shown})
    for verdict in report.verdicts:
        _case(suite, report, verdict)
    for gate, why in errors.items():
        case = _named(suite, report, gate)
        Xml.SubElement(case, "error", {"type": "unmeasured", "message": words.clean(why)})
    Xml.indent(suites)
    return Xml.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def unmeasured(title: str, gate: str, why: str) -> str:
    """Return a suite of the one gate that could not be measured."""
    report = Report(title=title, channel="", verdicts=(), policy="")
    return as_junit(report, {gate: why})


def told(verdict: Verdict) -> str:
    """Say a verdict in one line, without the gate's name."""
    worse_by, bounds = numbers.interval(verdict.worse_by, verdict.low, verdict.high, verdict.unit)
    margin = numbers.amount(verdict.margin, verdict.unit)
    said = f"worse by {worse_by} {bounds}, margin {margin}, {verdict.units:,} units"
    detail = f": {verdict.detail}" if verdict.detail else ""
    return words.clean(f"{said}{detail}").replace(numbers.NBSP, " ")


def _case(suite: Xml.Element, report: Report, verdict: Verdict) -> None:
    case = _named(suite, report, verdict.gate)
    if verdict.outcome is not Outcome.PASSED:
        Xml.SubElement(case, "failure", {"type": verdict.outcome.value, "message": told(verdict)})
    lines = [told(verdict), *(f"{name} {value!r}" for name, value in verdict.numbers)]
    Xml.SubElement(case, "system-out").text = words.clean("\n".join(lines))


def _named(suite: Xml.Element, report: Report, gate: str) -> Xml.Element:
    policy = f"{_SUITE}.{report.policy}" if report.policy else _SUITE
    return Xml.SubElement(
        suite, "testcase", {"classname": words.clean(policy), "name": words.clean(gate)}
    )
