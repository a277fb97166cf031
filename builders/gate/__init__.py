"""Gates: questions with a yes, a no and a don't-know. Knows no model, no server and no bundle.

A gate is a module: it reads its table of the policy, says what goes into its measurement, measures
one model (or a pair of endpoints) into a folder of evidence, and judges from evidence alone. All
gates are light and judge with the standard library only, so that a stranger can recompute a
verdict anywhere. What is heavy (lm-eval) stands in ``harness``, loaded to measure.
"""

import importlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from builders.errors import UsageError
from builders.parse import Table, nearest
from builders.progress import Progress, silent
from builders.scorer import Column, Scorer, TokenScores
from builders.verdict import Verdict

if TYPE_CHECKING:
    from builders.gate.answering import preference, prompts
    from builders.gate.evidence import Evidence
    from builders.gate.scoring import accuracy, perplexity
    from builders.gate.speed import latency

GATES: Final[Mapping[str, str]] = {
    "perplexity": "builders.gate.scoring.perplexity",
    "accuracy": "builders.gate.scoring.accuracy",
    "prompts": "builders.gate.answering.prompts",
    "preference": "builders.gate.answering.preference",
    "latency": "builders.gate.speed.latency",
}

Settings = TypeVar("Settings")
Subject_contra = TypeVar("Subject_contra", contravariant=True)


class Ends(Protocol):
    """A scorer that does less work where only the last tokens of a row matter; not every one is."""

    def score_ends(
        self,
        rows: Sequence[Sequence[int]],
        wanted: Sequence[int],
        *,
        progress: Progress = silent,
    ) -> Sequence[TokenScores]:
        """Score at least so many of each row's last tokens, as the last of what is returned."""


class Choices(Protocol):
    """What a model would have chosen at each place of one row, from the second to the last."""

    @property
    def tokens(self) -> Column:
        """The likeliest tokens of each place, the first choice first."""

    @property
    def logprobs(self) -> Column:
        """The log-probability of each of them, in nats."""


class Distributing(Protocol):
    """A scorer that also tells what else it would have said; not every runtime does."""

    def distributions(
        self, rows: Sequence[Sequence[int]], top: int, *, progress: Progress = silent
    ) -> Sequence[Choices]:
        """Return the ``top`` likeliest tokens at each place of each row."""


class Chunk(Protocol):
    """A piece of an answer as it arrived."""

    @property
    def text(self) -> str:
        """What to append to the answer."""

    @property
    def tokens(self) -> int:
        """How many tokens the piece carries."""

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended, on its last piece."""


class Endpoint(Protocol):
    """A served model that streams answers."""

    def stream(
        self,
        prompt: str,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        stop: Sequence[str],
        ignore_eos: bool,
    ) -> AsyncIterator[Chunk]:
        """Answer a prompt, piece by piece; a server that fails raises a `BuildersError`."""


# Opened inside ``measure``: a client belongs to the event loop in which it was made.
OpenEndpoint = Callable[[], AbstractAsyncContextManager[Endpoint]]


class Gate(Protocol[Settings, Subject_contra]):
    """What each gate module defines."""

    @property
    def NEEDS(self) -> str:
        """What ``measure`` measures: ``scorer``, ``endpoint`` or ``endpoint-pair``."""

    def parse(self, table: Table, *, beside: Path, confidence: float) -> Settings:
        """Read the gate's table; relative files lie in the folder ``beside``."""

    def inputs(self, settings: Settings) -> dict[str, object]:
        """Return all that changes the measurement, as JSON: never margins or confidence."""

    def check(self, settings: Settings) -> None:
        """Refuse what cannot be measured, before any work: `UsageError` naming file and line."""

    def measure(
        self, subject: Subject_contra, settings: Settings, out: Path, progress: Progress
    ) -> None:
        """Fill the existing folder ``out`` with evidence."""

    def judge(self, baseline: Path, candidate: Path, settings: Settings) -> tuple[Verdict, ...]:
        """Judge from two folders of evidence alone; measured as a pair, both are the same one."""


class Tried(Protocol[Settings]):
    """What a gate defines beside, whose instrument is tried before it judges."""

    def few(self, settings: Settings) -> Settings | None:
        """Return the settings under which a control is measured; None where none is wanted."""


class Controlled(Protocol[Settings]):
    """What a gate defines beside, whose instrument is tried on a few units before it judges."""

    def few(self, settings: Settings) -> Settings:
        """Return the settings under which a control is measured: fewer units, the same ones."""

    def sound(self, before: "Evidence", after: "Evidence") -> None:
        """Raise an `EvidenceError` where the instrument was blind or the baseline knows nothing."""

    def compare(
        self,
        before: "Evidence",
        after: "Evidence",
        settings: Settings,
        *,
        again: "Evidence | None" = None,
        more: float = 1.0,
    ) -> tuple[Verdict, ...]:
        """Judge two measurements, as if there had been ``more`` times as many units of the kind.

        ``again`` is the baseline measured twice, for what is shown beside the verdict.
        """


def load(name: str) -> Gate[Any, Any]:
    """Load a gate by name."""
    if name not in GATES:
        raise UsageError(f"unknown gate {name!r}", hint=nearest(name, GATES))
    return cast("Gate[Any, Any]", importlib.import_module(GATES[name]))


if TYPE_CHECKING:
    # mypy compares every gate with the Protocol here; at run time none is loaded.
    _perplexity: Gate[perplexity.Settings, Scorer] = perplexity
    _accuracy: Gate[accuracy.Settings, Scorer] = accuracy
    _prompts: Gate[prompts.Settings, OpenEndpoint] = prompts
    _preference: Gate[preference.Settings, latency.Pair] = preference
    _latency: Gate[latency.Settings, latency.Pair] = latency
    _controlled: tuple[
        Controlled[perplexity.Settings], Controlled[accuracy.Settings], Controlled[prompts.Settings]
    ] = (perplexity, accuracy, prompts)
    _tried: Tried[latency.Settings] = latency
