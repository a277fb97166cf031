"""One request to a served model, with the time of every piece. Knows no load and no statistics."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from builders.errors import BuildersError, EvidenceError
from builders.gate import Endpoint

Job = TypeVar("Job")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of an endpoint."""

    prompt: str
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: the text, and when how many tokens arrived, on `perf_counter`'s clock."""

    text: str
    finish: str
    sent: float
    ended: float
    arrivals: tuple[tuple[float, int], ...]

    @property
    def tokens(self) -> int:
        """How many tokens the whole answer has."""
        return sum(tokens for _, tokens in self.arrivals)


async def ask(endpoint: Endpoint, request: Request, *, who: str, timeout: float) -> Answer:
    """Send one request and stamp every piece; whatever goes wrong is an `EvidenceError`."""
    try:
        async with asyncio.timeout(timeout):
            return await _ask(endpoint, request)
    except TimeoutError:
        raise EvidenceError(
            f"{who}: no whole answer within {timeout:g} s",
            hint="read the server's log, or raise timeout in the policy",
        ) from None
    except BuildersError as error:
        raise EvidenceError(f"{who}: {error}", hint=error.hint) from error
    except OSError as error:
        raise EvidenceError(f"{who}: {error}", hint="read the server's log") from error


async def _ask(endpoint: Endpoint, request: Request) -> Answer:
    pieces: list[str] = []
    arrivals: list[tuple[float, int]] = []
    finish = ""
    sent = perf_counter()
    async for chunk in endpoint.stream(
        request.prompt,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        seed=request.seed,
        stop=request.stop,
        ignore_eos=request.ignore_eos,
    ):
        now = perf_counter()
        pieces.append(chunk.text)
        if chunk.tokens > 0:  # the end of a stream may come as an empty piece
            arrivals.append((now, chunk.tokens))
        finish = chunk.finish_reason or finish
    return Answer(
        text="".join(pieces),
        finish=finish,
        sent=sent,
        ended=perf_counter(),
        arrivals=tuple(arrivals),
    )


async def side_by_side(
    jobs: Iterable[Job], work: Callable[[Job], Awaitable[None]], *, workers: int
) -> None:
    """Do all jobs in order, ``workers`` at a time; the first failure ends all and is raised."""
    waiting = iter(jobs)

    async def worker() -> None:
        for job in waiting:
            await work(job)

    tasks = [asyncio.ensure_future(worker()) for _ in range(workers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
