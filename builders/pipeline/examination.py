"""Look into the evidence for people, once: what changed, in which subject, at which place."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from builders.gate import changes
from builders.gate.evidence import Evidence
from builders.gate.scoring import perplexity
from builders.pipeline.stages import Stages
from builders.pipeline.versions import code
from builders.report import Change, Changes, Divergence, Subject

FILE: Final = "examination.json"
SHOWN: Final = 100  # changed items of a gate that are kept for the page


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What the page shows beside the verdicts."""

    changes: tuple[Changes, ...]
    subjects: tuple[Subject, ...]
    divergence: Divergence | None


def read(stages: Stages) -> Examination:
    """Return what the evidence shows, from a stage of its own: large evidence takes a while."""
    folders = {
        name: found
        for name, found in stages.measured().items()
        if name in {*changes.GATES, perplexity.NAME} and "candidate" in found
    }
    inputs = {
        "evidence": {
            name: {which: stage.tree.digest for which, stage in found.items()}
            for name, found in folders.items()
        },
        "code": code("gate"),
    }
    paths = {
        name: {which: stage.path for which, stage in found.items()}
        for name, found in folders.items()
    }

    def work(out: Path) -> None:
        (out / FILE).write_text(json.dumps(_examined(paths), indent=1) + "\n", encoding="utf-8")

    stage = stages.run("examine", inputs, work)
    return _understood(json.loads((stage.path / FILE).read_text(encoding="utf-8")))


def _examined(paths: dict[str, dict[str, Path]]) -> dict[str, Any]:
    gates = [name for name in paths if name in changes.GATES]
    divergence = _divergence(paths[perplexity.NAME]) if perplexity.NAME in paths else None
    return {
        "changes": [_changed(name, *_sides(paths[name])) for name in gates],
        "subjects": [one for name in gates for one in _subjects(name, *_sides(paths[name]))],
        "divergence": divergence,
    }


def _sides(folders: dict[str, Path]) -> tuple[Path, Path]:
    return folders["baseline"], folders["candidate"]


def _changed(name: str, baseline: Path, candidate: Path) -> dict[str, Any]:
    found = changes.changes(name, baseline, candidate)
    kinds = [one.kind for one in found]
    counts = {kind: kinds.count(kind) for kind in ("lost", "won", "other")}
    return {"gate": name, **counts, "shown": [asdict(one) for one in found[:SHOWN]]}


def _subjects(name: str, baseline: Path, candidate: Path) -> Iterator[dict[str, Any]]:
    for one in changes.subjects(name, baseline, candidate):
        yield {**asdict(one), "alarm": one.alarm}


def _divergence(folders: dict[str, Path]) -> dict[str, Any] | None:
    """Return how far opinions lie apart by place, against the baseline measured twice."""
    before, after, again = (
        Evidence.read(folders[which], gate=perplexity.NAME)
        for which in ("baseline", "candidate", "again")
    )
    found, floor = perplexity.apart(before, after), perplexity.apart(before, again)
    if found is None:
        return None
    return {"candidate": found.by_position, "floor": floor.by_position if floor else ()}


def _understood(data: dict[str, Any]) -> Examination:
    divergence = data["divergence"]
    return Examination(
        changes=tuple(
            Changes(**{**one, "shown": tuple(Change(**change) for change in one["shown"])})
            for one in data["changes"]
        ),
        subjects=tuple(Subject(**one) for one in data["subjects"]),
        divergence=divergence
        and Divergence(
            **{side: tuple((int(at), nats) for at, nats in divergence[side]) for side in divergence}
        ),
    )
