"""Arguments and options that several commands share, each written once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from builders.home import Home
from builders.pipeline.request import Request

if TYPE_CHECKING:
    from builders.pipeline.shelf import Shelf

Command = TypeVar("Command", bound=Callable[..., Any])

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
    help="Where stages and releases are kept [default: release.store, else .enginesmith/store].",
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
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PUB.pem",
    help="Trust this public key only [default: those in .enginesmith/keys/trusted].",
)
POLICY: Final = click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="POLICY.toml",
    help="Judge by this policy [default: the evidence's own, else the standard profile].",
)
JUNIT: Final = click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.xml",
    help="Write JUnit's XML, a case for each gate.",
)
CHANNEL: Final = click.argument("channel", metavar="CHANNEL")


def stage(command: Command) -> Command:
    """Add what every single-stage command takes: FILE --set --store --out --json --why."""
    for option in (WHY, JSON, OUT, STORE, SET, FILE):
        command = option(command)
    return command


def request(file: Path, overrides: tuple[str, ...], store: Path | None) -> Request:
    """Put together what the pipeline is asked, with the home that holds for this folder."""
    return Request(file=file, overrides=overrides, store=store, home=home())


def home() -> Home:
    """Find the keys and the default store that hold for this folder."""
    return Home.find(Path.cwd(), os.environ)


def shelf(store: Path | None, key: Path | None) -> "Shelf":
    """Open the store that holds for this folder, trusting one key or all that are trusted here."""
    from builders.pipeline.shelf import Shelf  # noqa: PLC0415 - most commands never need it

    return Shelf.open(home(), store, key)
