"""Read other tools' files; what is not of the documented shape is an error that names its place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from builders.errors import EvidenceError, UsageError
from builders.gate import jsonl

Made = TypeVar("Made")


def lines(path: Path, make: Callable[[dict[str, Any]], Made]) -> list[Made]:
    """Make something of each line of a file of JSON lines."""
    try:
        found = list(jsonl.objects(path))
    except UsageError as error:
        raise EvidenceError(
            str(error), hint="the tool was stopped while it wrote: run it again"
        ) from error
    return [made(f"{path}:{number}", make, value) for number, value in found]


def whole(path: Path, make: Callable[[dict[str, Any]], Made]) -> Made:
    """Make something of a whole JSON file."""
    try:
        found = json.loads(jsonl.text(path))
    except (UsageError, ValueError) as error:
        raise EvidenceError(f"{path}: {error}", hint="run the tool again") from error
    return made(str(path), make, found)


def made(place: str, make: Callable[[dict[str, Any]], Made], value: dict[str, Any]) -> Made:
    """Make something, naming the place where a key is missing or a value is of another kind."""
    try:
        return make(value)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise EvidenceError(
            f"{place}: not of the shape that is known: {type(error).__name__} {error}",
            hint="the tool's format may have changed; the README names the versions that are read",
        ) from error
