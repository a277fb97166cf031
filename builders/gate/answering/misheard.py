"""A baseline asked again otherwise, and one that hears the wrong prompts: what controls ask.

Both go one request at a time, so that their order, and with it what is misheard, is always the
same.
"""

import asyncio
import random
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from builders.gate import Chunk, Endpoint, OpenEndpoint

SHARE: Final = 0.5  # of the words of the prompt before that are heard
_SEED: Final = 0
DAMAGE: Final = ("the prompt before", SHARE, _SEED)


class Manner(Protocol):
    """How prompts are asked."""

    @property
    def samples(self) -> int:
        """How often each, under seeds that follow each other."""


class Alone:
    """An endpoint asked for one answer at a time, of other words or under other seeds."""

    def __init__(self, endpoint: Endpoint, *, hear: Callable[[str], str], seeds: int) -> None:
        self._endpoint, self._hear, self._seeds = endpoint, hear, seeds
        self._turn = asyncio.Lock()

    async def stream(
        self,
        prompt: str,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str],
        ignore_eos: bool,
    ) -> AsyncIterator[Chunk]:
        """Answer what is heard."""
        async with self._turn:
            async for chunk in self._endpoint.stream(
                self._hear(prompt),
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed + self._seeds,
                stop=stop,
                ignore_eos=ignore_eos,
            ):
                yield chunk


class Before:
    """Hears half of the words of the prompt before, in another order; at first hardly anything."""

    def __init__(self) -> None:
        self._now, self._before = "a", "a"

    def __call__(self, prompt: str) -> str:
        """Return what is heard in place of a prompt."""
        if prompt != self._now:
            self._before, self._now = self._now, prompt
        words = self._before.split()
        dice = random.Random(zlib.crc32(self._before.encode(), _SEED))  # noqa: S311 - no secret
        return " ".join(dice.sample(words, max(1, round(SHARE * len(words))))) or "a"


def alone(subject: OpenEndpoint, manner: Manner) -> OpenEndpoint:
    """Return the endpoint asked for one answer at a time, under seeds not used before."""
    return _wrapped(subject, hear=lambda prompt: prompt, seeds=manner.samples)


def misheard(subject: OpenEndpoint, _manner: Manner) -> OpenEndpoint:
    """Return the endpoint that answers what it was asked before."""
    return _wrapped(subject, hear=Before(), seeds=0)


def _wrapped(subject: OpenEndpoint, *, hear: Callable[[str], str], seeds: int) -> OpenEndpoint:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Endpoint]:
        async with subject() as endpoint:
            yield Alone(endpoint, hear=hear, seeds=seeds)

    return opened
