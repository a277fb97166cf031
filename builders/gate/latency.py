"""Latency gate: does the candidate answer as fast as the baseline, on the same trace of requests?

Baseline and candidate take turns (ABBA, so that a machine that drifts harms neither), each pair
replaying one trace on both. A pair gives one log-ratio, and Student's t over the pairs bounds their
mean: requests of one run are no independent units (queues make them neighbours), pairs are.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final

from builders import files
from builders.errors import EvidenceError, UsageError
from builders.gate import Endpoint, OpenEndpoint, client, evidence, jsonl, slowdown
from builders.gate.blocks import BASELINE, CANDIDATE, SIDES, Block, quantile
from builders.gate.evidence import Evidence
from builders.gate.replay import Load, trace, turn
from builders.gate.slowdown import MEASURES
from builders.parse import Table
from builders.progress import Progress
from builders.verdict import Verdict

NAME: Final = "latency"
NEEDS: Final = "endpoint-pair"
FORM: Final = 1  # raised when the same settings would measure something else

_UNJUDGED: Final = sys.float_info.max


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The load, and by how much of itself each measure may be slower; None is not judged.

    ``client_share`` is how late the client itself may be, as a share of the baseline's TTFT.
    """

    load: Load
    confidence: float
    ttft_margin: float | None = None
    itl_margin: float | None = None
    tps_margin: float | None = None
    prompts: Path | None = None
    client_share: float = 0.25
    void_on_drift: bool = False

    @property
    def margins(self) -> dict[str, float]:
        """The margins of what is judged, by measure."""
        found = {"ttft": self.ttft_margin, "itl": self.itl_margin, "tps": self.tps_margin}
        return {name: margin for name, margin in found.items() if margin is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two endpoints that take turns."""

    baseline: OpenEndpoint
    candidate: OpenEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One side's raw samples, for drawing: a TTFT and a rate per request, an ITL per token."""

    ttft_ms: tuple[float, ...]
    itl_ms: tuple[float, ...]
    tokens_per_second: tuple[float, ...]


class Mode(Enum):
    """Closed: a number of requests in flight. Open: requests arrive by chance, at a given rate."""

    CLOSED = "closed"
    OPEN = "open"


def parse(table: Table, *, beside: Path, confidence: float) -> Settings:
    """Read the gate's table; a measure without a margin is reported and not judged."""
    with table:
        prompts = table.text("prompts", "")
        settings = Settings(
            load=_load(table),
            confidence=confidence,
            ttft_margin=_margin(table, "ttft_margin"),
            itl_margin=_margin(table, "itl_margin"),
            tps_margin=_margin(table, "tps_margin"),
            prompts=beside / prompts if prompts else None,
            client_share=table.number("client_share", 0.25),
            void_on_drift=table.flag("void_on_drift", default=False),
        )
    _refuse_useless(settings)
    return settings


def _load(table: Table) -> Load:
    mode = table.choice("mode", Mode, Mode.CLOSED)
    return Load(
        pairs=table.whole("pairs", 8, least=4),
        requests=table.whole("requests", 24, least=2),
        warm_up=table.whole("warm_up", 4),
        output_tokens=table.whole("output_tokens", 32, least=2),
        concurrency=table.whole("concurrency", 4, least=1) if mode is Mode.CLOSED else 1,
        rate=table.number("rate", least=0.001) if mode is Mode.OPEN else None,
        least_words=table.whole("least_words", 16, least=1),
        most_words=table.whole("most_words", 64, least=1),
        seed=table.whole("seed", 0),
        timeout=table.number("timeout", 120.0, least=0.1),
    )


def _margin(table: Table, key: str) -> float | None:
    margin = table.number(key, _UNJUDGED)
    return None if margin == _UNJUDGED else margin


def _refuse_useless(settings: Settings) -> None:
    load = settings.load
    if load.pairs % 2:
        raise UsageError(
            f"latency.pairs = {load.pairs} is odd",
            hint="with an even number the order ABBA cancels a steady drift of the machine",
        )
    if load.most_words < load.least_words:
        raise UsageError("latency.most_words is below latency.least_words")
    if not settings.margins:
        raise UsageError(
            "latency: nothing is judged", hint="set ttft_margin, itl_margin or tps_margin"
        )
    if load.rate and settings.tps_margin is not None:
        raise UsageError(
            "latency: in an open loop the rate is ours and tps says nothing of the server",
            hint='leave tps_margin out, or set mode = "closed"',
        )


def inputs(settings: Settings) -> dict[str, object]:
    """Return all that changes the measurement; the drift and client alarms can void it."""
    found: dict[str, object] = {"form": FORM, **asdict(settings.load)}
    del found["texts"]
    if settings.prompts is not None:
        found["prompts"] = files.digest(settings.prompts)
    return found | {
        "client_share": settings.client_share,
        "void_on_drift": settings.void_on_drift,
    }


def check(settings: Settings) -> None:
    """Refuse a prompt file with any fault, naming the line."""
    _texts(settings)


def _texts(settings: Settings) -> tuple[str, ...]:
    """Read the prompts of a JSONL file; other keys than ``prompt`` are somebody else's."""
    if settings.prompts is None:
        return ()
    found = []
    for number, data in jsonl.objects(settings.prompts):
        text = data.get("prompt")
        if not isinstance(text, str) or not text:
            raise UsageError(
                f"{settings.prompts}:{number}: no prompt", hint='{"prompt": "some text"}'
            )
        found.append(text)
    if not found:
        raise UsageError(f"{settings.prompts}: no prompts", hint="give one at least")
    return tuple(found)


def measure(subject: Pair, settings: Settings, out: Path, progress: Progress) -> None:
    """Let both endpoints take turns and keep the time of every token."""
    load = replace(settings.load, texts=_texts(settings))
    blocks = asyncio.run(_take_turns(subject, load, progress))
    _refuse_slow_client(blocks, settings)
    _refuse_drift(blocks, settings)
    evidence.write(
        out,
        gate=NAME,
        settings=inputs(settings),
        samples=[block.as_json() for block in blocks],
        subject={"client": {"lateness_p99": _lateness(blocks)}},
    )


async def _take_turns(subject: Pair, load: Load, progress: Progress) -> list[Block]:
    blocks: list[Block] = []
    async with subject.baseline() as baseline, subject.candidate() as candidate:
        sides = {BASELINE: baseline, CANDIDATE: candidate}
        for side, endpoint in sides.items():
            await _refuse_silence(endpoint, load, side)
        for pair in range(1, load.pairs + 1):
            for side in SIDES if pair % 2 else reversed(SIDES):
                blocks.append(await turn(sides[side], load, pair=pair, side=side))
                progress("latency", len(blocks), 2 * load.pairs, unit="blocks")
    return blocks


async def _refuse_silence(endpoint: Endpoint, load: Load, side: str) -> None:
    """Ask one thing before anything is timed: a fast server that says nothing is not fast."""
    (shot,) = trace(load, 0, count=1, part="coherence")
    request = client.Request(
        prompt=shot.prompt, max_tokens=load.output_tokens, ignore_eos=True, seed=load.seed
    )
    answer = await client.ask(endpoint, request, who=f"latency: {side}", timeout=load.timeout)
    if not answer.text:
        raise EvidenceError(
            f"latency: the {side} answers a prompt with nothing", hint="read the server's log"
        )


def _refuse_slow_client(blocks: Sequence[Block], settings: Settings) -> None:
    """Void a run in which we ourselves were late by a good part of what we measure."""
    late = _lateness(blocks)
    fast = quantile([time for b in blocks if b.side == BASELINE for time in b.ttft], 0.5)
    if late > settings.client_share * fast:
        raise EvidenceError(
            f"latency: the client was {late * 1000:.1f} ms late (p99), "
            f"the baseline's TTFT is {fast * 1000:.1f} ms (p50)",
            hint="measure on a quieter machine, lower the load, or raise client_share",
        )


def _lateness(blocks: Sequence[Block]) -> float:
    return quantile([lag for block in blocks for lag in block.lags] or [0.0], 0.99)


def _refuse_drift(blocks: Sequence[Block], settings: Settings) -> None:
    for name in settings.margins if settings.void_on_drift else ():
        if slowdown.drifts(slowdown.log_ratios(blocks, name)):
            raise EvidenceError(
                f"latency: {MEASURES[name].name} drifts over the pairs (p < 0.01)",
                hint="find what throttles or wakes up on this machine, and measure again",
            )


def judge(baseline: Path, candidate: Path, settings: Settings) -> tuple[Verdict, ...]:
    """Bound the slowdown of each measure that has a margin; the first tells of the others too."""
    if baseline.resolve() != candidate.resolve():
        raise EvidenceError(
            "latency: baseline and candidate were not measured in turns",
            hint="measure both in one run",
        )
    blocks = _blocks(baseline)
    _refuse_slow_client(blocks, settings)
    _refuse_drift(blocks, settings)
    confidence, margins = settings.confidence, settings.margins
    first, *others = (
        slowdown.verdict(blocks, name, margin=margin, confidence=confidence)
        for name, margin in margins.items()
    )
    beside = [
        number
        for name in MEASURES
        if name not in margins
        for number in slowdown.unjudged(blocks, name, confidence=confidence)
    ]
    beside.append(("client lateness p99 [ms]", 1000 * _lateness(blocks)))
    return (replace(first, numbers=(*first.numbers, *beside)), *others)


def seen(folder: Path) -> tuple[Seen, Seen]:
    """Return what evidence holds of the baseline and of the candidate, for drawing."""
    blocks = _blocks(folder)
    old, new = ([block for block in blocks if block.side == side] for side in SIDES)
    return _seen(old), _seen(new)


def _blocks(folder: Path) -> list[Block]:
    return [Block.from_json(sample) for sample in Evidence.read(folder, gate=NAME).samples]


def _seen(blocks: Sequence[Block]) -> Seen:
    return Seen(
        ttft_ms=tuple(1000 * time for block in blocks for time in block.ttft),
        itl_ms=tuple(1000 * gap for block in blocks for gap in block.gaps),
        tokens_per_second=tuple(
            request.tokens_per_second for block in blocks for request in block.requests
        ),
    )
