"""``enginesmith gate``: judge the candidate, promote nothing."""

from pathlib import Path

import click

from builders import pipeline
from builders.cli import options, output, watch


@click.command("gate")
@options.stage
@click.pass_context
def command(
    ctx: click.Context,
    file: Path,
    overrides: tuple[str, ...],
    store: Path | None,
    out: Path | None,
    as_json: bool,
    why: bool,
) -> None:
    """Judge the candidate against its baseline, by the policy; nothing is promoted.

    Exits 0 when every gate passed, 10 when one failed, else 11 when one was inconclusive. --out
    leaves the evidence and the report in a folder of your choice.
    """
    with watch.terminal(why=why) as watcher:
        result = pipeline.gate(options.request(file, overrides, store), watcher, out)
    output.emit(output.as_json(output.judged(result)) if as_json else output.judged_text(result))
    ctx.exit(output.EXIT[result.outcome])
