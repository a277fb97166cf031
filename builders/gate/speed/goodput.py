"""Goodput: the highest rate of requests at which nearly all are answered as fast as promised.

Each rate is decided by MLPerf's early-stopping rule: it is good when so few late answers of so many
would be that rare at a worse share, and bad when so many would be that rare at a better one. Rates
between are halved (on a logarithmic scale) until the steps are used up.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from builders.errors import EvidenceError, UsageError
from builders.gate.speed.blocks import BASELINE, CANDIDATE, Timing
from builders.gate.statistics import intervals
from builders.parse import Table
from builders.verdict import Verdict

GATE: Final = "latency.goodput"
_KIND: Final = "rate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What is promised to a request, to which share of them, and where to look for the goodput."""

    ttft_ms: float
    itl_ms: float
    share: float
    confidence: float
    least_rate: float
    most_rate: float
    steps: int
    requests: int
    margin: float

    @classmethod
    def parse(cls, table: Table) -> Self:
        """Read the table; a number of requests that could prove nothing is refused."""
        with table:
            slo = cls(
                ttft_ms=table.number("ttft_ms"),
                itl_ms=table.number("itl_ms"),
                share=table.number("share", 0.99),
                confidence=table.number("confidence", 0.99),
                least_rate=table.number("least_rate", least=1e-3),
                most_rate=table.number("most_rate", least=1e-3),
                steps=table.whole("steps", 5, least=1),
                requests=table.whole("requests", 662, least=1),
                margin=table.number("margin", 0.05),
            )
        slo.check()
        return slo

    def check(self) -> None:
        """Refuse what could end in no decision only."""
        if not 0 < self.share < 1 or not 0.5 < self.confidence < 1:
            raise UsageError("latency.slo: share and confidence must lie between 0 and 1")
        if self.most_rate <= self.least_rate:
            raise UsageError("latency.slo: most_rate is not above least_rate")
        if self.decide(0, self.requests) is not True:
            least = math.ceil(math.log(1 - self.confidence) / math.log(self.share))
            raise UsageError(
                f"latency.slo: {self.requests} requests prove nothing, even with none late",
                hint=f"set requests to {least} at least",
            )

    def kept(self, timing: Timing) -> bool:
        """Whether a request got what was promised."""
        itl = timing.itl if timing.gaps else 0.0
        return timing.ttft * 1000 <= self.ttft_ms and itl * 1000 <= self.itl_ms

    def decide(self, late: int, count: int) -> bool | None:
        """Say whether a rate is good or bad; None where so many requests cannot tell."""
        chance, error = 1 - self.share, 1 - self.confidence
        if 1 - intervals.binomial_tail(late + 1, count, chance) <= error:
            return True
        return False if intervals.binomial_tail(late, count, chance) <= error else None

    def as_json(self) -> dict[str, object]:
        """Return what changes the measurement; the margin does not."""
        return {
            "ttft_ms": self.ttft_ms,
            "itl_ms": self.itl_ms,
            "share": self.share,
            "confidence": self.confidence,
            "rates": [self.least_rate, self.most_rate, self.steps],
            "requests": self.requests,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One rate that was tried on one side: how many requests, and how many of them were late."""

    side: str
    rate: float
    count: int
    late: int

    def as_json(self) -> dict[str, object]:
        """Return the attempt as a unit of evidence."""
        return {
            "unit": f"{_KIND}/{self.side}/{self.rate:.6g}",
            "kind": _KIND,
            "side": self.side,
            "rate": self.rate,
            "count": self.count,
            "late": self.late,
        }


def read(samples: Sequence[Mapping[str, Any]]) -> tuple[Attempt, ...]:
    """Read the attempts among the samples of a latency gate."""
    return tuple(
        Attempt(side=s["side"], rate=s["rate"], count=s["count"], late=s["late"])
        for s in samples
        if is_attempt(s)
    )


def is_attempt(sample: Mapping[str, Any]) -> bool:
    """Whether a sample is an attempt, and no block of requests."""
    return sample.get("kind") == _KIND


async def search(slo: Slo, side: str, attempt: Callable[[float], Awaitable[int]]) -> list[Attempt]:
    """Look for the goodput of one side; ``attempt`` returns how many were late at a rate."""
    tried: list[Attempt] = []

    async def good(rate: float) -> bool:
        late = await attempt(rate)
        tried.append(Attempt(side=side, rate=rate, count=slo.requests, late=late))
        return slo.decide(late, slo.requests) is True

    if await good(slo.most_rate) or not await good(slo.least_rate):
        return tried
    low, high = slo.least_rate, slo.most_rate
    for _ in range(slo.steps):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if await good(middle) else (low, middle)
    return tried


def verdict(slo: Slo, attempts: Sequence[Attempt]) -> Verdict:
    """Judge by how much the candidate's goodput is lower; the bounds are rates that were decided.

    The candidate may be anywhere from its highest good rate to its lowest bad one, and so may the
    baseline. Where no rate was bad for the candidate, its gain is shown as up to twice as much.
    """
    (old_good, old_bad), (new_good, new_bad) = (
        _bracket(slo, attempts, side) for side in (BASELINE, CANDIDATE)
    )
    if not old_good:
        raise EvidenceError(
            f"latency: the baseline does not keep the promise at {slo.least_rate:g} requests a s",
            hint="lower least_rate, or promise less",
        )
    return Verdict(
        gate=GATE,
        worse_by=1 - new_good / old_good,
        low=1 - (new_bad if new_bad < math.inf else 2 * new_good) / old_good,
        high=1 - new_good / old_bad,
        margin=slo.margin,
        units=len(attempts),
        unit="relative loss of goodput",
        detail=(
            f"good up to: baseline {old_good:.3g} (bad at {_shown(old_bad)}), candidate "
            f"{new_good:.3g} (bad at {_shown(new_bad)}) requests/s; {slo.requests} a rate"
        ),
        numbers=(("baseline goodput [1/s]", old_good), ("candidate goodput [1/s]", new_good)),
    )


def _bracket(slo: Slo, attempts: Sequence[Attempt], side: str) -> tuple[float, float]:
    """Return the highest good rate of a side and the lowest bad one above it."""
    own = [(a.rate, slo.decide(a.late, a.count)) for a in attempts if a.side == side]
    good = max((rate for rate, said in own if said), default=0.0)
    bad = min((rate for rate, said in own if said is False and rate > good), default=math.inf)
    return good, bad


def _shown(rate: float) -> str:
    return f"{rate:.3g}" if rate < math.inf else "no rate"
