"""The user's prompts, and how an answer to one is scored. Knows no server."""

import math
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, Protocol, Self

from builders.errors import EvidenceError, UsageError
from builders.gate import jsonl
from builders.parse import Table, nearest

LONGEST_SEARCHED: Final = 4096  # characters; what a regular expression may read of an answer
_SLOWEST_SEARCH_SECONDS: Final = 0.5
_NUMBER: Final = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One line of a prompt file: what is asked, and what a right answer looks like."""

    id: str
    prompt: str
    scorer: str
    expect: tuple[str, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    ignore_case: bool = False
    choices: tuple[str, ...] = ()
    group: str = ""

    @classmethod
    def parse(cls, data: Mapping[str, object], *, place: str, id: str, max_tokens: int) -> Self:
        """Read one line's object; ``id`` and ``max_tokens`` hold where the line is silent."""
        with Table({**data, "expect": _several(data.get("expect"))}, place=place) as table:
            prompt = cls(
                id=table.text("id", id),
                prompt=table.text("prompt"),
                scorer=table.text("scorer"),
                expect=table.texts("expect"),
                max_tokens=table.whole("max_tokens", max_tokens, least=1),
                stop=table.texts("stop", ()),
                ignore_case=table.flag("ignore_case", default=False),
                choices=table.texts("choices", ()),
                group=table.text("group", ""),
            )
        prompt.check(place)
        return prompt

    def check(self, place: str) -> None:
        """Refuse what cannot be scored; ``place`` is the file and line."""
        if self.scorer not in SCORERS:
            raise UsageError(
                f"{place}: unknown scorer {self.scorer!r}", hint=nearest(self.scorer, SCORERS)
            )
        if not self.prompt or not self.expect or not all(self.expect):
            raise UsageError(
                f"{place}: an empty prompt or expectation",
                hint="prompt and expect need at least one character",
            )
        if self.scorer in _CHECKS:
            _CHECKS[self.scorer](self, place)

    def score(self, answer: str) -> float:
        """Return 1.0 for a right answer and 0.0 for a wrong one."""
        return float(SCORERS[self.scorer](self, answer))

    def folded(self, text: str) -> str:
        """Return the text as this prompt compares it."""
        return text.casefold() if self.ignore_case else text


def read(path: Path, *, max_tokens: int) -> tuple[Prompt, ...]:
    """Read a prompt file (JSONL); every fault is a `UsageError` that names the line."""
    found: dict[str, Prompt] = {}
    for number, data in jsonl.objects(path):
        place = f"{path}:{number}"
        prompt = Prompt.parse(data, place=place, id=f"line-{number}", max_tokens=max_tokens)
        if prompt.id in found:
            raise UsageError(f"{place}: id {prompt.id!r} stands in an earlier line too")
        found[prompt.id] = prompt
    if len(found) < 2:
        raise UsageError(f"{path}: {len(found)} prompts", hint="a gate needs two at the very least")
    return tuple(found.values())


def _several(value: object) -> object:
    """Let one expectation stand for a list of one, and a number for its digits."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    return [value] if isinstance(value, str) else value


class Scorer(Protocol):
    """Says whether an answer is right."""

    def __call__(self, prompt: Prompt, answer: str) -> bool:
        """Compare an answer with what the prompt expects."""


def exact(prompt: Prompt, answer: str) -> bool:
    """Accept an answer that is an expected text, blanks around it aside."""
    return prompt.folded(answer.strip()) in {prompt.folded(text.strip()) for text in prompt.expect}


def contains(prompt: Prompt, answer: str) -> bool:
    """Accept an answer with an expected text anywhere in it."""
    return any(prompt.folded(text) in prompt.folded(answer) for text in prompt.expect)


def regex(prompt: Prompt, answer: str) -> bool:
    """Accept an answer in which an expected pattern is found, in its first characters."""
    return any(_search(prompt, text, answer) for text in prompt.expect)


def choice(prompt: Prompt, answer: str) -> bool:
    """Accept an answer whose first choice, as a whole word, is an expected one."""
    names = "|".join(re.escape(name) for name in sorted(prompt.choices, key=len, reverse=True))
    first = re.search(rf"(?<!\w)(?:{names})(?!\w)", answer, _flags(prompt))
    return first is not None and prompt.folded(first[0]) in map(prompt.folded, prompt.expect)


def numeric(prompt: Prompt, answer: str) -> bool:
    """Accept an answer whose last number equals an expected one."""
    numbers = _NUMBER.findall(answer)
    return bool(numbers) and any(
        math.isclose(_number(numbers[-1]), _number(text), rel_tol=1e-9) for text in prompt.expect
    )


SCORERS: Final[Mapping[str, Scorer]] = {
    "exact": exact,
    "contains": contains,
    "regex": regex,
    "choice": choice,
    "numeric": numeric,
}


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _flags(prompt: Prompt) -> int:
    return re.IGNORECASE if prompt.ignore_case else 0


def _search(prompt: Prompt, pattern: str, text: str) -> bool:
    try:
        with _cpu_limit(_SLOWEST_SEARCH_SECONDS):
            found = re.search(pattern, text[:LONGEST_SEARCHED], _flags(prompt))
    except TimeoutError:
        raise EvidenceError(
            f"prompt {prompt.id}: the pattern {pattern!r} takes too long on this answer",
            hint="write it without a repetition inside a repetition",
        ) from None
    return found is not None


@contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` after so much CPU time; in other threads than the first, never.

    Python's matcher looks for signals while it backtracks. The virtual timer counts this process's
    own work, so that a busy machine does not set it off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _too_slow)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError


class _Check(Protocol):
    def __call__(self, prompt: Prompt, place: str) -> None:
        """Refuse what this prompt's scorer cannot use."""


def _check_regex(prompt: Prompt, place: str) -> None:
    """Compile every pattern and try it on texts on which a runaway one shows itself."""
    for pattern in prompt.expect:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(
                f"{place}: expect {pattern!r} is no regular expression: {error}",
                hint="double each backslash in JSON",
            ) from error
        try:
            for character in dict.fromkeys(f"{pattern} a0"):
                _search(prompt, pattern, character * 200 + "\0")
        except EvidenceError as error:
            raise UsageError(
                f"{place}: expect {pattern!r} can take forever", hint=error.hint
            ) from error


def _check_choice(prompt: Prompt, place: str) -> None:
    strangers = [text for text in prompt.expect if text not in prompt.choices]
    if strangers or len(prompt.choices) < 2 or not all(prompt.choices):
        raise UsageError(
            f"{place}: choices {list(prompt.choices)} for expect {list(prompt.expect)}",
            hint='name all answers, the right one among them: "choices": ["A", "B"]',
        )


def _check_numeric(prompt: Prompt, place: str) -> None:
    for text in prompt.expect:
        if not _NUMBER.fullmatch(text):
            raise UsageError(f"{place}: expect {text!r} is not a number")


_CHECKS: Final[Mapping[str, _Check]] = {
    "regex": _check_regex,
    "choice": _check_choice,
    "numeric": _check_numeric,
}
