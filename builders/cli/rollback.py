"""``enginesmith rollback``: point a channel back."""

from pathlib import Path

import click

from builders.cli import options, output
from builders.pipeline import shelf


@click.command("rollback")
@options.CHANNEL
@click.option("--to", type=int, metavar="SEQ", help="Record to return to [default: the last].")
@click.option("--reason", default="", help="Why; kept in the channel's history.")
@options.STORE
@options.KEY
@options.JSON
def command(
    channel: str, to: int | None, reason: str, store: Path | None, key: Path | None, as_json: bool
) -> None:
    """Point CHANNEL back to the promotion before this one, or to record SEQ of its history.

    The release there is verified first. The history only grows: a rollback is a new record.
    """
    entry = shelf.rollback(options.shelf(store, key), channel, to=to, reason=reason)
    output.emit(output.as_json(entry) if as_json else f"{channel} → {entry['digest']}")
