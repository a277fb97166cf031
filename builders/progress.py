"""How long work tells where it stands, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Called again and again while a stage works; cheap, never raises."""

    def __call__(self, what: str, done: float, total: float, *, unit: str = "") -> None:
        """Say that ``done`` of ``total`` units of the step ``what`` are finished."""


def silent(what: str, done: float, total: float, *, unit: str = "") -> None:
    """Report to nobody."""
