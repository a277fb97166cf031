"""One request to a served model, with the time of every piece. Knows no load and no statistics."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import TypeVar

from builders.errors import BuildersError, EvidenceError
from builders.gate import Chunk, Endpoint

Job = TypeVar("Job")
Arrivals = tuple[tuple[float, int], ...]


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
    """What came back: the text, and when how many tokens arrived, on `perf_counter`'s clock.

    ``prompt_tokens`` is how long the server found the prompt, where it says so.
    """

    text: str
    finish: str
    sent: float
    ended: float
    arrivals: Arrivals
    prompt_tokens: int | None = None

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
    known: dict[str, int] = {}
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
            arrivals.append((getattr(chunk, "at", now), chunk.tokens))
        finish = chunk.finish_reason or finish
        known |= _known(chunk)
    return Answer(
        text="".join(pieces),
        finish=finish,
        sent=sent,
        ended=perf_counter(),
        arrivals=_spread(arrivals, known.get("total")),
        prompt_tokens=known.get("prompt_tokens"),
    )


def _known(chunk: Chunk) -> dict[str, int]:
    """Return what some endpoints tell beside: the lengths of the prompt and of the whole answer."""
    told = {name: getattr(chunk, name, None) for name in ("total", "prompt_tokens")}
    return {name: value for name, value in told.items() if value is not None}


def _spread(arrivals: Sequence[tuple[float, int]], total: int | None) -> Arrivals:
    """Spread a total that came at the end evenly over the pieces; without one, keep the counts."""
    if total is None or not arrivals:
        return tuple(arrivals)
    ends = [-(-total * place // len(arrivals)) for place in range(len(arrivals) + 1)]
    shares = (after - before for before, after in pairwise(ends))
    whole = zip(arrivals, shares, strict=True)
    return tuple((time, share) for (time, _), share in whole if share)


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
