"""``enginesmith quantize``: one stage, and what it needs."""

from typing import Any

import click

from builders import pipeline
from builders.cli import options, output


@click.command("quantize")
@options.stage
def command(**arguments: Any) -> None:  # noqa: ANN401 - passed on whole
    """Quantize the checkpoint by the recipe.

    Writes a unified Hugging Face checkpoint with its scales, checked tensor by tensor.

    A stage that was done before for the same inputs is not done again. --out leaves the result
    in a folder of your choice.
    """
    output.stage(pipeline.quantize, **arguments)
