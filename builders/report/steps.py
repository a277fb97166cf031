"""What to do next, as commands: how to look closer, verify, serve, and take it back."""

import shlex
from dataclasses import dataclass

from builders.report.model import Report
from builders.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and what it is for."""

    purpose: str
    command: str


def after(report: Report) -> tuple[Step, ...]:
    """Return the commands that make sense after this outcome."""
    channel = shlex.quote(report.channel)
    look = (
        Step("See what the channel points to", f"enginesmith show {channel}"),
        Step("See every release it pointed to", f"enginesmith history {channel}"),
    )
    if report.outcome is not Outcome.PASSED:
        return look
    return (
        Step("Check the signature and every digest", f"enginesmith verify {channel}"),
        Step("Serve it on Triton at loopback", f"enginesmith serve {channel}"),
        look[1],
        Step("Go back to the release before it", f"enginesmith rollback {channel}"),
    )
