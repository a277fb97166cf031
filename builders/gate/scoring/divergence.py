"""How far two models' opinions lie apart: Kullback-Leibler divergence and changed first choices.

Of each place only the likeliest tokens are known. Those that both models name stand by themselves,
all others count as one: merging outcomes never raises a divergence, so this is a lower bound, and a
tight one where the named tokens hold most of the probability. Standard library only.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from builders.gate.evidence import Sample
from builders.gate.scoring import packed
from builders.gate.statistics.intervals import mean

PARTS: Final = 32  # stretches of a row for which a mean is shown
_LEAST: Final = 1e-12

Pairs = Sequence[tuple[Sample, Sample]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Means over all places that were kept, and over stretches of the rows from front to end.

    ``by_position`` holds, of each stretch, its first place and the mean divergence in it.
    """

    nats: float
    flips: float
    places: int
    by_position: tuple[tuple[int, float], ...]


def pack(tokens: Sequence[Sequence[int]], logprobs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return a row's likeliest tokens as part of a unit of evidence."""
    return {
        "count": len(tokens[0]) if tokens else 0,
        "tokens": packed.wholes(token for place in tokens for token in place),
        "logprobs": packed.floats(value for place in logprobs for value in place),
    }


def between(pairs: Pairs) -> Divergence | None:
    """Compare the places of which both sides kept the likeliest tokens; None where there are none.

    The first of each pair is what is diverged from.
    """
    rows = [
        list(_row(before["top"], after["top"]))
        for before, after in pairs
        if before.get("top") and after.get("top")
    ]
    places = [place for row in rows for place in row]
    if not places:
        return None
    return Divergence(
        nats=max(mean([nats for nats, _ in places]), 0.0),
        flips=sum(flipped for _, flipped in places) / len(places),
        places=len(places),
        by_position=tuple(_by_position([[nats for nats, _ in row] for row in rows])),
    )


def _row(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[float, bool]]:
    for (ours, p), (theirs, q) in zip(_places(before), _places(after), strict=True):
        yield (
            _nats(dict(zip(ours, p, strict=True)), dict(zip(theirs, q, strict=True))),
            (ours[0] != theirs[0]),
        )


def _places(top: Mapping[str, Any]) -> Iterator[tuple[list[int], list[float]]]:
    count = top["count"]
    tokens, logprobs = (
        packed.unpacked_wholes(top["tokens"]),
        packed.unpacked_floats(top["logprobs"]),
    )
    for place in range(0, len(tokens), count or 1):
        yield tokens[place : place + count], logprobs[place : place + count]


def _nats(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float:
    total, p_rest, q_rest = 0.0, 1.0, 1.0
    for token, log_p in ours.items():
        log_q = theirs.get(token)
        if log_q is not None:
            p = math.exp(log_p)
            total += p * (log_p - log_q)
            p_rest -= p
            q_rest -= math.exp(log_q)
    if p_rest > _LEAST:
        total += p_rest * math.log(p_rest / max(q_rest, _LEAST))
    return total


def _by_position(rows: Sequence[Sequence[float]]) -> Iterator[tuple[int, float]]:
    longest = max(map(len, rows))
    step = -(-longest // PARTS)
    for begin in range(0, longest, step):
        inside = [value for row in rows for value in row[begin : begin + step]]
        yield begin, max(mean(inside), 0.0)
