"""``enginesmith render``: one stage, and what it needs."""

from typing import Any

import click

from builders import pipeline
from builders.cli import options, output


@click.command("render")
@options.stage
def command(**arguments: Any) -> None:  # noqa: ANN401 - passed on whole
    """Render the Triton model repository.

    Quantizes and builds first, if that is not done yet.

    A stage that was done before for the same inputs is not done again. --out leaves the result
    in a folder of your choice.
    """
    output.stage(pipeline.render, **arguments)
