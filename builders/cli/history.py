"""``enginesmith history``: what a channel pointed to."""

from pathlib import Path

import click

from builders.cli import options, output
from builders.pipeline import shelf


@click.command("history")
@options.CHANNEL
@options.STORE
@options.KEY
@options.JSON
def command(channel: str, store: Path | None, key: Path | None, as_json: bool) -> None:
    """List what CHANNEL pointed to, newest first."""
    entries = shelf.history(options.shelf(store, key), channel)
    output.emit(output.as_json(entries) if as_json else output.table(entries, output.HISTORY))
