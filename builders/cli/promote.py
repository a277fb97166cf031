"""``enginesmith promote``: the end of the road, under the name that scripts look for."""

from typing import Any

import click

from builders.cli import options, release


@click.command("promote")
@options.stage
@options.JUNIT
def command(**arguments: Any) -> None:  # noqa: ANN401 - passed on whole
    """Promote what the gates let through, measuring first what is not measured yet.

    Exits like release: 0 promoted, 10 a gate failed, 11 inconclusive. --out leaves the sealed
    bundle in a folder of your choice.
    """
    click.get_current_context().invoke(release.command, dry_run=False, **arguments)
