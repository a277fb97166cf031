"""``enginesmith tiers``: the GPU families, what they multiply and what runs on them."""

from typing import Any

import click

from builders import ledger, recipe
from builders.cli import output
from builders.cli.options import JSON
from builders.tiers import GIB, TIERS, Tier


@click.command("tiers")
@JSON
def command(as_json: bool) -> None:
    """List the tiers: compute capability, memory, native formats, and the recipes each takes."""
    rows = [_row(tier) for tier in TIERS.values()]
    if as_json:
        output.emit(output.as_json(rows))
        return
    shown = [row | {key: " ".join(row[key]) or "–" for key in _LISTS} for row in rows]
    output.emit(output.table(shown, ("name", "architecture", "sm", "usable", *_LISTS)))


_LISTS = ("native", "trtllm", "vllm")


def _row(tier: Tier) -> dict[str, Any]:
    usable = ledger.usable_bytes(tier) if tier.gpu else 0
    return {
        "name": tier.name,
        "architecture": tier.architecture,
        "sm": tier.sm,
        "memory_bytes": tier.memory_bytes,
        "usable_bytes": usable,
        "usable": f"{usable / GIB:.1f} GiB" if usable else "–",
        "native": sorted(str(fmt.value) for fmt in tier.native),
        "trtllm": _taken(tier, "trtllm"),
        "vllm": _taken(tier, "vllm"),
    }


def _taken(tier: Tier, runtime: str) -> list[str]:
    """Name the recipes that the newest general release of a runtime takes on this tier."""
    version = ledger.newest(runtime)
    shipped = recipe.shipped().values()
    return [one.name for one in shipped if not ledger.support(one, tier, runtime, version)]
