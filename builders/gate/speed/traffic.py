"""Which requests are sent, and when: drawn by chance, or recorded from real traffic. Sends none."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builders.errors import UsageError
from builders.gate import jsonl
from builders.gate.speed.lengths import Lengths
from builders.parse import Table

_WORDS: Final = tuple(
    word
    for line in (
        "return the value of a function that takes an array and gives its mean over one axis",
        "if no axis is named when input has shape then output will hold copies unless data type",
        "is changed raise error for empty list otherwise sort keys by name see also notes with",
        "default number string file path class method object module index element first last",
    )
    for word in line.split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One request of recorded traffic: its prompt, or how many words to make one of."""

    at_s: float
    output_tokens: int
    prompt: str = ""
    prompt_words: int = 0


_PROMPT_WORDS: Final = Lengths.uniform(16, 64)
_ANSWER_TOKENS: Final = Lengths.fixed(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The pattern of requests, equal for both sides.

    ``rate`` is in requests a second and makes the loop open; so does ``recorded`` traffic, which
    says itself when each request is due. Without either it is closed and ``concurrency`` holds.
    Prompts are ``texts``, or else made of words.
    """

    pairs: int
    requests: int
    warm_up: int
    concurrency: int
    words: Lengths = _PROMPT_WORDS
    tokens: Lengths = _ANSWER_TOKENS
    rate: float | None = None
    texts: tuple[str, ...] = ()
    recorded: tuple[Recorded, ...] = ()
    seed: int = 0
    timeout: float = 120.0

    @property
    def open(self) -> bool:
        """Whether requests are sent when due, however the server fares."""
        return self.rate is not None or bool(self.recorded)


@dataclass(frozen=True, slots=True)
class Shot:
    """One request of a trace, when it is due after the start, in seconds, and its answer's length.

    A closed loop has no due times: they are all zero.
    """

    number: int
    due: float
    prompt: str
    tokens: int


def trace(load: Load, pair: int, *, count: int, part: str) -> tuple[Shot, ...]:
    """Draw a trace: the same for both sides of a pair, another for each pair and part of it."""
    dice = random.Random(f"{load.seed} {pair} {part}")  # noqa: S311 - load, not secrets
    due, shots = 0.0, []
    for number in range(count):
        prompt = _prompt(load, dice)
        shots.append(Shot(number, due, prompt, load.tokens.draw(dice)))
        due += dice.expovariate(load.rate) if load.rate else 0.0
    return tuple(shots)


def replayed(load: Load, pair: int) -> tuple[Shot, ...]:
    """Return the recorded traffic; what it tells only in words is made anew for each pair."""
    dice = random.Random(f"{load.seed} {pair} recorded")  # noqa: S311 - load, not secrets
    return tuple(
        Shot(number, one.at_s, one.prompt or _made(one.prompt_words, dice), one.output_tokens)
        for number, one in enumerate(load.recorded)
    )


def of_pair(load: Load, pair: int) -> tuple[Shot, ...]:
    """Return the requests that are measured in one pair."""
    if load.recorded:
        return replayed(load, pair)
    return trace(load, pair, count=load.requests, part="load")


def read(path: Path, *, speed: float = 1.0) -> tuple[Recorded, ...]:
    """Read recorded traffic (JSONL), ``speed`` times as fast; every fault names its line."""
    found = []
    for number, data in jsonl.objects(path):
        place = f"{path}:{number}"
        with Table(data, place=place) as table:
            one = Recorded(
                at_s=table.number("at_s") / speed,
                output_tokens=table.whole("output_tokens", least=1),
                prompt=table.text("prompt", ""),
                prompt_words=table.whole("prompt_words", 0),
            )
        if bool(one.prompt) == bool(one.prompt_words):
            raise UsageError(
                f"{place}: needs either prompt or prompt_words",
                hint='{"at_s": 0.25, "prompt_words": 120, "output_tokens": 64}',
            )
        found.append(one)
    if len(found) < 2:
        raise UsageError(f"{path}: {len(found)} requests", hint="record two at the very least")
    return _from_zero(sorted(found, key=lambda one: one.at_s))


def _from_zero(ordered: Sequence[Recorded]) -> tuple[Recorded, ...]:
    """Let the first request be due at once, whatever clock the record has."""
    first = ordered[0].at_s
    return tuple(
        Recorded(
            at_s=one.at_s - first,
            output_tokens=one.output_tokens,
            prompt=one.prompt,
            prompt_words=one.prompt_words,
        )
        for one in ordered
    )


def _prompt(load: Load, dice: random.Random) -> str:
    return dice.choice(load.texts) if load.texts else _made(load.words.draw(dice), dice)


def _made(words: int, dice: random.Random) -> str:
    return " ".join(dice.choices(_WORDS, k=words))
