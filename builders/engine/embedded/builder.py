"""Make an engine for the embedded runtime: the checkpoint's files and `engine.json`, no torch.

What the loader could not read is refused here, from headers alone, in milliseconds.
"""

from pathlib import Path

from builders import files
from builders.checkpoint import Checkpoint
from builders.engine.description import Description, EngineSettings
from builders.engine.embedded.declaration import KV_FORMATS, Declaration
from builders.engine.sources import place
from builders.errors import ToolError, UsageError
from builders.formats import UNQUANTIZED
from builders.progress import Progress


def build(
    checkpoint: Path,
    settings: EngineSettings,
    out: Path,
    progress: Progress,
    *,
    owned: bool = False,
) -> None:
    """Fill ``out`` with `engine.json` and `checkpoint/`; files that are ``owned`` are linked."""
    source = Checkpoint.open(checkpoint)
    declaration = Declaration.read(source)
    _check_settings(source, declaration, settings)
    with files.disk_errors(f"building {out}"):
        place(source, out, progress, owned=owned)
        said = declaration.algorithm
        Description.of("embedded", settings, said).write(out)


def _check_settings(source: Checkpoint, declaration: Declaration, settings: EngineSettings) -> None:
    if settings.context > source.context:
        raise UsageError(
            f"{source.path}: made for {source.context} tokens, not {settings.context}",
            hint=f"set context in [serve] to at most {source.context}",
        )
    if settings.dtype is not None and settings.dtype not in UNQUANTIZED:
        raise UsageError(
            f"{settings.dtype.value} is no format to compute in",
            hint=f"choose {', '.join(sorted(fmt.value for fmt in UNQUANTIZED))}",
        )
    _check_kv_cache(source, declaration, settings)


def _check_kv_cache(source: Checkpoint, declaration: Declaration, settings: EngineSettings) -> None:
    """A calibrated cache must be used; one without scales may be quantized with scale 1."""
    asked, declared = settings.kv_cache, declaration.kv_cache
    if declared.quantized and asked is not declared:
        raise ToolError(
            f"{source.path}: calibrated for a KV cache in {declared.value}, asked for "
            f"{asked.value}",
            hint=f"build with kv_cache = {declared.value}, or quantize without it",
        )
    if asked.quantized and asked not in KV_FORMATS:
        raise ToolError(
            f"the embedded runtime has no KV cache in {asked.value}",
            hint="set kv_cache to fp8, nvfp4 or none in [quantize]",
        )
    if asked.block and source.head_dim % asked.block:
        raise ToolError(
            f"{source.path}: heads of {source.head_dim} values do not divide into the blocks of "
            f"{asked.block} of a KV cache in {asked.value}",
            hint="set kv_cache to fp8 or none in [quantize]",
        )
