"""What every runtime needs of a checkpoint: its files in the engine, and what they declare."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from builders import files
from builders.autopsy.modelopt import BESIDE
from builders.checkpoint import Checkpoint
from builders.errors import ToolError, UsageError
from builders.progress import Progress

CHECKPOINT: Final = "checkpoint"
_MOST: Final = 16 << 20  # bytes of a configuration
_WANTED: Final = frozenset({".json", ".txt", ".model", ".jinja", ".tiktoken"})


def place(source: Checkpoint, out: Path, progress: Progress, *, owned: bool) -> None:
    """Put the files that a runtime loads into `checkpoint/` of ``out``; ``owned`` ones are linked.

    Weights in formats that run code when they are loaded are left behind, and weights that no
    index names.
    """
    others = (p for p in source.path.iterdir() if p.is_file() and _is_wanted(p))
    wanted = sorted({*others, *source.shards})
    (out / CHECKPOINT).mkdir(parents=True)
    for done, path in enumerate(wanted):
        progress("place files", done, len(wanted), unit="files")
        files.place(path, out / CHECKPOINT / path.name, owned=owned)
    progress("place files", len(wanted), len(wanted), unit="files")


def declares(source: Checkpoint, key: str) -> str:
    """Return what a checkpoint says of its quantization, "" for nothing.

    `hf_quant_config.json` wins where both files declare something, as TensorRT-LLM has it.
    """
    beside = source.path / BESIDE
    table: object = source.quantization
    if beside.is_file():
        table = read_object(beside).get("quantization")
    value = table.get(key) if isinstance(table, Mapping) else None
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{source.path}: {key} must be a text, not {value!r}")
    return value or ""


def refuse_other_cache(source: Checkpoint, asked: str, runtime: str) -> None:
    """Refuse a checkpoint that was calibrated for another KV cache than is ``asked`` ("": none)."""
    cache = declares(source, "kv_cache_quant_algo").lower()
    if cache and cache != asked:
        raise ToolError(
            f"{source.path} was calibrated for a KV cache in {cache}, and {asked or 'none'} is "
            f"asked for: {runtime} would take the checkpoint's",
            hint=f'quantize.kv_cache = "{cache}", or quantize without it',
        )


def read_object(file: Path) -> Mapping[str, object]:
    """Read a JSON object of reasonable size; anything else is a `UsageError` that says where."""
    try:
        if file.stat().st_size > _MOST:
            raise broken(file, f"it is larger than {_MOST >> 20} MiB")
        data = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file", hint="is this an engine directory?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise broken(file, f"not valid JSON ({error})") from error
    if not isinstance(data, Mapping):
        raise broken(file, "it must hold an object")
    return data


def _is_wanted(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix in _WANTED


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def broken(file: Path, why: str) -> UsageError:
    """Return the error of a configuration that cannot be read."""
    return UsageError(
        f"{file}: {why}", hint="the engine's configuration is damaged; build it again"
    )
