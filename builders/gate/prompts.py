"""Prompts gate: does the candidate still answer the user's own prompts as well as the baseline?

Paired by prompt: of each, the share of right answers counts, which with one answer is one or zero.
A server that fails is not a wrong answer: the gate could then not be measured.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builders import files
from builders.errors import EvidenceError, UsageError
from builders.gate import OpenEndpoint, answers, client, evidence, graded, intervals
from builders.gate.answers import Prompt
from builders.gate.evidence import Evidence, Sample
from builders.parse import Table
from builders.progress import Progress
from builders.verdict import Verdict

NAME: Final = "prompts"
NEEDS: Final = "endpoint"
FORM: Final = 1  # raised when the same settings would measure something else


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Which prompts, how often each is asked, and how much harm is allowed (as a share)."""

    file: Path
    margin: float
    confidence: float
    max_tokens: int = 64
    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    concurrency: int = 4
    timeout: float = 120.0


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
        )
    if settings.samples > 1 and settings.temperature == 0:
        raise UsageError(
            f"prompts.samples = {settings.samples} at temperature 0 is one answer, repeated",
            hint="set prompts.temperature, or samples = 1",
        )
    return settings


def inputs(settings: Settings) -> dict[str, object]:
    """Return all that changes the measurement."""
    return {
        "form": FORM,
        "prompts": files.digest(settings.file),
        "max_tokens": settings.max_tokens,
        "samples": settings.samples,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "concurrency": settings.concurrency,
    }


def check(settings: Settings) -> None:
    """Refuse a prompt file with any fault, naming the line."""
    answers.read(settings.file, max_tokens=settings.max_tokens)


def measure(subject: OpenEndpoint, settings: Settings, out: Path, progress: Progress) -> None:
    """Ask every prompt and keep every answer with its score."""
    prompts = answers.read(settings.file, max_tokens=settings.max_tokens)
    heard = asyncio.run(_ask_all(subject, prompts, settings, progress))
    evidence.write(
        out,
        gate=NAME,
        settings=inputs(settings),
        samples=[_sample(prompt, heard[prompt.id]) for prompt in prompts],
    )


async def _ask_all(
    subject: OpenEndpoint, prompts: Sequence[Prompt], settings: Settings, progress: Progress
) -> dict[str, list[client.Answer]]:
    """Ask each prompt under each seed, several at once."""
    jobs = [(prompt, number) for prompt in prompts for number in range(settings.samples)]
    heard: dict[tuple[str, int], client.Answer] = {}
    async with subject() as endpoint:

        async def work(job: tuple[Prompt, int]) -> None:
            prompt, number = job
            request = client.Request(
                prompt=prompt.prompt,
                max_tokens=prompt.max_tokens,
                temperature=settings.temperature,
                seed=settings.seed + number,
                stop=prompt.stop,
            )
            who = f"prompt {prompt.id}"
            heard[prompt.id, number] = await client.ask(
                endpoint, request, who=who, timeout=settings.timeout
            )
            progress("prompts", len(heard), len(jobs), unit="answers")

        await client.side_by_side(jobs, work, workers=settings.concurrency)
    return {
        prompt.id: [heard[prompt.id, number] for number in range(settings.samples)]
        for prompt in prompts
    }


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


def judge(baseline: Path, candidate: Path, settings: Settings) -> tuple[Verdict, ...]:
    """Compare the shares of right answers, paired by prompt."""
    old, new = (Evidence.read(folder, gate=NAME) for folder in (baseline, candidate))
    pairs = evidence.pair(old, new, same=("prompt", "scorer", "expect", "group"))
    before, after = zip(*pairs, strict=True)
    if (right := _right(before)) <= settings.margin:
        raise EvidenceError(
            f"prompts: the baseline answers {right:.1%} right, no more than the margin",
            hint="no harm could be seen: choose prompts that the baseline can answer",
        )
    harm = [_share(ours) - _share(theirs) for ours, theirs in pairs]
    groups, confidence = _groups(before), settings.confidence
    bounds = graded.bounds(harm, confidence=confidence, clusters=groups)
    advice = graded.advice(harm, margin=settings.margin, confidence=confidence, clusters=groups)
    return (
        Verdict(
            gate=NAME,
            worse_by=bounds.value,
            low=bounds.low,
            high=bounds.high,
            margin=settings.margin,
            units=bounds.units,
            unit="drop in the share of right answers",
            detail=f"{_detail(before, after, harm)}{advice}",
            numbers=_numbers(before, after, harm),
        ),
    )


def _share(sample: Sample) -> float:
    """Return which share of a prompt's answers is right."""
    return intervals.mean([answer["score"] for answer in sample["answers"]])


def _right(samples: Sequence[Sample]) -> float:
    return intervals.mean([_share(sample) for sample in samples])


def _groups(samples: Sequence[Sample]) -> list[str] | None:
    """Return the group of each prompt, one without a group being its own; None without groups."""
    if not any(sample["group"] for sample in samples):
        return None
    return [f"group {s['group']}" if s["group"] else f"prompt {s['unit']}" for s in samples]


def _texts(samples: Sequence[Sample]) -> list[str]:
    return [answer["text"] for sample in samples for answer in sample["answers"]]


def _empty(samples: Sequence[Sample]) -> int:
    """Return how many answers say nothing."""
    return sum(not text.strip() for text in _texts(samples))


def _length(samples: Sequence[Sample]) -> float:
    return intervals.mean([answer["tokens"] for s in samples for answer in s["answers"]])


def _repetition(samples: Sequence[Sample]) -> float:
    """Return which share of all runs of three words was said before in the same answer."""
    said = seen = 0
    for text in _texts(samples):
        words = text.split()
        runs = list(zip(words, words[1:], words[2:], strict=False))
        said += len(runs)
        seen += len(runs) - len(set(runs))
    return seen / said if said else 0.0


def _detail(before: Sequence[Sample], after: Sequence[Sample], harm: Sequence[float]) -> str:
    worse, better = sum(value > 0 for value in harm), sum(value < 0 for value in harm)
    text = (
        f"right: baseline {_right(before):.1%}, candidate {_right(after):.1%}; "
        f"of {len(harm)} prompts {worse} went worse and {better} better"
    )
    if _empty(after) > _empty(before):
        text += f"; empty answers rose from {_empty(before)} to {_empty(after)}"
    return text


def _numbers(
    before: Sequence[Sample], after: Sequence[Sample], harm: Sequence[float]
) -> tuple[tuple[str, float], ...]:
    shared = {
        "right": _right,
        "empty answers": _empty,
        "mean tokens": _length,
        "repetition": _repetition,
    }
    sides = (("baseline", before), ("candidate", after))
    found = [
        (f"{side} {name}", float(count(samples)))
        for name, count in shared.items()
        for side, samples in sides
    ]
    found.append(("went worse", float(sum(value > 0 for value in harm))))
    found.append(("went better", float(sum(value < 0 for value in harm))))
    if old := _length(before):
        found.append(("length ratio", _length(after) / old))
    return tuple(found)
