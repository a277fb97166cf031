"""Read files of one JSON object a line, naming the line that is not one."""

import json
from collections.abc import Iterator
from pathlib import Path

from builders.errors import UsageError


def text(path: Path) -> str:
    """Read a whole text file; a missing or unreadable one is a `UsageError` that names it."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file", hint="mend the path, or make the file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}", hint="the file must be UTF-8 text") from error


def objects(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield each object with the number of its line; blank lines are passed over."""
    for number, line in enumerate(text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise UsageError(
                f"{path}:{number}: {error}", hint="each line must be one JSON object"
            ) from None
        if not isinstance(value, dict):
            raise UsageError(f"{path}:{number}: not an object", hint='write {"...": ...}')
        yield number, value
