"""Power: what a suite can certify, said before anything is measured. Standard library only.

Nothing is approximated that can be summed up: of right-or-wrong items every split of the flips, of
means every spread that chance may show. Only the assumptions are that: how often items flip, and
how far windows and pairs scatter, where no earlier candidate has shown it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from builders.errors import Refusal
from builders.gate.statistics.intervals import (
    normal_quantile,
    t_quantile,
    tango_limits,
    tango_score,
)

GOAL: Final = 0.9
MOST: Final = 1_000_000  # units beyond which nobody plans
_TINY: Final = 1e-15


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What one measure of a gate can certify if the candidate does no harm at all.

    ``units`` is None where only measuring tells how many there are; then nothing is said. ``best``
    is the upper bound of harm if no unit changes: not below the margin, the gate can never pass.
    ``enough`` is how many units would pass a harmless candidate nine times in ten.
    """

    gate: str
    margin: float
    units: int | None
    unit: str
    assumed: str
    power: float | None
    best: float | None
    enough: int | None

    @property
    def hopeless(self) -> bool:
        """Whether even a candidate that changes nothing could not pass."""
        return self.best is not None and self.best >= self.margin

    def as_json(self) -> dict[str, object]:
        """Return what ``plan --json`` prints."""
        return {
            "gate": self.gate,
            "margin": self.margin,
            "units": self.units,
            "unit": self.unit,
            "assumed": self.assumed,
            "power": self.power,
            "best": self.best,
            "enough": self.enough,
            "can_pass": not self.hopeless,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The power of every gate of a policy."""

    gates: tuple[Power, ...]

    @property
    def joint(self) -> float | None:
        """The chance that a harmless candidate passes them all, were they independent."""
        found = [gate.power for gate in self.gates]
        if not found or any(power is None for power in found):
            return None
        return math.prod(power for power in found if power is not None)

    def refusals(self) -> tuple[Refusal, ...]:
        """Return why the policy cannot work: gates that can only end inconclusive."""
        return tuple(
            Refusal(
                f"{gate.gate} can only end inconclusive: with {gate.units:,} {gate.unit} even a"
                f" candidate that changes nothing may be {gate.best:.3g} worse, where"
                f" {gate.margin:.3g} is allowed",
                hint=f"give it {gate.enough:,} {gate.unit} or more, or a wider margin"
                if gate.enough
                else "widen its margin",
            )
            for gate in self.gates
            if gate.hopeless
        )

    def as_json(self) -> dict[str, object]:
        """Return what ``plan --json`` prints under ``power``."""
        return {"joint": self.joint, "gates": [gate.as_json() for gate in self.gates]}


def of_items(
    gate: str, units: int | None, *, flips: float, margin: float, confidence: float, unit: str
) -> Power:
    """Say what so many right-or-wrong items can certify, if a share of ``flips`` of them flips."""
    quantile = normal_quantile(confidence)
    enough = _enough(lambda count: binary(count, flips, margin, confidence))
    return Power(
        gate=gate,
        margin=margin,
        units=units,
        unit=unit,
        assumed=f"{flips:.3g} of the {unit} flip",
        power=None if units is None else binary(units, flips, margin, confidence),
        best=None if units is None else tango_limits(0, 0, units, quantile)[1],
        enough=enough,
    )


def of_means(
    gate: str, units: int | None, *, spread: float, margin: float, confidence: float, unit: str
) -> Power:
    """Say what the mean log-ratio of so many units can certify, if they scatter by ``spread``."""
    allowed = math.log1p(margin)
    return Power(
        gate=gate,
        margin=margin,
        units=units,
        unit=unit,
        assumed=f"log-ratios of the {unit} scatter by {spread:.3g}",
        power=None if units is None else means(units, spread, allowed, confidence),
        best=math.inf if units is not None and units < 2 else None if units is None else 0.0,
        enough=_enough(lambda count: means(count, spread, allowed, confidence)),
    )


def binary(
    units: int, flips: float, margin: float, confidence: float, *, harm: float = 0.0
) -> float:
    """Return the chance to pass Tango's test, summed over every count of flips and split of it.

    ``harm`` is the true share of items lost more than won; no more than ``flips``.
    """
    if flips <= 0:
        return float(tango_limits(0, 0, units, normal_quantile(confidence))[1] < margin)
    quantile, share = normal_quantile(confidence), (flips + harm) / (2 * flips)
    total, passing = 0.0, -1
    for changed, chance in _binomial(units, min(flips, 1.0)):
        while passing < changed and _passes(passing + 1, changed, units, margin, quantile):
            passing += 1
        while passing >= 0 and not _passes(passing, changed, units, margin, quantile):
            passing -= 1
        total += chance * below(passing, changed, min(share, 1.0))
    return min(total, 1.0)


def means(
    units: int, spread: float, allowed: float, confidence: float, *, harm: float = 0.0
) -> float:
    """Return the chance that a t bound on the mean lies below ``allowed``, of normal values.

    The mean and the spread that chance shows are independent: for each spread the mean's part is
    a normal tail, and the spread's own density is integrated over by Simpson's rule.
    """
    if units < 2:
        return 0.0
    if spread <= 0:
        return float(harm < allowed)
    freedom, root = units - 1, math.sqrt(units)
    quantile, distance = t_quantile(confidence, freedom), (allowed - harm) * root / spread
    reach = 9 / math.sqrt(2 * freedom)
    low, high = max(1e-9, 1 - reach), 1 + reach + 4 / freedom
    steps = 400
    width = (high - low) / steps
    weights = (1 if i in {0, steps} else 4 if i % 2 else 2 for i in range(steps + 1))
    points = (low + i * width for i in range(steps + 1))
    normal = NormalDist()
    total = math.fsum(
        weight * _chi_density(s, freedom) * normal.cdf(distance - quantile * s)
        for weight, s in zip(weights, points, strict=True)
    )
    return min(max(total * width / 3, 0.0), 1.0)


def below(most: int, trials: int, chance: float) -> float:
    """Return the probability of at most so many successes."""
    if most < 0:
        return 0.0
    if most >= trials or chance <= 0:
        return 1.0
    if chance >= 1:
        return 0.0
    if most >= trials * chance:
        return 1.0 - below(trials - most - 1, trials, 1 - chance)
    term, total, odds = _mass(most, trials, chance), 0.0, (1 - chance) / chance
    for count in range(most, -1, -1):
        total += term
        if term < _TINY * total:
            break
        term *= count / (trials - count + 1) * odds
    return total


def _passes(worse: int, changed: int, units: int, margin: float, quantile: float) -> bool:
    return tango_score(worse, changed - worse, units, margin) < -quantile


def _binomial(trials: int, chance: float) -> list[tuple[int, float]]:
    """Return every count that is at all likely, with its probability."""
    middle = min(int(trials * chance), trials)
    found = {middle: _mass(middle, trials, chance)}
    odds = chance / (1 - chance) if chance < 1 else math.inf
    term = found[middle]
    for count in range(middle + 1, trials + 1):
        term *= (trials - count + 1) / count * odds
        if term < _TINY:
            break
        found[count] = term
    term = found[middle]
    for count in range(middle, 0, -1):
        term *= count / (trials - count + 1) / odds
        if term < _TINY:
            break
        found[count - 1] = term
    return sorted(found.items())


def _mass(count: int, trials: int, chance: float) -> float:
    if chance >= 1:
        return float(count == trials)
    return math.exp(
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(chance)
        + (trials - count) * math.log1p(-chance)
    )


def _chi_density(s: float, freedom: int) -> float:
    """Return the density at ``s`` of a sample's standard deviation in units of the true one."""
    half = freedom / 2
    return math.exp(
        math.log(2) + half * math.log(half) - math.lgamma(half)
        + (freedom - 1) * math.log(s) - half * s * s
    )  # fmt: skip


def _enough(power: Callable[[int], float]) -> int | None:
    """Return how many units give the power that is aimed at; None if no number in reach does.

    Exact powers go up in saws: a number counts if somewhat larger ones do as well.
    """
    high = 2
    while power(high) < GOAL:
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        steady = all(power(middle + k * middle // 60) >= GOAL for k in range(4))
        low, high = (low, middle) if steady else (middle, high)
    return high
