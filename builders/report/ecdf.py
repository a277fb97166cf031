"""Empirical distribution curves: thinned for drawing without moving a quantile people read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from typing import Final, Self

POINTS: Final = 500
QUANTILES: Final = (0.01, 0.05, 0.1, 0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Ecdf:
    """The finite samples of one side, sorted; ``dropped`` counts those that were not finite."""

    ordered: tuple[float, ...]
    dropped: int = 0

    @classmethod
    def of(cls, samples: Iterable[float]) -> Self:
        """Sort samples, leaving out NaN and infinities."""
        every = list(samples)
        finite = sorted(float(value) for value in every if isfinite(value))
        return cls(tuple(finite), len(every) - len(finite))

    def quantile(self, share: float) -> float:
        """Return the smallest sample that at least this share of the samples does not exceed."""
        return self.ordered[_rank(share, len(self.ordered)) - 1]

    def supports(self, share: float) -> bool:
        """Whether so many samples bound a quantile on both sides with 95 % confidence.

        From order statistics: 36 are enough for p90 and p10, 72 for p95, 368 for p99. The median
        is always shown, as the plain middle of what there is.
        """
        return share == 0.5 or max(share, 1 - share) ** len(self.ordered) <= 0.025

    def points(self, most: int = POINTS) -> tuple[tuple[float, float], ...]:
        """Return (value, share not above it), at most ``most`` of them, all on the full curve.

        The first, the last and every shown quantile are always among them.
        """
        count = len(self.ordered)
        ranks = range(1, count + 1) if count <= most else _thinned(count, most)
        return tuple((self.ordered[rank - 1], rank / count) for rank in ranks)


def _rank(share: float, count: int) -> int:
    # The tiny step keeps 0.95 * 20 = 19.000000000000004 from becoming rank 20.
    return max(1, ceil(share * count - 1e-9))


def _thinned(count: int, most: int) -> Sequence[int]:
    shown = {1, count} | {_rank(share, count) for share in QUANTILES}
    # A step curve jumps at a kept point, so the point before a shown quantile is kept as well.
    shown |= {max(1, rank - 1) for rank in shown}
    room = most - len(shown)
    return sorted(shown | {1 + (count - 1) * step // (room - 1) for step in range(room)})


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis with round ticks."""

    first: float
    last: float
    ticks: tuple[float, ...]

    def place(self, value: float, length: float) -> float:
        """Return where a value lies on an axis of this length; outside is clipped to the ends."""
        share = (value - self.first) / (self.last - self.first)
        return round(min(max(share, 0.0), 1.0) * length, 1) + 0.0  # never "-0"


def axis(curves: Sequence[Ecdf]) -> Axis:
    """Fit an axis around what 99 % of each side's samples lie in; from zero unless far from it."""
    low = min(curve.ordered[0] for curve in curves)
    high = max(curve.quantile(0.99) for curve in curves)
    first = 0.0 if 0 <= low < 0.6 * high else low
    if high - first < 1e-300:  # nothing apart, or so near that a step would be zero
        reach = max(abs(high) * 0.1, 0.5)
        first, high = first - reach, high + reach
    step = _step(high - first)
    begin, end = floor(first / step), ceil(high / step)
    begin = max(begin, 0) if low >= 0 else begin
    ticks = tuple(float(f"{index * step:.12g}") for index in range(begin, end + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def _step(span: float, most: int = 5) -> float:
    power = 10.0 ** floor(log10(span / most))
    return next(power * nice for nice in (1, 2, 5, 10, 20) if power * nice * most >= span)


def path(curve: Ecdf, along: Axis, length: float) -> str:
    """Draw a curve as SVG path data in a square of this length; it may leave at the right edge."""
    inside = [(x, share) for x, share in curve.points() if x <= along.last]
    steps = [
        f"H{along.place(x, length):g}V{round((1 - share) * length, 1):g}" for x, share in inside
    ]
    start = along.place(inside[0][0], length)
    return f"M{start:g} {length:g}{''.join(steps)}H{length:g}"
