"""Ask a served model a list of prompts, each under several seeds, several at once. Scores none."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from builders.gate import OpenEndpoint
from builders.gate.wire import client
from builders.progress import Progress


class Asked(Protocol):
    """One prompt."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def prompt(self) -> str:
        """What is asked."""

    @property
    def max_tokens(self) -> int:
        """How long the answer may be."""

    @property
    def stop(self) -> Sequence[str]:
        """At which texts an answer ends."""


class Manner(Protocol):
    """How prompts are asked."""

    @property
    def samples(self) -> int:
        """How often each, under seeds that follow each other."""

    @property
    def temperature(self) -> float:
        """At which temperature; 0 is greedy."""

    @property
    def seed(self) -> int:
        """Under which first seed."""

    @property
    def concurrency(self) -> int:
        """How many at once."""

    @property
    def timeout(self) -> float:
        """How many seconds an answer may take."""


def ask_all(
    subject: OpenEndpoint,
    prompts: Sequence[Asked],
    manner: Manner,
    progress: Progress,
    *,
    what: str = "prompts",
) -> dict[str, list[client.Answer]]:
    """Return the answers to each prompt by its id, one for each seed."""
    return asyncio.run(_ask_all(subject, prompts, manner, progress, what))


async def _ask_all(
    subject: OpenEndpoint,
    prompts: Sequence[Asked],
    manner: Manner,
    progress: Progress,
    what: str,
) -> dict[str, list[client.Answer]]:
    jobs = [(prompt, number) for prompt in prompts for number in range(manner.samples)]
    heard: dict[tuple[str, int], client.Answer] = {}
    async with subject() as endpoint:

        async def work(job: tuple[Asked, int]) -> None:
            prompt, number = job
            request = client.Request(
                prompt=prompt.prompt,
                max_tokens=prompt.max_tokens,
                temperature=manner.temperature,
                seed=manner.seed + number,
                stop=tuple(prompt.stop),
            )
            who = f"prompt {prompt.id}"
            heard[prompt.id, number] = await client.ask(
                endpoint, request, who=who, timeout=manner.timeout
            )
            progress(what, len(heard), len(jobs), unit="answers")

        await client.side_by_side(jobs, work, workers=manner.concurrency)
    return {
        prompt.id: [heard[prompt.id, number] for number in range(manner.samples)]
        for prompt in prompts
    }
