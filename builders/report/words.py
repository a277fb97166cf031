"""The words of a report: what an outcome is called, and one plain sentence that says why."""

import unicodedata
from dataclasses import dataclass
from math import isnan
from typing import Final

from builders.report import numbers
from builders.report.model import Report
from builders.verdict import Outcome, Verdict


@dataclass(frozen=True, slots=True)
class Word:
    """An outcome as a banner, as a symbol that needs no colour, and as a class of the page."""

    banner: str
    symbol: str
    css: str


WORDS: Final = {
    Outcome.PASSED: Word("GO", "✓", "passed"),
    Outcome.FAILED: Word("NO-GO", "✗", "failed"),
    Outcome.INCONCLUSIVE: Word("INCONCLUSIVE", "?", "inconclusive"),
}


def why(report: Report) -> str:
    """Say in one sentence why the report ends as it does."""
    if report.outcome is Outcome.PASSED:
        return _passed(report)
    if report.outcome is Outcome.INCONCLUSIVE and not (report.verdicts or report.missing):
        return "No gate was measured, so nothing is known about the candidate."
    judged = [v for v in report.verdicts if v.outcome is report.outcome]
    reasons = [_REASONS[report.outcome](verdict) for verdict in judged]
    if report.outcome is Outcome.INCONCLUSIVE:
        reasons += [f"{gate} is required and was not measured" for gate in report.missing]
    return f"{_OPENINGS[report.outcome]}: {numbers.listed(reasons)}.{_stopped(report)}"


def many(report: Report) -> str:
    """Say that more candidates were tried than the policy allows for; nothing where not."""
    if report.tried <= report.candidates:
        return ""
    return (
        f"This is candidate {report.tried} against the same baseline and policy, which allows for "
        f"{report.candidates}: of many that are tried one passes by luck. Set candidates = "
        f"{report.tried} in the policy and judge again."
    )


def percent(confidence: float) -> str:
    """Write a confidence: ``95 %``."""
    return numbers.amount(confidence, "%")


def clean(text: str) -> str:
    """Replace characters that steer a terminal or cannot be written: controls, lone surrogates."""
    return "".join(c if c in "\n\t" or not _steers(c) else "\ufffd" for c in text)


def _steers(char: str) -> bool:
    # Cc: escape sequences. Cs: not encodable. The bidirectional overrides are of category Cf,
    # where the joiners that emoji and many scripts need live too, so they are named one by one.
    return unicodedata.category(char) in {"Cc", "Cs"} or char in _OVERRIDES


_OVERRIDES: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _passed(report: Report) -> str:
    count = len(report.verdicts)
    gates = "The one gate" if count == 1 else "Both gates" if count == 2 else f"All {count} gates"
    return (
        f"{gates} passed: at {percent(report.confidence)} confidence, the candidate is no worse "
        f"than its baseline by more than {'the margin' if count == 1 else 'each margin'} allows."
    )


def _stopped(report: Report) -> str:
    """Say what an early look left unmeasured, as a sentence of its own; nothing without one."""
    early = next((verdict for verdict in report.verdicts if verdict.early), None)
    if early is None:
        return ""
    others = numbers.listed(report.missing, most=len(report.missing))
    nor = f", nor {'was' if len(report.missing) == 1 else 'were'} {others}" if others else ""
    return f" An early look at {early.units:,} units was enough: no more was measured of it{nor}."


def _failed(verdict: Verdict) -> str:
    least = numbers.amount(verdict.low, verdict.unit)
    allowed = numbers.amount(verdict.margin, verdict.unit)
    return f"{verdict.gate} is at least {least} worse where {allowed} is allowed"


def _inconclusive(verdict: Verdict) -> str:
    if isnan(verdict.low) or isnan(verdict.high) or isnan(verdict.margin):
        return f"{verdict.gate} was not measured"
    most = numbers.amount(verdict.high, verdict.unit)
    allowed = numbers.amount(verdict.margin, verdict.unit)
    return f"{verdict.gate} may be as much as {most} worse where {allowed} is allowed"


_REASONS: Final = {Outcome.FAILED: _failed, Outcome.INCONCLUSIVE: _inconclusive}
_OPENINGS: Final = {
    Outcome.FAILED: "Too much harm",
    Outcome.INCONCLUSIVE: "Not enough evidence",
}
