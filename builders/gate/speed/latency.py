"""Latency gate: does the candidate answer as fast as the baseline, on the same trace of requests?

Baseline and candidate take turns (ABBA, so that a machine that drifts harms neither), each pair
replaying one trace on both. A pair gives one log-ratio, and Student's t over the pairs bounds their
mean: requests of one run are no independent units (queues make them neighbours), pairs are.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from builders.errors import EvidenceError
from builders.gate import Endpoint, OpenEndpoint, evidence
from builders.gate.evidence import Evidence
from builders.gate.speed import (
    calibration,
    coherence,
    goodput,
    gpu,
    replay,
    slowdown,
    soundness,
    traffic,
    warm_up,
)
from builders.gate.speed.blocks import BASELINE, CANDIDATE, SIDES, Block
from builders.gate.speed.calibration import Calibration
from builders.gate.speed.goodput import Attempt
from builders.gate.speed.latency_settings import Settings, check, few, inputs, parse
from builders.gate.speed.slowdown import MEASURES
from builders.gate.speed.traffic import Load
from builders.progress import Progress
from builders.verdict import Verdict

__all__ = [
    "NAME",
    "NEEDS",
    "Pair",
    "Settings",
    "check",
    "few",
    "inputs",
    "judge",
    "measure",
    "parse",
]

NAME: Final = "latency"
NEEDS: Final = "endpoint-pair"

_REMOTE: Final = "the servers are on another machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two endpoints that take turns, and whether they run on this machine's GPUs."""

    baseline: OpenEndpoint
    candidate: OpenEndpoint
    local: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One side's raw samples, for drawing: a TTFT and a rate per request, an ITL per token."""

    ttft_ms: tuple[float, ...]
    itl_ms: tuple[float, ...]
    tokens_per_second: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What was measured: the blocks of all pairs, the rates tried, and how exact the client was."""

    blocks: tuple[Block, ...]
    attempts: tuple[Attempt, ...]
    calibrations: tuple[Calibration, ...]
    load: Load


def measure(subject: Pair, settings: Settings, out: Path, progress: Progress) -> None:
    """Let both endpoints take turns and keep the time of every token."""
    with replay.undisturbed():
        run = asyncio.run(_run(subject, settings, progress))
    client = {
        "lateness_p99": soundness.lateness(run.blocks),
        "calibrations": [one.as_json() for one in run.calibrations],
    }
    soundness.refuse(run.blocks, client, settings)
    warm_up.early(run.blocks)
    samples = [item.as_json() for group in (run.blocks, run.attempts) for item in group]
    evidence.write(
        out,
        gate=NAME,
        settings=inputs(settings),
        samples=samples,
        subject={
            "client": client,
            "rate": run.load.rate,
            "gpus": (gpu.absent() or "watched") if subject.local else _REMOTE,
        },
    )


async def _run(subject: Pair, settings: Settings, progress: Progress) -> Run:
    load = settings.loaded()
    async with subject.baseline() as baseline, subject.candidate() as candidate:
        sides = {BASELINE: baseline, CANDIDATE: candidate}
        exact = await _calibrated(sides, load)
        for side, endpoint in sides.items():
            await coherence.refuse_silence(endpoint, load, side=side)
        for side, endpoint in sides.items():
            await replay.warm(endpoint, load, side=side)
        if settings.utilization:
            rate = settings.utilization * await _capacity(baseline, load)
            load = replace(load, rate=rate)
        blocks = await _take_turns(sides, load, progress, local=subject.local)
        attempts = await _find_goodput(sides, load, settings, progress)
    return Run(blocks=tuple(blocks), attempts=tuple(attempts), calibrations=exact, load=load)


async def _calibrated(sides: dict[str, Endpoint], load: Load) -> tuple[Calibration, ...]:
    """Time our client of each transport that a side is reached by, before any side is timed."""
    rehearsals = {one.metronome: one for one in map(calibration.Rehearsal.of, sides.values())}
    return tuple(
        [await calibration.calibrate(load.concurrency, rehearsal=r) for r in rehearsals.values()]
    )


async def _take_turns(
    sides: dict[str, Endpoint], load: Load, progress: Progress, *, local: bool
) -> list[Block]:
    blocks: list[Block] = []
    for pair in range(1, load.pairs + 1):
        for side in SIDES if pair % 2 else reversed(SIDES):
            block = await replay.turn(sides[side], load, pair=pair, side=side, local=local)
            blocks.append(block)
            progress("latency", len(blocks), 2 * load.pairs, unit="blocks")
    return blocks


async def _capacity(endpoint: Endpoint, load: Load) -> float:
    """Return how many requests a second a server answers with all its places taken."""
    shots = traffic.trace(load, 0, count=max(load.requests, 2 * load.concurrency), part="capacity")
    timings = await replay.replay(endpoint, load, shots, who="latency: baseline, capacity")
    last = max(timing.arrivals[-1][0] for timing in timings)
    return len(timings) / (last - min(timing.sent for timing in timings))


async def _find_goodput(
    sides: dict[str, Endpoint], load: Load, settings: Settings, progress: Progress
) -> list[Attempt]:
    slo = settings.slo
    if slo is None:
        return []
    found: list[Attempt] = []
    for side, endpoint in sides.items():

        async def attempt(rate: float, side: str = side, endpoint: Endpoint = endpoint) -> int:
            own = replace(load, rate=rate, recorded=())
            shots = traffic.trace(own, 0, count=slo.requests, part=f"rate {rate:.6g}")
            who = f"latency: {side} at {rate:.3g} requests a second"
            timings = await replay.replay(endpoint, own, shots, who=who)
            progress(f"goodput of the {side}", rate, slo.most_rate, unit="requests/s")
            return sum(not slo.kept(timing) for timing in timings)

        found += await goodput.search(slo, side, attempt)
    return found


def judge(
    baseline: Path, candidate: Path, settings: Settings, *, more: float = 1.0
) -> tuple[Verdict, ...]:
    """Bound the slowdown of each measure that has a margin; the first tells of the others too.

    As if there had been ``more`` times as many requests of the kind.
    """
    if baseline.resolve() != candidate.resolve():
        raise EvidenceError(
            "latency: baseline and candidate were not measured in turns",
            hint="measure both in one run",
        )
    found = Evidence.read(baseline, gate=NAME)
    blocks, client = _blocks(found), found.subject.get("client", {})
    soundness.refuse(blocks, client, settings)
    early = warm_up.early(blocks)
    steady = [replace(block, requests=block.requests[early:]) for block in blocks]
    confidence = settings.confidence
    verdicts = [
        slowdown.verdict(steady, name, margin=margin, confidence=confidence, more=more)
        for name, margin in settings.margins.items()
    ]
    if settings.slo is not None:
        verdicts.append(goodput.verdict(settings.slo, goodput.read(found.samples)))
    first, *others = verdicts
    beside = (*_unjudged(steady, settings), ("requests cut off as warm-up", float(early)))
    detail = f"{first.detail}{soundness.doubts(blocks)}"
    numbers = (*first.numbers, *beside, *_of_client(blocks, client))
    return (replace(first, detail=detail, numbers=numbers), *others)


def _unjudged(blocks: Sequence[Block], settings: Settings) -> list[tuple[str, float]]:
    return [
        number
        for name in MEASURES
        if name not in settings.margins
        for number in slowdown.unjudged(blocks, name, confidence=settings.confidence)
    ]


def _of_client(blocks: Sequence[Block], client: Any) -> list[tuple[str, float]]:  # noqa: ANN401
    exact = [
        (f"{found['transport']} client {name} error [ms]", 1000 * found[name])
        for found in client.get("calibrations", ())
        for name in ("ttft_p50", "ttft_p99", "itl_p50", "itl_p99")
    ]
    return [("client lateness p99 [ms]", 1000 * soundness.lateness(blocks)), *exact]


def seen(folder: Path) -> tuple[Seen, Seen]:
    """Return what evidence holds of the baseline and of the candidate, for drawing."""
    blocks = _blocks(Evidence.read(folder, gate=NAME))
    old, new = ([block for block in blocks if block.side == side] for side in SIDES)
    return _seen(old), _seen(new)


def _blocks(found: Evidence) -> list[Block]:
    return [Block.from_json(one) for one in found.samples if not goodput.is_attempt(one)]


def _seen(blocks: Sequence[Block]) -> Seen:
    return Seen(
        ttft_ms=tuple(1000 * time for block in blocks for time in block.ttft),
        itl_ms=tuple(1000 * gap for block in blocks for gap in block.gaps),
        tokens_per_second=tuple(
            request.tokens_per_second for block in blocks for request in block.requests
        ),
    )
