"""What makes a latency run worthless, or doubtful: each has a name. Looks at evidence only."""

from collections.abc import Mapping, Sequence
from typing import Any

from builders.errors import EvidenceError
from builders.gate.speed import gpu, slowdown
from builders.gate.speed.blocks import BASELINE, CANDIDATE, Block, quantile
from builders.gate.speed.latency_settings import Settings
from builders.gate.speed.slowdown import MEASURES

_QUIETER = "measure on a quieter machine, lower the load, or raise client_share"


def refuse(blocks: Sequence[Block], client: Mapping[str, Any], settings: Settings) -> None:
    """Raise an `EvidenceError` for the first thing that voids the run."""
    _refuse_slow_client(blocks, settings)
    _refuse_inexact_client(blocks, client, settings)
    _refuse_other_prompts(blocks)
    if settings.void_on_throttle and (found := _of_gpus(blocks, gpu.faults)):
        raise EvidenceError(
            f"latency: {found[0]}",
            hint="cool the machine or lower its power limit, and measure again",
        )
    for name in settings.margins if settings.void_on_drift else ():
        if slowdown.drifts(slowdown.log_ratios(blocks, name)):
            raise EvidenceError(
                f"latency: {MEASURES[name].name} drifts over the pairs (p < 0.01)",
                hint="find what throttles or wakes up on this machine, and measure again",
            )


def doubts(blocks: Sequence[Block]) -> str:
    """Say what a reader should know of the machine, as the end of a sentence."""
    return "".join(f"; {said}" for said in _of_gpus(blocks, gpu.alarms))


def lateness(blocks: Sequence[Block]) -> float:
    """Return how long our event loop let a waiting message lie (p99), in seconds."""
    return quantile([lag for block in blocks for lag in block.lags] or [0.0], 0.99)


def _refuse_slow_client(blocks: Sequence[Block], settings: Settings) -> None:
    """Void a run in which we ourselves were late by a good part of what we measure."""
    late, fast = lateness(blocks), _fast(blocks)
    if late > settings.client_share * fast:
        raise EvidenceError(
            f"latency: the client was {late * 1000:.1f} ms late (p99), "
            f"the baseline's TTFT is {fast * 1000:.1f} ms (p50)",
            hint=_QUIETER,
        )


def _refuse_inexact_client(
    blocks: Sequence[Block], client: Mapping[str, Any], settings: Settings
) -> None:
    """Void a run whose client was inexact with a server of which all is known."""
    itl = quantile([time for b in blocks if b.side == BASELINE for time in b.itl], 0.5)
    for found in client.get("calibrations", ()):
        for name, off, time in (
            ("TTFT", found["ttft_p50"], _fast(blocks)),
            ("ITL", abs(found["itl_p50"]), itl),
        ):
            if off > settings.client_share * time:
                raise EvidenceError(
                    f"latency: before the run the {found['transport']} client's {name} was off by"
                    f" {off * 1000:.2f} ms (p50), the baseline's is {time * 1000:.2f} ms",
                    hint=_QUIETER,
                )


def _refuse_other_prompts(blocks: Sequence[Block]) -> None:
    """Void a run in which one server read another prompt than the other, or less of it."""
    read = {
        (block.pair, block.side, place): request.prompt_tokens
        for block in blocks
        for place, request in enumerate(block.requests)
    }
    for (pair, side, place), tokens in read.items():
        other = read.get((pair, CANDIDATE, place)) if side == BASELINE else tokens
        if tokens is not None and other is not None and tokens != other:
            raise EvidenceError(
                f"latency: pair {pair}, request {place + 1}: the baseline read {tokens} tokens "
                f"of the prompt, the candidate {other}",
                hint="one truncates prompts, or has another tokenizer or chat template",
            )


def _fast(blocks: Sequence[Block]) -> float:
    return quantile([time for b in blocks if b.side == BASELINE for time in b.ttft], 0.5)


def _of_gpus(blocks: Sequence[Block], ask: Any) -> list[str]:  # noqa: ANN401
    return list(dict.fromkeys(said for block in blocks for said in ask(block.gpus)))
