"""Tell a CI what the gates said: JUnit's file, GitHub's annotations and step summary.

On GitHub both come of themselves; the annotations go to stderr, so that --json stays JSON.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from builders import files, report
from builders.pipeline.stages import Unmeasured
from builders.report import Landing, Report, github, junit


@contextmanager
def gates(junit_file: Path | None, title: str) -> Iterator[None]:
    """Tell of a gate that could not be measured while the block runs, and let the error pass."""
    try:
        yield
    except Unmeasured as error:
        _write(junit_file, junit.unmeasured(title, error.gate, str(error)))
        _annotate([github.unmeasured(error.gate, str(error))], os.environ)
        summary = (
            f"## ✗ {error.gate} could not be measured\n\n`{str(error).replace('`', chr(39))}`\n"
        )
        _summarize(summary, os.environ)
        raise


def tell(found: Report, landing: Landing | None, junit_file: Path | None) -> None:
    """Tell of every gate's verdict."""
    _write(junit_file, report.as_junit(found))
    _annotate(report.annotations(found), os.environ)
    _summarize(report.as_markdown(found, landing), os.environ)


def _write(junit_file: Path | None, text: str) -> None:
    if junit_file:
        with files.disk_errors(f"write {junit_file}"):
            files.write_atomic(junit_file, text)


def _annotate(lines: tuple[str, ...] | list[str], env: Mapping[str, str]) -> None:
    if env.get("GITHUB_ACTIONS") == "true":
        for line in lines:
            click.echo(line, err=True)


def _summarize(text: str, env: Mapping[str, str]) -> None:
    if env.get("GITHUB_STEP_SUMMARY"):
        summary = Path(env["GITHUB_STEP_SUMMARY"])
        with files.disk_errors(f"write {summary}"), summary.open("a", encoding="utf-8") as file:
            file.write(text)
