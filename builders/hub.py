"""Fetch pinned revisions from the Hugging Face hub: a model, or a file of a data set.

Pickles are never asked for.
"""

import importlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import httpx
from huggingface_hub import constants, hf_hub_download, snapshot_download

from builders import files
from builders.bundle import fingerprint
from builders.errors import ToolError, UsageError
from builders.recipe import HubTexts

WANTED: Final = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.jsonl")
_TWICE: Final = ("consolidated*.safetensors",)  # the same weights in Mistral's own naming


def fetch(hub_id: str, revision: str) -> Path:
    """Return the local snapshot at a 40-hex revision; what is absent is downloaded."""
    try:
        return Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=list(WANTED), ignore_patterns=list(_TWICE)
            )
        )
    except (httpx.HTTPError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ToolError(
            f"{hub_id}@{revision[:8]} could not be fetched: {reason}",
            hint="check the name, HF_TOKEN and the network, or give model.path",
        ) from error


def fetch_file(hub_id: str, revision: str, file: str) -> Path:
    """Return one file of a data set at a 40-hex revision; it is downloaded if it is not here."""
    try:
        return Path(hf_hub_download(hub_id, file, revision=revision, repo_type="dataset"))
    except (httpx.HTTPError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ToolError(
            f"{hub_id}@{revision[:8]}/{file} could not be fetched: {reason}",
            hint="check the name, HF_TOKEN and the network, or name a local file",
        ) from error


def rows(texts: HubTexts, *, count: int) -> Path:
    """Return a JSON-lines file with the first texts of a split; they are fetched once and kept."""
    asked = fingerprint({
        "hub_id": texts.hub_id, "revision": texts.revision, "config": texts.config,
        "split": texts.split, "column": texts.column, "count": count,
    })  # fmt: skip
    place = Path(constants.HF_HOME) / "enginesmith" / f"{asked}.jsonl"
    if not place.is_file():
        found = list(islice(_stream(texts), count))
        place.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(place, "".join(json.dumps(row) + "\n" for row in found))
    return place


def _stream(texts: HubTexts) -> Iterator[dict[str, object]]:
    """Yield the texts of a split, row by row, downloading no more than is asked for."""
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise ToolError(
            f"{texts.name}: data sets of the hub are read by datasets, which is not installed",
            hint="pip install 'enginesmith[eval]', or name a local JSON-lines file",
        ) from error
    try:
        found = datasets.load_dataset(
            texts.hub_id,
            texts.config or None,
            split=texts.split,
            revision=texts.revision,
            streaming=True,
        )
        for row in found:
            yield _row(row, texts)
    except (httpx.HTTPError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ToolError(
            f"{texts.name} could not be read: {reason}",
            hint="check the name, HF_TOKEN and the network, or name a local JSON-lines file",
        ) from error


def _row(row: dict[str, Any], texts: HubTexts) -> dict[str, object]:
    column = texts.column or next((name for name in ("text", "messages") if name in row), "")
    if column not in row:
        raise UsageError(
            f"{texts.name} has no column {column or 'text or messages'!r}",
            hint=f"it has {', '.join(sorted(row))}: add &column=… to its name",
        )
    return {"text" if isinstance(row[column], str) else "messages": row[column]}
