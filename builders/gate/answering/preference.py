"""Preference gate: does a judge find the candidate's answers as good as the baseline's?

A model that speaks OpenAI's API compares both answers to each prompt, in both orders. It is an
instrument like any other, so it is tried first: it must tell an answer to a prompt from an answer
to another one. A judge that always prefers the same place would find any two models equal.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from builders import files
from builders.errors import EvidenceError, UsageError
from builders.gate import evidence, jsonl
from builders.gate.answering import asking, referee
from builders.gate.answering.referee import NOTHING, TIE, Duel
from builders.gate.evidence import Evidence, Sample
from builders.gate.speed.blocks import BASELINE, CANDIDATE
from builders.gate.speed.latency import Pair
from builders.gate.statistics import graded, intervals
from builders.gate.wire import client
from builders.gate.wire.openai import OpenAiEndpoint, Said
from builders.parse import Table
from builders.progress import Progress
from builders.verdict import Verdict

NAME: Final = "preference"
NEEDS: Final = "endpoint-pair"
FORM: Final = 1  # raised when the same settings would measure something else

_MOST_SILENT: Final = 0.05
_FITTING, _STRAY = "fitting", "stray"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which prompts, who judges by which rubric, and how much of the duels may be lost.

    ``key_variable`` is the environment variable that holds the judge's key, if it wants one.
    ``controls`` is how many prompts the judge is tried with before.
    """

    file: Path
    judge_url: str
    judge_model: str
    confidence: float
    margin: float = 0.05
    key_variable: str = ""
    rubric: str = referee.RUBRIC
    judge_tokens: int = 512
    controls: int = 20
    max_tokens: int = 256
    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    concurrency: int = 4
    timeout: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is asked, and the group of prompts it belongs to."""

    id: str
    prompt: str
    max_tokens: int
    stop: tuple[str, ...]
    group: str


def parse(table: Table, *, beside: Path, confidence: float) -> Settings:
    """Read the gate's table; the prompt file lies beside the policy."""
    with table:
        settings = Settings(
            file=beside / table.text("file", "prompts.jsonl"),
            judge_url=table.text("judge_url"),
            judge_model=table.text("judge_model"),
            confidence=confidence,
            margin=table.number("margin", 0.05),
            key_variable=table.text("judge_key_variable", ""),
            rubric=table.text("rubric", referee.RUBRIC),
            judge_tokens=table.whole("judge_tokens", 512, least=1),
            controls=table.whole("controls", 20, least=8),
            max_tokens=table.whole("max_tokens", 256, least=1),
            samples=table.whole("samples", 1, least=1),
            temperature=table.number("temperature", 0.0),
            seed=table.whole("seed", 0),
            concurrency=table.whole("concurrency", 4, least=1),
            timeout=table.number("timeout", 120.0, least=0.1),
        )
    if settings.samples > 1 and settings.temperature == 0:
        raise UsageError(
            f"preference.samples = {settings.samples} at temperature 0 is one answer, repeated",
            hint="set preference.temperature, or samples = 1",
        )
    return settings


def inputs(settings: Settings) -> dict[str, object]:
    """Return all that changes the measurement."""
    return {
        "form": FORM,
        "prompts": files.digest(settings.file),
        "judge": settings.judge_model,
        "rubric": settings.rubric,
        "judge_tokens": settings.judge_tokens,
        "controls": settings.controls,
        "max_tokens": settings.max_tokens,
        "samples": settings.samples,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "concurrency": settings.concurrency,
    }


def check(settings: Settings) -> None:
    """Refuse a prompt file with any fault, and a judge whose key is missing."""
    asked(settings)
    _key(settings)


def asked(settings: Settings) -> tuple[Prompt, ...]:
    """Read what is asked; keys of scorers are somebody else's."""
    found: dict[str, Prompt] = {}
    for number, data in jsonl.objects(settings.file):
        place = f"{settings.file}:{number}"
        known = ("id", "prompt", "max_tokens", "stop", "group")
        table = Table({key: data[key] for key in known if key in data}, place=place)
        prompt = Prompt(
            id=table.text("id", f"line-{number}"),
            prompt=table.text("prompt"),
            max_tokens=table.whole("max_tokens", settings.max_tokens, least=1),
            stop=table.texts("stop", ()),
            group=table.text("group", ""),
        )
        if prompt.id in found:
            raise UsageError(f"{place}: id {prompt.id!r} stands in an earlier line too")
        found[prompt.id] = prompt
    if len(found) < 2:
        raise UsageError(f"{settings.file}: {len(found)} prompts", hint="a gate needs two at least")
    return tuple(found.values())


def measure(subject: Pair, settings: Settings, out: Path, progress: Progress) -> None:
    """Ask both models every prompt, try the judge, and let it compare the answers."""
    prompts = asked(settings)
    sides = {
        side: asking.ask_all(opened, prompts, settings, progress, what=f"prompts of the {side}")
        for side, opened in ((BASELINE, subject.baseline), (CANDIDATE, subject.candidate))
    }
    duels = _duels(prompts, sides, settings)
    controls = _controls(prompts, sides[BASELINE], settings)
    said = asyncio.run(_judged([*controls, *duels], settings, progress))
    tried, rounds = said[: len(controls)], said[len(controls) :]
    evidence.write(
        out,
        gate=NAME,
        settings=inputs(settings),
        samples=_samples(prompts, sides, rounds, settings),
        subject={"judge": settings.judge_model, "control": tried},
    )


def _duels(
    prompts: Sequence[Prompt],
    sides: Mapping[str, Mapping[str, Sequence[client.Answer]]],
    settings: Settings,
) -> list[Duel]:
    return [
        Duel(
            who=f"prompt {prompt.id}",
            prompt=prompt.prompt,
            answers={side: heard[prompt.id][number].text for side, heard in sides.items()},
        )
        for prompt in prompts
        for number in range(settings.samples)
    ]


def _controls(
    prompts: Sequence[Prompt], heard: Mapping[str, Sequence[client.Answer]], settings: Settings
) -> list[Duel]:
    """Pair the baseline's answer to a prompt with one to another prompt that says otherwise."""
    shift, differing = len(prompts) // 2, []
    for place, prompt in enumerate(prompts):
        fitting = heard[prompt.id][0].text
        stray = heard[prompts[(place + shift) % len(prompts)].id][0].text
        if fitting.strip() != stray.strip():
            answers = {_FITTING: fitting, _STRAY: stray}
            differing.append(Duel(who=f"prompt {prompt.id}", prompt=prompt.prompt, answers=answers))
    many = min(settings.controls, len(differing))
    found = [differing[place * len(differing) // many] for place in range(many)]
    if len(found) < 8:
        raise EvidenceError(
            f"preference: only {len(found)} answers of the baseline differ, too few to try a judge",
            hint="ask more prompts, whose answers differ",
        )
    return found


async def _judged(
    duels: Sequence[Duel], settings: Settings, progress: Progress
) -> list[list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    endpoint = OpenAiEndpoint(
        url=settings.judge_url, model=settings.judge_model, key=_key(settings)
    )
    async with endpoint:

        async def ask(messages: list[dict[str, str]]) -> Said:
            async with asyncio.timeout(settings.timeout):
                return await endpoint.ask(messages, max_tokens=settings.judge_tokens)

        async def work(place: int) -> None:
            found[place] = await referee.judge(ask, duels[place], rubric=settings.rubric)
            progress("judge", len(found), len(duels), unit="duels")

        await client.side_by_side(range(len(duels)), work, workers=settings.concurrency)
    return [found[place] for place in range(len(duels))]


def _key(settings: Settings) -> str:
    name = settings.key_variable
    if name and not os.environ.get(name):
        raise UsageError(
            f"preference.judge_key_variable names {name}, which is not set",
            hint=f"export {name}=…",
        )
    return os.environ[name] if name else ""


def _samples(
    prompts: Sequence[Prompt],
    sides: Mapping[str, Mapping[str, Sequence[client.Answer]]],
    rounds: Sequence[Sequence[Mapping[str, Any]]],
    settings: Settings,
) -> list[dict[str, object]]:
    count = settings.samples
    return [
        {
            "unit": prompt.id,
            "prompt": prompt.prompt,
            "group": prompt.group,
            "answers": {
                side: [answer.text for answer in heard[prompt.id]] for side, heard in sides.items()
            },
            "duels": [list(duel) for duel in rounds[count * place : count * (place + 1)]],
        }
        for place, prompt in enumerate(prompts)
    ]


def judge(baseline: Path, candidate: Path, settings: Settings) -> tuple[Verdict, ...]:
    """Bound by how much fewer than half of the duels the candidate wins, a tie being half."""
    if baseline.resolve() != candidate.resolve():
        raise EvidenceError("preference: both models must be measured in one run")
    found = Evidence.read(baseline, gate=NAME)
    controls = found.subject["control"]
    _refuse_blind_judge(controls, found.samples, settings)
    lost = [_lost(sample) for sample in found.samples]
    groups = [str(s["group"] or f"prompt {s['unit']}") for s in found.samples]
    clusters = groups if any(s["group"] for s in found.samples) else None
    margin = 2 * settings.margin
    bounds = graded.bounds(lost, confidence=settings.confidence, clusters=clusters)
    advice = graded.advice(lost, margin=margin, confidence=settings.confidence, clusters=clusters)
    shares = _shares(found.samples)
    return (
        Verdict(
            gate=NAME,
            worse_by=bounds.value / 2,
            low=bounds.low / 2,
            high=bounds.high / 2,
            margin=settings.margin,
            units=bounds.units,
            unit="share of duels lost beyond half",
            detail=(
                f"{settings.judge_model}: candidate {shares[CANDIDATE]:.1%}, baseline "
                f"{shares[BASELINE]:.1%}, ties {shares[TIE]:.1%} of {len(lost)} prompts{advice}"
            ),
            numbers=(
                ("candidate won", shares[CANDIDATE]),
                ("baseline won", shares[BASELINE]),
                ("ties", shares[TIE]),
                ("swayed by the order", _swayed(found.samples)),
                ("controls told apart", intervals.mean([_told_apart(one) for one in controls])),
            ),
        ),
    )


def _refuse_blind_judge(
    controls: Sequence[Sequence[Mapping[str, Any]]], samples: Sequence[Sample], settings: Settings
) -> None:
    rounds = [one for duel in controls for one in duel]
    rounds += _rounds(samples)
    models = {one["model"] for one in rounds if one["reply"]}
    if len(models) > 1:
        raise EvidenceError(
            f"preference: the judge changed while it judged: {', '.join(sorted(models))}",
            hint="pin the judge's model by its full name",
        )
    silent = sum(one["winner"] == NOTHING for one in rounds) / len(rounds)
    if silent > _MOST_SILENT:
        raise EvidenceError(
            f"preference: {silent:.0%} of the judge's replies have no verdict",
            hint="raise judge_tokens, or choose a judge that follows instructions",
        )
    told = sum(map(_told_apart, controls))
    if intervals.binomial_tail(told, len(controls), 0.5) > 1 - settings.confidence:
        raise EvidenceError(
            f"preference: the judge tells only {told} of {len(controls)} answers from answers to "
            "other prompts",
            hint="such a judge sees no harm: choose a stronger one",
        )


def _told_apart(duel: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the fitting answer won, in both orders."""
    return all(one["winner"] == _FITTING for one in duel)


def _lost(sample: Sample) -> float:
    """Return the share of a prompt's duels that the candidate lost, less those that it won."""
    points = {BASELINE: 1.0, CANDIDATE: -1.0}
    return intervals.mean(
        [
            intervals.mean([points.get(one["winner"], 0.0) for one in duel])
            for duel in sample["duels"]
        ]
    )


def _rounds(samples: Sequence[Sample]) -> list[Mapping[str, Any]]:
    return [one for sample in samples for duel in sample["duels"] for one in duel]


def _shares(samples: Sequence[Sample]) -> dict[str, float]:
    """Return which share of the rounds each won; no verdict counts as a tie."""
    winners = [one["winner"] for one in _rounds(samples)]
    won = {side: winners.count(side) / len(winners) for side in (BASELINE, CANDIDATE)}
    return {**won, TIE: 1 - sum(won.values())}


def _swayed(samples: Sequence[Sample]) -> float:
    """Return in which share of the duels the same place won in both orders."""
    duels = [duel for sample in samples for duel in sample["duels"] if len(duel) == 2]
    held = [{_place(one) for one in duel} for duel in duels]
    return sum(places in ({0}, {1}) for places in held) / len(duels) if duels else 0.0


def _place(one: Mapping[str, Any]) -> int | None:
    """Return the place of the answer that won a round; None where none did."""
    return None if one["winner"] in {TIE, NOTHING} else int(one["winner"] != one["first"])
