"""Read the texts of a parquet file."""

from pathlib import Path

import pyarrow  # type: ignore[import-untyped]
from pyarrow import parquet

from builders.errors import UsageError


def texts(path: Path) -> list[str]:
    """Return the column ``text``; a file without one is a `UsageError`."""
    try:
        found: list[str] = parquet.read_table(path, columns=["text"])["text"].to_pylist()
    except (pyarrow.ArrowException, KeyError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path}: {reason}", hint='it needs a column "text"') from error
    return [text or "" for text in found]
