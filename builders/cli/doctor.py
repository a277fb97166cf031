"""``enginesmith doctor``: what is installed, what is missing, and the line that mends it."""

from dataclasses import asdict

import click

from builders.cli import options, output
from builders.pipeline import health


@click.command("doctor")
@options.JSON
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Say what is installed, what each lane still needs, and the line that mends it.

    Exits 4 when something is missing that works on every machine; a lane that needs a GPU or a
    container may be absent.
    """
    found = health.examine(options.home())
    if as_json:
        output.emit(output.as_json(asdict(found) | {"sound": found.sound}))
    else:
        output.emit(output.facts(found.host | found.versions))
        output.emit("GPUs          " + (", ".join(found.gpus) or "none"))
        for finding in found.findings:
            state = "ready" if finding.ready else f"missing {finding.missing}; {finding.mend}"
            output.emit(f"{finding.lane:<12}  {state}")
    ctx.exit(0 if found.sound else 4)
