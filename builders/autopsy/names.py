"""The ways in which declarations name modules, each as a function from a name to yes or no."""

import re
from collections.abc import Callable, Iterable
from fnmatch import translate
from typing import Final

Matches = Callable[[str], bool]

_REGEX: Final = re.compile(r"[*+?\[\](){}|^$\\]")


def _any(patterns: Iterable[str]) -> Matches:
    """Compile many expressions into one; what is no valid expression is taken literally."""
    each = [f"(?:{_valid(pattern)})" for pattern in patterns]
    if not each:
        return lambda _name: False
    matches = re.compile("|".join(each)).match
    return lambda name: matches(name) is not None


def _valid(pattern: str) -> str:
    try:
        re.compile(f"|(?:{pattern})")  # as it will stand among others
    except re.error:
        return re.escape(pattern) + r"\Z"
    return pattern


def globs(patterns: Iterable[str]) -> Matches:
    """Match shell patterns of whole names."""
    return _any(translate(pattern) for pattern in patterns)


def modelopt(patterns: Iterable[str]) -> Matches:
    """ModelOpt's exclusions: a shell pattern of a module, or of one that it lies in."""
    return globs(form for pattern in patterns for form in (pattern, f"{pattern}.*"))


def compressed(patterns: Iterable[str]) -> Matches:
    """compressed-tensors' targets: whole names, or ``re:`` and an expression for the beginning."""
    return _any(
        pattern.removeprefix("re:") if pattern.startswith("re:") else re.escape(pattern) + r"\Z"
        for pattern in patterns
    )


def skipped(patterns: Iterable[str]) -> Matches:
    """Skip lists of transformers: a run of whole parts of a name, or an expression for it."""
    return _any(_skipped(pattern) for pattern in patterns)


def _skipped(pattern: str) -> str:
    literal = not _REGEX.search(pattern)
    return rf"(?:.*\.)?{re.escape(pattern)}(?:\..*)?\Z" if literal else pattern


def beginnings(patterns: Iterable[str]) -> Matches:
    """Match expressions for the beginning of a name (GPTQModel's ``dynamic``)."""
    return _any(patterns)
