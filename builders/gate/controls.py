"""Controls: is the instrument able to see, and how far does it differ from itself?

Before a verdict counts, the baseline is measured again in another order and batch, which gives the
band that is only noise, and once more damaged on purpose, which must fail. A runtime that does not
look at what it is given sees no damage: its verdicts are void, never a pass.
"""

import random
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from builders.errors import EvidenceError
from builders.gate import Choices, Controlled, Distributing, load
from builders.gate.evidence import Evidence
from builders.progress import Progress, silent
from builders.scorer import Scorer, TokenScores
from builders.verdict import Outcome, Verdict

AGAIN: Final = "again"
DAMAGED: Final = "damaged"
SHARE: Final = 0.25  # of a row's tokens that damage replaces
SEED: Final = 0


class Alone:
    """A scorer asked for one row at a time, last one first: same model, other batches."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.context, self.vocabulary = scorer.context, scorer.vocabulary
        self.prefix, self.tokenize = scorer.prefix, scorer.tokenize
        if hasattr(scorer, "distributions"):
            self.distributions = self._distributions

    def score(
        self, rows: Sequence[Sequence[int]], *, progress: Progress = silent
    ) -> Sequence[TokenScores]:
        """Score each row by itself."""
        found: list[TokenScores] = []
        for row in _shown(reversed(rows), len(rows), progress):
            found += self._scorer.score([row])
        return found[::-1]

    def _distributions(
        self, rows: Sequence[Sequence[int]], top: int, *, progress: Progress = silent
    ) -> Sequence[Choices]:
        found: list[Choices] = []
        for row in _shown(reversed(rows), len(rows), progress):
            found += cast("Distributing", self._scorer).distributions([row], top)
        return found[::-1]


def _shown(
    rows: Iterator[Sequence[int]], count: int, progress: Progress
) -> Iterator[Sequence[int]]:
    for done, row in enumerate(rows):
        progress("score again", done, count, unit="rows")
        yield row


class Damaged:
    """A scorer whose eyes are bad: it reads other tokens in place of a quarter of them."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.context, self.vocabulary = scorer.context, scorer.vocabulary
        self.prefix, self.tokenize = scorer.prefix, scorer.tokenize

    def score(
        self, rows: Sequence[Sequence[int]], *, progress: Progress = silent
    ) -> Sequence[TokenScores]:
        """Score what was misread as if it had been read."""
        return self._scorer.score([self._misread(row) for row in rows], progress=progress)

    def _misread(self, row: Sequence[int]) -> list[int]:
        dice = random.Random(zlib.crc32(array("q", row).tobytes(), SEED))  # noqa: S311 - no secret
        return [
            dice.randrange(self.vocabulary) if place and dice.random() < SHARE else token
            for place, token in enumerate(row)
        ]


WRAPPERS: Final[Mapping[str, Callable[[Scorer], Scorer]]] = {AGAIN: Alone, DAMAGED: Damaged}


def wanted(name: str) -> tuple[str, ...]:
    """Return the controls that a gate needs; none for a gate that watches itself."""
    return tuple(WRAPPERS) if hasattr(load(name), "few") else ()


def inputs(name: str, which: str, settings: object) -> dict[str, object]:
    """Return all that changes a control's measurement."""
    few = load(name).inputs(_controlled(name).few(settings))
    return few if which == AGAIN else {**few, "damage": [SHARE, SEED]}


def measure(
    name: str, which: str, subject: Scorer, settings: object, out: Path, progress: Progress
) -> None:
    """Fill the existing folder ``out`` with a control's evidence, from the baseline's scorer."""
    few = _controlled(name).few(settings)
    load(name).measure(WRAPPERS[which](subject), few, out, progress)


def judge(name: str, folders: Mapping[str, Path], settings: object) -> tuple[Verdict, ...]:
    """Judge from evidence alone: of ``baseline`` and ``candidate``, and of the controls.

    Evidence that another tool left has no controls: its verdicts say so, and none of them is
    called indistinguishable.
    """
    if not wanted(name):
        return load(name).judge(folders["baseline"], folders["candidate"], settings)
    gate = _controlled(name)
    found = {which: Evidence.read(folder, gate=name) for which, folder in folders.items()}
    before, after = found["baseline"], found["candidate"]
    gate.sound(before, after)
    if before.foreign and after.foreign:
        verdicts = gate.compare(before, after, settings)
        return tuple(replace(v, detail=f"{v.detail}; without controls") for v in verdicts)
    if missing := [which for which in WRAPPERS if which not in found]:
        raise EvidenceError(
            f"{name}: the control {missing[0]!r} was not measured", hint="measure again"
        )
    floor = _floor(gate, before, found[AGAIN], settings)
    harmed = _harmed(gate, before, found[DAMAGED], settings)
    verdicts = gate.compare(before, after, settings, again=found[AGAIN])
    return tuple(map(_with, verdicts, floor, harmed))


def _floor(
    gate: Controlled[Any], before: Evidence, again: Evidence, settings: object
) -> tuple[Verdict, ...]:
    """Compare the baseline with itself, as if all units had been measured twice."""
    own = before.only(again)
    found = gate.compare(own, again, settings, more=len(before.samples) / len(own.samples))
    for verdict in found:
        if max(verdict.low, -verdict.high) > verdict.margin / 2:
            raise EvidenceError(
                f"{verdict.gate}: void, the baseline measured twice differs from itself by"
                f" {verdict.worse_by:+.3g}, with a margin of {verdict.margin:.3g}",
                hint="the runtime does not repeat itself: look at its batching and its sampling",
            )
    return found


def _harmed(
    gate: Controlled[Any], before: Evidence, damaged: Evidence, settings: object
) -> tuple[Verdict, ...]:
    """Compare the baseline with its damaged self, which must be found worse."""
    found = gate.compare(before.only(damaged), damaged, settings)
    for verdict in found:
        if verdict.outcome is not Outcome.FAILED:
            raise EvidenceError(
                f"{verdict.gate}: void, a baseline damaged on purpose is worse by"
                f" {verdict.worse_by:.3g} [{verdict.low:.3g}, {verdict.high:.3g}] only, where"
                f" {verdict.margin:.3g} is allowed: the instrument cannot see harm",
                hint="the runtime does not look at what it is given, or the gate needs more"
                " controls, easier items or a smaller margin",
            )
    return found


def _with(verdict: Verdict, floor: Verdict, harmed: Verdict) -> Verdict:
    return replace(
        verdict,
        band=max(abs(floor.low), abs(floor.high)),
        numbers=(
            *verdict.numbers,
            ("baseline against itself", floor.worse_by),
            ("baseline damaged on purpose", harmed.worse_by),
        ),
    )


def _controlled(name: str) -> Controlled[Any]:
    return cast("Controlled[Any]", load(name))
