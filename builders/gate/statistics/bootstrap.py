"""Bound a mean by the bias-corrected and accelerated bootstrap (Efron 1987), of whole clusters.

For graded scores. It knows only what it saw: where few values differ from zero, rare harm may be in
none of them, so it is refused there.
"""

import math
import random
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import Final

from builders.errors import EvidenceError
from builders.gate.statistics import intervals
from builders.gate.statistics.intervals import Bounds

RESAMPLES: Final = 4999
# Below so many clusters, or so many that differ from zero, its error is above nominal (simulated).
LEAST: Final = 50
LEAST_DIFFERENT: Final = 10
_NORMAL: Final = NormalDist()

Part = tuple[float, int]  # the sum and the number of values in one cluster


def bounds(
    values: Sequence[float],
    *,
    confidence: float,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
) -> Bounds:
    """Bound the mean from both sides, one-sided at ``confidence`` each; same input, same bounds."""
    if not fits(values, clusters):
        raise EvidenceError(
            f"a bootstrap needs {LEAST} units, {LEAST_DIFFERENT} of them different",
            hint="use the score interval",
        )
    parts = _parts(values, clusters)
    value, means = _mean(parts), _resampled(parts, resamples)
    below = sum(mean < value for mean in means) + sum(mean == value for mean in means) / 2
    bias = _NORMAL.inv_cdf(below / len(means))
    lean = _acceleration(parts)
    low, high = (
        _at(means, _corrected(_NORMAL.inv_cdf(share), bias, lean))
        for share in (1 - confidence, confidence)
    )
    return Bounds(value=value, low=low, high=high, error=_spread(means), units=len(values))


def fits(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> bool:
    """Whether there are enough units, and enough that differ, to resample from."""
    parts = _parts(values, clusters)
    different = sum(total != 0 for total, _ in parts)
    return len(parts) >= LEAST and different >= LEAST_DIFFERENT and len(set(parts)) > 2


def _parts(values: Sequence[float], clusters: Sequence[Hashable] | None) -> list[Part]:
    if clusters is None:
        return [(value, 1) for value in values]
    found: dict[Hashable, Part] = {}
    for value, cluster in zip(values, clusters, strict=True):
        total, count = found.get(cluster, (0.0, 0))
        found[cluster] = (total + value, count + 1)
    return list(found.values())


def _mean(parts: Sequence[Part]) -> float:
    return math.fsum(total for total, _ in parts) / sum(count for _, count in parts)


def _resampled(parts: Sequence[Part], resamples: int) -> list[float]:
    """Return the sorted means of samples with replacement, by Python's own stable generator."""
    dice, size = random.Random(0), len(parts)  # noqa: S311 - statistics, not secrets
    if all(count == 1 for _, count in parts):
        totals = [total for total, _ in parts]
        return sorted(math.fsum(dice.choices(totals, k=size)) / size for _ in range(resamples))
    return sorted(_mean(dice.choices(parts, k=size)) for _ in range(resamples))


def _acceleration(parts: Sequence[Part]) -> float:
    """Return how much the error leans on the mean: a sixth of the skewness of the jackknife."""
    whole, count = math.fsum(total for total, _ in parts), sum(many for _, many in parts)
    left = [(whole - total) / (count - many) for total, many in parts]
    middle = intervals.mean(left)
    square = math.fsum((middle - mean) ** 2 for mean in left)
    cube = math.fsum((middle - mean) ** 3 for mean in left)
    return cube / (6 * square**1.5) if square else 0.0


def _corrected(quantile: float, bias: float, lean: float) -> float:
    moved = bias + quantile
    return _NORMAL.cdf(bias + moved / (1 - lean * moved))


def _at(ordered: Sequence[float], share: float) -> float:
    """Return a quantile, interpolated between neighbours."""
    place = min(max(share * len(ordered) - 0.5, 0.0), len(ordered) - 1.0)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _spread(means: Sequence[float]) -> float:
    return intervals.iid_error(means) * math.sqrt(len(means))
