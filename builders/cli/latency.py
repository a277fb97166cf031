"""``enginesmith latency``: are two served models equally fast, wherever they run?"""

import os
from pathlib import Path
from typing import Final

import click

from builders.cli import options, output, watch
from builders.pipeline import speed
from builders.pipeline.speed import Served

COLUMNS: Final = ("gate", "outcome", "worse_by", "low", "high", "margin", "units")


@click.command("latency")
@click.argument("baseline", metavar="URL")
@click.argument("candidate", metavar="[URL]", default="")
@click.option("--model", required=True, help="The name under which the first is served.")
@click.option("--candidate-model", help="That of the second [default: the same].")
@click.option("--chat", is_flag=True, help="Ask as a chat, with the server's own template.")
@click.option("--key-variable", metavar="NAME", help="Environment variable with the servers' key.")
@click.option("--policy", type=click.Path(path_type=Path), help="Take its table latency.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A key of that table.")
@options.OUT
@options.JSON
@click.pass_context
def command(
    ctx: click.Context,
    baseline: str,
    candidate: str,
    model: str,
    candidate_model: str | None,
    chat: bool,
    key_variable: str | None,
    policy: Path | None,
    overrides: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure two servers in turns and judge; one URL is measured against itself.

    http://host:port/v1 is OpenAI's API, grpc://host:port Triton's. Exits as gate does; 5 when it
    could not be measured. --out leaves the evidence in a new folder.
    """
    key = os.environ.get(key_variable, "") if key_variable else ""
    old = Served(url=baseline, model=model, chat=chat, key=key)
    new = Served(url=candidate or baseline, model=candidate_model or model, chat=chat, key=key)
    settings = speed.latency_settings(policy, overrides)
    with watch.terminal() as watcher:
        found = speed.compare_latency(old, new, settings, out, watcher.progress)
    output.emit(output.as_json(found.as_json()) if as_json else _text(found))
    ctx.exit(output.EXIT[found.outcome])


def _text(found: speed.Compared) -> str:
    rows = [
        {name: _short(value) for name, value in verdict.as_json().items()}
        for verdict in found.verdicts
    ]
    lines = [f"{verdict.gate}: {verdict.detail}" for verdict in found.verdicts]
    numbers = {name: _short(x) for verdict in found.verdicts for name, x in verdict.numbers}
    return "\n".join([output.table(rows, COLUMNS), "", *lines, "", output.facts(numbers)])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
