"""What a server tells of the tokens of a prompt, and every way in which it may not be so.

A server that cuts, adds or swaps tokens, or that does not look, would make any two models equal or
unequal. So each answer must have a place for each token that was sent, with that token in it.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from builders.errors import EvidenceError
from builders.scorer import ABOVE, Places, PlainChoices, PlainScores, sound

_MARKED: Final = "token_id:"  # how a token is named that is asked for by its number
_COLUMNS: Final = ("tokens", "token_logprobs", "top_logprobs")
_SPACES: Final = str.maketrans(dict.fromkeys("▁Ġ \n\tĊ"))
_UNSURE: Final = "\ufffd"
_READ: Final = "every token of a prompt must come back as it was sent, with its log-probability"


@dataclass(frozen=True, slots=True)
class Place:
    """What is told of one token: ln p, whether none came before it, and the likeliest others."""

    logprob: float
    greedy: bool
    others: Mapping[int, float]


class Way(Protocol):
    """A form of request in which some servers tell the log-probabilities of a prompt."""

    @property
    def generates(self) -> int:
        """How many tokens it lets the server write: they take room in its context."""

    @property
    def numbered(self) -> bool:
        """Whether likely tokens come with their numbers."""

    def asks(self, row: Sequence[int], top: int) -> dict[str, object]:
        """Return what goes into the request beside the model."""

    def reads(self, who: str, row: Sequence[int], choice: Mapping[str, Any]) -> list[Place]:
        """Return what the answer says of each token from the second on."""


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """vLLM's own field: an object of numbered tokens for each place of the prompt."""

    generates: int = 1
    numbered: bool = True

    def asks(self, row: Sequence[int], top: int) -> dict[str, object]:
        """Ask for so many tokens at each place, and for the numbers of those that were read."""
        return {
            "prompt": list(row),
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": top,
            "return_token_ids": True,
            "add_special_tokens": False,
        }

    def reads(self, who: str, row: Sequence[int], choice: Mapping[str, Any]) -> list[Place]:
        """Read the objects; the first token has none."""
        told = choice.get("prompt_logprobs")
        if not isinstance(told, list):
            raise lie(f"{who}: the answer has no prompt_logprobs")
        read = choice.get("prompt_token_ids")
        if read is not None and read != list(row):
            raise lie(f"{who}: it read other tokens than were sent: {_parted(row, read)}")
        _same_length(who, row, len(told))
        if told[0] is not None:
            raise lie(f"{who}: the first token has a log-probability though nothing is before it")
        return [self._place(f"{who}, token {at}", row[at], told[at]) for at in range(1, len(row))]

    def _place(self, who: str, token: int, told: object) -> Place:
        if not isinstance(told, Mapping) or str(token) not in told:
            raise lie(f"{who}: nothing is said of token {token}, which was sent")
        values = {_token(who, n): _number(who, _field(one, "logprob")) for n, one in told.items()}
        found, best = sound(who, values[token]), _best(who, values.values())
        first = _field(told[str(token)], "rank") == 1
        if first and found < best - ABOVE:
            raise lie(f"{who}: it is said to come first, and another is likelier")
        return Place(found, first or found >= best, values)


@dataclass(frozen=True, slots=True)
class Echo:
    """OpenAI's old form: the prompt is echoed before the answer, with the same log-probabilities.

    ``decode`` returns the text of one token, by which those without a number are known again.
    """

    decode: Callable[[int], str]
    generates: int
    numbered: bool = False

    def asks(self, row: Sequence[int], top: int) -> dict[str, object]:
        """Ask for the prompt again; servers that can shall name tokens by their numbers."""
        return {
            "prompt": list(row),
            "max_tokens": self.generates,
            "temperature": 0,
            "echo": True,
            "logprobs": top,
            "return_tokens_as_token_ids": True,
            "add_special_tokens": False,
        }

    def reads(self, who: str, row: Sequence[int], choice: Mapping[str, Any]) -> list[Place]:
        """Read the lists; what the server wrote itself comes after the prompt."""
        told = choice.get("logprobs")
        if not isinstance(told, Mapping):
            raise lie(f"{who}: the answer has no logprobs")
        tokens, values, tops = (self._column(who, row, told, name) for name in _COLUMNS)
        if values[0] is not None:
            raise lie(f"{who}: the first token has a log-probability though nothing is before it")
        for at, token in enumerate(row):
            self._same(f"{who}, token {at}", token, tokens[at])
        return [_echoed(f"{who}, token {at}", values[at], tops[at]) for at in range(1, len(row))]

    def _column(
        self, who: str, row: Sequence[int], told: Mapping[str, Any], name: str
    ) -> Sequence[Any]:
        column = told.get(name)
        if not isinstance(column, list):
            raise lie(f"{who}: the answer has no {name}")
        _same_length(who, row, len(column), more=self.generates)
        return column

    def _same(self, who: str, token: int, told: object) -> None:
        """Refuse another token than was sent, as far as its text shows it."""
        said, own = str(told), self.decode(token)
        if said.startswith(_MARKED):
            same = said == f"{_MARKED}{token}"
        else:
            same = _UNSURE in said + own or _plain(said) == _plain(own)
        if not same:
            raise lie(f"{who}: {said!r} came back where {token} ({own!r}) was sent")


def answer(who: str, model: str, row: Sequence[int], found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the only choice of an answer; another model's, or one of other length, is refused."""
    said = found.get("model")
    if said != model:
        raise EvidenceError(
            f"{who}: {model} was asked, and {said} answered",
            hint="is there a router before the server? name the model that it serves",
        )
    choices = found.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        raise lie(f"{who}: not one answer to one prompt")
    read = _field(found.get("usage"), "prompt_tokens")
    if read is not None:
        _same_length(who, row, read)
    return choices[0]


def scores(places: Sequence[Place]) -> PlainScores:
    """Return a row's scores."""
    return PlainScores.of([one.logprob for one in places], [one.greedy for one in places])


def choices(who: str, places: Sequence[Place], top: int) -> PlainChoices:
    """Return the likeliest tokens of each place; too few of them are refused."""
    found = [
        sorted(place.others.items(), key=lambda one: (-one[1], one[0]))[:top] for place in places
    ]
    if any(len(place) < top for place in found):
        raise lie(f"{who}: fewer than the {top} likeliest tokens were told")
    return PlainChoices(
        Places(tuple(tuple(token for token, _ in place) for place in found)),
        Places(tuple(tuple(value for _, value in place) for place in found)),
    )


def lie(what: str) -> EvidenceError:
    """Return the error of an answer that cannot be what it should be."""
    return EvidenceError(what, hint=_READ)


def _echoed(who: str, value: object, top: object) -> Place:
    found = sound(who, _number(who, value))
    if not isinstance(top, Mapping) or not top:
        raise lie(f"{who}: nothing is said of the likeliest token")
    best = _best(who, [_number(who, one) for one in top.values()])
    named = {
        _token(who, name.removeprefix(_MARKED)): float(one)
        for name, one in top.items()
        if name.startswith(_MARKED)
    }
    return Place(found, found >= best, named)


def _same_length(who: str, row: Sequence[int], told: object, *, more: int = 0) -> None:
    """Refuse a prompt that was cut, or to which something was added."""
    if isinstance(told, int) and len(row) <= told <= len(row) + more:
        return
    if not isinstance(told, int):
        raise lie(f"{who}: it says that it read {told!r} tokens")
    less = "it was cut, or not echoed" if told < len(row) else "a token of its own was added"
    raise lie(f"{who}: {told} tokens came back for {len(row)} that were sent: {less}")


def _best(who: str, values: Collection[float]) -> float:
    """Return the largest of the likely tokens' log-probabilities."""
    if any(map(math.isnan, values)):
        raise lie(f"{who}: a likely token's log-probability is not a number")
    return max(values)


def _token(who: str, name: str) -> int:
    """Return the number of a token that is the name of a field."""
    if not (name.isascii() and name.isdigit()):
        raise lie(f"{who}: {name!r} is no number of a token")
    return int(name[:20])


def _number(who: str, told: object) -> float:
    if isinstance(told, bool) or not isinstance(told, int | float):
        raise lie(f"{who}: its log-probability is {told!r}, not a number")
    return float(told)


def _field(told: object, name: str) -> object:
    return told.get(name) if isinstance(told, Mapping) else None


def _parted(row: Sequence[int], read: object) -> str:
    """Say where two rows part, for people."""
    if not isinstance(read, list):
        return f"{read!r}"
    if len(read) != len(row):
        return f"{len(read)} for {len(row)}"
    at = next(at for at, (ours, theirs) in enumerate(zip(row, read, strict=True)) if ours != theirs)
    return f"{read[at]} for {row[at]} at {at}"


def _plain(text: str) -> str:
    return text.translate(_SPACES)
