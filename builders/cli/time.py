"""``enginesmith time``: how fast an engine is in this process, without a server."""

from pathlib import Path

import click

from builders.cli import options, output, watch
from builders.engine.timing import Work
from builders.pipeline import speed


@click.command("time")
@click.argument("source", type=click.Path(path_type=Path), metavar="ENGINE|CHECKPOINT")
@click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:1 [default: cuda if there].")
@click.option("--prompt-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--output-tokens", type=click.IntRange(min=2), default=64, show_default=True)
@click.option("--repeats", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--warm-up", type=click.IntRange(min=0), default=2, show_default=True)
@options.JSON
def command(
    source: Path,
    device: str | None,
    prompt_tokens: int,
    output_tokens: int,
    repeats: int,
    warm_up: int,
    as_json: bool,
) -> None:
    """Time prefill and decoding of one request at a time, by the loop that serves.

    Prompts are random tokens; the warm-up is thrown away; each measure has one-sided bounds at 95 %
    over the repeats. A checkpoint is made into an engine for the while.
    """
    work = Work(
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        repeats=repeats,
        warm_up=warm_up,
    )
    with watch.terminal() as watcher:
        found = speed.time(source, work, device, watcher.progress)
    output.emit(output.as_json(found.as_json()) if as_json else _text(found))


def _text(found: speed.Speed) -> str:
    rows = [
        {
            "measure": name,
            "value": f"{bounds.value:.4g}",
            "low": f"{bounds.low:.4g}",
            "high": f"{bounds.high:.4g}",
            "unit": unit,
        }
        for name, (bounds, unit) in found.bounds.items()
    ]
    head = f"{found.timed.device}, {found.work.prompt_tokens} + {found.work.output_tokens} tokens"
    table = output.table(rows, ("measure", "value", "low", "high", "unit"))
    return f"{head}, {found.work.repeats} repeats\n\n{table}"
