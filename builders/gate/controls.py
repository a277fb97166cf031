"""Controls: is the instrument able to see, and how far does it differ from itself?

Before a verdict counts, the baseline is measured again in another order and batch, which gives the
band that is only noise, and once more damaged on purpose, which must fail. A runtime that does not
look at what it is given sees no damage: its verdicts are void, never a pass.

On the same few units the candidate gets an early look. It can only fail there, at a confidence of
its own, so that no candidate passes more often for it; the rest is then not measured.
"""

import random
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from builders.errors import EvidenceError
from builders.gate import Choices, Controlled, Distributing, evidence, load
from builders.gate.answering import misheard
from builders.gate.evidence import Evidence
from builders.gate.speed import slowed
from builders.progress import Progress, silent
from builders.scorer import Scorer, TokenScores
from builders.verdict import Outcome, Verdict

AGAIN: Final = "again"
DAMAGED: Final = "damaged"
EARLY: Final = "early"
CANDIDATE: Final = "candidate"
WHOSE: Final = {AGAIN: "baseline", DAMAGED: "baseline", EARLY: CANDIDATE}
MOST: Final = 1 / 3  # of the units: a look at more would not be early
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """How one control changes what a gate measures, and what of that goes into its stage's key."""

    wrap: Callable[[Any, Any], Any]
    inputs: Callable[[Any], object] = lambda _: None


_AS_IT_IS: Final = Control(wrap=lambda subject, _: subject)
# By what a gate measures; ``wrap`` takes that and the gate's settings.
CONTROLS: Final[Mapping[str, Mapping[str, Control]]] = {
    "scorer": {
        AGAIN: Control(wrap=lambda scorer, _: Alone(scorer)),
        DAMAGED: Control(wrap=lambda scorer, _: Damaged(scorer), inputs=lambda _: [SHARE, SEED]),
        EARLY: _AS_IT_IS,
    },
    "endpoint": {
        AGAIN: Control(wrap=misheard.alone),
        DAMAGED: Control(wrap=misheard.misheard, inputs=lambda _: misheard.DAMAGE),
        EARLY: _AS_IT_IS,
    },
    "endpoint-pair": {
        AGAIN: Control(wrap=slowed.twice),
        DAMAGED: Control(wrap=slowed.slowed, inputs=slowed.factor),
    },
}


def wanted(name: str, settings: object) -> tuple[str, ...]:
    """Return the controls of the baseline that a gate needs; none for one that watches itself."""
    if not hasattr(load(name), "few") or not _controlled(name).few(settings):
        return ()
    return (AGAIN, DAMAGED)


def looks(name: str, folders: Mapping[str, Path], early: float) -> bool:
    """Whether an early look at the candidate is worth its time: few units of many."""
    if early >= 1 or EARLY not in CONTROLS[load(name).NEEDS] or AGAIN not in folders:
        return False
    few, every = (evidence.units(folders[which]) for which in (AGAIN, "baseline"))
    return few <= MOST * every


def inputs(name: str, which: str, settings: object) -> dict[str, object]:
    """Return all that changes a control's measurement."""
    few = load(name).inputs(_controlled(name).few(settings))
    damage = CONTROLS[load(name).NEEDS][which].inputs(settings)
    return few if damage is None else {**few, "damage": damage}


def measure(
    name: str, which: str, subject: object, settings: object, out: Path, progress: Progress
) -> None:
    """Fill the existing folder ``out`` with a control's evidence, of the side that `WHOSE` says."""
    few, control = _controlled(name).few(settings), CONTROLS[load(name).NEEDS][which]
    load(name).measure(control.wrap(subject, settings), few, out, progress)


def judge(
    name: str,
    folders: Mapping[str, Path],
    settings: Any,  # noqa: ANN401 - of any gate
    *,
    early: float = 1.0,
) -> tuple[Verdict, ...]:
    """Judge from evidence alone: of ``baseline`` and ``candidate``, and of the controls.

    Without a ``candidate`` the early look is judged at the confidence ``early``: it fails, or
    there is no verdict. Evidence that another tool left has no controls: its verdicts say so, and
    none of them is called indistinguishable.
    """
    controls = wanted(name, settings)
    if not controls:
        return load(name).judge(folders["baseline"], folders[CANDIDATE], settings)
    if load(name).NEEDS == "endpoint-pair":
        _refuse_lacking(name, controls, folders)
        return slowed.judge(folders["baseline"], folders[AGAIN], folders[DAMAGED], settings)
    return _judge(name, folders, settings, early)


def fails_early(
    name: str, folders: Mapping[str, Path], settings: object, early: float
) -> tuple[Verdict, ...]:
    """Return the verdicts of the early look if it fails, else none."""
    before, after = (Evidence.read(folders[which], gate=name) for which in ("baseline", EARLY))
    return _fails_early(_controlled(name), before, after, settings, early)


def _judge(
    name: str, folders: Mapping[str, Path], settings: object, early: float
) -> tuple[Verdict, ...]:
    gate = _controlled(name)
    last = CANDIDATE if CANDIDATE in folders else EARLY
    _refuse_lacking(name, (last,), folders)
    before, after = (Evidence.read(folders[which], gate=name) for which in ("baseline", last))
    gate.sound(before, after)
    if before.foreign and after.foreign:
        verdicts = gate.compare(before, after, settings)
        return tuple(replace(v, detail=f"{v.detail}; without controls") for v in verdicts)
    _refuse_lacking(name, (AGAIN, DAMAGED), folders)
    again, damaged = (Evidence.read(folders[which], gate=name) for which in (AGAIN, DAMAGED))
    floor = _floor(gate, before, again, settings)
    harmed = _harmed(gate, before, damaged, settings)
    if last == CANDIDATE:
        first, *others = gate.compare(before, after, settings, again=again)
    elif found := _fails_early(gate, before, after, settings, early):
        first, *others = found
    else:
        raise EvidenceError(
            f"{name}: the candidate was looked at early and not measured, as another policy had"
            " failed it there; by this one it may pass",
            hint="measure it by this policy",
        )
    return (_with(first, floor, harmed), *others)


def _fails_early(
    gate: Controlled[Any], before: Evidence, after: Evidence, settings: object, early: float
) -> tuple[Verdict, ...]:
    few = replace(gate.few(settings), confidence=early)
    verdicts = gate.compare(before.only(after), after, few) if early < 1 else ()
    return tuple(
        replace(
            verdict,
            early=True,
            needed=None,
            detail=f"{verdict.detail}; early look at {early:.4g} confidence, the rest not measured",
        )
        for verdict in verdicts
        if verdict.outcome is Outcome.FAILED
    )


def _refuse_lacking(name: str, parts: Sequence[str], folders: Mapping[str, Path]) -> None:
    if lacking := [which for which in parts if which not in folders]:
        raise EvidenceError(
            f"{name}: the control {lacking[0]!r} was not measured", hint="measure again"
        )


def _floor(gate: Controlled[Any], before: Evidence, again: Evidence, settings: object) -> Verdict:
    """Compare the baseline with itself, as if all units had been measured twice."""
    own = before.only(again)
    more = len(before.samples) / len(own.samples)
    verdict = gate.compare(own, again, gate.few(settings), more=more)[0]
    if max(verdict.low, -verdict.high) > verdict.margin / 2:
        raise EvidenceError(
            f"{verdict.gate}: void, the baseline measured twice differs from itself by"
            f" {verdict.worse_by:+.3g}, with a margin of {verdict.margin:.3g}",
            hint="the runtime does not repeat itself: look at its batching and its sampling",
        )
    return verdict


def _harmed(
    gate: Controlled[Any], before: Evidence, damaged: Evidence, settings: object
) -> Verdict:
    """Compare the baseline with its damaged self, which must be found worse."""
    verdict = gate.compare(before.only(damaged), damaged, gate.few(settings))[0]
    if verdict.outcome is not Outcome.FAILED:
        raise EvidenceError(
            f"{verdict.gate}: void, a baseline damaged on purpose is worse by"
            f" {verdict.worse_by:.3g} [{verdict.low:.3g}, {verdict.high:.3g}] only, where"
            f" {verdict.margin:.3g} is allowed: the instrument cannot see harm",
            hint="the runtime does not look at what it is given, or the gate needs more"
            " controls, easier items or a smaller margin",
        )
    return verdict


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
