"""``enginesmith matrix-of-support``: tier × recipe × runtime × version, and why not."""

from pathlib import Path

import click

from builders import ledger, recipe
from builders.cli import output
from builders.cli.options import JSON
from builders.tiers import TIERS

HEAD = "tier  recipe           scheme   runtime  version   lanes            why not"


@click.command("matrix-of-support")
@click.option("--tier", "tiers", multiple=True, type=click.Choice(list(TIERS)), help="Only these.")
@click.option("--recipe", "names", multiple=True, metavar="NAME", help="Only these; repeatable.")
@click.option("--runtime", multiple=True, type=click.Choice(ledger.RUNTIMES), help="Only these.")
@JSON
def command(
    tiers: tuple[str, ...], names: tuple[str, ...], runtime: tuple[str, ...], as_json: bool
) -> None:
    """Say for every combination which lanes take it, or why none does.

    ``tensorrt`` stands for compiled engines and ``llmapi`` for the LLM API of TensorRT-LLM.
    """
    shipped = recipe.shipped()
    chosen = [recipe.find(name, beside=Path()) for name in names] if names else shipped.values()
    where = [TIERS[name] for name in tiers or TIERS]
    rows = [
        row for row in ledger.matrix(chosen, where) if row.runtime in (runtime or (row.runtime,))
    ]
    if as_json:
        output.emit(output.as_json([row.as_json() for row in rows]))
        return
    output.emit("\n".join([HEAD, *map(line, rows)]))


def line(row: ledger.Row) -> str:
    """Return one combination as one line of fixed columns."""
    why = "; ".join(refusal.reason for refusal in row.refusals)
    lanes = "+".join(row.lanes) or "–"
    return (
        f"{row.tier:<5} {row.recipe:<16} {row.scheme:<8} {row.runtime:<8} {row.version:<9} "
        f"{lanes:<16} {why}"
    ).rstrip()
