"""Time an engine in this process: no server, no network, one request at a time.

This door is light: what measures loads the runtime when it is used.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from builders.engine.description import Description
from builders.errors import ToolError, UsageError
from builders.progress import Progress

STOPWATCHES: Final[Mapping[str, str]] = {"embedded": "builders.engine.embedded.stopwatch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is timed: prompts of so many tokens, answers of so many, so often after a warm-up."""

    prompt_tokens: int
    output_tokens: int
    repeats: int
    warm_up: int
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lap:
    """One request: seconds until its first token, which is the prefill, and between the others."""

    first: float
    gaps: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """All laps, and the device they ran on."""

    device: str
    threads: int
    laps: tuple[Lap, ...]


class Stopwatch(Protocol):
    """A module that times a runtime's engine."""

    def time(self, engine: Path, work: Work, device: str | None, progress: Progress) -> Timed:
        """Load the engine onto the device, the best there is without one, and time it."""


if TYPE_CHECKING:
    from builders.engine.embedded import stopwatch

    _stopwatches: dict[str, Stopwatch] = {"embedded": stopwatch}


def time(engine: Path, work: Work, *, device: str | None, progress: Progress) -> Timed:
    """Time an engine with its own runtime; one that runs on a server only is a `UsageError`."""
    runtime = Description.read(engine).runtime
    if runtime not in STOPWATCHES:
        raise UsageError(
            f"{engine}: the runtime {runtime} cannot be timed in this process",
            hint="serve it, then enginesmith latency URL",
        )
    try:
        module = importlib.import_module(STOPWATCHES[runtime])
    except ImportError as error:
        raise ToolError(
            f"the runtime {runtime} cannot be loaded: {error}",
            hint=f"pip install 'enginesmith[{runtime}]', then enginesmith doctor",
        ) from error
    return cast("Stopwatch", module).time(engine, work, device, progress)
