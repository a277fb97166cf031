"""Accuracy gate: does the candidate choose the right answers as often as the baseline?

Any lm-eval task that is right or wrong item by item will do. Both models answer the same items;
what counts is on which items they differ.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from builders import files
from builders.errors import EvidenceError, ToolError
from builders.gate import evidence
from builders.gate.evidence import Evidence, Sample
from builders.gate.scoring import tasks
from builders.gate.statistics import graded
from builders.gate.statistics.intervals import (
    Bounds,
    binomial_tail,
    needed,
    normal_quantile,
    settle,
    tango_bounds,
    tango_limits,
)
from builders.parse import Table
from builders.progress import Progress
from builders.scorer import Scorer
from builders.verdict import Verdict

if TYPE_CHECKING:
    from builders.gate.scoring import harness

NAME: Final = "accuracy"
NEEDS: Final = "scorer"
FORM: Final = 1  # raised when the same settings would measure something else
HARNESS: Final = "builders.gate.scoring.harness"
SAME: Final = ("doc_hash", "prompt_hash", "target_hash", "choices")

Pairs = Sequence[tuple[Sample, Sample]]
Numbers = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which lm-eval task to ask, and how many right answers may be lost, as a share of all.

    ``path`` is the task's own YAML file; without one, lm-eval knows the task by its name. ``shots``
    below 0 leaves the number of examples to the task; ``limit`` takes so many items of each task
    from the front (0: all). ``cluster`` names a field of the items (or "task"): those with the same
    value stand or fall together. ``controls`` items try the instrument; more than ``flips`` changed
    answers raise an alarm. ``few`` is set for a control only: it asks so many items, evenly spread.
    """

    task: str
    path: Path | None
    metric: str
    shots: int
    limit: int
    seed: int
    cluster: str
    controls: int
    flips: float
    margin: float
    confidence: float
    few: int = 0


class Harness(Protocol):
    """What asks the items of a task."""

    def ask(self, scorer: Scorer, settings: Settings, progress: Progress) -> list[Sample]:
        """Return one sample for each item, in the order of the task."""


def parse(table: Table, *, beside: Path, confidence: float) -> Settings:
    """Read the gate's table; relative files lie in the folder ``beside``."""
    with table:
        task = table.text("task")
        return Settings(
            task=task,
            path=beside / task if task.endswith((".yaml", ".yml")) else None,
            metric=table.text("metric", "acc"),
            shots=table.whole("shots", -1, least=-1),
            limit=table.whole("limit", 0),
            seed=table.whole("seed", 1234),
            cluster=table.text("cluster", ""),
            controls=table.whole("controls", 200, least=10),
            flips=table.number("flips", 0.10),
            margin=table.number("margin", 0.01),
            confidence=confidence,
        )


def inputs(settings: Settings) -> dict[str, object]:
    """Return all that changes the measurement."""
    used = tasks.files(settings.path) if settings.path else ()
    found: dict[str, object] = {
        "form": FORM,
        "task": settings.path.name if settings.path else settings.task,
        "files": [[path.name, files.digest(path)] for path in used],
        "lm_eval": _version(),
        "metric": settings.metric,
        "shots": settings.shots,
        "limit": settings.limit,
        "seed": settings.seed,
        "cluster": settings.cluster,
    }
    return found | ({"few": settings.few} if settings.few else {})


def check(settings: Settings) -> None:
    """Refuse a task file that cannot be asked."""
    if settings.path:
        tasks.check(settings.path)


def measure(subject: Scorer, settings: Settings, out: Path, progress: Progress) -> None:
    """Ask every item, and keep the log-likelihood of every choice."""
    samples = _load().ask(subject, settings, progress)
    evidence.write(
        out,
        gate=NAME,
        settings=inputs(settings),
        subject={"vocabulary": subject.vocabulary, "context": subject.context},
        samples=samples,
    )


def few(settings: Settings) -> Settings:
    """Return the settings under which a control is measured."""
    return replace(settings, few=settings.controls)


def judge(baseline: Path, candidate: Path, settings: Settings) -> tuple[Verdict, ...]:
    """Compare the same items under both models; the item is the unit of chance."""
    before, after = (Evidence.read(folder, gate=NAME) for folder in (baseline, candidate))
    sound(before, after)
    return compare(before, after, settings)


def sound(before: Evidence, after: Evidence) -> None:
    """Refuse an instrument that was blind, and a baseline that knows nothing."""
    _see(before, "baseline")
    _see(after, "candidate")
    _learned(before)


def compare(
    before: Evidence,
    after: Evidence,
    settings: Settings,
    *,
    again: Evidence | None = None,
    more: float = 1.0,
) -> tuple[Verdict, ...]:
    """Judge two measurements, as if there had been ``more`` times as many items of the kind."""
    pairs = evidence.pair(before, after, same=SAME)
    harm = [ours["right"] - theirs["right"] for ours, theirs in pairs]
    clusters = [ours["cluster"] for ours, _ in pairs] if settings.cluster else None
    if set(harm) <= {-1, 0, 1}:
        bounds = tango_bounds(harm, confidence=settings.confidence, clusters=clusters, more=more)
    else:  # shares of right answers, where a problem was asked several times
        bounds = graded.bounds(harm, confidence=settings.confidence, clusters=clusters)
    floor = evidence.pair(before.only(again), again, same=SAME) if again else []
    return (_verdict(bounds, pairs, floor, settings),)


def _verdict(bounds: Bounds, pairs: Pairs, floor: Pairs, settings: Settings) -> Verdict:
    lost = sum(ours["right"] > theirs["right"] for ours, theirs in pairs)
    won = sum(ours["right"] < theirs["right"] for ours, theirs in pairs)
    before, after = (sum(pair[side]["right"] for pair in pairs) for side in (0, 1))
    count, quantile = len(pairs), normal_quantile(settings.confidence)

    def high(more: float) -> float:
        return tango_limits(lost * more, won * more, count * more, quantile)[1]

    advice = settle(bounds, settings.margin, high)
    numbers, alarm = _flips(pairs, floor, settings)
    return Verdict(
        gate=NAME,
        worse_by=bounds.value,
        low=bounds.low,
        high=bounds.high,
        margin=settings.margin,
        units=count,
        unit="share of right answers lost",
        detail=f"{before:g} → {after:g} right of {count}: {lost} lost, {won} won{advice}{alarm}",
        needed=needed(bounds, settings.margin, high),
        numbers=(
            ("baseline accuracy", before / count),
            ("candidate accuracy", after / count),
            ("right to wrong", float(lost)),
            ("wrong to right", float(won)),
            *numbers,
            ("standard error", bounds.error),
            ("McNemar's p (reported, not judged by)", _mcnemar(lost, won)),
        ),
    )


def _flips(pairs: Pairs, floor: Pairs, settings: Settings) -> tuple[Numbers, str]:
    """Return the shares of answers that changed, and an alarm where there are too many.

    Flips are no evidence of harm, and few of them none of its absence.
    """
    found = _changed(pairs)
    numbers: Numbers = (("share of answers that changed", found),)
    most = settings.flips
    if floor:
        numbers += (("answers of the baseline that changed when asked twice", _changed(floor)),)
        most = max(most, 3 * _changed(floor))
    alarm = f"; alarm: {found:.1%} of the answers changed, {most:.1%} are usual"
    return numbers, alarm if found > most else ""


def _changed(pairs: Pairs) -> float:
    return sum(bool(ours["choice"] != theirs["choice"]) for ours, theirs in pairs) / len(pairs)


def _mcnemar(lost: int, won: int) -> float:
    return min(1.0, 2 * binomial_tail(max(lost, won), lost + won, 0.5))


def _see(found: Evidence, whose: str) -> None:
    """Refuse an instrument that cannot see: a server that ignores what it should score says 0."""
    blind = sum(
        sample["choices"] > 1 and len(set(sample["loglikelihoods"])) == 1
        for sample in found.samples
    )
    seen = {value for sample in found.samples for value in sample["loglikelihoods"]}
    scored = any(sample["loglikelihoods"] for sample in found.samples)
    if blind > 0.01 * len(found.samples) or (scored and len(seen) < 2):
        raise EvidenceError(
            f"accuracy: void, for the {whose} all choices are equally likely"
            f" in {blind} of {len(found.samples)} items",
            hint="the runtime does not score what it is given, or the items repeat their choices",
        )


def _learned(found: Evidence) -> None:
    """Refuse a baseline at chance: a candidate could only tie with it.

    Where items differ in their number of choices, the tail at the mean chance is an upper bound
    (Hoeffding 1956).
    """
    count = len(found.samples)
    chance = sum(1 / sample["choices"] for sample in found.samples) / count
    right = sum(sample["right"] for sample in found.samples)
    if chance < 1 and binomial_tail(right, count, chance) >= 0.05:
        raise EvidenceError(
            f"accuracy: void, the baseline is right in {right} of {count} items"
            f" and guessing would be in {chance * count:.0f}",
            hint="choose a task that the unquantized model can do, or more items",
        )


def _version() -> str:
    try:
        return metadata.version("lm_eval")
    except metadata.PackageNotFoundError:
        return ""


def _load() -> Harness:
    try:
        return cast("Harness", importlib.import_module(HARNESS))
    except ModuleNotFoundError as error:
        raise ToolError(
            f"the accuracy gate needs {error.name}", hint="pip install 'enginesmith[eval]'"
        ) from error


if TYPE_CHECKING:
    _checked: Harness = harness
