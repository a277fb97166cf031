"""``enginesmith lint``: a Triton model repository, whoever wrote it."""

from collections.abc import Sequence
from pathlib import Path

import click

from builders.cli import options, output
from builders.render.lint import Finding, lint


@click.command("lint")
@click.argument("repository", type=click.Path(path_type=Path), metavar="REPOSITORY")
@options.JSON
@click.pass_context
def command(ctx: click.Context, repository: Path, as_json: bool) -> None:
    """Examine a Triton model repository: would Triton load it, and would it stream?

    Knows NVIDIA's models for TensorRT-LLM (compiled engines and LLM API) and vLLM's. Starts nothing
    and needs no GPU. Exits 10 when a finding stops the line; warnings do not.
    """
    found = lint(repository)
    stops = sum(finding.stops for finding in found)
    if as_json:
        output.emit(output.as_json({"sound": not stops, "findings": [f.as_json() for f in found]}))
    else:
        output.emit(_text(found, stops))
    ctx.exit(10 if stops else 0)


def _text(found: Sequence[Finding], stops: int) -> str:
    lines = [f"{one.severity:<4}  {one}; {one.hint}" for one in found]
    warns = len(found) - stops
    verdict = f"sound: {warns} warnings" if found else "sound: nothing found"
    return "\n".join([*lines, f"stop: {stops} findings stop, {warns} warn" if stops else verdict])
