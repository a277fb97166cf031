"""The manifest: every file of a bundle with its digest, and what was known when it was sealed.

Written as an in-toto Statement v1 (github.com/in-toto/attestation, spec/v1/statement.md) whose
subject is the bundle's tree. Equal manifests have equal bytes.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from builders.bundle import Artifact, Tree, canonical
from builders.errors import ReleaseError
from builders.release.wire import decoded, expect, texts, understood
from builders.store.blobs import sound
from builders.verdict import Outcome, Verdict, worst

NAME: Final = "manifest.json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://enginesmith.dev/release/v1"
_STAND_IN: Final = re.compile(r"stand.?in", re.IGNORECASE)
_BOUNDS: Final = ("worse_by", "low", "high", "margin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicate:
    """What is said about a bundle's files: plan, verdicts, tool versions, stage keys.

    ``about`` holds what a reader wants to see first: checkpoint, recipe, tier, runtime.
    """

    plan: str
    verdicts: tuple[Verdict, ...]
    tools: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """The worst of all verdicts; none at all is inconclusive."""
        return worst(verdict.outcome for verdict in self.verdicts)

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """The tools that only stood in for real ones: the local part of their version says so."""
        return tuple(
            f"{name} {version}"
            for name, version in self.tools.items()
            if _STAND_IN.search(version.partition("+")[2])
        )

    def without(self, required: tuple[str, ...]) -> tuple[str, ...]:
        """Return those required gates that this bundle did not pass, each with what it has."""
        return tuple(
            f"{gate} ({state})" for gate in required if (state := self._state(gate)) != "passed"
        )

    def _state(self, gate: str) -> str:
        """A gate that judges several measures names each after a dot, as in latency.ttft_p50."""
        own = [
            verdict.outcome
            for verdict in self.verdicts
            if verdict.gate == gate or verdict.gate.startswith(f"{gate}.")
        ]
        return worst(own).value if own else "not judged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A bundle's files and predicate; ``signed_by`` is the key that vouched for what was read."""

    tree: Tree
    predicate: Predicate
    signed_by: str = ""

    def payload(self) -> bytes:
        """Return the canonical bytes that are signed."""
        predicate = self.predicate
        return canonical(
            {
                "_type": STATEMENT,
                "subject": [{"name": "bundle", "digest": {"sha256": self.tree.digest}}],
                "predicateType": PREDICATE,
                "predicate": {
                    "artifacts": [
                        {"path": a.path, "sha256": a.sha256, "size": a.size}
                        for a in self.tree.artifacts
                    ],
                    "plan": predicate.plan,
                    "outcome": predicate.outcome.value,
                    "verdicts": [_verdict_json(verdict) for verdict in predicate.verdicts],
                    "tools": dict(predicate.tools),
                    "stages": dict(predicate.stages),
                    "about": dict(predicate.about),
                },
            }
        )

    @classmethod
    def parse(cls, payload: bytes, *, signed_by: str) -> Self:
        """Read what `payload` wrote, after its signature held; anything else is refused."""
        statement = decoded(payload, NAME)
        if statement.get("_type") != STATEMENT or statement.get("predicateType") != PREDICATE:
            raise ReleaseError(
                f"{NAME}: a statement of another kind, not an enginesmith release",
                hint="copy the release anew from where it was made",
            )
        return understood(lambda: cls._of(statement, signed_by), NAME)

    @classmethod
    def _of(cls, statement: Mapping[str, object], signed_by: str) -> Self:
        body = expect(dict, statement["predicate"])
        tree = Tree(tuple(_artifact(entry) for entry in expect(list, body["artifacts"])))
        subject = {"name": "bundle", "digest": {"sha256": tree.digest}}
        if not sound(tree) or statement["subject"] != [subject]:
            raise ValueError("its files are not those of its subject")
        return cls(
            tree=tree,
            predicate=Predicate(
                plan=expect(str, body["plan"]),
                verdicts=tuple(_verdict(entry) for entry in expect(list, body["verdicts"])),
                tools=texts(body.get("tools", {})),
                stages=texts(body.get("stages", {})),
                about=texts(body.get("about", {})),
            ),
            signed_by=signed_by,
        )


def _verdict_json(verdict: Verdict) -> dict[str, object]:
    """Write bounds as numbers where JSON has them, as text where it has not: nan, inf."""
    bounds = {name: getattr(verdict, name) for name in _BOUNDS}
    return {
        "gate": verdict.gate,
        "outcome": verdict.outcome.value,
        **{k: float(v) if math.isfinite(v) else str(float(v)) for k, v in bounds.items()},
        "units": verdict.units,
        "unit": verdict.unit,
        "detail": verdict.detail,
        "band": verdict.band,
        "needed": verdict.needed,
    }


def _verdict(entry: object) -> Verdict:
    """Read a verdict, whose outcome follows from its bounds: a claim of another is refused."""
    body = expect(dict, entry)
    worse_by, low, high, margin = (float(str(body[name])) for name in _BOUNDS)
    verdict = Verdict(
        gate=expect(str, body["gate"]),
        worse_by=worse_by,
        low=low,
        high=high,
        margin=margin,
        units=expect(int, body["units"]),
        unit=expect(str, body["unit"]),
        detail=expect(str, body["detail"]),
        band=expect(float, body["band"]) if body.get("band") is not None else None,
        needed=expect(int, body["needed"]) if body.get("needed") is not None else None,
    )
    if verdict.outcome.value != body["outcome"]:
        raise ValueError(f"{verdict.gate} says {body['outcome']}, its bounds do not")
    return verdict


def _artifact(entry: object) -> Artifact:
    body = expect(dict, entry)
    return Artifact(
        expect(str, body["path"]), expect(str, body["sha256"]), expect(int, body["size"])
    )
