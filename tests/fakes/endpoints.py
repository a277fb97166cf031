"""Stand-in endpoints that really stream: one follows a script, one keeps an exact schedule."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter

from builders.errors import ToolError


@dataclass(frozen=True)
class Piece:
    """A piece of an answer."""

    text: str
    tokens: int = 1
    finish_reason: str | None = None


@dataclass
class Scripted:
    """Answers each prompt with a fixed text, word by word; a callable may use the seed.

    ``fails_on`` is the prompt at which the server breaks, after ``survives`` pieces.
    """

    answers: Mapping[str, str] | Callable[[str, int], str]
    fails_on: str = ""
    survives: int = 0
    hangs: bool = False
    asked: list[dict[str, object]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    async def stream(
        self, prompt, *, max_tokens, temperature=0.0, seed=0, stop=(), ignore_eos=False
    ) -> AsyncIterator[Piece]:
        self.asked.append(
            {"prompt": prompt, "max_tokens": max_tokens, "seed": seed, "stop": tuple(stop)}
            | {"temperature": temperature, "ignore_eos": ignore_eos}
        )
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            async for piece in self._pieces(prompt, seed, max_tokens):
                yield piece
        finally:
            self.in_flight -= 1

    async def _pieces(self, prompt, seed, max_tokens):
        said = self.answers(prompt, seed) if callable(self.answers) else self.answers[prompt]
        words = said.split(" ")[:max_tokens] if said else []
        for number, word in enumerate(words):
            await asyncio.sleep(0)
            if prompt == self.fails_on and number >= self.survives:
                raise ToolError("the model fell over", hint="read its log")
            yield Piece(word if number == 0 else f" {word}")
        if self.hangs:
            await asyncio.sleep(3600)
        if prompt == self.fails_on:
            raise ToolError("the model fell over", hint="read its log")
        yield Piece("", tokens=0, finish_reason="stop")


@dataclass
class Scheduled:
    """Token i is due at arrival + ttft + i * itl (+ jitter, stalls); errors do not add up.

    ``chunk`` tokens come in one piece, when the last of them is due. ``slots`` is how many requests
    run at once, the others queue (0: no limit). ``stall`` adds its seconds before token ``[0]``.
    ``breaks_after`` is how many requests are answered before the server is dead. ``short_by`` cuts
    each answer by so many tokens. ``mute`` sends tokens without text. ``hogs`` blocks the event
    loop for so many seconds a piece. ``late`` holds how late this server itself was, per piece.
    """

    ttft: float = 0.02
    itl: float = 0.002
    jitter: float = 0.0
    chunk: int = 1
    slots: int = 0
    stall: tuple[int, float] = (-1, 0.0)
    breaks_after: int | None = None
    short_by: int = 0
    mute: bool = False
    hogs: float = 0.0
    seed: int = 0
    prompts: list[str] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    def __post_init__(self):
        self.dice = random.Random(self.seed)
        self.gate: asyncio.Semaphore | None = None

    async def stream(
        self, prompt, *, max_tokens, temperature=0.0, seed=0, stop=(), ignore_eos=False
    ) -> AsyncIterator[Piece]:
        self.prompts.append(prompt)
        self.begun.append(perf_counter())
        if self.breaks_after is not None and len(self.prompts) > self.breaks_after:
            raise ToolError("connection refused", hint="the server is gone")
        if self.gate is None and self.slots:
            self.gate = asyncio.Semaphore(self.slots)
        if self.gate is None:
            async for piece in self._pieces(perf_counter(), max_tokens - self.short_by):
                yield piece
            return
        async with self.gate:
            async for piece in self._pieces(perf_counter(), max_tokens - self.short_by):
                yield piece

    async def _pieces(self, start, count):
        shift = 0.0
        for first in range(0, count, self.chunk):
            last = min(first + self.chunk, count) - 1
            stalled, seconds = self.stall
            shift += seconds if first <= stalled <= last else 0.0
            due = start + self.ttft + last * self.itl + shift + self.dice.uniform(0, self.jitter)
            await asyncio.sleep(max(due - perf_counter(), 0.0))
            self.late.append(perf_counter() - due)
            if self.hogs:
                until = perf_counter() + self.hogs
                while perf_counter() < until:
                    pass
            yield Piece("" if self.mute else " a" * (last - first + 1), last - first + 1)
        yield Piece("", 0, "length")


def opener(endpoint, *, log: list[str] | None = None):
    """Return what a gate opens to get this endpoint; ``log`` notes opening and closing."""

    @asynccontextmanager
    async def opened():
        asyncio.get_running_loop()
        if log is not None:
            log.append("opened")
        try:
            yield endpoint
        finally:
            if log is not None:
                log.append("closed")

    return opened
