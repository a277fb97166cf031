"""Every candidate that was judged against one baseline by one policy for one channel.

Whoever tries many candidates and ships the one that passes errs more often than the policy says, so
each attempt is written down where the next run finds it, whatever came of it.
"""

import json
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final

from builders import files
from builders.bundle import fingerprint
from builders.errors import ReleaseError
from builders.pipeline.stages import Side, Stages, content_of, plain, read_verdicts
from builders.report import Attempt
from builders.verdict import worst

VOID: Final = "void"
FILE: Final = "attempts.json"


def record(stages: Stages, outcome: str) -> None:
    """Write down what came of this candidate; the first complete judgement of each counts."""
    family, candidate = _family(stages), stages.engine(Side.CANDIDATE).tree.digest
    entry = {
        "candidate": candidate,
        "recipe": str(stages.plan.recipe),
        "outcome": outcome,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with (
        files.disk_errors(f"write the attempts in {stages.store.root}"),
        files.locked(stages.store.root / "locks" / f"attempts-{family}"),
    ):
        known = _read(stages, family)
        done = any(old["candidate"] == candidate and old["outcome"] != VOID for old in known)
        if not done and (candidate, outcome) not in {(o["candidate"], o["outcome"]) for o in known}:
            path = stages.store.root / "attempts" / f"{family}.json"
            files.write_atomic(path, json.dumps([*known, entry], indent=1) + "\n")


def tried(stages: Stages) -> tuple[Attempt, ...]:
    """Return the attempts up to this candidate's own judgement, in their order."""
    verdicts = read_verdicts(stages.verdicts())
    record(stages, worst(verdict.outcome for verdict in verdicts).value)
    candidate = stages.engine(Side.CANDIDATE).tree.digest
    found = []
    for entry in _read(stages, _family(stages)):
        found.append(Attempt(**entry))
        if entry["candidate"] == candidate and entry["outcome"] != VOID:
            break
    return tuple(found)


def _family(stages: Stages) -> str:
    """Name what all attempts share: channel, unquantized model, and the policy to the letter."""
    policy = stages.policy
    if policy is None:
        raise ValueError("an attempt needs a policy")
    return fingerprint(
        {
            "channel": stages.plan.channel,
            "baseline": content_of(stages.plan),
            "runtime": stages.plan.runtime.name,
            "confidence": policy.each,
            "gates": {name: plain(settings) for name, settings in policy.gates},
        }
    )


def _read(stages: Stages, family: str) -> list[dict[str, Any]]:
    path = stages.store.root / "attempts" / f"{family}.json"
    if not path.exists():
        return []
    try:
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return [{field.name: entry[field.name] for field in fields(Attempt)} for entry in found]
    except (ValueError, TypeError, KeyError) as error:
        raise ReleaseError(
            f"{path}: cannot be read: {error}", hint="restore it from a copy of the store"
        ) from error
