"""Show how far a stage is: live bars on a terminal, plain lines elsewhere; always on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_EVERY: Final = 5.0  # seconds between plain lines of one step


class Plain:
    """A line when a step starts, every few seconds, and when it ends."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._spoke: dict[str, float] = {}

    def __call__(self, what: str, done: float, total: float, *, unit: str = "") -> None:
        """Print where the step stands, if it is time to."""
        now = time.monotonic()
        started = self._started.setdefault(what, now)
        finished = total > 0 and done >= total
        if finished or now - self._spoke.get(what, float("-inf")) >= _EVERY:
            self._spoke[what] = now
            self.say(f"  {what}{_standing(done, total, now - started, unit)}")
        if finished:
            del self._started[what], self._spoke[what]

    def say(self, line: str) -> None:
        """Print one line about a stage."""
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is the terminal


class Live:
    """One bar for each step that is under way, with rate and time left."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: float, total: float, *, unit: str = "") -> None:
        """Move the step's bar; a finished step leaves the screen."""
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, rate="", total=total or None)
        task = self._tasks[what]
        elapsed = self._bars.tasks[self._bars.task_ids.index(task)].elapsed or 0.0
        rate = _rate(done, elapsed, unit) if unit and elapsed > 0.5 else ""
        self._bars.update(task, completed=done, total=total or None, rate=rate)
        if total > 0 and done >= total:
            self._bars.remove_task(self._tasks.pop(what))

    def say(self, line: str) -> None:
        """Print one line above the bars."""
        self._bars.console.print(line, highlight=False, markup=False)


def _standing(done: float, total: float, seconds: float, unit: str) -> str:
    if total == 1:  # a step that cannot be counted: its name at first, its time at last
        return f": {seconds:.1f} s" if done >= total else " …"
    counted = f"{done:,.0f} of {total:,.0f}" if total > 0 else f"{done:,.0f}"
    share = f": {counted} {unit}".rstrip()
    if seconds < 1.0 or done <= 0:
        return share
    rate = f", {_rate(done, seconds, unit or 'steps')}"
    left = f", {(total - done) * seconds / done:.0f} s left" if total > done else ""
    return share + rate + left


def _rate(done: float, seconds: float, unit: str) -> str:
    """Say how fast it goes; what is slower than one a second has a digit more."""
    rate = done / seconds
    return f"{rate:,.0f} {unit}/s" if rate >= 1 else f"{rate:.2f} {unit}/s"


@contextmanager
def display() -> Iterator[Plain | Live]:
    """Yield what shows progress for the length of a command."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Plain()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield Live(bars)
