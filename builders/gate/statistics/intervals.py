"""Intervals for paired differences: standard library only, every sum exactly rounded.

Differences are candidate against baseline, above zero where the candidate is worse. Every bound is
one-sided at the confidence asked for, so both together are a two-sided interval at twice the error.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import NormalDist

from builders.errors import EvidenceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """An estimate between two one-sided bounds, its standard error, and how many units made it."""

    value: float
    low: float
    high: float
    error: float
    units: int


def normal_quantile(probability: float) -> float:
    """Return the quantile of the standard normal distribution."""
    return NormalDist().inv_cdf(probability)


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t, for a probability of at least one half."""
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < probability:
        high *= 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _t_below(middle, freedom) < probability else (low, middle)
    return high


def _t_below(t: float, freedom: int) -> float:
    """Return P(T <= t) for t >= 0."""
    square = t * t
    if square < 3 * freedom / (freedom + 2):  # each side where its fraction converges fast
        return 0.5 + 0.5 * _beta(square / (freedom + square), 0.5, freedom / 2)
    return 1 - 0.5 * _beta(freedom / (freedom + square), freedom / 2, 0.5)


def _beta(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function (continued fraction, DLMF 8.17.22)."""
    if x == 0.0:
        return 0.0
    tail = 1.0
    for m in range(int(40 + 4 * math.sqrt(a + b)), 0, -1):
        tail = 1 - (a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1) * tail)
        tail = 1 + m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m) * tail)
    tail = 1 - (a + b) * x / ((a + 1) * tail)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / (a * tail)


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """Return the chance of at least so many successes."""
    if successes <= 0:
        return 1.0
    yes, no = math.log(probability), math.log1p(-probability)
    whole = math.lgamma(trials + 1)
    return math.fsum(
        math.exp(
            whole - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * yes + (trials - k) * no
        )
        for k in range(successes, trials + 1)
    )


def mean(values: Sequence[float]) -> float:
    """Return the mean, exactly rounded."""
    return math.fsum(values) / len(values)


def iid_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean of independent values."""
    middle = mean(values)
    spread = math.fsum((value - middle) ** 2 for value in values)
    return math.sqrt(spread / (len(values) * (len(values) - 1)))


def newey_west_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean of a series whose neighbours resemble each other.

    Newey and West (1987): Bartlett weights over floor(4 (n / 100)^(2/9)) lags, with n / (n - 1).
    """
    count, middle = len(values), mean(values)
    rest = [value - middle for value in values]
    lags = min(math.floor(4 * (count / 100) ** (2 / 9)), count - 1)
    total = math.fsum(e * e for e in rest)
    for lag in range(1, lags + 1):
        near = math.fsum(a * b for a, b in zip(rest, rest[lag:], strict=False))
        total += 2 * (1 - lag / (lags + 1)) * near
    return math.sqrt(max(total, 0.0) / (count * (count - 1)))


def autoregressive_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean of a series in which each value leans on the last.

    Newey and West's error is too small in short series: at 60 values with a correlation of 0.3 a 5%
    test errs in 7.7% of 4,000 simulated trials, with this error in 5.4%. The correlation of
    neighbours is corrected for its bias (Kendall 1954) and never taken for negative.
    """
    count, middle = len(values), mean(values)
    rest = [value - middle for value in values]
    total = math.fsum(e * e for e in rest)
    if not total:
        return 0.0
    lean = math.fsum(a * b for a, b in pairwise(rest)) / total
    lean = min(max(lean + (1 + 3 * lean) / count, 0.0), 0.9)
    return iid_error(values) * math.sqrt((1 + lean) / (1 - lean))


def cluster_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Return the standard error of the mean when only whole clusters are independent."""
    middle = mean(values)
    rest: dict[Hashable, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        rest[cluster].append(value - middle)
    spread = math.fsum(math.fsum(part) ** 2 for part in rest.values())
    return math.sqrt(spread * len(rest) / (len(rest) - 1)) / len(values)


def mean_bounds(
    values: Sequence[float],
    *,
    confidence: float,
    clusters: Sequence[Hashable] | None = None,
    series: bool = False,
) -> Bounds:
    """Bound the mean by Student's t with the largest of the errors that apply.

    ``series`` says that the values come in an order in which neighbours may resemble each other;
    ``clusters`` names what each value belongs to (a single cluster tells nothing: passed over).
    """
    count = len(values)
    if count < 2:
        raise EvidenceError(f"{count} units have no spread", hint="measure two units at least")
    quantile = t_quantile(confidence, count - 1)
    reaches = [(quantile * iid_error(values), iid_error(values))]
    if series:
        error = max(newey_west_error(values), autoregressive_error(values))
        reaches.append((quantile * error, error))
    if clusters is not None and (groups := len(set(clusters))) > 1:
        error = cluster_error(values, clusters)
        reaches.append((t_quantile(confidence, groups - 1) * error, error))
    reach, error = max(reaches)
    value = mean(values)
    return Bounds(value=value, low=value - reach, high=value + reach, error=error, units=count)


def tango_bounds(
    differences: Sequence[int],
    *,
    confidence: float,
    clusters: Sequence[Hashable] | None = None,
    more: float = 1.0,
) -> Bounds:
    """Bound the mean of paired differences of -1, 0 and 1 by inverting Tango's score test.

    Tango (1998), Statistics in Medicine 17:891. It keeps its error at few units, where Wald's
    interval and the bootstrap do not. With ``clusters`` the counts shrink by the design effect (Rao
    and Scott 1992), where that is above one, and the quantile is Student's over the clusters.
    ``more`` tells what the bounds would be with so many times as many pairs of the kind.
    """
    count = len(differences)
    if not count:
        raise EvidenceError("no units were measured", hint="measure one unit at least")
    error = iid_error(differences) if count > 1 else math.nan
    shrink, quantile = 1.0, normal_quantile(confidence)
    if clusters is not None and (groups := len(set(clusters))) > 1:
        quantile = t_quantile(confidence, groups - 1)
        grouped = cluster_error(differences, clusters)
        if grouped > error > 0:
            shrink, error = (error / grouped) ** 2, grouped
    shrink *= more
    worse, better = differences.count(1) * shrink, differences.count(-1) * shrink
    low, high = tango_limits(worse, better, count * shrink, quantile)
    return Bounds(value=sum(differences) / count, low=low, high=high, error=error, units=count)


def tango_limits(worse: float, better: float, total: float, quantile: float) -> tuple[float, float]:
    """Return the differences at which the score equals plus and minus ``quantile``."""

    def where(target: float) -> float:
        low, high = -1.0, 1.0
        while low < (middle := (low + high) / 2) < high:
            if tango_score(worse, better, total, middle) > target:  # it falls with the difference
                low = middle
            else:
                high = middle
        return high if target < 0 else low

    return where(quantile), where(-quantile)


def tango_score(worse: float, better: float, total: float, difference: float) -> float:
    """Return the score of the hypothesis that the true difference is ``difference``.

    It is zero at no difference when no pair differs (0/0): left as NaN, bisection would call ten
    identical pairs proof of equality.
    """
    linear = (2 * total - worse + better) * difference - (worse + better)
    constant = -better * difference * (1 - difference)
    root = math.sqrt(max(linear * linear - 8 * total * constant, 0.0))
    better_rate = (root - linear) / (4 * total)
    variance = total * (2 * better_rate + difference * (1 - difference))
    distance = worse - better - total * difference
    if variance > 0:
        return distance / math.sqrt(variance)
    return math.copysign(math.inf, distance) if distance else 0.0


def units_needed(units: int, margin: float, high: Callable[[float], float]) -> int | None:
    """Return how many units would pass if all else stayed as it is; None if no number would.

    ``high`` is the upper bound as a function of how many times as many units there are.
    """
    enough = 1.0
    while high(enough) >= margin:
        enough *= 2
        if enough > 1e6:
            return None
    few = enough / 2
    while (enough - few) * units > 0.5:
        middle = (few + enough) / 2
        few, enough = (few, middle) if high(middle) < margin else (middle, enough)
    return math.ceil(enough * units)


def needed(bounds: Bounds, margin: float, high: Callable[[float], float]) -> int | None:
    """Return how many units would settle an inconclusive gate; None if it is settled, or never."""
    if bounds.high < margin or bounds.low > margin or bounds.value >= margin:
        return None
    return units_needed(bounds.units, margin, high)


def settle(bounds: Bounds, margin: float, high: Callable[[float], float]) -> str:
    """Say how an inconclusive gate could be settled, as the end of a sentence; else nothing."""
    if bounds.high < margin or bounds.low > margin:
        return ""
    if bounds.value >= margin:
        return "; the estimate itself is not within the margin, more units would not pass it"
    units = needed(bounds, margin, high)
    if units is None:
        return "; it cannot be settled"
    return f"; about {units:,} units would settle it, {units - bounds.units:,} more than now"
