"""Controls of the latency gate: a baseline against itself, and against itself slowed on purpose.

The first must show no difference, and no scatter in which the gate's own pairs would drown; the
second, which takes twice as long or longer by three times the margin, must be found worse. Few
pairs have wide bounds: a sound run is seldom void, as simulated in tests/bench/latency.py.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Final

from builders.errors import EvidenceError
from builders.gate import Chunk, Endpoint, OpenEndpoint
from builders.gate.speed import latency
from builders.gate.speed.latency import Pair, Settings
from builders.verdict import Outcome, Verdict

BEYOND: Final = 3.0  # times the largest margin, by which everything takes longer, and
LEAST: Final = 1.0  # by how much at least: less is not seen by few pairs
SURE: Final = 0.995  # that a baseline differs from itself, or the run is not void
WIDE: Final = 2.0  # times the margin: so wide, a harmless candidate would hardly pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Late:
    """A piece that was held back: it came when it is seen."""

    text: str
    tokens: int
    finish_reason: str | None
    total: int | None
    prompt_tokens: int | None


class Slowed:
    """An endpoint for which time runs slower by a factor: each piece is held back."""

    def __init__(self, endpoint: Endpoint, factor: float) -> None:
        self._endpoint, self._factor = endpoint, factor

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
        """Yield the answer, each piece after ``factor`` times as long as it took."""
        sent = perf_counter()
        held: asyncio.Queue[tuple[float, Late] | Exception | None] = asyncio.Queue()

        async def listen() -> None:
            try:
                async for chunk in self._endpoint.stream(
                    prompt,
                    max_tokens=max_tokens,
                    temperature=temperature,
                    seed=seed,
                    stop=stop,
                    ignore_eos=ignore_eos,
                ):
                    came = getattr(chunk, "at", perf_counter())
                    held.put_nowait((sent + (came - sent) * self._factor, _late(chunk)))
            except Exception as error:  # noqa: BLE001 - raised where the answer is read
                held.put_nowait(error)
            held.put_nowait(None)

        listening = asyncio.ensure_future(listen())
        try:
            while (found := await held.get()) is not None:
                if isinstance(found, Exception):
                    raise found
                due, chunk = found
                await asyncio.sleep(max(due - perf_counter(), 0.0))
                yield chunk
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


def _late(chunk: Chunk) -> Late:
    return Late(
        text=chunk.text,
        tokens=chunk.tokens,
        finish_reason=chunk.finish_reason,
        total=getattr(chunk, "total", None),
        prompt_tokens=getattr(chunk, "prompt_tokens", None),
    )


def factor(settings: Settings) -> float:
    """Return by how much time is stretched: three times the largest margin, or all of it."""
    return 1 + max(BEYOND * max(settings.margins.values()), LEAST)


def twice(subject: Pair, _settings: Settings) -> Pair:
    """Return the baseline beside itself."""
    return replace(subject, candidate=subject.baseline)


def slowed(subject: Pair, settings: Settings) -> Pair:
    """Return the baseline beside itself slowed."""
    return replace(subject, candidate=_opened(subject.baseline, factor(settings)))


def _opened(subject: OpenEndpoint, stretch: float) -> OpenEndpoint:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Endpoint]:
        async with subject() as endpoint:
            yield Slowed(endpoint, stretch)

    return opened


def judge(both: Path, again: Path, damaged: Path, settings: Settings) -> tuple[Verdict, ...]:
    """Judge a run by its controls: void if they are not as they must be."""
    few = latency.few(settings)
    if few is None:
        return latency.judge(both, both, settings)
    sure = replace(few, confidence=max(few.confidence, SURE))
    floor = {v.gate: v for v in latency.judge(again, again, few, more=settings.size / few.size)}
    harmed = {v.gate: v for v in latency.judge(damaged, damaged, few)}
    for verdict in latency.judge(again, again, sure):
        refuse_moody(verdict)
        refuse_coarse(floor[verdict.gate])
    for verdict in harmed.values():
        refuse_blind(verdict, factor(settings))
    verdicts = latency.judge(both, both, settings)
    return tuple(
        _with(verdict, floor[verdict.gate], harmed[verdict.gate])
        if verdict.gate in floor
        else verdict
        for verdict in verdicts
    )


def refuse_moody(verdict: Verdict) -> None:
    """Void a run whose baseline surely differs from itself by half of the margin."""
    if max(math.log1p(verdict.low), -math.log1p(verdict.high)) > math.log1p(verdict.margin) / 2:
        raise EvidenceError(
            f"{verdict.gate}: void, the baseline differs from itself by {verdict.worse_by:+.1%},"
            f" with a margin of {verdict.margin:.1%}",
            hint="something else runs on this machine, or the order of the turns matters to it",
        )


def refuse_coarse(verdict: Verdict) -> None:
    """Void a run whose baseline scatters so that its pairs could hardly tell anything."""
    reach = math.log1p(verdict.high) - math.log1p(verdict.worse_by)
    if reach > WIDE * math.log1p(verdict.margin):
        raise EvidenceError(
            f"{verdict.gate}: void, the baseline against itself scatters from {verdict.low:+.1%} to"
            f" {verdict.high:+.1%}, with a margin of {verdict.margin:.1%}",
            hint="measure on a quieter machine, with more pairs or requests, or widen the margin",
        )


def refuse_blind(verdict: Verdict, stretch: float) -> None:
    """Void a run in which a slowed baseline is not found worse."""
    if verdict.outcome is not Outcome.FAILED:
        raise EvidenceError(
            f"{verdict.gate}: void, a baseline slowed to {stretch:.3g} times its time is slower by"
            f" {verdict.worse_by:.1%} [{verdict.low:.1%}, {verdict.high:.1%}] only, where"
            f" {verdict.margin:.1%} is allowed: the instrument cannot see harm",
            hint="measure on a quieter machine, or raise latency.controls",
        )


def _with(verdict: Verdict, floor: Verdict, harmed: Verdict) -> Verdict:
    return replace(
        verdict,
        band=max(abs(floor.low), abs(floor.high)),
        numbers=(
            *verdict.numbers,
            ("baseline against itself", floor.worse_by),
            ("baseline slowed on purpose", harmed.worse_by),
        ),
    )
