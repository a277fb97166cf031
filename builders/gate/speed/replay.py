"""The load generator: sends the requests of a trace to an endpoint. Judges nothing.

A closed loop keeps a number of requests in flight. An open loop sends each when it is due, however
the server fares, and latency counts from then on: a server that stalls cannot slow its questioner.
"""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from time import perf_counter
from typing import Final

from builders.errors import EvidenceError
from builders.gate import Endpoint
from builders.gate.speed import gpu, traffic
from builders.gate.speed.blocks import Block, Timing
from builders.gate.speed.traffic import Load, Shot
from builders.gate.wire import client

_BEAT_SECONDS: Final = 0.005
# asyncio's timers are rounded up to a millisecond: the last of it is spent looking at the clock.
_TIMER_SECONDS: Final = 0.0015


async def warm(endpoint: Endpoint, load: Load, *, side: str) -> None:
    """Run each batch size up to the load's once: engines prepare themselves for every one.

    It also opens a connection for each request that will be in flight.
    """
    sizes = [1 << power for power in range(load.concurrency.bit_length())]
    sizes = sorted({*(size for size in sizes if size < load.concurrency), load.concurrency})
    for size in sizes if load.warm_up else ():
        shots = traffic.trace(load, size, count=size, part="sizes")
        brief = [Shot(s.number, 0.0, s.prompt, min(s.tokens, 4)) for s in shots]
        await replay(endpoint, load, brief, who=f"latency: {side}, batches of {size}", workers=size)


async def turn(
    endpoint: Endpoint, load: Load, *, pair: int, side: str, local: bool = True
) -> Block:
    """Warm one side up, replay the pair's trace on it, and return when every token came.

    The GPUs are watched where they are this machine's own, ``local``.
    """
    who = f"latency: pair {pair}, {side}"
    warm_up = traffic.trace(load, pair, count=load.warm_up, part="warm-up")
    await replay(endpoint, load, warm_up, who=f"{who}, warm-up")
    gc.collect()  # quick, as all from before the run is frozen
    with gpu.watched() if local else nullcontext(()) as gpus:
        async with watched() as lags:
            timings = await replay(endpoint, load, traffic.of_pair(load, pair), who=who)
    seen = tuple(one.as_json() for one in gpus if one.clocks)
    return Block(pair=pair, side=side, requests=timings, lags=tuple(lags), gpus=seen)


async def replay(
    endpoint: Endpoint, load: Load, shots: Sequence[Shot], *, who: str, workers: int = 0
) -> tuple[Timing, ...]:
    """Send a trace; an answer that is not exactly as long as ordered is an `EvidenceError`."""
    timings: dict[int, Timing] = {}
    start = perf_counter()

    async def fire(shot: Shot) -> None:
        if load.open:
            await until(start + shot.due)
        request = client.Request(
            prompt=shot.prompt, max_tokens=shot.tokens, ignore_eos=True, seed=load.seed
        )
        name = f"{who}, request {shot.number + 1}"
        answer = await client.ask(endpoint, request, who=name, timeout=load.timeout)
        _check(answer, shot.tokens, name)
        sent = answer.sent - start
        timings[shot.number] = Timing(
            intended=shot.due if load.open else sent,
            sent=sent,
            arrivals=tuple((time - start, tokens) for time, tokens in answer.arrivals),
            finish=answer.finish,
            prompt_tokens=answer.prompt_tokens,
        )

    many = workers or (len(shots) if load.open else load.concurrency)
    await client.side_by_side(shots, fire, workers=min(many, len(shots)))
    return tuple(timings[shot.number] for shot in shots)


async def until(due: float) -> None:
    """Wait for a time on `perf_counter`'s clock, more exactly than asyncio's timers do."""
    if (left := due - perf_counter()) > _TIMER_SECONDS:
        await asyncio.sleep(left - _TIMER_SECONDS)
    while perf_counter() < due:
        await asyncio.sleep(0)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep Python's garbage collector from stopping everything while something is timed.

    What lives before the run is not looked at again; what the run leaves is collected by turns.
    """
    ran = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if ran:
            gc.enable()


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
