"""``enginesmith env``: the environments that some quantizers and vLLM need."""

import click

from builders.cli import options, output, progress
from builders.environment import Environment, shipped

NAME = click.argument("name", metavar="NAME")


@click.group("env")
def command() -> None:
    """Make, list or remove the environments of programs that cannot stand beside the others.

    They lie under the home folder, in envs/. A stopped create is continued by the next one.
    """


@command.command("create")
@NAME
def create(name: str) -> None:
    """Make the environment NAME, or bring it up to date.

    Needs pip's usual index, and the disk that `env list` shows.
    """
    found = Environment.find(name, options.home().prepare())
    with progress.display() as display:
        found.create(display)
    output.emit(f"{found.name} is ready at {found.root}")


@command.command("list")
@options.JSON
def listed(as_json: bool) -> None:
    """List the environments: what each is for, whether it is ready, and what it takes."""
    home = options.home()
    rows = [
        {
            "name": name,
            "state": Environment.find(name, home).state,
            "gigabytes": requirements.bytes / 1e9,
            "summary": requirements.summary,
        }
        for name, requirements in shipped().items()
    ]
    if as_json:
        output.emit(output.as_json(rows))
        return
    output.emit(output.table(rows, ("name", "state", "gigabytes", "summary")))


@command.command("remove")
@NAME
def remove(name: str) -> None:
    """Remove the environment NAME and all that is in it."""
    found = Environment.find(name, options.home())
    found.remove()
    output.emit(f"removed {found.root}")
