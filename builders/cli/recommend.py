"""``enginesmith recommend``: from a model and a tier to a recipe, with every reason."""

from pathlib import Path

import click

from builders.checkpoint import Checkpoint
from builders.cli import options, output
from builders.ledger.tree import Quality
from builders.recommend import Recommendation, recommend
from builders.tiers import TIERS, tier


@click.command("recommend")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@click.option(
    "--tier", "name", type=click.Choice(list(TIERS)), required=True, help="Where it runs."
)
@click.option("--context", type=click.IntRange(min=1), help="Tokens [default: the model's own].")
@click.option("--concurrency", type=click.IntRange(min=1), default=4, help="Requests at once.")
@click.option(
    "--quality",
    type=click.Choice([quality.value for quality in Quality]),
    default=Quality.BALANCED.value,
    help="How much accuracy may be traded for memory.",
)
@options.JSON
def command(
    model: Path, name: str, context: int | None, concurrency: int, quality: str, as_json: bool
) -> None:
    """Recommend recipe, KV cache, runtime and GPUs for the checkpoint in MODEL, and say why.

    Exits 3 with every reason when nothing fits.
    """
    checkpoint = Checkpoint.open(model)
    length = context or checkpoint.context
    found = recommend(checkpoint, tier(name), length, concurrency, quality)
    output.emit(output.as_json(found.as_json()) if as_json else _text(found))


def _text(found: Recommendation) -> str:
    steps = [{"step": s.about, "choice": s.choice, "why": s.reason} for s in found.why]
    others = [{"instead": one.recipe, "why not": one.why_not} for one in found.alternatives]
    keys = " ".join(f"--set {key}={value}" for key, value in found.settings.items())
    return "\n\n".join(
        (
            output.table(steps, ("step", "choice", "why")),
            output.table(others, ("instead", "why not")),
            f"enginesmith plan release.toml {keys}",
        )
    )
