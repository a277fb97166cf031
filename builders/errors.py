"""Every error a user can meet, and the exit code that goes with each.

BuildersError      1   something we understand went wrong
  UsageError       2   the command line or a file we were given is not valid
  PlanError        3   this recipe cannot run on this tier or runtime
  ToolError        4   a library or program we drive failed
  EvidenceError    5   a gate could not be measured
  ReleaseError     6   the store refused: bad signature, tampered bundle, unknown channel

Answers are not errors: 0 passed, 10 judged and failed, 11 judged and inconclusive.
Interrupted: 130 (SIGINT) and 143 (SIGTERM).
"""

from dataclasses import dataclass
from typing import ClassVar


class BuildersError(Exception):
    """Root of all expected errors: what happened, and what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class UsageError(BuildersError):
    """The command line or a file we were given is not valid."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a plan is impossible, and what to change."""

    reason: str
    hint: str


class PlanError(BuildersError):
    """The plan was refused; carries every reason found, not only the first."""

    exit_code = 3

    def __init__(self, refusals: tuple[Refusal, ...]) -> None:
        first = refusals[0]
        more = f" (and {len(refusals) - 1} more)" if len(refusals) > 1 else ""
        super().__init__(f"{first.reason}{more}", hint=first.hint)
        self.refusals = refusals


class ToolError(BuildersError):
    """A library or program we drive failed."""

    exit_code = 4


class EvidenceError(BuildersError):
    """A gate could not be measured."""

    exit_code = 5


class ReleaseError(BuildersError):
    """The store refused: bad signature, tampered bundle, unknown channel."""

    exit_code = 6
