"""Where a verdict lies on the common axis of harm: 0 is the baseline, 1 is the margin."""

from dataclasses import dataclass
from math import isfinite, isnan
from typing import Final

from builders.report import numbers
from builders.verdict import Verdict

# In margins. The same for every report, so that two reports can be compared at a glance.
FIRST: Final = -2.0
LAST: Final = 3.0
TICKS: Final = (-2, -1, 0, 1, 2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One verdict's drawing; positions are percent of the axis, ``None`` where off the axis.

    ``note`` is what to write where the drawing alone would not tell: far off, or not measured.
    """

    low: float | None = None
    high: float | None = None
    point: float | None = None
    start: float = 0.0
    end: float = 0.0
    arrow_left: bool = False
    arrow_right: bool = False
    drawn: bool = False
    note: str = ""
    note_right: bool = False


def position(margins: float) -> float:
    """Return where a harm, in margins, lies on the axis, in percent of its length."""
    clipped = min(max(margins, FIRST), LAST)
    return round((clipped - FIRST) / (LAST - FIRST) * 100, 3)


def mark(verdict: Verdict) -> Mark:
    """Place a verdict's interval and estimate on the axis; what cannot be placed is said."""
    if not (isfinite(verdict.margin) and verdict.margin > 0):
        return Mark(note="no margin to draw against")
    if isnan(verdict.low) or isnan(verdict.high):
        return Mark(note=numbers.NOT_MEASURED)
    low, high, point = (
        value / verdict.margin for value in (verdict.low, verdict.high, verdict.worse_by)
    )
    left, right = low < FIRST, high > LAST
    return Mark(
        low=_inside(low),
        high=_inside(high),
        point=_inside(point),
        start=position(low),
        end=position(high),
        arrow_left=left,
        arrow_right=right,
        drawn=True,
        note=_far(point),
        note_right=point > LAST,
    )


def _inside(margins: float) -> float | None:
    return position(margins) if FIRST <= margins <= LAST else None


def _far(margins: float) -> str:
    if isnan(margins) or FIRST <= margins <= LAST:
        return ""
    return f"{numbers.digits(margins)} × margin"
