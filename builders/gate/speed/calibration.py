"""How exact is our own client, here and now? Asks a metronome, whose schedule is known.

Each transport has a metronome of its own, which an endpoint names, as its client is another one.

What the client is late on this machine is then known before any server is judged, and a run in
which it would be a good part of what is measured is void.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Final, Protocol, Self, cast

from builders import process
from builders.errors import ToolError
from builders.gate import Endpoint
from builders.gate.speed.blocks import quantile
from builders.gate.wire import client
from builders.gate.wire.openai import OpenAiEndpoint

_PATIENCE_SECONDS: Final = 20.0
_WAVES: Final = 2
_found: Final[dict[tuple[str, int, float, float, int], "Calibration"]] = {}


class Rehearsing(Protocol):
    """An endpoint that can be tried on a server of which all is known."""

    @property
    def transport(self) -> str:
        """How it talks, as people call it."""

    @property
    def metronome(self) -> str:
        """The module that serves on a schedule, as ``python -m`` runs it."""

    def like(self, port: int) -> AbstractAsyncContextManager[Endpoint]:
        """Return a client of the same kind for the metronome at a port of this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """Which metronome to run, and how to ask it."""

    transport: str
    metronome: str
    endpoint: Rehearsing

    @classmethod
    def of(cls, endpoint: object) -> Self:
        """Return an endpoint's own rehearsal; one that knows none is taken for OpenAI's API."""
        known = endpoint if hasattr(endpoint, "metronome") else OpenAiEndpoint(url="", model="")
        found = cast("Rehearsing", known)
        return cls(transport=found.transport, metronome=found.metronome, endpoint=found)


HTTP: Final = Rehearsal.of(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """By how much the client's times are off the schedule, in seconds; the server's own included.

    ``server_p99`` is how late the metronome itself was with the latest token of a request.
    """

    transport: str
    concurrency: int
    ttft_p50: float
    ttft_p99: float
    itl_p50: float
    itl_p99: float
    server_p99: float
    seconds: float

    def as_json(self) -> dict[str, object]:
        """Return the numbers for evidence."""
        found = asdict(self).items()
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in found}


async def calibrate(
    concurrency: int,
    *,
    rehearsal: Rehearsal = HTTP,
    ttft: float = 0.02,
    itl: float = 0.005,
    tokens: int = 16,
) -> Calibration:
    """Measure the metronome as a server is measured; within one process, once for a load."""
    key = (rehearsal.metronome, concurrency, ttft, itl, tokens)
    if key not in _found:
        _found[key] = await _calibrated(rehearsal, concurrency, ttft, itl, tokens)
    return _found[key]


async def _calibrated(
    rehearsal: Rehearsal, concurrency: int, ttft: float, itl: float, tokens: int
) -> Calibration:
    begun = perf_counter()
    async with metronome(ttft, itl, program=rehearsal.metronome) as (port, late):
        answers = await _asked(rehearsal.endpoint.like(port), concurrency, tokens)
        lateness = late()[concurrency:]
    first = [answer.arrivals[0][0] - answer.sent - ttft for answer in answers]
    between = [
        (answer.arrivals[-1][0] - answer.arrivals[0][0]) / (answer.tokens - 1) - itl
        for answer in answers
    ]
    return Calibration(
        transport=rehearsal.transport,
        concurrency=concurrency,
        ttft_p50=quantile(first, 0.5),
        ttft_p99=quantile(first, 0.99),
        itl_p50=quantile(between, 0.5),
        itl_p99=quantile(between, 0.99),
        server_p99=quantile(lateness, 0.99),
        seconds=perf_counter() - begun,
    )


async def _asked(
    opened: AbstractAsyncContextManager[Endpoint], concurrency: int, tokens: int
) -> list[client.Answer]:
    """Open every connection with one request, then keep ``concurrency`` of them in flight."""
    answers: list[client.Answer] = []
    async with opened as endpoint:

        async def work(count: int) -> None:
            request = client.Request(prompt="tick", max_tokens=count, ignore_eos=True)
            answer = await client.ask(endpoint, request, who="calibration", timeout=60.0)
            if count > 1:
                answers.append(answer)

        await client.side_by_side([1] * concurrency, work, workers=concurrency)
        await client.side_by_side([tokens] * concurrency * _WAVES, work, workers=concurrency)
    return answers


class Late:
    """Reads how late the metronome says that it was, request by request."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __call__(self) -> list[float]:
        """Return the worst lateness of each request so far, in seconds."""
        return [float(line) for line in self._log.read_text().splitlines()[1:]]


@asynccontextmanager
async def metronome(
    ttft: float, itl: float, *, program: str = HTTP.metronome
) -> AsyncIterator[tuple[int, Late]]:
    """Run a metronome in a process of its own; yields its port and how late it was."""
    with tempfile.TemporaryDirectory(prefix="enginesmith-") as folder:
        log = Path(folder, "log")
        argv = (sys.executable, "-m", program, str(ttft), str(itl))
        child = process.start(argv, log=log)
        try:
            until = perf_counter() + _PATIENCE_SECONDS
            while "\n" not in log.read_text():
                if child.poll() is not None or perf_counter() > until:
                    raise ToolError(f"the metronome did not start: {process.tail(log)}")
                await asyncio.sleep(0.002)
            yield int(log.read_text().split("\n")[0]), Late(log)
        finally:
            process.stop(child, grace=2.0)
