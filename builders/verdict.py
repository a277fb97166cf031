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
    is one sentence for people; ``numbers`` holds what a report shows beside the interval. ``band``
    is how far the baseline lies from itself when it is measured twice, where that was measured;
    ``needed`` how many units would settle an inconclusive verdict, where any number would. With
    ``early`` only a few units were looked at: it can fail, and never passes.
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
    band: float | None = None
    needed: int | None = None
    early: bool = False

    @property
    def outcome(self) -> Outcome:
        """Pass when even the worst bound is allowed, fail when even the best one is not.

        A bound that is not a number compares false with everything, and bounds in the wrong order
        are no bounds: both end inconclusive.
        """
        if self.low <= self.high < self.margin and not self.early:
            return Outcome.PASSED
        if self.margin < self.low <= self.high:
            return Outcome.FAILED
        return Outcome.INCONCLUSIVE

    @property
    def label(self) -> str:
        """Say more within the outcome: a pass inside the baseline's own band is the stronger one.

        Without a measured band nothing is called indistinguishable.
        """
        if self.outcome is Outcome.PASSED:
            band = self.band if self.band is not None else -1.0
            return (
                "indistinguishable" if -band <= self.low and self.high <= band else "within-margin"
            )
        if self.outcome is Outcome.FAILED:
            return "worse-early" if self.early else "worse"
        return "inconclusive"

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
            "label": self.label,
            "band": self.band if self.band is not None and isfinite(self.band) else None,
            "needed": self.needed,
            "early": self.early,
        }


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the worst of several outcomes; none at all is inconclusive."""
    seen = set(outcomes) or {Outcome.INCONCLUSIVE}
    order = (Outcome.FAILED, Outcome.INCONCLUSIVE, Outcome.PASSED)
    return next(outcome for outcome in order if outcome in seen)
