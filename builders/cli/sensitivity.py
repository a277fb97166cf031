"""``enginesmith sensitivity``: which layers bear which formats."""

from pathlib import Path

import click

from builders.cli import options, output, watch
from builders.pipeline import sensitivity
from builders.quantize.sensitivity import RECIPES

COLUMNS = ("recipe", "layer", "block", "divergence", "changed")


@click.command("sensitivity")
@options.FILE
@options.SET
@options.STORE
@click.option(
    "--formats",
    default=",".join(RECIPES),
    show_default=True,
    metavar="RECIPE,…",
    help="The recipes whose formats are tried.",
)
@click.option("--most", type=int, default=20, show_default=True, help="Rows of the table; 0: all.")
@options.OUT
@options.JSON
def command(
    file: Path,
    overrides: tuple[str, ...],
    store: Path | None,
    formats: str,
    most: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure what each layer costs in each format: one at a time, at the model's output.

    Prints the costliest layers first: divergence in nats a token, and the share of changed first
    choices. --out leaves a heat map (sensitivity.html and .svg) and all numbers (.json) in a folder
    of your choice. What costs most can be left alone (quantize.exclude), or the recipe mixed can
    choose layer by layer. A run that is stopped goes on where it was.
    """
    names = tuple(name for name in map(str.strip, formats.split(",")) if name)
    request = options.request(file, overrides, store)
    with watch.terminal() as watcher:
        stage, found = sensitivity.measure(request, watcher, names, out)
    if as_json:
        output.emit(output.as_json(found.as_json() | {"path": str(out or stage.path)}))
        return
    costs = sorted(found.costs, key=lambda cost: -cost.divergence)
    rows = [
        {
            "recipe": cost.recipe,
            "layer": cost.layer if cost.layer >= 0 else "",
            "block": cost.block,
            "divergence": f"{cost.divergence:.3g}",
            "changed": f"{cost.changed:.2%}",
        }
        for cost in costs[: most or None]
    ]
    output.emit(output.table(rows, COLUMNS))
    output.emit(f"\nheat map {Path(out or stage.path) / sensitivity.PAGE}")
