"""What a command asks of the pipeline."""

from dataclasses import dataclass
from pathlib import Path

from builders.home import Home


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The release file with its overrides, and where keys and store lie."""

    file: Path
    overrides: tuple[str, ...]
    store: Path | None
    home: Home
