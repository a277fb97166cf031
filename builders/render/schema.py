"""Reads configurations with Triton's own schema, and a rendered repository against its meaning."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from builders.errors import ToolError
from builders.render.lint.pbtxt import PLACEHOLDER
from builders.render.model import Model

CONFIG: Final = "config.pbtxt"
_PLACE: Final = re.compile(r"(\d+):\d+ : (.*)", re.DOTALL)
# What stands in for a placeholder outside of quotes, so that the rest of a file is read too.
_FILLINGS: Final = ("1", "true", "TYPE_FP32")


def fault(text: str) -> tuple[int, str] | None:
    """Return the line and the first thing that the schema refuses, or None.

    Placeholders are no faults here: each counts as whatever would fit its place.
    """
    filled, error = text, _refused(text)
    for placeholder in PLACEHOLDER.findall(text):
        tries = [filled.replace(placeholder, filling, 1) for filling in _FILLINGS]
        filled = next((one for one in tries if _further(one, filled)), tries[0])
        error = _refused(filled)
    return error


def _further(changed: str, before: str) -> bool:
    """Whether a filling lets the schema read on: past the place where it stopped, or to the end."""
    now, then = _refused(changed), _refused(before)
    return now is None or then is None or now > then


def _refused(text: str) -> tuple[int, str] | None:
    try:
        text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        found = _PLACE.match(str(error))
        return (int(found[1]), found[2]) if found else (0, str(error))
    return None


def differences(repository: Path, meant: Sequence[Model]) -> Iterator[str]:
    """Say what a rendered repository has otherwise than it was meant."""
    there = {path.parent.name for path in repository.glob(f"*/{CONFIG}")}
    for name in sorted(there ^ {model.name for model in meant}):
        yield f"{name}/{CONFIG}: {'is not meant to be there' if name in there else 'is missing'}"
    for model in (one for one in meant if one.name in there):
        wanted = json_format.ParseDict(dict(model.meant), ModelConfig())
        try:
            text = (repository / model.name / CONFIG).read_text(encoding="utf-8")
            found = text_format.Parse(text, ModelConfig())
        except (UnicodeDecodeError, text_format.ParseError) as error:
            yield f"{model.name}/{CONFIG}: cannot be read: {error}"
            continue
        if found != wanted:
            fields = (field.name for field in ModelConfig.DESCRIPTOR.fields)
            differ = [name for name in fields if getattr(found, name) != getattr(wanted, name)]
            yield f"{model.name}/{CONFIG}: {', '.join(differ)}: not what was meant"


def check(repository: Path, found: Sequence[str], meant: Sequence[Model]) -> None:
    """Refuse a repository with findings, or other than it was meant: a `ToolError`."""
    faults = [*found, *differences(repository, meant)]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ToolError(
            f"{repository}/{faults[0]}{more}",
            hint="the rendered repository is not what was meant: remove it and render again",
        )
