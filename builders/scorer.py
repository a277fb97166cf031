"""What tells the log-probabilities of given tokens: what gates ask for and engines give."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from builders.errors import EvidenceError
from builders.progress import Progress, silent

ABOVE: Final = 1e-3  # what rounding may lift a log-probability above zero
FLOOR: Final = -9999.0  # what vLLM writes in place of minus infinity


class Column(Protocol):
    """A one-dimensional array of which only the plain list is wanted."""

    def tolist(self) -> Any:  # noqa: ANN401 - numpy's own annotation
        """Return the values as Python numbers."""


class TokenScores(Protocol):
    """What a model thinks of the tokens of one row, from the second to the last."""

    @property
    def logprobs(self) -> Column:
        """The log-probability of each token, given all before it, in nats."""

    @property
    def greedy(self) -> Column:
        """Whether each token was the model's first choice."""


@dataclass(frozen=True, slots=True)
class PlainScores:
    """A row's scores without numpy: ln p of each token, and whether it came first."""

    logprobs: "array[float]"
    greedy: "array[int]"

    @classmethod
    def of(cls, logprobs: Sequence[float], greedy: Sequence[bool]) -> "PlainScores":
        """Make them of lists."""
        return cls(array("d", logprobs), array("b", greedy))


@dataclass(frozen=True, slots=True)
class Places:
    """Numbers of each place of a row, the likeliest token's first."""

    values: Sequence[Sequence[float]]

    def tolist(self) -> list[list[float]]:
        """Return the values as plain lists."""
        return [list(place) for place in self.values]


@dataclass(frozen=True, slots=True)
class PlainChoices:
    """The likeliest tokens at each place of a row from the second on, and ln p of each."""

    tokens: Places
    logprobs: Places


class Scorer(Protocol):
    """A model that tells the log-probabilities of given tokens."""

    @property
    def context(self) -> int:
        """The most tokens that one row may have."""

    @property
    def vocabulary(self) -> int:
        """How many tokens the model chooses from."""

    @property
    def prefix(self) -> int:
        """The token that stands before a text: beginning of sequence, else end of sequence."""

    def tokenize(self, text: str) -> list[int]:
        """Cut a text into tokens as the model is served: with the tokenizer's own first token."""

    def score(
        self, rows: Sequence[Sequence[int]], *, progress: Progress = silent
    ) -> Sequence[TokenScores]:
        """Score each row; its first token is given, so a row of n tokens has n - 1 scores."""


def check_rows(rows: Sequence[Sequence[int]], *, context: int, vocabulary: int) -> None:
    """Refuse rows that cannot be scored whole: nothing is ever cut off."""
    for number, row in enumerate(rows):
        if not row:
            raise EvidenceError(f"row {number} has no tokens", hint="leave empty texts out")
        if len(row) > context:
            raise EvidenceError(
                f"row {number} has {len(row)} tokens, the model's context is {context}",
                hint="score shorter rows, or raise context in [serve]",
            )
        if min(row) < 0 or max(row) >= vocabulary:
            raise EvidenceError(
                f"row {number} has a token outside the vocabulary of {vocabulary}",
                hint="tokenize with this engine's own tokenizer",
            )


def sound(who: str, value: float) -> float:
    """Return a log-probability that can be one; any other is an `EvidenceError`."""
    if not math.isfinite(value) or value <= FLOOR:
        raise EvidenceError(
            f"{who}: its log-probability is {value}, not a finite number",
            hint="the model computes NaN or infinity: look at its scales",
        )
    if value > ABOVE:
        raise EvidenceError(
            f"{who}: its log-probability is {value:.4g}, above zero",
            hint="the runtime does not compute what it says: no verdict can be built on it",
        )
    return value
