"""A piece of an answer, by whichever way it came."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamedChunk:
    """Text to append, the number of its tokens and their ids; the last piece says why it ended."""

    text: str
    tokens: int
    token_ids: tuple[int, ...] = ()
    finish_reason: str | None = None
