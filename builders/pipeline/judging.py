"""Judge again what was measured before, anywhere: from evidence and a policy, nothing else."""

from dataclasses import asdict, dataclass
from math import isclose
from pathlib import Path
from typing import Any, Final

from builders.errors import EvidenceError, ReleaseError, UsageError
from builders.gate import found
from builders.gate.found import Found
from builders.gate.policy import Policy
from builders.pipeline.stages import VERDICTS, named, plain, read_verdicts_of
from builders.report import Report
from builders.verdict import Verdict

BOUNDS: Final = ("worse_by", "low", "high", "margin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What evidence says, and whether that is what was written down when it was measured.

    ``recorded`` is "reproduced", "reproduced, not to the last bit", or "" where nothing was.
    """

    report: Report
    recorded: str

    def as_json(self) -> dict[str, Any]:
        """Return what ``judge --json`` prints."""
        return {
            "outcome": self.report.outcome.value,
            "gates": [verdict.as_json() for verdict in self.report.verdicts],
            "missing": list(self.report.missing),
            "policy": self.report.policy,
            "recorded": self.recorded,
        }


def judge(folder: Path, policy: Path | None = None) -> Judgement:
    """Derive every verdict from a bundle's or a folder's evidence.

    Verdicts that were recorded there must come out again; with another policy they are not asked.
    """
    evidence = found.find(folder)
    chosen = _policy(folder, policy, evidence)
    own = {one.gate: one for one in evidence}
    verdicts = [
        verdict
        for name, settings in chosen.gates
        if name in own
        for verdict in _judged(own[name], settings, chosen.early)
    ]
    recorded = _recorded(folder, verdicts) if policy is None else ""
    return Judgement(report=_report(str(folder), chosen, verdicts), recorded=recorded)


def compare(baseline: Path, candidate: Path, policy: Path | None = None) -> Judgement:
    """Judge one release, or one tool's results, against another's."""
    for folder in (baseline, candidate):
        if not folder.exists():
            raise UsageError(f"{folder}: no such file or folder", hint=found.HINT)
    pairs = found.against(baseline, candidate)
    chosen = _policy(candidate, policy, pairs)
    settings = dict(chosen.gates)
    verdicts = [
        verdict
        for one in pairs
        if one.gate in settings
        for verdict in _compared(one, settings[one.gate])
    ]
    if not verdicts:
        raise EvidenceError(
            f"{baseline} and {candidate} share no gate that can be compared",
            hint="latency is compared only where both were measured in turns; a candidate that"
            " failed at an early look has no evidence to compare",
        )
    return Judgement(report=_report(f"{baseline} → {candidate}", chosen, verdicts), recorded="")


def _judged(one: Found, settings: object, early: float) -> tuple[Verdict, ...]:
    with named(one.gate):
        return one.judge(settings, early=early)


def _compared(one: Found, settings: object) -> tuple[Verdict, ...]:
    with named(one.gate):
        return found.compare(one, settings)


def _policy(folder: Path, policy: Path | None, evidence: tuple[Found, ...]) -> Policy:
    if policy is not None:
        return Policy.read(policy)
    own = folder / "policy.toml"
    return Policy.read(own) if own.exists() else Policy.usual(one.gate for one in evidence)


def _report(title: str, policy: Policy, verdicts: list[Verdict]) -> Report:
    return Report(
        title=title,
        channel="",
        verdicts=tuple(verdicts),
        policy=policy.name,
        profile=policy.profile.value,
        confidence=policy.each,
        candidates=policy.candidates,
        required=tuple(name for name, _ in policy.gates),
    )


def _recorded(folder: Path, verdicts: list[Verdict]) -> str:
    """Compare with what was written down; what is more than the last digits is tampering."""
    path = next(
        (p for p in (folder / "verdicts" / VERDICTS, folder / VERDICTS) if p.exists()), None
    )
    if path is None:
        return ""
    before = read_verdicts_of(path)
    if [plain(verdict) for verdict in before] == [plain(verdict) for verdict in verdicts]:
        return "reproduced"
    names = [verdict.gate for verdict in before], [verdict.gate for verdict in verdicts]
    if names[0] == names[1] and all(map(_alike, before, verdicts)):
        return "reproduced, not to the last bit"
    raise ReleaseError(
        f"{path}: the recorded verdicts are not what the evidence beside them says",
        hint="evidence, policy or verdicts were changed: enginesmith verify names the file",
    )


def _alike(one: Verdict, other: Verdict) -> bool:
    mine, theirs = asdict(one), asdict(other)
    near = all(isclose(mine[b], theirs[b], rel_tol=1e-9, abs_tol=1e-12) for b in BOUNDS)
    return near and (one.label, one.units) == (other.label, other.units)
