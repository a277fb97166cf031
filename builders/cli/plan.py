"""``enginesmith plan``: can it work, and what exactly would be done?"""

from pathlib import Path

import click

from builders import pipeline
from builders.cli import options, output
from builders.errors import PlanError


@click.command("plan")
@options.FILE
@options.SET
@options.JSON
def command(file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Resolve RELEASE.toml and say whether it can work, in well under a second.

    Exits 3 with every reason and its remedy when it cannot; a gate that could only end
    inconclusive is one.
    """
    request = options.request(file, overrides, None)
    try:
        resolved, power = pipeline.plan(request), pipeline.power(request)
        if power and (refusals := power.refusals()):
            raise PlanError(refusals)
    except PlanError as error:
        if as_json:
            output.emit(output.as_json({"refusals": output.refusals(error)}))
        raise
    if as_json:
        planned = {"plan": f"sha256:{resolved.digest}", **resolved.as_json()}
        output.emit(output.as_json(planned | {"power": power.as_json() if power else None}))
    else:
        below = f"\n\n{output.power(power)}" if power else ""
        output.emit(f"{output.plan(resolved)}{below}")
