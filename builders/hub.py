"""Fetch a pinned revision of a model from the Hugging Face hub; pickles are never asked for."""

from pathlib import Path
from typing import Final

import httpx
from huggingface_hub import snapshot_download

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
