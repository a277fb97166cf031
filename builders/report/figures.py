"""What the page draws besides the gates: tiles, latency curves, size bars, stage timings."""

from dataclasses import dataclass
from math import isfinite
from typing import Final

from builders.report import ecdf, numbers
from builders.report.model import Latency, Report, Samples, Sizes, Stage
from builders.verdict import Outcome

SQUARE: Final = 1000.0  # the curve's own coordinates; the page stretches them
# Towards the bad end: slow is a high latency, but a low rate.
_HIGH: Final = (("median", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99))
_LOW: Final = (("median", 0.5), ("p10", 0.1), ("p5", 0.05), ("p1", 0.01))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One number that a reader looks for first, with what it is compared to."""

    label: str
    value: str
    beside: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One side of a latency figure."""

    side: str
    count: str
    path: str
    median: float
    quantiles: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """One latency figure: both sides on one axis. ``remarks`` says what the drawing leaves out."""

    name: str
    title: str
    unit: str
    sides: tuple[Curve, ...]
    columns: tuple[str, ...]
    ticks: tuple[tuple[float, str], ...]
    spoken: str
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One side's size as a share, in percent, of the larger one."""

    side: str
    size: str
    share: float
    change: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One stage's time as a share, in percent, of the longest."""

    name: str
    key: str
    short_key: str
    done: str
    seconds: str
    share: float


@dataclass(frozen=True, slots=True)
class _Measure:
    """A latency measure: which samples, what it is called, in which unit."""

    field: str
    short: str
    title: str
    unit: str
    quantiles: tuple[tuple[str, float], ...] = _HIGH

    def of(self, samples: Samples) -> ecdf.Ecdf:
        values: tuple[float, ...] = getattr(samples, self.field)
        return ecdf.Ecdf.of(values)


_MEASURES: Final = (
    _Measure("ttft_ms", "TTFT", "Time to first token (TTFT)", "ms"),
    _Measure("itl_ms", "ITL", "Inter-token latency (ITL)", "ms"),
    _Measure("tokens_per_second", "Rate", "Output tokens/s per request", "tok/s", _LOW),
)


def tiles(report: Report) -> tuple[Tile, ...]:
    """Return the numbers for the top of the page; what was not measured has no tile."""
    passed = sum(verdict.outcome is Outcome.PASSED for verdict in report.verdicts)
    total = len(report.verdicts) + len(report.missing)
    found = [
        Tile(label="Gates passed", value=f"{passed} of {total}", beside=f"policy {report.policy}")
    ]
    if report.sizes is not None:
        before, after = report.sizes.baseline_bytes, report.sizes.candidate_bytes
        beside = f"{numbers.relative(before, after)} from {numbers.size(before)}"
        found.append(Tile(label="Weights", value=numbers.size(after), beside=beside.strip()))
    medians = [
        _median_tile(measure, *sides)
        for measure, *sides in _measured(report.latency)
        if all(side.ordered for side in sides)
    ]
    return (*found, *medians)


def _median_tile(measure: _Measure, before: ecdf.Ecdf, after: ecdf.Ecdf) -> Tile:
    old, new = before.quantile(0.5), after.quantile(0.5)
    beside = f"{numbers.relative(old, new)} from {numbers.measured(old, measure.unit)}"
    value = numbers.measured(new, measure.unit)
    return Tile(label=f"{measure.short}, median", value=value, beside=beside.strip())


def curves(latency: Latency | None) -> tuple[Curves, ...]:
    """Return a figure for every measure that has samples on either side."""
    return tuple(
        _figure(measure, {"baseline": before, "candidate": after})
        for measure, before, after in _measured(latency)
        if before.ordered or after.ordered
    )


def _measured(latency: Latency | None) -> list[tuple[_Measure, ecdf.Ecdf, ecdf.Ecdf]]:
    if latency is None:
        return []
    return [(m, m.of(latency.baseline), m.of(latency.candidate)) for m in _MEASURES]


def _figure(measure: _Measure, pair: dict[str, ecdf.Ecdf]) -> Curves:
    along = ecdf.axis([side for side in pair.values() if side.ordered])
    sides = tuple(_curve(name, side, along, measure) for name, side in pair.items())
    medians = [f"{side.side} {side.quantiles[0]} {measure.unit}" for side in sides]
    remarks = (_remarks(name, side, along, measure) for name, side in pair.items())
    return Curves(
        name=measure.field.replace("_", "-"),
        title=measure.title,
        unit=measure.unit,
        sides=sides,
        columns=tuple(name for name, _ in measure.quantiles),
        ticks=tuple((along.place(tick, 100), numbers.digits(tick)) for tick in along.ticks),
        spoken=f"{measure.title}: share of samples up to each value; median {', '.join(medians)}.",
        remarks=tuple(remark for both in remarks for remark in both),
    )


def _curve(name: str, side: ecdf.Ecdf, along: ecdf.Axis, measure: _Measure) -> Curve:
    if not side.ordered:
        unknown = ("—",) * len(measure.quantiles)
        return Curve(side=name, count="0", path="", median=0.0, quantiles=unknown)
    written = (
        numbers.measured(side.quantile(share), "") if side.supports(share) else "—"
        for _, share in measure.quantiles
    )
    return Curve(
        side=name,
        count=f"{len(side.ordered):,}",
        path=ecdf.path(side, along, SQUARE),
        median=along.place(side.quantile(0.5), 100),
        quantiles=tuple(written),
    )


def _remarks(name: str, side: ecdf.Ecdf, along: ecdf.Axis, measure: _Measure) -> list[str]:
    beyond = sum(value > along.last for value in side.ordered)
    remarks = []
    if not side.ordered:
        remarks.append(f"No samples of the {name}.")
    if side.dropped:
        remarks.append(f"Not finite, left out: {side.dropped:,} of the {name}.")
    if beyond:
        most = numbers.measured(side.ordered[-1], measure.unit)
        remarks.append(f"Beyond the axis: {beyond:,} of the {name}, up to {most}.")
    return remarks


def bars(sizes: Sizes | None) -> tuple[Bar, ...]:
    """Return both sides' sizes on one scale."""
    if sizes is None:
        return ()
    before, after = sizes.baseline_bytes, sizes.candidate_bytes
    longest = max(before, after, 1)
    pairs = (("baseline", before, ""), ("candidate", after, numbers.relative(before, after)))
    return tuple(
        Bar(side=side, size=numbers.size(count), share=_share(count, longest), change=change)
        for side, count, change in pairs
    )


def timings(stages: tuple[Stage, ...]) -> tuple[Timing, ...]:
    """Return the stages in their order, with bars relative to the longest."""
    longest = max((s.seconds for s in stages if isfinite(s.seconds)), default=0.0)
    return tuple(
        Timing(
            name=stage.name,
            key=stage.key,
            short_key=stage.key[:12],
            done="reused" if stage.cached else "ran",
            seconds=numbers.duration(stage.seconds),
            share=_share(stage.seconds, longest),
        )
        for stage in stages
    )


def _share(part: float, whole: float) -> float:
    return round(part / whole * 100, 2) if isfinite(part) and whole > 0 else 0.0
