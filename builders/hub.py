"""Fetch pinned revisions from the Hugging Face hub: a model, or a file of a data set.

Pickles are never asked for.
"""

from pathlib import Path
from typing import Final

import httpx
from huggingface_hub import hf_hub_download, snapshot_download

from builders.errors import ToolError

WANTED: Final = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.jsonl")


def fetch(hub_id: str, revision: str) -> Path:
    """Return the local snapshot at a 40-hex revision; what is absent is downloaded."""
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(WANTED)))
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
