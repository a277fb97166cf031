"""How much slower one side's blocks are: log-ratios by pair, their bounds, their drift.

The pair is the unit. Requests of one run are neighbours in the same queue: an interval that takes
them for independent holds the truth in 28 instead of 90 percent of cases at 85 percent load.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from builders.errors import EvidenceError
from builders.gate.speed.blocks import BASELINE, CANDIDATE, SIDES, Block, quantile, supported
from builders.gate.statistics import intervals
from builders.gate.statistics.intervals import Bounds
from builders.verdict import Verdict

TAILS: Final = (0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One thing that can be judged: the time it takes in a block, and how people read it.

    ``share`` is the quantile of ``raw`` that is taken; without one it is ``whole`` that counts.
    ``tails`` says whether further quantiles are shown beside.
    """

    name: str
    unit: str
    shown: Callable[[float], float]
    raw: Callable[[Block], list[float]] = lambda _: []
    share: float | None = None
    whole: Callable[[Block], float] = lambda _: math.nan
    tails: bool = False

    def time(self, block: Block) -> float:
        """Return a block's time; NaN where the block has too few times for its quantile."""
        if self.share is None:
            return self.whole(block)
        times = self.raw(block)
        return quantile(times, self.share) if self.bounded(len(times)) else math.nan

    def bounded(self, count: int) -> bool:
        """Whether so many times of one block bound its quantile; a median always counts."""
        return self.share is None or self.share <= 0.5 or supported(count, self.share)


def _ttft(block: Block) -> list[float]:
    return block.ttft


def _itl(block: Block) -> list[float]:
    return block.itl


def _gaps(block: Block) -> list[float]:
    return block.gaps


def _request(block: Block) -> list[float]:
    return [1 / request.tokens_per_second for request in block.requests]


def _system(block: Block) -> float:
    return block.seconds_per_token


def _milliseconds(seconds: float) -> float:
    return seconds * 1000


def _rate(seconds: float) -> float:
    return 1 / seconds


MEASURES: Final = {
    "ttft": Measure(
        name="ttft_p50", unit="ms", shown=_milliseconds, raw=_ttft, share=0.5, tails=True
    ),
    "ttft_p95": Measure(name="ttft_p95", unit="ms", shown=_milliseconds, raw=_ttft, share=0.95),
    "itl": Measure(name="itl_p50", unit="ms", shown=_milliseconds, raw=_itl, share=0.5, tails=True),
    "itl_p99": Measure(name="itl_p99", unit="ms", shown=_milliseconds, raw=_gaps, share=0.99),
    "tps": Measure(name="tps", unit="tokens/s", shown=_rate, whole=_system),
    "request_tps": Measure(
        name="request_tps", unit="tokens/s", shown=_rate, raw=_request, share=0.5
    ),
}
# Whose tails are shown: gaps between tokens, not means by request.
_TAILS_OF: Final = {"ttft": _ttft, "itl": _gaps}

Numbers = tuple[tuple[str, float], ...]


def log_ratios(blocks: Sequence[Block], name: str) -> list[float]:
    """Return, pair by pair, the log of how much longer the candidate takes."""
    measure = MEASURES[name]
    times = {(block.pair, block.side): measure.time(block) for block in blocks}
    if not all(time > 0 for time in times.values()):
        raise EvidenceError(
            f"latency: {measure.name} cannot be seen in some block",
            hint="tokens must come in more than one piece, and a tail needs many requests",
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


def verdict(
    blocks: Sequence[Block], name: str, *, margin: float, confidence: float, more: float = 1.0
) -> Verdict:
    """Judge one measure: by how much of itself is the candidate slower?

    As if there had been ``more`` times as many requests of the kind.
    """
    measure, ratios = MEASURES[name], log_ratios(blocks, name)
    found = bounds(ratios, confidence=confidence)
    reach = (found.high - found.value) / math.sqrt(more)
    found = replace(found, low=found.value - reach, high=found.value + reach)
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
    for side, own in sides.items() if measure.tails else ():
        times = [time for block in own for time in _TAILS_OF[name](block)]
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
