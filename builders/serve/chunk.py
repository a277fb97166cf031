"""A piece of an answer, by whichever way it came."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedChunk:
    """Text to append, the number of its tokens and their ids; the last piece says why it ended.

    ``logprobs`` are the tokens' log-probabilities in nats, where the server tells them.
    """

    text: str
    tokens: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish_reason: str | None = None
