"""``enginesmith compare``: two releases, or two tools' results, one against the other."""

from pathlib import Path

import click

from builders.cli import ci, options, output
from builders.pipeline import judging


@click.command("compare")
@click.argument("baseline", type=click.Path(path_type=Path), metavar="A")
@click.argument("candidate", type=click.Path(path_type=Path), metavar="B")
@options.POLICY
@options.JSON
@options.JUNIT
@click.pass_context
def command(
    ctx: click.Context,
    baseline: Path,
    candidate: Path,
    policy: Path | None,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Say whether B is worse than A: two bundles, evidence folders or other tools' results.

    Both must have answered the same items; pairs are compared, as a gate does. Nothing is promoted.
    Exits like gate.
    """
    with ci.gates(junit, str(candidate)):
        found = judging.compare(baseline, candidate, policy)
    ci.tell(found.report, None, junit)
    output.emit(output.as_json(found.as_json()) if as_json else output.judgement(found))
    ctx.exit(output.EXIT[found.report.outcome])
