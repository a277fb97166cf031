"""Numbers as people read them: three significant digits, a sign where it matters, a unit."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, isfinite, isinf, isnan, log10
from typing import Final

NBSP: Final = "\u00a0"
MINUS: Final = "\u2212"
NOT_MEASURED: Final = "not measured"


@dataclass(frozen=True, slots=True)
class Scale:
    """How a verdict's unit is shown: multiplied by what, followed by which symbol."""

    factor: float
    symbol: str


# A verdict's numbers are fractions; people read relative ones as percent, shares as points.
# Gates say what is counted ("relative increase of perplexity"), one of the words says how.
_PERCENT: Final = Scale(100, "%")
_POINTS: Final = Scale(100, "pt")
SCALES: Final = {
    **dict.fromkeys(("%", "percent", "ratio", "relative"), _PERCENT),
    **dict.fromkeys(("fraction", "point", "points", "pt", "share"), _POINTS),
}


def scale(unit: str) -> Scale:
    """Return how a unit is shown; one without a word of the table stands as it is."""
    known = (SCALES[word] for word in unit.split() if word in SCALES)
    return next(known, Scale(1, unit))


def counted(unit: str) -> str:
    """Return what a unit says beyond its symbol: all of a described one, nothing of a bare one."""
    return unit if unit not in SCALES and scale(unit).symbol != unit else ""


def digits(value: float, *, places: int = 3, keep_zeros: bool = False) -> str:
    """Write a number with three (or more) significant digits, no unit: ``1,230``, ``0.0313``."""
    if isnan(value):
        return NOT_MEASURED
    sign = MINUS if value < 0 else ""
    size = abs(value)
    if isinf(size):
        return f"{sign}∞"
    if size == 0:
        return "0"
    if not 1e-4 <= size < 1e9:
        mantissa, exponent = f"{size:.{places - 1}e}".split("e")
        return f"{sign}{mantissa}e{int(exponent)}".replace("-", MINUS)
    rounded = float(f"{size:.{places}g}")
    if rounded >= 10 ** (places - 1):
        return f"{sign}{rounded:,.0f}"
    return sign + (f"{size:#.{places}g}" if keep_zeros else f"{size:.{places}g}")


def amount(value: float, unit: str) -> str:
    """Write a declared number in its verdict's unit, unsigned if positive: ``1 %``."""
    shown = scale(unit)
    return _with(digits(value * shown.factor), shown.symbol if not isnan(value) else "")


def measured(value: float, unit: str) -> str:
    """Write a measured number as it stands, all three digits shown: ``68.0 ms``."""
    return _with(digits(value, keep_zeros=True), unit)


def interval(worse_by: float, low: float, high: float, unit: str) -> tuple[str, str]:
    """Write an estimate and its bounds alike: ``+0.30 %`` and ``[-1.02, +1.62]``.

    The largest of them has three significant digits, the others as many decimals.
    """
    shown = scale(unit)
    scaled = [value * shown.factor for value in (worse_by, low, high)]
    decimals = _decimals(max((abs(value) for value in scaled if isfinite(value)), default=0))
    estimate, least, most = (_signed(value, decimals) for value in scaled)
    bounds = NOT_MEASURED if isnan(low) and isnan(high) else f"[{least}, {most}]"
    return estimate if isnan(worse_by) else _with(estimate, shown.symbol), bounds


def size(count: float) -> str:
    """Write bytes in decimal units: ``1.93 MB``."""
    powers = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    for power, symbol in powers:
        if abs(count) >= power:
            return f"{digits(count / power, keep_zeros=True)}{NBSP}{symbol}"
    return f"{digits(count)}{NBSP}bytes"


def duration(seconds: float) -> str:
    """Write a duration: ``85 ms``, ``3.2 s``, ``4 min 05 s``, ``1 h 12 min``."""
    if not isfinite(seconds):
        return NOT_MEASURED
    if seconds == 0:
        return f"0{NBSP}s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}{NBSP}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{NBSP}min{NBSP}{whole % 60:02d}{NBSP}s"
    return f"{whole // 3600}{NBSP}h{NBSP}{whole % 3600 // 60:02d}{NBSP}min"


def relative(baseline: float, candidate: float) -> str:
    """Write how far the candidate lies from the baseline, in percent: ``-54 %``."""
    if not (isfinite(baseline) and isfinite(candidate)) or baseline <= 0:
        return ""
    percent = round((candidate / baseline - 1) * 100, 1)
    return f"{_mark(percent)}{digits(abs(percent))}{NBSP}%"


def listed(names: Iterable[str], *, most: int = 3) -> str:
    """Join names as a sentence does: ``a, b and 4 more``."""
    all_names = list(names)
    spare = len(all_names) - most
    shown = [*all_names[:most], f"{spare} more"] if spare > 0 else all_names
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _decimals(largest: float) -> int | None:
    # None: out of the range in which a fixed number of decimals is readable.
    if largest == 0 or not 1e-4 <= largest < 1e9:
        return None
    return max(0, 2 - floor(log10(float(f"{largest:.3g}"))))


def _signed(value: float, decimals: int | None) -> str:
    if decimals is None or not isfinite(value):
        return digits(value) if isnan(value) else _mark(value) + digits(abs(value))
    rounded = round(value, decimals)
    return _mark(rounded) + f"{abs(rounded):,.{decimals}f}"


def _mark(value: float) -> str:
    return "" if value == 0 else "+" if value > 0 else MINUS


def _with(number: str, symbol: str) -> str:
    return f"{number}{NBSP}{symbol}" if symbol else number
