"""What answers show besides being right: emptiness, repetition, refusal, being cut off, length.

Each habit is a share of an answer, or one for the whole of it, and more of it is worse. All are
seen in evidence alone, so a policy may judge by them what was measured before.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from builders.errors import EvidenceError
from builders.gate.evidence import Sample
from builders.gate.statistics import graded, intervals
from builders.gate.statistics.intervals import Bounds
from builders.verdict import Verdict

# How English chat models begin when they decline; looked for in an answer's first sentences.
_REFUSAL: Final = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|afraid)|i (?:can(?:'t|not)|could not|couldn't|won't|am unable to"
    r"|am not able to) (?:help|assist|answer|comply|provide|do|fulfil|discuss|create|write|share"
    r"|give|generate|engage|support)|as an ai\b|i must (?:decline|refuse)|i decline to)",
    re.IGNORECASE,
)
_BEGINNING: Final = 200  # characters

Answer = Mapping[str, Any]
Pairs = Sequence[tuple[Sample, Sample]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """What is seen in an answer, and how a verdict calls it."""

    seen: Callable[[Answer], float]
    unit: str


def _empty(answer: Answer) -> float:
    return float(not answer["text"].strip())


def _repetition(answer: Answer) -> float:
    """Return which share of all runs of three words was said before in the same answer."""
    words = answer["text"].split()
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _refusal(answer: Answer) -> float:
    beginning = answer["text"][:_BEGINNING].replace("\u2019", "'")
    return float(_REFUSAL.search(beginning) is not None)


def _cut_off(answer: Answer) -> float:
    return float(answer["finish"] == "length")


HABITS: Final[Mapping[str, Habit]] = {
    "empty": Habit(seen=_empty, unit="rise in the share of empty answers"),
    "repetition": Habit(seen=_repetition, unit="rise in the share of repeated words"),
    "refusal": Habit(seen=_refusal, unit="rise in the share of refusals"),
    "cut_off": Habit(seen=_cut_off, unit="rise in the share of answers that were cut off"),
}
LENGTH: Final = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The answers of both models, paired by prompt, and how sure a bound shall be."""

    pairs: Pairs
    confidence: float
    clusters: Sequence[Hashable] | None

    def verdict(self, name: str, margin: float, *, gate: str) -> Verdict:
        """Judge one habit, or the length of answers, by its margin."""
        bound = self._length() if name == LENGTH else self._habit(name, margin)
        old, new = self.rates(name)
        how = "mean tokens" if name == LENGTH else "rate"
        return Verdict(
            gate=f"{gate}.{name}",
            worse_by=bound.value,
            low=bound.low,
            high=bound.high,
            margin=margin,
            units=bound.units,
            unit="relative change of length" if name == LENGTH else HABITS[name].unit,
            detail=f"{how}: baseline {old:.4g}, candidate {new:.4g}",
        )

    def rates(self, name: str) -> tuple[float, float]:
        """Return how much of it the baseline and the candidate show."""
        seen = _tokens if name == LENGTH else HABITS[name].seen
        old, new = (
            [_mean(sample, seen) for sample in side] for side in zip(*self.pairs, strict=True)
        )
        return intervals.mean(old), intervals.mean(new)

    def rise(self, name: str) -> Bounds:
        """Bound by how much more of a habit the candidate shows."""
        seen = HABITS[name].seen
        rises = [_mean(new, seen) - _mean(old, seen) for old, new in self.pairs]
        return graded.bounds(rises, confidence=self.confidence, clusters=self.clusters)

    def _habit(self, name: str, margin: float) -> Bounds:
        if (rate := self.rates(name)[0]) >= 1 - margin:
            raise EvidenceError(
                f"prompts: {rate:.0%} of the baseline's answers show {name}, no room for a rise",
                hint="choose prompts that the baseline can answer",
            )
        return self.rise(name)

    def ratio(self) -> Bounds:
        """Bound how much longer the candidate's answers are, relative to the baseline's.

        A ratio of means, its error by the delta method, paired by prompt; as if one prompt more had
        lost its answer and one had got an answer longer by the mean: few prompts that show no
        change are no proof that none would change.
        """
        lengths = [(_mean(old, _tokens), _mean(new, _tokens)) for old, new in self.pairs]
        before = intervals.mean([old for old, _ in lengths])
        if not before:
            raise EvidenceError(
                "prompts: the baseline's answers have no tokens", hint="read the server's log"
            )
        ratio = intervals.mean([new for _, new in lengths]) / before
        rest = [(new - ratio * old) / before for old, new in lengths] + [1.0, -1.0]
        clusters = None if self.clusters is None else (*self.clusters, "more", "less")
        found = intervals.mean_bounds(rest, confidence=self.confidence, clusters=clusters)
        return Bounds(
            value=ratio - 1,
            low=ratio - 1 + found.low,
            high=ratio - 1 + found.high,
            error=found.error,
            units=len(lengths),
        )

    def _length(self) -> Bounds:
        """Bound the distance from equal length: longer and shorter are both harm.

        Both one-sided bounds must lie within the margin (two one-sided tests).
        """
        found = self.ratio()
        return Bounds(
            value=abs(found.value),
            low=max(found.low, -found.high, 0.0),
            high=max(found.high, -found.low),
            error=found.error,
            units=found.units,
        )


def ends(samples: Sequence[Sample]) -> dict[str, float]:
    """Return which share of the answers ended for which reason."""
    reasons = [str(answer["finish"]) or "unknown" for s in samples for answer in s["answers"]]
    return {reason: reasons.count(reason) / len(reasons) for reason in sorted(set(reasons))}


def _tokens(answer: Answer) -> float:
    return float(answer["tokens"])


def _mean(sample: Sample, seen: Callable[[Answer], float]) -> float:
    """Return the mean over one prompt's answers."""
    return intervals.mean([seen(answer) for answer in sample["answers"]])
