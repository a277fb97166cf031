"""Results of other tools as evidence: lm-eval, NeMo Evaluator, AIPerf, guidellm.

Each side is a folder (or one file) as the tool left it. What a tool did not keep cannot be checked:
there are no controls, and of a load run nothing of how late its client was. A verdict from foreign
results says so.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from builders.errors import EvidenceError
from builders.gate import controls, evidence
from builders.gate.evidence import Sample
from builders.gate.foreign import aiperf, guidellm, lm_eval, nemo
from builders.gate.scoring import accuracy
from builders.gate.speed import latency, slowdown
from builders.gate.speed.blocks import SIDES, Block, Timing
from builders.verdict import Verdict

Items = Callable[[Sequence[Path], str], list[Sample]]
Runs = Callable[[Path], list[tuple[Timing, ...]]]

# By the names under which the tools leave their files; the first that a folder has counts.
ITEMS: Final[Mapping[str, tuple[str, Items]]] = {
    "samples_*.jsonl": ("lm-eval", lm_eval.items),
    "results.jsonl": ("NeMo Evaluator", nemo.items),
}
RUNS: Final[Mapping[str, tuple[str, Runs]]] = {
    "profile_export*.jsonl": ("AIPerf", aiperf.runs),
    "benchmarks*.json": ("guidellm", guidellm.runs),
}


def gates(side: Path) -> tuple[str, ...]:
    """Return the gates of which a side has results."""
    found = (("accuracy", ITEMS), ("latency", RUNS))
    return tuple(gate for gate, kinds in found if any(_files(side, glob) for glob in kinds))


def judge(gate: str, baseline: Path, candidate: Path, settings: Any) -> tuple[Verdict, ...]:  # noqa: ANN401 - of either gate
    """Judge what other tools measured of both sides."""
    judged = _accuracy if gate == accuracy.NAME else _latency
    return judged(baseline, candidate, settings)


def _accuracy(baseline: Path, candidate: Path, settings: accuracy.Settings) -> tuple[Verdict, ...]:
    with TemporaryDirectory(prefix="enginesmith-") as place:
        folders = {}
        for name, side in (("baseline", baseline), ("candidate", candidate)):
            folders[name] = Path(place) / name
            folders[name].mkdir()
            tool, samples = _items(side, settings.metric)
            evidence.write(
                folders[name],
                gate=accuracy.NAME,
                settings={},
                samples=samples,
                subject={"source": tool},
            )
        return controls.judge(accuracy.NAME, folders, settings)


def _items(side: Path, metric: str) -> tuple[str, list[Sample]]:
    for glob, (tool, read) in ITEMS.items():
        if paths := _files(side, glob):
            return tool, read(paths, metric)
    raise EvidenceError(f"{side}: no results of items in it", hint=f"known: {', '.join(ITEMS)}")


def _latency(baseline: Path, candidate: Path, settings: latency.Settings) -> tuple[Verdict, ...]:
    """Pair the runs in their order: a run is the unit, its requests are neighbours in a queue."""
    tools, sides = zip(*(_runs(side) for side in (baseline, candidate)), strict=True)
    counts = [len(runs) for runs in sides]
    if counts[0] != counts[1] or counts[0] < 2:
        raise EvidenceError(
            f"latency: {counts[0]} runs of the baseline and {counts[1]} of the candidate",
            hint="as many of each, two at least and better eight, taken in turns on one machine",
        )
    blocks = [
        Block(pair=pair, side=side, requests=requests)
        for side, runs in zip(SIDES, sides, strict=True)
        for pair, requests in enumerate(runs, start=1)
    ]
    said = f"; measured by {tools[0]}, whose own lateness is not known"
    verdicts = [
        slowdown.verdict(blocks, name, margin=margin, confidence=settings.confidence)
        for name, margin in settings.margins.items()
    ]
    return tuple(replace(verdict, detail=f"{verdict.detail}{said}") for verdict in verdicts)


def _runs(side: Path) -> tuple[str, list[tuple[Timing, ...]]]:
    for glob, (tool, read) in RUNS.items():
        if paths := _files(side, glob):
            return tool, [run for path in paths for run in read(path)]
    raise EvidenceError(f"{side}: no load runs in it", hint=f"known: {', '.join(RUNS)}")


def _files(side: Path, glob: str) -> list[Path]:
    """Return a side's files of one kind, in the order of their folders and names."""
    if side.is_file():
        return [side] if side.match(glob) else []
    return sorted(path for path in side.rglob(glob) if path.is_file())
