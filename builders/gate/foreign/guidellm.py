"""guidellm's ``benchmarks.json``: every request of every benchmark; a benchmark is one run.

Read of version 0.8 (``info.timings``) and of those before 0.4 (flat times).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builders.errors import EvidenceError
from builders.gate.foreign import reading
from builders.gate.speed.blocks import Timing


def runs(path: Path) -> list[tuple[Timing, ...]]:
    """Return the file's runs, in their order; a request that failed is no fast request."""
    return reading.whole(path, lambda found: [_run(path, run) for run in found["benchmarks"]])


def _run(path: Path, run: Mapping[str, Any]) -> tuple[Timing, ...]:
    failed, requests = len(run["requests"].get("errored") or ()), run["requests"]["successful"]
    if failed or not requests:
        raise EvidenceError(
            f"{path}: {failed} of {failed + len(requests)} requests of a benchmark failed",
            hint="a server that fails cannot be timed: mend it and run again",
        )
    times = [_times(request) for request in requests]
    begin = min(intended for intended, *_ in times)
    return tuple(_timing(begin, *each) for each in times)


def _times(request: Mapping[str, Any]) -> tuple[float, float, float, float, int]:
    """Return when a request was due and sent, its first and last token, and how many came."""
    if "info" not in request:
        sent = request["start_time"]
        return (
            sent, sent, request["first_token_time"], request["last_token_time"],
            request["output_tokens"],
        )  # fmt: skip
    times, sent = request["info"]["timings"], request["info"]["timings"]["request_start"]
    tokens = request["output_metrics"].get("total_tokens") or times["token_iterations"]
    return (
        times.get("targeted_start") or sent, sent, times["first_token_iteration"],
        times["last_token_iteration"], tokens,
    )  # fmt: skip


def _timing(
    begin: float, intended: float, sent: float, first: float, last: float, tokens: int
) -> Timing:
    arrivals = [(first - begin, 1)] + ([(last - begin, int(tokens) - 1)] if tokens > 1 else [])
    return Timing(intended=intended - begin, sent=sent - begin, arrivals=tuple(arrivals))
