"""GitHub's workflow commands: an annotation for every gate that did not pass, and every alarm."""

from builders.report import junit, words
from builders.report.model import Report
from builders.verdict import Outcome

_ALARM = "alarm: "


def annotations(report: Report) -> tuple[str, ...]:
    """Return the lines that GitHub turns into annotations; equal reports give equal lines."""
    found = []
    for verdict in report.verdicts:
        if verdict.outcome is not Outcome.PASSED:
            title = f"{verdict.gate}: {verdict.outcome.value}"
            found.append(_command("error", title, junit.told(verdict)))
        elif _ALARM in verdict.detail:
            alarm = verdict.detail.partition(_ALARM)[2]
            found.append(_command("warning", verdict.gate, alarm))
    found += [
        unmeasured(gate, "required by the policy and not measured") for gate in report.missing
    ]
    many = words.many(report)
    return (*found, *([_command("warning", "many candidates", many)] if many else []))


def unmeasured(gate: str, why: str) -> str:
    """Return the line for a gate that could not be measured."""
    return _command("error", f"{gate}: could not be measured", why)


def _command(kind: str, title: str, text: str) -> str:
    named = _escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={named}::{_escaped(text)}"


def _escaped(text: str) -> str:
    clean = words.clean(text).replace("%", "%25")
    return clean.replace("\r", "%0D").replace("\n", "%0A")
