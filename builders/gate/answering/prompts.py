"""Prompts gate: does the candidate still answer the user's own prompts as well as the baseline?

Paired by prompt: of each, the share of right answers counts, which with one answer is one or zero.
A server that fails is not a wrong answer: the gate could then not be measured.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final

from builders import files
from builders.errors import EvidenceError, UsageError
from builders.gate import OpenEndpoint, evidence, margins
from builders.gate.answering import answers, asking, custom, habits
from builders.gate.answering.answers import Prompt
from builders.gate.answering.habits import HABITS, LENGTH, Pairs, Trial
from builders.gate.evidence import Evidence, Sample
from builders.gate.scoring.corpus import spread
from builders.gate.statistics import bootstrap, graded, intervals
from builders.gate.statistics.intervals import Bounds
from builders.gate.wire import client
from builders.parse import Table
from builders.progress import Progress
from builders.verdict import Verdict

NAME: Final = "prompts"
NEEDS: Final = "endpoint"
FORM: Final = 1  # raised when the same settings would measure something else
SAME: Final = ("prompt", "scorer", "expect", "group")


class Interval(Enum):
    """How the drop is bounded: by a score test, or for graded scores by a bootstrap (BCa)."""

    SCORE = "score"
    BCA = "bca"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which prompts, how often each is asked, and how much harm is allowed (as a share).

    ``own`` names scorers of the user's own that may run; ``habits`` the margins of what else is
    judged, by name. ``controls`` prompts try the instrument; ``few`` is set for a control only: it
    asks so many of them, evenly spread.
    """

    file: Path
    margin: float
    confidence: float
    max_tokens: int = 64
    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    concurrency: int = 4
    timeout: float = 120.0
    own: tuple[str, ...] = ()
    interval: Interval = Interval.SCORE
    habits: tuple[tuple[str, float], ...] = ()
    controls: int = 50
    few: int = 0


def parse(table: Table, *, beside: Path, confidence: float) -> Settings:
    """Read the gate's table; the prompt file lies beside the policy."""
    with table:
        settings = Settings(
            file=beside / table.text("file", "prompts.jsonl"),
            margin=table.number("margin", 0.02),
            confidence=confidence,
            max_tokens=table.whole("max_tokens", 64, least=1),
            samples=table.whole("samples", 1, least=1),
            temperature=table.number("temperature", 0.0),
            seed=table.whole("seed", 0),
            concurrency=table.whole("concurrency", 4, least=1),
            timeout=table.number("timeout", 120.0, least=0.1),
            own=table.texts("scorers", ()),
            interval=table.choice("interval", Interval, Interval.SCORE),
            habits=_habits(table),
            controls=table.whole("controls", 50, least=10),
        )
    if settings.samples > 1 and settings.temperature == 0:
        raise UsageError(
            f"prompts.samples = {settings.samples} at temperature 0 is one answer, repeated",
            hint="set prompts.temperature, or samples = 1",
        )
    return settings


def _habits(table: Table) -> tuple[tuple[str, float], ...]:
    """Read the margins of habits; one that allows everything is no margin."""
    found = {name: margins.optional(table, f"{name}_margin") for name in (LENGTH, *HABITS)}
    for name, margin in found.items():
        if margin is not None and not 0 < margin < 1:
            raise UsageError(
                f"prompts.{name}_margin = {margin:g} is not between 0 and 1", hint="0.1 is usual"
            )
    return tuple((name, margin) for name, margin in found.items() if margin is not None)


def inputs(settings: Settings) -> dict[str, object]:
    """Return all that changes the measurement."""
    beside = settings.file.parent
    found: dict[str, object] = {
        "form": FORM,
        "prompts": files.digest(settings.file),
        "max_tokens": settings.max_tokens,
        "samples": settings.samples,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "concurrency": settings.concurrency,
        "scorers": {name: custom.digest(name, beside=beside) for name in settings.own},
    }
    return found | ({"few": settings.few} if settings.few else {})


def check(settings: Settings) -> None:
    """Refuse a prompt file with any fault, naming the line."""
    asked(settings)


def asked(settings: Settings) -> tuple[Prompt, ...]:
    """Read what is asked."""
    return answers.read(settings.file, max_tokens=settings.max_tokens, own=settings.own)


def measure(subject: OpenEndpoint, settings: Settings, out: Path, progress: Progress) -> None:
    """Ask every prompt and keep every answer with its score."""
    every = asked(settings)
    prompts = [every[place] for place in spread(len(every), settings.few)]
    heard = asking.ask_all(subject, prompts, settings, progress)
    evidence.write(
        out,
        gate=NAME,
        settings=inputs(settings),
        samples=[_sample(prompt, heard[prompt.id]) for prompt in prompts],
    )


def _sample(prompt: Prompt, heard: Sequence[client.Answer]) -> dict[str, object]:
    """Return one prompt's evidence: what was asked and expected, and each answer."""
    return {
        "unit": prompt.id,
        "prompt": prompt.prompt,
        "scorer": prompt.scorer,
        "expect": list(prompt.expect),
        "group": prompt.group,
        "answers": [
            {
                "text": answer.text,
                "tokens": answer.tokens,
                "finish": answer.finish,
                "score": prompt.score(answer.text),
                "seconds": round(answer.ended - answer.sent, 6),
            }
            for answer in heard
        ],
    }


def few(settings: Settings) -> Settings:
    """Return the settings under which a control is measured: of habits it tells nothing."""
    return replace(settings, few=settings.controls, habits=())


def judge(baseline: Path, candidate: Path, settings: Settings) -> tuple[Verdict, ...]:
    """Compare the shares of right answers, paired by prompt."""
    old, new = (Evidence.read(folder, gate=NAME) for folder in (baseline, candidate))
    return compare(old, new, settings)


def sound(_before: Evidence, _after: Evidence) -> None:
    """Refuse nothing: answers are text, and controls tell whether anything listens."""


def compare(
    before: Evidence,
    after: Evidence,
    settings: Settings,
    *,
    again: Evidence | None = None,
    more: float = 1.0,
) -> tuple[Verdict, ...]:
    """Judge two measurements, as if there had been ``more`` times as many prompts of the kind."""
    pairs = evidence.pair(before, after, same=SAME)
    ours = [sample for sample, _ in pairs]
    if (right := _right(ours)) <= settings.margin:
        raise EvidenceError(
            f"prompts: the baseline answers {right:.1%} right, no more than the margin",
            hint="no harm could be seen: choose prompts that the baseline can answer",
        )
    trial = Trial(pairs=pairs, confidence=settings.confidence, clusters=_groups(ours))
    floor = evidence.pair(before.only(again), again, same=SAME) if again else []
    return (
        _verdict(trial, floor, settings, more),
        *(trial.verdict(name, margin, gate=NAME) for name, margin in settings.habits),
    )


def _verdict(trial: Trial, floor: Pairs, settings: Settings, more: float) -> Verdict:
    """Judge the share of right answers, or the mean of graded scores."""
    harm = [_share(ours) - _share(theirs) for ours, theirs in trial.pairs]
    bounds, advice = _bounds(harm, trial, settings, more)
    return Verdict(
        gate=NAME,
        worse_by=bounds.value,
        low=bounds.low,
        high=bounds.high,
        margin=settings.margin,
        units=bounds.units,
        unit="drop in the share of right answers",
        detail=f"{_detail(trial, harm)}{advice}",
        numbers=(*_numbers(trial, harm), *_changed(trial.pairs, floor)),
    )


def _changed(pairs: Pairs, floor: Pairs) -> tuple[tuple[str, float], ...]:
    """Return the shares of prompts whose answers changed, the baseline's own beside."""
    named = (
        ("share of answers that changed", pairs),
        ("answers of the baseline that changed when asked twice", floor),
    )
    return tuple((name, _differing(among)) for name, among in named if among)


def _differing(pairs: Pairs) -> float:
    texts = [[[a["text"] for a in side["answers"]] for side in pair] for pair in pairs]
    return sum(ours != theirs for ours, theirs in texts) / len(texts)


def _bounds(
    harm: Sequence[float], trial: Trial, settings: Settings, more: float
) -> tuple[Bounds, str]:
    """Bound the drop, and say how an inconclusive one could be settled."""
    margin, how = settings.margin, {"confidence": trial.confidence}
    if settings.interval is Interval.BCA and bootstrap.fits(harm, trial.clusters):
        found = bootstrap.bounds(harm, confidence=trial.confidence, clusters=trial.clusters)
        below, reach = (
            (bound - found.value) / math.sqrt(more) for bound in (found.low, found.high)
        )
        found = replace(found, low=found.value + below, high=found.value + reach)
        advice = intervals.settle(found, margin, lambda more: found.value + reach / math.sqrt(more))
        return found, f"; bounded by the bootstrap (BCa){advice}"
    found = graded.bounds(harm, clusters=trial.clusters, more=more, **how)
    advice = graded.advice(harm, margin=margin, clusters=trial.clusters, **how)
    few = "; too few prompts differ for the bootstrap, bounded by the score test"
    return found, f"{few if settings.interval is Interval.BCA else ''}{advice}"


def _share(sample: Sample) -> float:
    """Return which share of a prompt's answers is right, or the mean of its graded scores."""
    return intervals.mean([answer["score"] for answer in sample["answers"]])


def _right(samples: Sequence[Sample]) -> float:
    return intervals.mean([_share(sample) for sample in samples])


def _groups(samples: Sequence[Sample]) -> list[str] | None:
    """Return the group of each prompt, one without a group being its own; None without groups."""
    if not any(sample["group"] for sample in samples):
        return None
    return [f"group {s['group']}" if s["group"] else f"prompt {s['unit']}" for s in samples]


def _detail(trial: Trial, harm: Sequence[float]) -> str:
    before, after = zip(*trial.pairs, strict=True)
    worse, better = sum(value > 0 for value in harm), sum(value < 0 for value in harm)
    text = (
        f"right: baseline {_right(before):.1%}, candidate {_right(after):.1%}; "
        f"of {len(harm)} prompts {worse} went worse and {better} better"
    )
    risen = [name for name in HABITS if trial.rise(name).low > 0]
    return text + (f"; more answers show {' and '.join(risen)}" if risen else "")


def _numbers(trial: Trial, harm: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """Return what is shown beside the interval: rates of both sides, and bounds of their rise."""
    sides = dict(zip(("baseline", "candidate"), zip(*trial.pairs, strict=True), strict=True))
    found = [(f"{side} right", _right(samples)) for side, samples in sides.items()]
    for name in (*HABITS, LENGTH):
        found += zip((f"baseline {name}", f"candidate {name}"), trial.rates(name), strict=True)
    for name in HABITS:
        rise = trial.rise(name)
        found += [(f"{name} rise, low", rise.low), (f"{name} rise, high", rise.high)]
    for side, samples in sides.items():
        found += [(f"{side} ended by {why}", s) for why, s in habits.ends(samples).items()]
    found.append(("went worse", float(sum(value > 0 for value in harm))))
    found.append(("went better", float(sum(value < 0 for value in harm))))
    if trial.rates(LENGTH)[0]:
        ratio = trial.ratio()
        found += [("length ratio", 1 + ratio.value), ("length ratio, low", 1 + ratio.low)]
        found.append(("length ratio, high", 1 + ratio.high))
    return tuple(found)
