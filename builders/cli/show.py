"""``enginesmith show``: what a release is made of, and why it was let through."""

from pathlib import Path

import click

from builders.cli import options, output
from builders.pipeline import shelf


@click.command("show")
@click.argument("release", metavar="CHANNEL|DIGEST")
@options.STORE
@options.KEY
@options.JSON
def command(release: str, store: Path | None, key: Path | None, as_json: bool) -> None:
    """Show what a release is made of, its verdicts, and where its files lie."""
    shown = shelf.show(options.shelf(store, key), release)
    output.emit(output.as_json(shown) if as_json else output.shown(shown))
