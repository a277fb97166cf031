"""Search with patterns that users wrote, so that none can run for ever. Knows no prompt."""

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from builders.errors import EvidenceError, UsageError

LONGEST_SEARCHED: Final = 4096  # characters; what a regular expression may read of an answer
_SLOWEST_SEARCH_SECONDS: Final = 0.5
_HINT: Final = "write it without a repetition inside a repetition"


def search(pattern: str, text: str, *, who: str, ignore_case: bool = False) -> bool:
    """Whether the pattern is found in the first characters; one that runs away is no answer."""
    flags = re.IGNORECASE if ignore_case else 0
    with bounded(f"{who}: the pattern {pattern!r} takes too long on this answer"):
        return re.search(pattern, text[:LONGEST_SEARCHED], flags) is not None


def check(pattern: str, *, place: str) -> None:
    """Compile a pattern and try it on texts on which a runaway one shows itself."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"{place}: {pattern!r} is no regular expression: {error}",
            hint="double each backslash in JSON",
        ) from error
    try:
        for character in dict.fromkeys(f"{pattern} a0"):
            search(pattern, character * 200 + "\0", who=place)
    except EvidenceError as error:
        raise UsageError(f"{place}: {pattern!r} can take forever", hint=error.hint) from error


@contextmanager
def bounded(complaint: str) -> Iterator[None]:
    """Let the block use half a second of CPU time, else raise an `EvidenceError`.

    In other threads than the first there is no limit. Python's matcher looks for signals while it
    backtracks. The virtual timer counts this process's own work, so that a busy machine does not
    set it off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _too_slow)
    signal.setitimer(signal.ITIMER_VIRTUAL, _SLOWEST_SEARCH_SECONDS)
    try:
        yield
    except TimeoutError:
        raise EvidenceError(complaint, hint=_HINT) from None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError
