"""What changed between two models, item by item and subject by subject, for people to read.

Changed items are no evidence of harm by themselves; an alarm says that one subject lost more than
chance gives, among all the subjects that were looked at (Holm 1979).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from builders.gate import evidence
from builders.gate.evidence import Evidence, Sample
from builders.gate.statistics.intervals import binomial_tail, mean

ALARM: Final = 0.05
GATES: Final = ("accuracy", "prompts")

Pairs = Sequence[tuple[Sample, Sample]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One item that the two models answer differently; ``kind`` is lost, won or other."""

    gate: str
    unit: str
    group: str
    kind: str
    prompt: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One subject's items: how many right before and after, lost and won, and whether it alarms.

    ``p`` is the chance of losing so many more than were won, corrected for all subjects.
    """

    gate: str
    name: str
    items: int
    before: float
    after: float
    lost: int
    won: int
    p: float

    @property
    def alarm(self) -> bool:
        """Whether it lost more than chance gives."""
        return self.p < ALARM


def changes(gate: str, baseline: Path, candidate: Path) -> tuple[Change, ...]:
    """Return every item that changed: what was lost first, then what was won, then the rest."""
    order = {"lost": 0, "won": 1, "other": 2}
    found = list(_changes(gate, _pairs(gate, baseline, candidate)))
    return tuple(sorted(found, key=lambda change: order[change.kind]))


def subjects(gate: str, baseline: Path, candidate: Path) -> tuple[Subject, ...]:
    """Return every subject, the most alarming first; none where all items are of one."""
    groups: dict[str, list[tuple[Sample, Sample]]] = defaultdict(list)
    for ours, theirs in _pairs(gate, baseline, candidate):
        groups[_group(ours)].append((ours, theirs))
    if len(groups) < 2:
        return ()
    made = [_subject(gate, name, pairs) for name, pairs in groups.items()]
    corrected = holm([binomial_tail(lost, lost + won, 0.5) for _, lost, won in made])
    found = [
        Subject(**about, lost=lost, won=won, p=p)
        for (about, lost, won), p in zip(made, corrected, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: (one.p, one.name)))


def holm(chances: Sequence[float]) -> list[float]:
    """Correct p values for their number, as Holm does: the family errs no more than one would."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    found, largest = [1.0] * len(chances), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min((len(chances) - rank) * chances[place], 1.0))
        found[place] = largest
    return found


def _pairs(gate: str, baseline: Path, candidate: Path) -> list[tuple[Sample, Sample]]:
    before, after = (Evidence.read(folder, gate=gate) for folder in (baseline, candidate))
    return evidence.pair(before, after)


def _changes(gate: str, pairs: Pairs) -> Iterator[Change]:
    for ours, theirs in pairs:
        before, after = _said(ours), _said(theirs)
        harm = _right(ours) - _right(theirs)
        if before != after or harm:
            yield Change(
                gate=gate,
                unit=str(ours["unit"]),
                group=_group(ours),
                kind="lost" if harm > 0 else "won" if harm < 0 else "other",
                prompt=str(ours.get("prompt", "")),
                before=before,
                after=after,
            )


def _subject(gate: str, name: str, pairs: Pairs) -> tuple[dict[str, Any], int, int]:
    harm = [_right(ours) - _right(theirs) for ours, theirs in pairs]
    about = {
        "gate": gate,
        "name": name,
        "items": len(pairs),
        "before": mean([_right(ours) for ours, _ in pairs]),
        "after": mean([_right(theirs) for _, theirs in pairs]),
    }
    return about, sum(value > 0 for value in harm), sum(value < 0 for value in harm)


def _group(sample: Sample) -> str:
    return str(sample.get("cluster") or sample.get("group") or "")


def _right(sample: Sample) -> float:
    if "answers" in sample:
        return mean([answer["score"] for answer in sample["answers"]])
    return float(sample["right"])


def _said(sample: Sample) -> str:
    """Return what a model answered: its text, or the number of its choice counted from one."""
    if "answers" in sample:
        return "\n".join(str(answer["text"]) for answer in sample["answers"])
    choice = sample["choice"]
    return f"choice {choice + 1}" if isinstance(choice, int) else str(choice)
