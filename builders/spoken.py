"""What workers say: programs in another Python that answer a job with JSON, one object a line.

``{"progress": {"what", "done", "total", "unit"}}`` again and again, and at last ``{"result": {…}}``
or ``{"error": {"what", "hint", "kind"}}``. What their libraries print goes to a log.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from builders import process
from builders.errors import BuildersError, EvidenceError, ToolError, UsageError
from builders.progress import Progress

_KINDS: Final[Mapping[str, type[BuildersError]]] = {
    "usage": UsageError,
    "tool": ToolError,
    "evidence": EvidenceError,
}


def heard(line: str, log: Path, progress: Progress) -> Mapping[str, object] | None:
    """Take a line: return a result, pass progress on, raise the error that the worker meant."""
    spoken = parsed(line, log)
    if "progress" in spoken:
        _pass_on(spoken["progress"], progress)
        return None
    if "result" in spoken:
        return _mapping(spoken["result"], log)
    raise _failure(_mapping(spoken.get("error"), log), log)


def parsed(line: str, log: Path) -> Mapping[str, object]:
    """Return the object of a line; anything else breaks the protocol."""
    try:
        spoken = json.loads(line)
    except ValueError:
        spoken = None
    return _mapping(spoken, log)


def _mapping(value: object, log: Path) -> Mapping[str, object]:
    """Return a value that is an object."""
    if not isinstance(value, Mapping):
        raise ToolError(
            f"the worker broke the protocol:\n{process.tail(log)}", hint=f"the whole log: {log}"
        )
    return value


def _pass_on(said: object, progress: Progress) -> None:
    if isinstance(said, Mapping):
        done, total = float(said.get("done", 0)), float(said.get("total", 1))
        progress(str(said.get("what")), done, total, unit=str(said.get("unit", "")))


def _failure(error: Mapping[str, object], log: Path) -> BuildersError:
    kind = _KINDS.get(str(error.get("kind")), ToolError)
    hint = str(error.get("hint") or f"the whole log: {log}")
    return kind(str(error.get("what")), hint=hint)
