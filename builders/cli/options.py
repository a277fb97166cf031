"""Arguments and options that several commands share, each written once."""

from pathlib import Path
from typing import Final

import click

FILE: Final = click.argument("file", type=click.Path(path_type=Path), metavar="RELEASE.toml")
SET: Final = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one key, for example target.tier=h100; repeatable.",
)
STORE: Final = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where stages and releases are kept [default: .enginesmith/store, or release.store].",
)
JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
OUT: Final = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Leave a copy of the result in this new or empty folder.",
)
WHY: Final = click.option("--why", is_flag=True, help="Say for each stage why it ran or did not.")
KEY: Final = click.option(
    "--key",
    "key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PUB.pem",
    help="Trust this public key only [default: the keys in .enginesmith/keys/trusted].",
)
CHANNEL: Final = click.argument("channel", metavar="CHANNEL")
