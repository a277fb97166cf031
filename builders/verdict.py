"""A gate's answer, and the one rule by which an interval becomes an answer."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from math import isfinite


class Outcome(Enum):
    """What a gate can say; only ``PASSED`` opens it."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How much worse the candidate is, between which bounds, and how much is allowed.

    ``worse_by`` > 0 means that the candidate is worse. ``low`` and ``high`` are one-sided bounds
    at the policy's confidence each. All four numbers share the unit named in ``unit``. ``detail``
    is one sentence for people; ``numbers`` holds what a report shows beside the interval.
    """

    gate: str
    worse_by: float
    low: float
    high: float
    margin: float
    units: int
    unit: str = ""
    detail: str = ""
    numbers: tuple[tuple[str, float], ...] = ()

    @property
    def outcome(self) -> Outcome:
        """Pass when even the worst bound is allowed, fail when even the best one is not.

        A bound that is not a number compares false with everything, and bounds in the wrong order
        are no bounds: both end inconclusive.
        """
        if self.low <= self.high < self.margin:
            return Outcome.PASSED
        if self.margin < self.low <= self.high:
            return Outcome.FAILED
        return Outcome.INCONCLUSIVE

    def as_json(self) -> dict[str, object]:
        """Return the fields that scripts rely on; what is no finite number is null."""
        bounds = {name: getattr(self, name) for name in ("worse_by", "low", "high", "margin")}
        finite = {name: value if isfinite(value) else None for name, value in bounds.items()}
        return {
            "gate": self.gate,
            "outcome": self.outcome.value,
            **finite,
            "units": self.units,
            "unit": self.unit,
            "detail": self.detail,
        }


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst of several outcomes; none at all is inconclusive."""
    seen = set(outcomes) or {Outcome.INCONCLUSIVE}
    order = (Outcome.FAILED, Outcome.INCONCLUSIVE, Outcome.PASSED)
    return next(outcome for outcome in order if outcome in seen)
