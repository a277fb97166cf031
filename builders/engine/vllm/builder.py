"""Make a deployable directory for vLLM: the checkpoint's files, its arguments and a record.

Nothing is compiled and no vLLM is needed: what is checked is that the checkpoint is what was asked
for, and that the ledger knows vLLM to load it.
"""

import json
from pathlib import Path
from typing import Final

from builders import files
from builders.bundle import fingerprint
from builders.checkpoint import Checkpoint
from builders.emit import render_yaml
from builders.engine.description import Description, EngineSettings
from builders.engine.sources import place, read_object, refuse_other_cache
from builders.engine.vllm.arguments import VllmSettings, arguments, require
from builders.errors import PlanError, UsageError
from builders.ledger import algorithm, support
from builders.progress import Progress

LANE: Final = "vllm"
CONFIG: Final = "vllm.yaml"
RECORD: Final = "enginesmith.json"


def build(
    checkpoint: Path,
    settings: EngineSettings,
    out: Path,
    progress: Progress,
    *,
    owned: bool = False,
) -> None:
    """Fill ``out`` with `checkpoint/`, `vllm.yaml`, `engine.json` and `enginesmith.json`."""
    request = require(settings)
    source = Checkpoint.open(checkpoint)
    refusals = support(request.recipe, request.tier, LANE, request.version)
    if refusals:
        raise PlanError(refusals)
    _check(source, request)
    args = arguments(request)
    with files.disk_errors(f"building {out}"):
        place(source, out, progress, owned=owned)
        files.write_atomic(out / CONFIG, render_yaml(args))
        _describe(request, args, out)


def on_gpu(engine: Path) -> bool:
    """Whether an engine is for a GPU, as its record says."""
    return bool(read_object(engine / RECORD).get("sm"))


def _check(source: Checkpoint, request: VllmSettings) -> None:
    """What the checkpoint was calibrated for must be what is asked of vLLM."""
    if request.context > source.context:
        raise UsageError(
            f"{source.path}: made for {source.context} tokens, not {request.context}",
            hint=f"set context in [serve] to at most {source.context}",
        )
    asked = request.kv_cache.value if request.kv_cache.quantized else ""
    refuse_other_cache(source, asked, "vLLM")


def _describe(request: VllmSettings, args: dict[str, object], out: Path) -> None:
    chosen = algorithm(request.recipe)
    Description(
        runtime=LANE,
        version=request.version,
        settings=request,
        quantization=chosen.name if chosen else "",
    ).write(out)
    record = {
        "lane": LANE,
        "version": request.version,
        "tier": request.tier.name,
        "sm": request.tier.sm,
        "world": request.tp * request.pp,
        "config_digest": fingerprint(args),
    }
    files.write_atomic(out / RECORD, json.dumps(record, indent=2, sort_keys=True) + "\n")
