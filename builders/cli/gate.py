"""``enginesmith gate``: judge the candidate, promote nothing."""

from pathlib import Path

import click

from builders import pipeline
from builders.cli import ci, options, output, watch
from builders.errors import PlanError, UsageError
from builders.pipeline.request import Request


@click.command("gate")
@options.stage
@options.JUNIT
@click.option(
    "--power", "only_power", is_flag=True, help="Say what the gates can certify, and run none."
)
@click.pass_context
def command(
    ctx: click.Context,
    file: Path,
    overrides: tuple[str, ...],
    store: Path | None,
    out: Path | None,
    as_json: bool,
    why: bool,
    junit: Path | None,
    only_power: bool,
) -> None:
    """Judge the candidate against its baseline, by the policy; nothing is promoted.

    Exits 0 when every gate passed, 10 when one failed, else 11 when one was inconclusive. --out
    leaves the evidence and the report in a folder of your choice. --power exits 3 when a gate could
    only end inconclusive.
    """
    if only_power:
        show_power(options.request(file, overrides, store), as_json=as_json)
        return
    with ci.gates(junit, str(file)), watch.terminal(why=why) as watcher:
        result = pipeline.gate(options.request(file, overrides, store), watcher, out)
    ci.tell(result.report, result.landing, junit)
    output.emit(output.as_json(output.judged(result)) if as_json else output.judged_text(result))
    ctx.exit(output.EXIT[result.outcome])


def show_power(request: Request, *, as_json: bool) -> None:
    """Print what the policy can certify; refuse it where that is nothing."""
    found = pipeline.power(request)
    if found is None:
        raise UsageError("there is no policy yet", hint="gates.policy in the release file names it")
    output.emit(output.as_json(found.as_json()) if as_json else output.power(found))
    if refusals := found.refusals():
        raise PlanError(refusals)
