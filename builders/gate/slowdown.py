"""How much slower one side's blocks are: log-ratios by pair, their bounds, their drift.

The pair is the unit. Requests of one run are neighbours in the same queue: an interval that takes
them for independent holds the truth in 28 instead of 90 percent of cases at 85 percent load.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from builders.errors import EvidenceError
from builders.gate import intervals
from builders.gate.blocks import BASELINE, CANDIDATE, SIDES, Block, quantile, supported
from builders.gate.intervals import Bounds
from builders.verdict import Verdict

TAILS: Final = (0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One thing that can be judged: the time it takes in a block, and how people read it.

    ``raw`` gives the single times of a block whose tails are shown, where there are such.
    """

    name: str
    time: Callable[[Block], float]
    shown: Callable[[float], float]
    unit: str
    raw: Callable[[Block], list[float]] = lambda _: []


def _ttft(block: Block) -> list[float]:
    return block.ttft


def _gaps(block: Block) -> list[float]:
    return block.gaps


def _milliseconds(seconds: float) -> float:
    return seconds * 1000


MEASURES: Final = {
    "ttft": Measure(
        name="ttft_p50",
        time=lambda block: quantile(block.ttft, 0.5),
        shown=_milliseconds,
        unit="ms",
        raw=_ttft,
    ),
    "itl": Measure(
        name="itl_p50",
        time=lambda block: quantile(block.itl, 0.5),
        shown=_milliseconds,
        unit="ms",
        raw=_gaps,
    ),
    "tps": Measure(
        name="tps",
        time=lambda block: block.seconds_per_token,
        shown=lambda seconds: 1 / seconds,
        unit="tokens/s",
    ),
}

Numbers = tuple[tuple[str, float], ...]


def log_ratios(blocks: Sequence[Block], name: str) -> list[float]:
    """Return, pair by pair, the log of how much longer the candidate takes."""
    measure = MEASURES[name]
    times = {(block.pair, block.side): measure.time(block) for block in blocks}
    if not all(time > 0 for time in times.values()):
        raise EvidenceError(
            f"latency: {measure.name} cannot be seen in some block",
            hint="tokens must arrive in more than one piece: let the server stream",
        )
    pairs = sorted({pair for pair, _ in times})
    return [math.log(times[pair, CANDIDATE] / times[pair, BASELINE]) for pair in pairs]


def bounds(ratios: Sequence[float], *, confidence: float) -> Bounds:
    """Bound the mean log-ratio by Student's t over the pairs."""
    return intervals.mean_bounds(ratios, confidence=confidence)


def drifts(ratios: Sequence[float]) -> bool:
    """Whether the ratios rise or fall from pair to pair (slope, two-sided p < 0.01)."""
    count = len(ratios)
    if count < 3:
        return False
    middle, center = intervals.mean(ratios), (count - 1) / 2
    weight = math.fsum((place - center) ** 2 for place in range(count))
    slope = math.fsum((i - center) * (r - middle) for i, r in enumerate(ratios)) / weight
    rest = math.fsum((r - middle - slope * (i - center)) ** 2 for i, r in enumerate(ratios))
    reach = intervals.t_quantile(0.995, count - 2) * math.sqrt(rest / (count - 2) / weight)
    return abs(slope) > reach


def verdict(blocks: Sequence[Block], name: str, *, margin: float, confidence: float) -> Verdict:
    """Judge one measure: by how much of itself is the candidate slower?"""
    measure, ratios = MEASURES[name], log_ratios(blocks, name)
    found = bounds(ratios, confidence=confidence)
    reach = found.high - found.value
    advice = intervals.settle(
        found, math.log1p(margin), lambda more: found.value + reach / math.sqrt(more)
    )
    old, new = (_typical(blocks, measure, side) for side in SIDES)
    alarm = "; the ratio drifts over the pairs (p < 0.01)" if drifts(ratios) else ""
    return Verdict(
        gate=f"latency.{measure.name}",
        worse_by=math.expm1(found.value),
        low=math.expm1(found.low),
        high=math.expm1(found.high),
        margin=margin,
        units=found.units,
        unit="relative slowdown",
        detail=(
            f"{old:.4g} → {new:.4g} {measure.unit} over {found.units} pairs of "
            f"{len(blocks[0].requests)} requests{advice}{alarm}"
        ),
        numbers=numbers(blocks, name),
    )


def numbers(blocks: Sequence[Block], name: str) -> Numbers:
    """Return what is shown of a measure: both sides, the tails that n supports, the drift alarm."""
    measure = MEASURES[name]
    sides = {side: [block for block in blocks if block.side == side] for side in SIDES}
    found = [
        (f"{side} {measure.name} [{measure.unit}]", _typical(own, measure, side))
        for side, own in sides.items()
    ]
    for side, own in sides.items():
        times = [time for block in own for time in measure.raw(block)]
        found += [
            (f"{side} {name}_p{100 * share:.0f} [ms]", 1000 * quantile(times, share))
            for share in TAILS
            if times and supported(len(times), share)
        ]
    return (*found, (f"{measure.name} drift alarm", float(drifts(log_ratios(blocks, name)))))


def unjudged(blocks: Sequence[Block], name: str, *, confidence: float) -> Numbers:
    """Return the numbers of a measure without a margin; nothing where it cannot be seen."""
    try:
        found = bounds(log_ratios(blocks, name), confidence=confidence)
    except EvidenceError:
        return ()
    slower = MEASURES[name].name
    return (
        *numbers(blocks, name),
        (f"{slower} slowdown, not judged", math.expm1(found.value)),
        (f"{slower} slowdown, low", math.expm1(found.low)),
        (f"{slower} slowdown, high", math.expm1(found.high)),
    )


def _typical(blocks: Sequence[Block], measure: Measure, side: str) -> float:
    """Return the median block of one side, in the unit that people read."""
    return measure.shown(quantile([measure.time(b) for b in blocks if b.side == side], 0.5))
