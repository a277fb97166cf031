"""``enginesmith judge``: derive verdicts again from evidence, offline."""

from pathlib import Path

import click

from builders.cli import ci, options, output
from builders.pipeline import judging


@click.command("judge")
@click.argument("folder", type=click.Path(path_type=Path), metavar="BUNDLE|EVIDENCE")
@options.POLICY
@options.JSON
@options.JUNIT
@click.pass_context
def command(
    ctx: click.Context,
    folder: Path,
    policy: Path | None,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Judge what was measured before: a bundle, what gate --out left, or other tools' results.

    Needs no model, no GPU and no network. Verdicts recorded in the folder must come out again.
    Exits like gate: 0 passed, 10 failed, 11 inconclusive, 5 could not be judged, and 6 when what
    was recorded is not what the evidence says. Results of lm-eval, NeMo Evaluator, AIPerf and
    guidellm are read from two folders, EVIDENCE/baseline and EVIDENCE/candidate.
    """
    with ci.gates(junit, str(folder)):
        found = judging.judge(folder, policy)
    ci.tell(found.report, None, junit)
    output.emit(output.as_json(found.as_json()) if as_json else output.judgement(found))
    ctx.exit(output.EXIT[found.report.outcome])
