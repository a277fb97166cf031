"""``enginesmith calibrate``: make calibration texts from what a service is really asked."""

from pathlib import Path

import click

from builders import files
from builders.cli import options, output
from builders.quantize import sample


@click.group("calibrate")
def command() -> None:
    """Make calibration texts from what a service is really asked."""


@command.command("sample")
@click.argument("traffic", type=click.Path(path_type=Path), metavar="TRAFFIC.jsonl")
@click.option("--count", type=int, default=512, show_default=True, help="How many to pick.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    required=True,
    help="Write the picked lines into this new file.",
)
@options.JSON
def picked(traffic: Path, count: int, out: Path, as_json: bool) -> None:
    """Pick a small set of texts that stands for all of TRAFFIC.

    One {"text": …} or {"messages": […]} a line. The picks are of every length and unlike each
    other; equal files give equal picks.
    """
    files.refuse_existing(out)
    found = sample.sample(traffic, count=count)
    with files.disk_errors(f"writing {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(out, b"".join(line + b"\n" for line in found.lines))
    facts = {
        "picked": len(found.lines),
        "texts": found.texts,
        "distinct": found.distinct,
        "path": str(out),
    }
    said = f"{facts['picked']} of {found.texts} texts ({found.distinct} distinct) → {out}"
    output.emit(output.as_json(facts) if as_json else said)
