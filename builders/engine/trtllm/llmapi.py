"""Make a deployable directory for the LLM API: the checkpoint's files, its YAML and a record.

Nothing is compiled, so this runs anywhere: what is checked is that the checkpoint is what was asked
for, and that this version of TensorRT-LLM knows every key.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

from builders import files
from builders.bundle import Tree, fingerprint
from builders.checkpoint import Checkpoint
from builders.emit import render_yaml
from builders.engine.description import Description, EngineSettings
from builders.engine.sources import declares, place, refuse_other_cache
from builders.engine.trtllm.flags import TUNING
from builders.engine.trtllm.llm_args import KV_CACHE, LANE, llm_args
from builders.engine.trtllm.machine import Gpu, Machine
from builders.engine.trtllm.request import TrtllmSettings, require
from builders.engine.trtllm.sidecar import Sidecar, certify
from builders.errors import PlanError, ToolError
from builders.ledger import algorithm, support
from builders.progress import Progress

CONFIG: Final = "llm_api.yaml"
_EXPERTS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def build(
    checkpoint: Path,
    settings: EngineSettings,
    out: Path,
    progress: Progress,
    *,
    owned: bool = False,
) -> None:
    """Fill ``out`` with `checkpoint/`, `llm_api.yaml`, `engine.json` and `enginesmith.json`."""
    request = require(settings)
    source = Checkpoint.open(checkpoint)
    refusals = support(request.recipe, request.tier, "trtllm", request.version, only=LANE)
    if refusals:
        raise PlanError(refusals)
    _check_declaration(source, request)
    args = arguments(source, request)
    with files.disk_errors(f"building {out}"):
        place(source, out, progress, owned=owned)
        files.write_atomic(out / CONFIG, render_yaml(args))
        _describe(request, args, out)


def arguments(source: Checkpoint, request: TrtllmSettings) -> dict[str, object]:
    """Return the LLM API's arguments for a checkpoint, without the model."""
    experts = any(source.number(key, 0) > 1 for key in _EXPERTS)
    options = replace(request.options, experts=experts)
    settings = request.build_settings(source.architecture)
    return llm_args(settings, request.version, options)


def _check_declaration(source: Checkpoint, request: TrtllmSettings) -> None:
    declared = declares(source, "quant_algo")
    chosen = algorithm(request.recipe)
    wanted = "" if chosen is None or chosen.name == "NO_QUANT" else chosen.name
    if declared.upper() != wanted.upper():
        raise ToolError(
            f"{source.path} declares {declared or 'no quantization'}, and {request.recipe.name} "
            f"writes {wanted or 'none'}",
            hint="quantize the checkpoint by this recipe first",
        )
    refuse_other_cache(source, KV_CACHE.get(request.kv_cache, ""), "TensorRT-LLM")


def _describe(request: TrtllmSettings, args: dict[str, object], out: Path) -> None:
    chosen = algorithm(request.recipe)
    Description(
        runtime=LANE,
        version=request.version,
        settings=request,
        quantization=chosen.name if chosen else "",
    ).write(out)
    tier = Gpu(name="", sm=request.tier.sm, memory_bytes=0)
    draft = Sidecar(
        lane=LANE,
        version=request.version,
        world=request.tp * request.pp,
        made_on=Machine(gpus=(tier,), tensorrt_llm=request.version),
        argv=(),
        tuning=TUNING,
        config_digest=fingerprint(args),
        changes=(),
        files=Tree(()),
    )
    certify(draft, out)
