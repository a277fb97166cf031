"""A block of requests: when each token came, and what that says in one number. Asks no server.

Seconds count from the start of the block. Every measure is a time, so that more is worse for all.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

BASELINE: Final = "baseline"
CANDIDATE: Final = "candidate"
SIDES: Final = (BASELINE, CANDIDATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One request: when it was due, when it left, and when how many tokens came back."""

    intended: float
    sent: float
    arrivals: tuple[tuple[float, int], ...]
    finish: str = ""
    prompt_tokens: int | None = None

    @property
    def tokens(self) -> int:
        """How many tokens came."""
        return sum(tokens for _, tokens in self.arrivals)

    @property
    def ttft(self) -> float:
        """Seconds to the first token, from when the request was due, not from when it left."""
        return self.arrivals[0][0] - self.intended

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens after the first piece: a piece of k tokens is k equal gaps."""
        found: list[float] = []
        for (before, _), (now, tokens) in zip(self.arrivals, self.arrivals[1:], strict=False):
            found += [(now - before) / tokens] * tokens
        return found

    @property
    def itl(self) -> float:
        """Mean seconds between tokens after the first piece; NaN where there is no later piece.

        The mean, as networks bundle pieces: of two that arrive together the second has no gap, and
        the median gap of a fast model is then next to nothing.
        """
        gaps = self.gaps
        return (self.arrivals[-1][0] - self.arrivals[0][0]) / len(gaps) if gaps else math.nan

    @property
    def tokens_per_second(self) -> float:
        """This request's own rate of output, waiting included."""
        return self.tokens / (self.arrivals[-1][0] - self.intended)

    def as_json(self) -> dict[str, object]:
        """Return what `from_json` reads, in microseconds' resolution."""
        return {
            "intended": round(self.intended, 6),
            "sent": round(self.sent, 6),
            "times": [round(time, 6) for time, _ in self.arrivals],
            "tokens": [tokens for _, tokens in self.arrivals],
            "finish": self.finish,
            "prompt_tokens": self.prompt_tokens,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `as_json` returned."""
        arrivals = tuple(zip(data["times"], data["tokens"], strict=True))
        return cls(
            intended=data["intended"],
            sent=data["sent"],
            arrivals=arrivals,
            finish=data["finish"],
            prompt_tokens=data["prompt_tokens"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One side's turn of one pair, how late the client itself was, and how the GPUs fared."""

    pair: int
    side: str
    requests: tuple[Timing, ...]
    lags: tuple[float, ...] = ()
    gpus: tuple[Mapping[str, Any], ...] = ()

    @property
    def ttft(self) -> list[float]:
        """Seconds to first token, by request."""
        return [request.ttft for request in self.requests]

    @property
    def itl(self) -> list[float]:
        """Mean seconds between tokens, by request."""
        return [request.itl for request in self.requests]

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens, all requests together."""
        return [gap for request in self.requests for gap in request.gaps]

    @property
    def seconds_per_token(self) -> float:
        """From the first request sent to the last token, over all tokens: 1 / TPS per system."""
        first = min(request.sent for request in self.requests)
        last = max(request.arrivals[-1][0] for request in self.requests)
        return (last - first) / sum(request.tokens for request in self.requests)

    def as_json(self) -> dict[str, object]:
        """Return the block as a unit of evidence."""
        return {
            "unit": f"pair-{self.pair}/{self.side}",
            "pair": self.pair,
            "side": self.side,
            "requests": [request.as_json() for request in self.requests],
            "lags": [round(lag, 6) for lag in self.lags],
            "gpus": [dict(gpu) for gpu in self.gpus],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `as_json` returned."""
        requests = tuple(Timing.from_json(request) for request in data["requests"])
        return cls(
            pair=data["pair"],
            side=data["side"],
            requests=requests,
            lags=tuple(data["lags"]),
            gpus=tuple(data["gpus"]),
        )


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile, interpolated between its neighbours; of nothing, NaN."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def supported(count: int, share: float) -> bool:
    """Whether so many values bound this quantile: a two-sided 95 % interval of order statistics.

    It is finite when the largest value lies above the quantile with 97.5 %: from 36 values on for
    p90, 72 for p95, 368 for p99.
    """
    return math.pow(share, count) <= 0.025
