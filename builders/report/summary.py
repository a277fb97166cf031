"""The report in a few lines: Markdown for a CI step summary, text for a terminal, JSON."""

import re
from collections.abc import Iterable
from math import isfinite

from builders.report import numbers, words
from builders.report.model import Landing, Report
from builders.verdict import Outcome, Verdict


def as_json(report: Report, landing: Landing | None = None) -> dict[str, object]:
    """Return what ``release --json`` prints; a number that is not finite becomes ``None``."""
    end = landing or Landing()
    return {
        "release": end.release,
        "channel": report.channel,
        "promoted": end.promoted,
        "outcome": report.outcome.value,
        "stages": [
            {"name": s.name, "key": s.key, "cached": s.cached, "seconds": _finite(s.seconds)}
            for s in report.stages
        ],
        "gates": [verdict.as_json() for verdict in report.verdicts],
        "bundle": end.bundle,
    }


def as_text(report: Report, landing: Landing | None = None) -> str:
    """Return the summary lines for a terminal: the outcome, why, a line per gate, where it went."""
    word = words.WORDS[report.outcome]
    names = [*(verdict.gate for verdict in report.verdicts), *report.missing]
    width = max((len(_name(name)) for name in names), default=0)
    goal = f" → {report.channel}" if report.channel else ""
    lines = [f"{word.banner}  {report.title}{goal}", words.why(report)]
    lines += [_gate_text(verdict, width) for verdict in report.verdicts]
    lines += [f"  ? {_name(gate).ljust(width)}  required, not measured" for gate in report.missing]
    lines += [*_facts(report), *_landing(report, landing), *filter(None, [words.many(report)])]
    return "\n".join(_line(line) for line in lines) + "\n"


def as_markdown(report: Report, landing: Landing | None = None) -> str:
    """Return the summary as GitHub's Markdown; no text from outside can break its layout."""
    word = words.WORDS[report.outcome]
    goal = f" → {_md(report.channel)}" if report.channel else ""
    head = [
        f"## {word.symbol} {word.banner}: {_md(report.title)}{goal}",
        "",
        _md(words.why(report)),
        "",
    ]
    gates = [_gate_cells(verdict) for verdict in report.verdicts]
    gates += [("? inconclusive", gate, numbers.NOT_MEASURED, "", "", "") for gate in report.missing]
    header = ("Outcome", "Gate", "Worse by", "Bounds", "Margin", "Units")
    closing = [*_facts(report), *_landing(report, landing), *filter(None, [words.many(report)])]
    tail = [f"- {_md(line)}" for line in closing]
    details = [("Policy", report.policy), ("Confidence", words.percent(report.confidence))]
    details += [("Profile", report.profile)] if report.profile else []
    details += [*report.facts, *report.versions]
    lines = [*head, *_table(header, gates), *tail, "", *_folded("Plan and versions", details)]
    return "\n".join(lines) + "\n"


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _gate_cells(verdict: Verdict) -> tuple[str, ...]:
    worse_by, bounds = numbers.interval(verdict.worse_by, verdict.low, verdict.high, verdict.unit)
    return (
        f"{words.WORDS[verdict.outcome].symbol} {verdict.outcome.value}{_label(verdict)}",
        verdict.gate,
        worse_by,
        bounds,
        numbers.amount(verdict.margin, verdict.unit),
        f"{verdict.units:,}",
    )


def _label(verdict: Verdict) -> str:
    shown = verdict.outcome is Outcome.PASSED or verdict.early
    return f", {verdict.label}" if shown else ""


def _gate_text(verdict: Verdict, width: int) -> str:
    _, _, worse_by, bounds, margin, units = _gate_cells(verdict)
    symbol = words.WORDS[verdict.outcome].symbol
    name = _name(verdict.gate).ljust(width)
    harm = worse_by if worse_by == bounds else f"{worse_by} {bounds}"
    noun = "unit" if verdict.units == 1 else "units"
    early = ", early look" if verdict.early else ""
    return f"  {symbol} {name}  {harm}, margin {margin}, {units} {noun}{early}"


def _facts(report: Report) -> list[str]:
    if report.sizes is None:
        return []
    before, after = report.sizes.baseline_bytes, report.sizes.candidate_bytes
    saved = numbers.relative(before, after)
    return [
        f"weights {numbers.size(before)} → {numbers.size(after)}" + (f" ({saved})" if saved else "")
    ]


def _landing(report: Report, landing: Landing | None) -> list[str]:
    if landing is None:
        return []
    where = [f"bundle {landing.bundle}"] if landing.bundle else []
    if landing.promoted:
        return [f"promoted {landing.release or 'the release'} to {report.channel}", *where]
    return [f"{report.channel} was not moved", *where]


def _line(text: str) -> str:
    # One line of output stays one line, whatever stands in a name; a terminal needs no NBSP.
    return re.sub(r"[\n\t\u2028\u2029]+", " ", words.clean(text)).replace(numbers.NBSP, " ")


def _name(text: str, most: int = 32) -> str:
    line = _line(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _md(text: str) -> str:
    one_line = re.sub(r"\s*[\n\t\u2028\u2029]\s*", " ", words.clean(text)).strip()
    entities = one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    inline = re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", entities)
    # Only at the start of a block do these open a list, a heading or a rule.
    return re.sub(r"^(\d*)([-+#=.)]+)(?=\s|$)", r"\1\\\2", inline)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    names = list(header)
    body = [_row(_md(cell) for cell in row) for row in rows]
    return [_row(names), _row("---" for _ in names), *body, ""] if body else []


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _folded(title: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    rows = _table(("", ""), pairs)
    return [f"<details><summary>{title}</summary>", "", *rows, "</details>"]
