"""Say what a policy can certify, before any work: how many units there will be, and what they show.

Units are counted where a file tells them, estimated where text must first be cut into tokens, and
left open where only the task's own data set knows.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from builders.gate import jsonl
from builders.gate.answering import preference, prompts
from builders.gate.policy import Policy, Profile
from builders.gate.scoring import accuracy, corpus, perplexity, tasks
from builders.gate.scoring.corpus import Document
from builders.gate.scoring.windows import WHOLE, Documents
from builders.gate.speed import latency
from builders.gate.statistics import power
from builders.gate.statistics.power import Power, Suite
from builders.verdict import Verdict

# How many items the usual tasks have, from their data sets' cards.
KNOWN: Final = {
    "mmlu": 14042, "hellaswag": 10042, "arc_challenge": 1172, "arc_easy": 2376, "winogrande": 1267,
    "piqa": 1838, "truthfulqa_mc1": 817, "boolq": 3270, "openbookqa": 500, "gpqa_diamond": 198,
}  # fmt: skip
SUBJECTS: Final = {"mmlu": 57}  # a limit counts for each of them
_DUELS_DECIDED: Final = 0.8  # of a judge's duels; the others are ties
CHARACTERS: Final = 4  # of English text in a token, as a rule of thumb


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """How often right-or-wrong items flip, and how log-ratios of windows and pairs scatter."""

    flips: float
    windows: float
    pairs: float


# Windows: measured on a model of 9M parameters in FP8 (standard) and INT4 (lossy); larger models
# scatter less. Flips: published 8-bit and 4-bit comparisons. Pairs: a queue at 70 % load.
ASSUMED: Final = {
    Profile.STRICT: Assumed(flips=0.02, windows=0.005, pairs=0.03),
    Profile.STANDARD: Assumed(flips=0.05, windows=0.013, pairs=0.04),
    Profile.LOSSY: Assumed(flips=0.10, windows=0.062, pairs=0.05),
}

Seen = Mapping[str, Mapping[str, float]]


def suite(policy: Policy, seen: Seen | None = None) -> Suite:
    """Return what the policy can certify.

    ``seen`` holds what earlier candidates showed against the same baseline, by gate: ``units``
    and ``flips`` or ``spread``. It comes before the policy's assumptions, those before a profile's.
    """
    known = seen or {}
    found: list[Power] = []
    for name, settings in policy.gates:
        found += _GATES[name](settings, _assumed(policy), known.get(name, {}))
    return Suite(gates=tuple(found))


def shown(verdicts: Sequence[Verdict]) -> dict[str, dict[str, float]]:
    """Return what verdicts tell of flips and spreads, for planning the next candidate."""
    found: dict[str, dict[str, float]] = {}
    for verdict in verdicts:
        if verdict.early:
            continue
        numbers, units = dict(verdict.numbers), verdict.units
        if verdict.gate == accuracy.NAME:
            flips = numbers["right to wrong"] + numbers["wrong to right"]
            found[verdict.gate] = {"units": units, "flips": flips / units}
        if verdict.gate == perplexity.NAME:
            error = numbers["standard error of log perplexity"]
            found[verdict.gate] = {"units": units, "spread": error * math.sqrt(units)}
    return found


def _assumed(policy: Policy) -> Assumed:
    usual = ASSUMED[policy.profile]
    own = policy.assumed
    return Assumed(
        flips=usual.flips if own.flips is None else own.flips,
        windows=usual.windows if own.windows is None else own.windows,
        pairs=usual.pairs if own.pairs is None else own.pairs,
    )


def _perplexity(
    settings: perplexity.Settings, assumed: Assumed, seen: Mapping[str, float]
) -> Iterator[Power]:
    yield power.of_means(
        "perplexity",
        int(seen["units"]) if "units" in seen else _windows(settings),
        spread=seen.get("spread", assumed.windows),
        margin=settings.margin,
        confidence=settings.confidence,
        unit="windows",
    )


def _accuracy(
    settings: accuracy.Settings, assumed: Assumed, seen: Mapping[str, float]
) -> Iterator[Power]:
    yield power.of_items(
        "accuracy",
        int(seen["units"]) if "units" in seen else _items(settings),
        flips=seen.get("flips", assumed.flips),
        margin=settings.margin,
        confidence=settings.confidence,
        unit="items",
    )


def _prompts(
    settings: prompts.Settings, assumed: Assumed, seen: Mapping[str, float]
) -> Iterator[Power]:
    yield power.of_items(
        "prompts",
        len(prompts.asked(settings)),
        flips=seen.get("flips", assumed.flips),
        margin=settings.margin,
        confidence=settings.confidence,
        unit="prompts",
    )


def _preference(
    settings: preference.Settings, _assumed: Assumed, seen: Mapping[str, float]
) -> Iterator[Power]:
    """A duel won and lost is two halves apart from a tie: harm counts half of a flip."""
    found = power.of_items(
        "preference",
        len(preference.asked(settings)),
        flips=seen.get("flips", _DUELS_DECIDED),
        margin=2 * settings.margin,
        confidence=settings.confidence,
        unit="prompts",
    )
    best = None if found.best is None else found.best / 2
    yield replace(found, margin=settings.margin, best=best)


def _latency(
    settings: latency.Settings, assumed: Assumed, seen: Mapping[str, float]
) -> Iterator[Power]:
    for name, margin in settings.margins.items():
        yield power.of_means(
            f"latency.{name}",
            settings.load.pairs,
            spread=seen.get("spread", assumed.pairs),
            margin=margin,
            confidence=settings.confidence,
            unit="pairs",
        )


_GATES: Final[Mapping[str, Callable[[Any, Assumed, Mapping[str, float]], Iterator[Power]]]] = {
    "perplexity": _perplexity,
    "accuracy": _accuracy,
    "prompts": _prompts,
    "preference": _preference,
    "latency": _latency,
}


def _windows(settings: perplexity.Settings) -> int | None:
    """Estimate how many rows the corpus gives; one that lies on the hub tells nothing yet."""
    local = [source for source in settings.corpus if isinstance(source, Path)]
    if len(local) < len(settings.corpus):
        return settings.windows or None
    texts = [_tokens(document) for document in _documents(settings, local)]
    room, step = settings.window, settings.stride or settings.window
    if settings.documents is Documents.GPTQ:
        every = sum(texts) // room
        return min(every, settings.windows or every)
    apart = texts if settings.documents is Documents.APART else [sum(texts)]
    every = sum(max(1, 1 + -(-(count - room) // step)) for count in apart if count > 1)
    return min(every, settings.windows or every)


def _documents(settings: perplexity.Settings, local: list[Path]) -> tuple[Document, ...]:
    if settings.documents in WHOLE:
        return corpus.passages(local, blank=settings.documents is Documents.GPTQ)
    return corpus.read(local)


def _tokens(document: Document) -> int:
    return len(document.text) // CHARACTERS


def _items(settings: accuracy.Settings) -> int | None:
    if settings.path:
        found = _asked(settings.path)
        return min(found, settings.limit or found) if found is not None else None
    known = KNOWN.get(settings.task)
    if known is None or not settings.limit:
        return known
    return min(known, settings.limit * SUBJECTS.get(settings.task, 1))


def _asked(task: Path) -> int | None:
    """Count the items of a task of one's own, where its data are JSON lines beside it."""
    text = jsonl.text(task)
    split = re.search(r"^(?:test|validation)_split:\s*(\S+)", text, re.MULTILINE)
    lines = text.split("\n")
    data = {path: lines[number - 1].strip() for number, path in tasks.data(task)}
    named = [p for p, line in data.items() if split and line.startswith(f"{split[1]}:")]
    chosen = named or list(data)
    if len(chosen) != 1 or chosen[0].suffix != ".jsonl" or "include:" in text:
        return None
    return sum(1 for _ in jsonl.objects(chosen[0]))
