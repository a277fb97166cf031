"""The load generator: draws a trace of requests and replays it on an endpoint. Judges nothing.

A closed loop keeps a number of requests in flight. An open loop sends each when it is due, however
the server fares, and latency counts from then on: a server that stalls cannot slow its questioner.
"""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from builders.errors import EvidenceError
from builders.gate import Endpoint, client
from builders.gate.blocks import Block, Timing

_BEAT_SECONDS: Final = 0.005
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
class Load:
    """The pattern of requests, equal for both sides.

    ``rate`` is in requests a second and makes the loop open; without one it is closed and
    ``concurrency`` holds. Prompts are ``texts``, or else made of a random number of words.
    """

    pairs: int
    requests: int
    warm_up: int
    output_tokens: int
    concurrency: int
    rate: float | None = None
    least_words: int = 16
    most_words: int = 64
    texts: tuple[str, ...] = ()
    seed: int = 0
    timeout: float = 120.0


@dataclass(frozen=True, slots=True)
class Shot:
    """One request of a trace, and when it is due after the start, in seconds."""

    number: int
    due: float
    prompt: str


def trace(load: Load, pair: int, *, count: int, part: str) -> tuple[Shot, ...]:
    """Draw a trace: the same for both sides of a pair, another for each pair and part of it."""
    dice = random.Random(f"{load.seed} {pair} {part}")  # noqa: S311 - load, not secrets
    due, shots = 0.0, []
    for number in range(count):
        shots.append(Shot(number, due, _prompt(load, dice)))
        due += dice.expovariate(load.rate) if load.rate else 0.0
    return tuple(shots)


def _prompt(load: Load, dice: random.Random) -> str:
    if load.texts:
        return dice.choice(load.texts)
    return " ".join(dice.choices(_WORDS, k=dice.randint(load.least_words, load.most_words)))


async def turn(endpoint: Endpoint, load: Load, *, pair: int, side: str) -> Block:
    """Warm one side up, replay the pair's trace on it, and return when every token came."""
    who = f"latency: pair {pair}, {side}"
    warm_up = trace(load, pair, count=load.warm_up, part="warm-up")
    await replay(endpoint, load, warm_up, who=f"{who}, warm-up")
    async with watched() as lags:
        timings = await replay(
            endpoint, load, trace(load, pair, count=load.requests, part="load"), who=who
        )
    return Block(pair=pair, side=side, requests=timings, lags=tuple(lags))


async def replay(
    endpoint: Endpoint, load: Load, shots: Sequence[Shot], *, who: str
) -> tuple[Timing, ...]:
    """Send a trace; an answer that is not exactly as long as ordered is an `EvidenceError`."""
    timings: dict[int, Timing] = {}
    start = perf_counter()

    async def fire(shot: Shot) -> None:
        if load.rate:
            await asyncio.sleep(shot.due - (perf_counter() - start))
        request = client.Request(
            prompt=shot.prompt, max_tokens=load.output_tokens, ignore_eos=True, seed=load.seed
        )
        name = f"{who}, request {shot.number + 1}"
        answer = await client.ask(endpoint, request, who=name, timeout=load.timeout)
        _check(answer, load.output_tokens, name)
        sent = answer.sent - start
        timings[shot.number] = Timing(
            intended=shot.due if load.rate else sent,
            sent=sent,
            arrivals=tuple((time - start, tokens) for time, tokens in answer.arrivals),
            finish=answer.finish,
        )

    workers = len(shots) if load.rate else min(load.concurrency, len(shots))
    await client.side_by_side(shots, fire, workers=workers)
    return tuple(timings[shot.number] for shot in shots)


def _check(answer: client.Answer, ordered: int, who: str) -> None:
    if not answer.tokens:
        raise EvidenceError(
            f"{who}: the answer has no token", hint="read the server's log; does it stream?"
        )
    if answer.tokens != ordered:
        raise EvidenceError(
            f"{who}: {answer.tokens} tokens of {ordered} came ({answer.finish or 'no reason'})",
            hint="both sides must write equally much: ignore_eos must hold, and context suffice",
        )


@asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """Collect how long this event loop leaves a waiting message lying, in seconds.

    Another thread knocks, as a network library does: asyncio's own timers are rounded to a
    millisecond and would blame the client for that.
    """
    loop = asyncio.get_running_loop()
    over = threading.Event()
    lags: list[float] = []

    def note(knocked: float) -> None:
        lags.append(perf_counter() - knocked)

    def knock() -> None:
        while not over.wait(_BEAT_SECONDS):
            loop.call_soon_threadsafe(note, perf_counter())

    thread = threading.Thread(target=knock, name="latency-watch", daemon=True)
    thread.start()
    try:
        yield lags
    finally:
        over.set()
        thread.join()
