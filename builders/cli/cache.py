"""``enginesmith cache``: what the store would reuse, and why not."""

from pathlib import Path

import click

from builders import pipeline
from builders.cli import options, output, watch


@click.group("cache")
def command() -> None:
    """Ask the store what it would reuse.

    Every stage, an engine above all, is keyed by content: weights, recipe, flags, versions, GPU,
    and the code that does the work. Builders that race do the work once.
    """


@command.command("why")
@options.FILE
@options.SET
@options.STORE
@options.JSON
def why(file: Path, overrides: tuple[str, ...], store: Path | None, as_json: bool) -> None:
    """Say of each stage of RELEASE.toml that it is done, or what changed so that it would run."""
    with watch.terminal() as watcher:
        _, stages = pipeline.dry_run(options.request(file, overrides, store), watcher)
    output.emit(output.as_json({"stages": stages}) if as_json else output.facts(stages))
