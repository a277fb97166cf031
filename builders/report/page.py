"""The page: everything in the report as one HTML file that needs no network and no script."""

from dataclasses import dataclass
from typing import Final

import jinja2

from builders.report import figures, forest, numbers, steps, words
from builders.report.drift import Drift, drift
from builders.report.model import Attempt, Changes, Report, Subject
from builders.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One row of the gates table, written out, with its drawing."""

    number: int
    name: str
    counted: str
    css: str
    outcome: str
    label: str
    worse_by: str
    bounds: str
    margin: str
    units: str
    mark: forest.Mark
    spoken: str
    detail: str
    numbers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectRow:
    """One row of the subjects table, written out."""

    gate: str
    name: str
    items: str
    before: str
    after: str
    lost: str
    won: str
    p: str
    alarm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All that the template may see."""

    title: str
    channel: str
    policy: str
    profile: str
    confidence: str
    attempts: tuple[Attempt, ...]
    css: str
    banner: str
    why: str
    tiles: tuple[figures.Tile, ...]
    gates: tuple[Gate, ...]
    remarks: tuple[Gate, ...]
    missing: tuple[str, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float
    one: float
    latency: tuple[figures.Curves, ...]
    changes: tuple[Changes, ...]
    subjects: tuple[SubjectRow, ...]
    drift: Drift | None
    sizes: tuple[figures.Bar, ...]
    facts: tuple[tuple[str, str], ...]
    stages: tuple[figures.Timing, ...]
    stages_total: str
    versions: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    next_steps: tuple[steps.Step, ...]


def as_html(report: Report) -> str:
    """Render the page; equal reports give equal bytes."""
    return ENVIRONMENT.get_template("report.html.j2").render(page=_page(report))


def _page(report: Report) -> Page:
    word = words.WORDS[report.outcome]
    gates = tuple(_gate(number, v) for number, v in enumerate(report.verdicts, start=1))
    return Page(
        title=report.title,
        channel=report.channel,
        policy=report.policy,
        profile=report.profile,
        attempts=report.attempts,
        confidence=words.percent(report.confidence),
        css=word.css,
        banner=word.banner,
        why=words.why(report),
        tiles=figures.tiles(report),
        gates=gates,
        remarks=tuple(gate for gate in gates if gate.detail or gate.numbers),
        missing=report.missing,
        ticks=tuple((forest.position(tick), _tick(tick)) for tick in forest.TICKS),
        zero=forest.position(0),
        one=forest.position(1),
        latency=figures.curves(report.latency),
        changes=tuple(found for found in report.changes if found.shown),
        subjects=tuple(map(_subject, report.subjects)),
        drift=drift(report.divergence, square=figures.SQUARE),
        sizes=figures.bars(report.sizes),
        facts=report.facts,
        stages=figures.timings(report.stages),
        stages_total=numbers.duration(sum(stage.seconds for stage in report.stages)),
        versions=report.versions,
        notes=tuple(filter(None, (words.many(report), *report.notes))),
        next_steps=steps.after(report),
    )


def _gate(number: int, verdict: Verdict) -> Gate:
    word = words.WORDS[verdict.outcome]
    worse_by, bounds = numbers.interval(verdict.worse_by, verdict.low, verdict.high, verdict.unit)
    margin = numbers.amount(verdict.margin, verdict.unit)
    return Gate(
        number=number,
        name=verdict.gate,
        counted=numbers.counted(verdict.unit),
        css=word.css,
        outcome=verdict.outcome.value,
        label=verdict.label if verdict.label not in {verdict.outcome.value, "worse"} else "",
        worse_by=worse_by,
        bounds=bounds,
        margin=margin,
        units=f"{verdict.units:,}",
        mark=forest.mark(verdict),
        spoken=f"worse by {worse_by}, bounds {bounds}, margin {margin}: {verdict.outcome.value}",
        detail=verdict.detail,
        numbers=tuple(
            (name.replace("_", " "), numbers.digits(value, places=4))
            for name, value in verdict.numbers
        ),
    )


def _subject(subject: Subject) -> SubjectRow:
    return SubjectRow(
        gate=subject.gate,
        name=subject.name,
        items=f"{subject.items:,}",
        before=numbers.amount(subject.before, "%"),
        after=numbers.amount(subject.after, "%"),
        lost=f"{subject.lost:,}",
        won=f"{subject.won:,}",
        p=numbers.digits(subject.p),
        alarm=subject.alarm,
    )


def _tick(tick: int) -> str:
    return {0: "0", 1: "margin"}.get(tick, f"{tick}×".replace("-", numbers.MINUS))


def _finalize(value: object) -> object:
    # Markup made by our own macros passes; text from outside loses what steers a terminal.
    return words.clean(value) if type(value) is str else value


# Read once, at import: the templates ship with the package and have no state.
ENVIRONMENT: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("builders.templates", "report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=_finalize,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
