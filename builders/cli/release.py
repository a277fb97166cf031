"""``enginesmith release``: arguments, one call, its answer, an exit code."""

from pathlib import Path

import click

from builders import pipeline
from builders.cli import ci, options, output, watch


@click.command("release")
@options.FILE
@options.SET
@options.STORE
@options.OUT
@options.JSON
@options.WHY
@options.JUNIT
@click.option("--dry-run", is_flag=True, help="Say which stages would run, and run none.")
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
    dry_run: bool,
) -> None:
    """Carry a checkpoint to a promoted release.

    Plans, quantizes, builds, renders, serves, judges, signs and promotes. A stage that was done
    before for the same inputs is not done again. Exits 0 when the release was promoted, 10 when a
    gate failed, 11 when one was inconclusive; then nothing is promoted.
    """
    request = options.request(file, overrides, store)
    if dry_run:
        with watch.terminal() as watcher:
            resolved, stages = pipeline.dry_run(request, watcher)
        found = {"plan": f"sha256:{resolved.digest}", "stages": stages}
        lines = f"{output.plan(resolved)}\n\n{output.facts(stages)}"
        output.emit(output.as_json(found) if as_json else lines)
        return
    with ci.gates(junit, str(file)), watch.terminal(why=why) as watcher:
        result = pipeline.release(request, watcher, out)
    ci.tell(result.report, result.landing, junit)
    output.emit(output.as_json(output.judged(result)) if as_json else output.judged_text(result))
    ctx.exit(output.EXIT[result.outcome])
