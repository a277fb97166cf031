"""What a request asks of the embedded runtime, and the pieces of its answer. Knows no torch."""

from dataclasses import dataclass
from math import isfinite

from builders.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen, and when to end; temperature 0 takes the likeliest token each time."""

    max_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for wrong, said in (
            (self.max_tokens < 1, f"max_tokens must be at least 1, not {self.max_tokens}"),
            (
                not isfinite(self.temperature) or self.temperature < 0,
                f"temperature must be a finite number of at least 0, not {self.temperature}",
            ),
            (not 0 < self.top_p <= 1, f"top_p must lie in (0, 1], not {self.top_p}"),
            (self.top_k < 0, f"top_k must be at least 0 (0: all tokens), not {self.top_k}"),
            (not 0 <= self.seed < 1 << 63, f"seed must lie in [0, 2^63), not {self.seed}"),
            (not all(self.stop), "an empty stop string would end every answer at once"),
        ):
            if wrong:
                raise UsageError(said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of an answer: text to append, its tokens and their log-probabilities in nats.

    The last piece says why the answer ended: ``stop`` (end of sequence or a stop string),
    ``length``, ``cancelled`` or ``error``, of which ``error`` holds the sentence. A piece may have
    tokens and no text, while a character is incomplete or a stop string may be beginning.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    finish_reason: str | None = None
    error: str = ""
