"""Find evidence in a folder and judge from it alone: no model, no server, no network.

A folder is a release's bundle, what ``gate --out`` left, or two folders of results that other
tools left: ``baseline`` and ``candidate``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from builders.errors import EvidenceError
from builders.gate import GATES, controls, evidence, foreign, load
from builders.verdict import Verdict

SIDES: Final = ("baseline", "candidate")
PARTS: Final = (*SIDES, controls.AGAIN, controls.DAMAGED, controls.EARLY)
HINT: Final = "a bundle, a folder that gate --out left, or one with baseline/ and candidate/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One gate's evidence: the folders of both sides and of the controls; whose it is."""

    gate: str
    folders: Mapping[str, Path]
    foreign: bool

    def judge(self, settings: Any, *, early: float = 1.0) -> tuple[Verdict, ...]:  # noqa: ANN401 - of any gate
        """Judge by the settings of a policy, an early look at its confidence ``early``."""
        if self.foreign:
            baseline, candidate = (self.folders[side] for side in SIDES)
            return foreign.judge(self.gate, baseline, candidate, settings)
        return controls.judge(self.gate, self.folders, settings, early=early)


def find(folder: Path) -> tuple[Found, ...]:
    """Find the evidence of every gate; none at all is an `EvidenceError`."""
    if not folder.is_dir():
        raise EvidenceError(f"{folder}: no such folder", hint=HINT)
    inner = folder / "evidence"
    root = inner if inner.is_dir() else folder
    found = tuple(_own(root)) or tuple(_foreign(root))
    if not found:
        raise EvidenceError(f"{folder}: no evidence in it", hint=HINT)
    return found


def against(baseline: Path, candidate: Path) -> tuple[Found, ...]:
    """Pair the candidates of two bundles, or the results of two folders, gate by gate."""
    if not (_has_own(baseline) and _has_own(candidate)):
        sides = {"baseline": baseline, "candidate": candidate}
        gates = [gate for gate in foreign.gates(candidate) if gate in foreign.gates(baseline)]
        if not gates:
            raise EvidenceError(
                f"{baseline} and {candidate} have no results of the same kind", hint=HINT
            )
        return tuple(Found(gate=gate, folders=sides, foreign=True) for gate in gates)
    old, new = ({one.gate: one for one in find(side)} for side in (baseline, candidate))
    return tuple(
        Found(gate=gate, folders=_candidates(old[gate], new[gate]), foreign=False)
        for gate in old
        if gate in new and _whole(old[gate]) and _whole(new[gate])
    )


def compare(found: Found, settings: Any) -> tuple[Verdict, ...]:  # noqa: ANN401 - of any gate
    """Judge two releases against each other; the controls were of another baseline."""
    if found.foreign:
        return found.judge(settings)  # without controls there was no early look
    gate, (old, new) = load(found.gate), (found.folders[side] for side in SIDES)
    return gate.judge(old, new, settings)


def _own(root: Path) -> Iterator[Found]:
    for gate in GATES:
        place = root / gate
        parts = {part: place / part for part in PARTS if _holds(place / part)}
        if _holds(place):  # measured in turns: both sides in one
            yield Found(gate=gate, folders=dict.fromkeys(SIDES, place) | parts, foreign=False)
        elif "baseline" in parts and ("candidate" in parts or controls.EARLY in parts):
            yield Found(gate=gate, folders=parts, foreign=False)


def _foreign(root: Path) -> Iterator[Found]:
    sides = {side: root / side for side in SIDES}
    if all(path.exists() for path in sides.values()):
        theirs = foreign.gates(sides["candidate"])
        for gate in foreign.gates(sides["baseline"]):
            if gate in theirs:
                yield Found(gate=gate, folders=sides, foreign=True)


def _holds(place: Path) -> bool:
    return (place / evidence.META).is_file() and (place / evidence.SAMPLES).is_file()


def _has_own(folder: Path) -> bool:
    inner = folder / "evidence"
    return folder.is_dir() and any(_own(inner if inner.is_dir() else folder))


def _whole(found: Found) -> bool:
    """Whether the candidate's own evidence is there: not in turns, nor ended by an early look."""
    folders = found.folders
    return "candidate" in folders and folders["baseline"] != folders["candidate"]


def _candidates(old: Found, new: Found) -> dict[str, Path]:
    return {"baseline": old.folders["candidate"], "candidate": new.folders["candidate"]}
