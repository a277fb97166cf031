"""Tell the terminal what the stages do: one line a stage, and how far it is while it works."""

from collections.abc import Iterator
from contextlib import contextmanager

from builders.cli.progress import Live, Plain, display
from builders.store import Stage


class Terminal:
    """The watcher that a command passes to the pipeline."""

    def __init__(self, shown: Plain | Live, *, why: bool) -> None:
        self.progress = shown
        self._why = why

    def started(self, name: str) -> None:
        """Say that a stage's work begins."""
        self.say(f"{name} …")

    def finished(self, stage: Stage) -> None:
        """Say how long a stage took, or that it was done before, and why if asked."""
        took = "done before" if stage.cached else f"{stage.seconds:.1f} s"
        self.say(f"{stage.name}: {took}" + (f" ({stage.why})" if self._why else ""))

    def waiting(self, name: str) -> None:
        """Say that another run works on the same stage."""
        self.say(f"{name}: waiting for another run that works on it")

    def say(self, line: str) -> None:
        """Say one sentence."""
        self.progress.say(line)


@contextmanager
def terminal(*, why: bool = False) -> Iterator[Terminal]:
    """Yield a watcher that shows stages on stderr for the length of a command."""
    with display() as shown:
        yield Terminal(shown, why=why)
