"""How far opinions lie apart along a row, drawn against how far the baseline lies from itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from builders.report import ecdf, numbers
from builders.report.model import Divergence

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the figure: whose it is, its path, and its mean over all stretches."""

    side: str
    name: str
    path: str
    mean: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The figure: lines on common axes, and the same in words."""

    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    spoken: str


def drift(found: Divergence | None, *, square: float) -> Drift | None:
    """Return the figure in a square of this length; None where nothing was kept."""
    if found is None or not _finite(found.candidate):
        return None
    sides = (
        ("candidate", "candidate against baseline", _finite(found.candidate)),
        ("baseline", "baseline against itself", _finite(found.floor)),
    )
    along = _axis([place for _, _, points in sides for place, _ in points])
    above = _axis([nats for _, _, points in sides for _, nats in points])
    lines = tuple(
        Line(side=side, name=name, path=_path(points, along, above, square), mean=_mean(points))
        for side, name, points in sides
        if points
    )
    means = ", ".join(f"{line.name} {line.mean} nats" for line in lines)
    return Drift(
        lines=lines,
        across=tuple((along.place(tick, 100), numbers.digits(tick)) for tick in along.ticks),
        up=tuple((100 - above.place(tick, 100), numbers.digits(tick)) for tick in above.ticks),
        spoken=f"Divergence by place in the row; mean of {means}.",
    )


def _finite(points: Points) -> list[tuple[int, float]]:
    return [(place, nats) for place, nats in points if isfinite(nats)]


def _axis(values: Sequence[float]) -> ecdf.Axis:
    return ecdf.axis([ecdf.Ecdf.of([0.0, *values])])


def _path(points: Points, along: ecdf.Axis, above: ecdf.Axis, square: float) -> str:
    places = [
        f"{along.place(place, square):g} {square - above.place(nats, square):g}"
        for place, nats in points
    ]
    return f"M{'L'.join(places)}"


def _mean(points: Points) -> str:
    return numbers.digits(sum(nats for _, nats in points) / len(points))
