"""``enginesmith verify``: is it what was signed, whole?"""

from pathlib import Path

import click

from builders.cli import options, output
from builders.pipeline import shelf


@click.command("verify")
@click.argument("release", metavar="CHANNEL|DIGEST")
@options.STORE
@options.KEY
@options.JSON
def command(release: str, store: Path | None, key: Path | None, as_json: bool) -> None:
    """Verify the signature of a release and every byte of it.

    Exits 6 and names the file when anything is missing, added or changed.
    """
    found = shelf.verify(options.shelf(store, key), release)
    text = f"{found['release']}: whole, {found['files']} files, signed by {found['signed_by']}"
    output.emit(output.as_json(found) if as_json else text)
