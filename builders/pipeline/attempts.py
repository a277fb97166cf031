"""Every candidate that was judged against one baseline by one policy for one channel.

Whoever tries many candidates and ships the one that passes errs more often than the policy says, so
each attempt is written down where the next run finds it, whatever came of it.
"""

import json
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from builders import files
from builders.bundle import fingerprint
from builders.errors import ReleaseError
from builders.gate import planning
from builders.gate.policy import Policy
from builders.pipeline.stages import Side, Stages, content_of, plain, read_verdicts
from builders.plan import Plan
from builders.report import Attempt
from builders.store import Store
from builders.verdict import Verdict, worst

VOID: Final = "void"
FILE: Final = "attempts.json"


def record(stages: Stages, verdicts: Sequence[Verdict] | None) -> None:
    """Write down what came of this candidate, None where it could not be measured.

    The first complete judgement of each counts.
    """
    path, candidate = _log(stages), stages.engine(Side.CANDIDATE).tree.digest
    outcome = _outcome(verdicts) if verdicts is not None else VOID
    entry = {
        "candidate": candidate,
        "recipe": str(stages.plan.recipe),
        "outcome": outcome,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seen": planning.shown(verdicts or ()),
    }
    with (
        files.disk_errors(f"write the attempts in {stages.store.root}"),
        files.locked(stages.store.root / "locks" / path.name),
    ):
        known = _read(path)
        done = any(old["candidate"] == candidate and old["outcome"] != VOID for old in known)
        if not done and (candidate, outcome) not in {(o["candidate"], o["outcome"]) for o in known}:
            files.write_atomic(path, json.dumps([*known, entry], indent=1) + "\n")


def _outcome(verdicts: Sequence[Verdict]) -> str:
    """Say what came of a candidate, and whether an early look was enough for it."""
    early = any(verdict.early for verdict in verdicts)
    return f"{worst(v.outcome for v in verdicts).value}{', early' if early else ''}"


def tried(stages: Stages) -> tuple[Attempt, ...]:
    """Return the attempts up to this candidate's own judgement, in their order."""
    record(stages, read_verdicts(stages.verdicts()))
    candidate = stages.engine(Side.CANDIDATE).tree.digest
    found: list[Attempt] = []
    for entry in _read(_log(stages)):
        found.append(Attempt(**{field.name: entry[field.name] for field in fields(Attempt)}))
        if entry["candidate"] == candidate and entry["outcome"] != VOID:
            break
    return tuple(found)


def seen(store: Store, plan: Plan, policy: Policy) -> planning.Seen:
    """Return what the latest candidate showed against the same baseline, by gate."""
    entries = _read(_path(store, plan, policy))
    return next((entry["seen"] for entry in reversed(entries) if entry.get("seen")), {})


def _log(stages: Stages) -> Path:
    if stages.policy is None:
        raise ValueError("an attempt needs a policy")
    return _path(stages.store, stages.plan, stages.policy)


def _path(store: Store, plan: Plan, policy: Policy) -> Path:
    """Name what all attempts share: channel, unquantized model, and the policy to the letter."""
    family = {
        "channel": plan.channel,
        "baseline": content_of(plan.baseline),
        "runtime": plan.runtime.name,
        "confidence": policy.each,
        "early": policy.early,
        "gates": {name: plain(settings) for name, settings in policy.gates},
    }
    return store.root / "attempts" / f"{fingerprint(family)}.json"


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        names = {field.name for field in fields(Attempt)}
        if any(names - entry.keys() for entry in found):
            raise KeyError("incomplete")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReleaseError(
            f"{path}: cannot be read: {error}", hint="restore it from a copy of the store"
        ) from error
    return found
