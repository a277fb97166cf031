"""``enginesmith import``: a checkpoint that somebody else quantized, ready to be released."""

import json
from pathlib import Path
from typing import Final

import click

from builders import autopsy
from builders.autopsy import Inspection
from builders.cli import examined, options, output
from builders.errors import UsageError

_FORM: Final = "give a directory, or org/name@ and the 40 hex digits of a commit"


@click.command("import")
@click.argument("source", metavar="PATH|HUB_ID@REV")
@options.JSON
@click.pass_context
def command(ctx: click.Context, source: str, as_json: bool) -> None:
    """Recognize a pre-quantized checkpoint, examine it, and print its part of a release.toml.

    Knows ModelOpt, compressed-tensors, GPTQ, AWQ, bitsandbytes, MXFP4 and fine-grained FP8. Exits
    10 when a finding stops the line.
    """
    path, model = _locate(source)
    inspection = autopsy.inspect(path)
    stanza = _stanza(inspection, model) if inspection.sound else ""
    if as_json:
        output.emit(output.as_json(inspection.as_json() | {"release_toml": stanza}))
    else:
        parts = (examined.facts(inspection), examined.findings(inspection), stanza)
        output.emit("\n\n".join(part for part in parts if part))
    ctx.exit(0 if inspection.sound else 10)


def _locate(source: str) -> tuple[Path, str]:
    """Return where the checkpoint lies, and the lines that name it in a release file."""
    if Path(source).is_dir():
        return Path(source), f"path = {json.dumps(str(Path(source).resolve()))}"
    hub_id, _, revision = source.partition("@")
    pinned = len(revision) == 40 and set(revision) <= set("0123456789abcdef")
    if "/" not in hub_id or not pinned:
        raise UsageError(f"{source}: no such checkpoint directory", hint=_FORM)
    from builders import hub  # noqa: PLC0415 - httpx and huggingface_hub, only when asked for

    named = f'hub_id = {json.dumps(hub_id)}\nrevision = "{revision}"'
    return hub.fetch(hub_id, revision), named


def _stanza(inspection: Inspection, model: str) -> str:
    known = inspection.recognized
    recipe = known.recipe.name if known.quantized else "fp8"
    runtime = known.runtimes[0] if known.runtimes else "embedded"
    return (
        f"# {known.scheme}, {known.method} {known.algorithm}".rstrip()
        + f'\n[model]\n{model}\n\n[quantize]\nrecipe = "{recipe}"\n\n[target]\n'
        f'runtime = "{runtime}"'
    )
