"""AIPerf's ``profile_export.jsonl``: a record for each request; a file is one run.

Read of version 0.13. It does not tell when a request was due, so a late client is not seen; its
token counts may be those of its own tokenizer, and then its ITL is not the server's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from builders.errors import EvidenceError
from builders.gate.foreign import reading
from builders.gate.speed.blocks import Timing

PHASE: Final = "profiling"


def runs(path: Path) -> list[tuple[Timing, ...]]:
    """Return the file's one run; a request that failed is no fast request."""
    records = [record for record in reading.lines(path, _record) if record is not None]
    if not records:
        raise EvidenceError(f"{path}: no requests in it", hint="let the run end")
    begin = min(record[0] for record in records)
    return [
        tuple(_timing(sent - begin, first, last, count) for sent, first, last, count in records)
    ]


def _record(line: Mapping[str, Any]) -> tuple[float, float, float, int] | None:
    """Return when a request was sent, its first and its last token, and how many there were."""
    about, metrics = line["metadata"], line["metrics"]
    if about.get("benchmark_phase", PHASE) != PHASE:
        return None
    if line.get("error") or about.get("was_cancelled"):
        raise EvidenceError(
            f"latency: request {about['x_request_id']} failed: {line.get('error')}",
            hint="a server that fails cannot be timed: mend it and run again",
        )
    return (
        about["request_start_ns"] / 1e9,
        _seconds(metrics["time_to_first_token"]),
        _seconds(metrics["request_latency"]),
        int(metrics["output_sequence_length"]["value"]),
    )


def _seconds(metric: Mapping[str, Any]) -> float:
    return float(metric["value"]) * {"ms": 1e-3, "s": 1.0, "sec": 1.0, "ns": 1e-9}[metric["unit"]]


def _timing(sent: float, first: float, last: float, tokens: int) -> Timing:
    arrivals = [(sent + first, 1)] + ([(sent + last, tokens - 1)] if tokens > 1 else [])
    return Timing(intended=sent, sent=sent, arrivals=tuple(arrivals))
