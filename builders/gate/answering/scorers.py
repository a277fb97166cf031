"""How an answer is scored: from 0.0, wrong, to 1.0, right. Knows no file and no server."""

import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from builders.errors import ToolError, UsageError
from builders.gate.answering import patterns

_NUMBER: Final = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_WORD: Final = re.compile(r"[^\W_]+")


class Expected(Protocol):
    """What a prompt says of a right answer."""

    @property
    def id(self) -> str:
        """The prompt's name, for errors."""

    @property
    def expect(self) -> Sequence[str]:
        """What is expected, each entry by itself a right answer."""

    @property
    def choices(self) -> Sequence[str]:
        """All answers that may be chosen from."""

    @property
    def ignore_case(self) -> bool:
        """Whether case makes no difference."""

    @property
    def tolerance(self) -> float:
        """By how much a number may be off."""


def _accept(expected: Expected, place: str) -> None:
    """Accept every expectation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """A way to score; ``check`` refuses a prompt that it cannot score, naming file and line."""

    score: Callable[[Expected, str], float]
    check: Callable[[Expected, str], None] = _accept
    needs_expectation: bool = True


def exact(expected: Expected, answer: str) -> float:
    """Accept an answer that is an expected text, blanks around it aside."""
    texts = {_folded(expected, text.strip()) for text in expected.expect}
    return float(_folded(expected, answer.strip()) in texts)


def contains(expected: Expected, answer: str) -> float:
    """Accept an answer with an expected text anywhere in it."""
    whole = _folded(expected, answer)
    return float(any(_folded(expected, text) in whole for text in expected.expect))


def regex(expected: Expected, answer: str) -> float:
    """Accept an answer in which an expected pattern is found, in its first characters."""
    who, fold = f"prompt {expected.id}", expected.ignore_case
    return float(
        any(patterns.search(text, answer, who=who, ignore_case=fold) for text in expected.expect)
    )


def choice(expected: Expected, answer: str) -> float:
    """Accept an answer whose first choice, as a whole word, is an expected one."""
    names = "|".join(re.escape(name) for name in sorted(expected.choices, key=len, reverse=True))
    flags = re.IGNORECASE if expected.ignore_case else 0
    first = re.search(rf"(?<!\w)(?:{names})(?!\w)", answer, flags)
    right = {_folded(expected, text) for text in expected.expect}
    return float(first is not None and _folded(expected, first[0]) in right)


def numeric(expected: Expected, answer: str) -> float:
    """Accept an answer whose last number equals an expected one, within the tolerance."""
    numbers = _NUMBER.findall(answer)
    return float(
        bool(numbers)
        and any(
            math.isclose(
                _number(numbers[-1]), _number(text), rel_tol=1e-9, abs_tol=expected.tolerance
            )
            for text in expected.expect
        )
    )


def rouge_l(expected: Expected, answer: str) -> float:
    """Return the best F-measure of the longest common subsequence of words (Lin 2004).

    Words are letters and digits, without case, as in Google's rouge_score without its stemmer; of
    other scripts than Latin too.
    """
    words = _words(answer)
    return max(_overlap(_words(text), words) for text in expected.expect)


def _overlap(wanted: Sequence[str], said: Sequence[str]) -> float:
    common = _longest_common(wanted, said)
    if not common:
        return 0.0
    precision, recall = common / len(said), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _longest_common(wanted: Sequence[str], said: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, a row of the table at a time."""
    row = [0] * (len(said) + 1)
    for word in wanted:
        diagonal = 0
        for at, other in enumerate(said, start=1):
            above = row[at]
            row[at] = diagonal + 1 if word == other else max(above, row[at - 1])
            diagonal = above
    return row[-1]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _folded(expected: Expected, text: str) -> str:
    return text.casefold() if expected.ignore_case else text


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _check_regex(expected: Expected, place: str) -> None:
    for pattern in expected.expect:
        patterns.check(pattern, place=f"{place}: expect")


def _check_choice(expected: Expected, place: str) -> None:
    strangers = [text for text in expected.expect if text not in expected.choices]
    if strangers or len(expected.choices) < 2 or not all(expected.choices):
        raise UsageError(
            f"{place}: choices {list(expected.choices)} for expect {list(expected.expect)}",
            hint='name all answers, the right one among them: "choices": ["A", "B"]',
        )


def _check_numeric(expected: Expected, place: str) -> None:
    for text in expected.expect:
        if not _NUMBER.fullmatch(text):
            raise UsageError(f"{place}: expect {text!r} is not a number")


def _check_rouge_l(expected: Expected, place: str) -> None:
    for text in expected.expect:
        if not _words(text):
            raise UsageError(f"{place}: expect {text!r} has no word")


SCORERS: Final[Mapping[str, Scorer]] = {
    "exact": Scorer(score=exact),
    "contains": Scorer(score=contains),
    "regex": Scorer(score=regex, check=_check_regex),
    "choice": Scorer(score=choice, check=_check_choice),
    "numeric": Scorer(score=numeric, check=_check_numeric),
    "rouge-l": Scorer(score=rouge_l, check=_check_rouge_l),
}
# Loaded when a prompt asks for them: they need a library.
LIBRARIES: Final[Mapping[str, str]] = {"json-schema": "builders.gate.answering.json_schema"}


def load(name: str) -> Scorer:
    """Return a scorer of the house by name."""
    if name in SCORERS:
        return SCORERS[name]
    try:
        return cast("Scorer", importlib.import_module(LIBRARIES[name]).SCORER)
    except ImportError as error:
        raise ToolError(
            f"the scorer {name} cannot be loaded: {error}", hint="pip install 'enginesmith[eval]'"
        ) from error
