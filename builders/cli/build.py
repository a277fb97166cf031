"""``enginesmith build``: one stage, and what it needs."""

from typing import Any

import click

from builders import pipeline
from builders.cli import options, output


@click.command("build")
@options.stage
def command(**arguments: Any) -> None:  # noqa: ANN401 - passed on whole
    """Build the engine that the runtime loads.

    Quantizes first, if that is not done yet.

    A stage that was done before for the same inputs is not done again. --out leaves the result
    in a folder of your choice.
    """
    output.stage(pipeline.build, **arguments)
