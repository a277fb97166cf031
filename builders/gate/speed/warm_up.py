"""Find where a run begins to be steady, from the times between its tokens. Asks no server.

MSER-5 (White 1997): of all points at which the beginning could be cut off, the one after which the
mean is known best, over means of five. All blocks are laid over each other first, so that one
block's luck is not taken for a beginning.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Final

from builders.errors import EvidenceError
from builders.gate.speed.blocks import Block

_BATCH: Final = 5
# Simulated on steady series, white to strongly correlated: with 80 batches one in a hundred is
# called unsteady at most, with 24 one in ten. A shorter run is too short to find a beginning in.
LEAST_BATCHES: Final = 80
_EDGE: Final = 0.9  # of the first half: a beginning that lasts so long has no end in sight
_MATERIAL: Final = 0.01  # by how much a beginning moves the mean, or it is none


def truncation(series: Sequence[float]) -> int | None:
    """Return how many values at the beginning to cut off; None where there is no end of it."""
    count = len(series) // _BATCH
    if count < LEAST_BATCHES:
        return 0
    batches = [
        sum(series[_BATCH * place : _BATCH * (place + 1)]) / _BATCH for place in range(count)
    ]
    sums = [0.0, *accumulate(reversed(batches))]
    squares = [0.0, *accumulate(value * value for value in reversed(batches))]

    def doubt(cut: int) -> float:
        left = count - cut
        return max(squares[left] - sums[left] ** 2 / left, 0.0) / left**2

    cut = min(range(count // 2 + 1), key=lambda cut: (doubt(cut), cut))
    kept = sums[count - cut] / (count - cut)
    if abs(sums[count] / count - kept) < _MATERIAL * kept:
        return 0
    return None if cut >= _EDGE * (count // 2) else _BATCH * cut


def early(blocks: Sequence[Block]) -> int:
    """Return how many requests of each block came before the blocks were steady.

    A run that is not steady for its second half is an `EvidenceError`.
    """
    flows = [_flow(block) for block in blocks]
    shortest = min(len(flow) for flow in flows)
    cut = truncation([sum(flow[place][1] for flow in flows) for place in range(shortest)])
    if not cut and cut is not None:
        return 0
    before = cut or shortest
    count = max(
        sum(request.sent < flow[before - 1][0] for request in block.requests)
        for block, flow in zip(blocks, flows, strict=True)
    )
    if cut is None or 2 * count > min(len(block.requests) for block in blocks):
        raise EvidenceError(
            "latency: the servers are not steady for the second half of each block",
            hint="raise warm_up or requests",
        )
    return count


def steady(blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks without the requests that came before they were steady, all the same."""
    count = early(blocks)
    return [replace(block, requests=block.requests[count:]) for block in blocks]


def _flow(block: Block) -> list[tuple[float, float]]:
    """Return when each token of a block came and how long after the one before, in order.

    After the last request was sent the server runs empty, and is steady no more.
    """
    last = max(request.sent for request in block.requests)
    return sorted(
        (time, (time - before) / tokens)
        for request in block.requests
        for (before, _), (time, tokens) in pairwise(request.arrivals)
        if time <= last
        for _ in range(tokens)
    )
