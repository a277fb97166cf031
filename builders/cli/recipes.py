"""``enginesmith recipes``: what there is to choose from."""

from typing import Any

import click

from builders import recipe
from builders.cli import output
from builders.cli.options import JSON
from builders.tiers import TIERS


@click.command("recipes")
@JSON
def command(as_json: bool) -> None:
    """List the recipes: formats, scheme, and the tiers whose Tensor Cores multiply them."""
    rows: list[dict[str, Any]] = [
        {
            "name": found.name,
            "scheme": found.scheme,
            "weights": found.weights.value,
            "activations": found.activations.value,
            "kv_cache": found.kv_cache.value,
            "native": [tier.name for tier in TIERS.values() if tier.gpu and found.native_on(tier)],
            "calibrated": found.calibrated,
            "summary": found.summary,
            "backend": found.backend,
            "memory_only": [
                tier.name for tier in TIERS.values() if tier.gpu and not found.native_on(tier)
            ],
            "keep": list(found.keep),
            "expects": found.expects,
            "source": found.source,
        }
        for found in recipe.shipped().values()
    ]
    if as_json:
        output.emit(output.as_json(rows))
        return
    shown = [row | {"native": " ".join(row["native"]) or "memory-only"} for row in rows]
    output.emit(output.table(shown, ("name", "scheme", "native", "summary")))
