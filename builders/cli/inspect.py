"""``enginesmith inspect``: a checkpoint, tensor by tensor."""

from pathlib import Path

import click

from builders import autopsy
from builders.checkpoint import Checkpoint
from builders.cli import examined, options, output


@click.command("inspect")
@click.argument("checkpoint", type=click.Path(path_type=Path), metavar="CHECKPOINT")
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT",
    help="What it was made from: shapes, settings, tokenizer and chat template are compared too.",
)
@click.option("--every-scale", is_flag=True, help="Read all scales, even more than a gigabyte.")
@options.JSON
@click.pass_context
def command(
    ctx: click.Context, checkpoint: Path, base: Path | None, every_scale: bool, as_json: bool
) -> None:
    """Examine a checkpoint, quantized or not, whoever made it: does it hold what it declares?

    Reads headers and scales only: seconds for hundreds of gigabytes. Exits 10 when a finding stops
    the line; warnings do not.
    """
    original = Checkpoint.open(base) if base else None
    limit = None if every_scale else autopsy.LIMIT
    inspection = autopsy.inspect(checkpoint, base=original, limit=limit)
    if as_json:
        output.emit(output.as_json(inspection.as_json()))
    else:
        parts = (examined.facts, examined.counts, examined.findings)
        output.emit("\n\n".join(part(inspection) for part in parts))
    ctx.exit(0 if inspection.sound else 10)
