"""What differs from lane to lane: how an engine is asked for, and which repository serves it."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from builders.checkpoint import Checkpoint
from builders.engine import EngineSettings
from builders.engine.trtllm.adopt import adopt
from builders.engine.trtllm.commands import Deployed, serve_argv
from builders.engine.trtllm.convert import convert
from builders.engine.trtllm.effective import Effective
from builders.engine.trtllm.llmapi import arguments
from builders.engine.trtllm.machine import Machine, machine
from builders.engine.trtllm.request import TrtllmSettings
from builders.engine.trtllm.sidecar import COMPILED, FILE, Sidecar, mismatches
from builders.engine.vllm import arguments as vllm
from builders.engine.vllm.arguments import VllmSettings
from builders.errors import PlanError, Refusal, UsageError
from builders.formats import Format
from builders.ledger import triton_image, trtllm_image
from builders.pipeline.speaking import engine_of, refuse_triton, speaks
from builders.plan import Plan
from builders.quantize.conversion import Conversion
from builders.recipe import Recipe
from builders.render.context import Compiled, LlmApi, Vllm
from builders.serve import Hosting
from builders.serve.ports import HOST

# The lane of each runtime that needs its GPU for nothing but measuring and serving.
_LIGHT: Final = {"trtllm": "llmapi", "vllm": "vllm"}
# What the baseline's engine is asked for: the model as it is.
UNQUANTIZED: Final = Recipe(
    name="unquantized",
    summary="the model as it is",
    backend="modelopt",
    preset="",
    weights=Format.BF16,
    calibrated=False,
    keep=(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One way to run a model.

    ``variant`` is the kind of repository, ``settings`` what its builder is told, ``facts`` what its
    templates are told of the engine. ``compiles`` says that engines are made of a TensorRT-LLM
    checkpoint, on the GPU that they are for; ``speaks`` that a program of their own serves them
    over OpenAI's protocol, and that they are measured there.
    """

    variant: str
    settings: Callable[[Plan, Recipe | None, Path], EngineSettings]
    facts: Callable[[Plan, Path], Mapping[str, Any]]
    compiles: bool = False
    speaks: bool = False


def of(plan: Plan) -> Lane:
    """Return the lane of a plan that can be built."""
    return LANES[plan.runtime.lane]


def _embedded(plan: Plan, recipe: Recipe | None, _: Path) -> EngineSettings:
    kv_cache = recipe.kv_cache if recipe else Format.BF16
    return EngineSettings(
        context=plan.serve.context, concurrency=plan.serve.concurrency, kv_cache=kv_cache
    )


def _trtllm(plan: Plan, recipe: Recipe | None, work: Path) -> EngineSettings:
    return TrtllmSettings(**_asked(plan, recipe), work=work)


def _vllm(plan: Plan, recipe: Recipe | None, _: Path) -> EngineSettings:
    return VllmSettings(**_asked(plan, recipe), kv_bytes=plan.capacity.kv_bytes)


def _asked(plan: Plan, recipe: Recipe | None) -> dict[str, Any]:
    """Return what every runtime for GPUs is told."""
    chosen = recipe or UNQUANTIZED
    return {
        "context": plan.serve.context,
        "concurrency": plan.serve.concurrency,
        "kv_cache": chosen.kv_cache if chosen.kv_cache.quantized else Format.BF16,
        "recipe": chosen,
        "tier": plan.tier,
        "version": plan.runtime.version,
        "tp": plan.tp,
        "pp": plan.pp,
    }


def _vllm_facts(plan: Plan, engine: Path) -> Mapping[str, Any]:
    settings = _vllm(plan, None if _is_plain(engine) else plan.recipe, Path())
    return {"vllm": Vllm(arguments=vllm.arguments(vllm.require(settings)))}


def _no_facts(_: Plan, __: Path) -> Mapping[str, Any]:
    return {}


def _llm_api_facts(plan: Plan, engine: Path) -> Mapping[str, Any]:
    recipe = None if _is_plain(engine) else plan.recipe
    settings = _trtllm(plan, recipe, Path())
    assert isinstance(settings, TrtllmSettings)
    source = Checkpoint.open(engine / "checkpoint")
    return {"llmapi": LlmApi(arguments=arguments(source, settings))}


def _is_plain(engine: Path) -> bool:
    described = json.loads((engine / "engine.json").read_text(encoding="utf-8"))
    return described["quantization"] in {"", "NO_QUANT"}


def _compiled_facts(_: Plan, engine: Path) -> Mapping[str, Any]:
    found = adopt(engine)
    paged = Effective.read(engine).flag("use_paged_context_fmha") == "enable"
    return {"compiled": Compiled(batch=found.max_batch_size, paged_context=paged)}


LANES: Final[Mapping[str, Lane]] = {
    "embedded": Lane(variant="embedded", settings=_embedded, facts=_no_facts),
    "llmapi": Lane(variant="llmapi", settings=_trtllm, facts=_llm_api_facts),
    "tensorrt": Lane(
        variant="inflight_batcher_llm", settings=_trtllm, facts=_compiled_facts, compiles=True
    ),
    "vllm": Lane(variant="vllm", settings=_vllm, facts=_vllm_facts, speaks=True),
}


def conversion(plan: Plan, recipe: Recipe | None) -> Conversion:
    """Return how the checkpoint is written for trtllm-build; what cannot be is a `PlanError`."""
    if plan.imported and recipe:
        raise PlanError(
            (
                Refusal(
                    "compiled engines are made of ModelOpt's own TensorRT-LLM checkpoints, and "
                    f"{plan.checkpoint.path} came quantized",
                    'target.lane = "llmapi" serves it as it is',
                ),
            )
        )
    settings = _trtllm(plan, recipe, Path())
    assert isinstance(settings, TrtllmSettings)
    export = convert(settings.build_settings(plan.checkpoint.architecture))
    return Conversion(
        decoder_type=export.decoder_type,
        dtype=export.dtype,
        tp=export.inference_tensor_parallel,
        pp=export.inference_pipeline_parallel,
    )


def builder(plan: Plan) -> dict[str, object]:
    """Return what of this machine goes into an engine that is compiled on it."""
    if not of(plan).compiles:
        return {}
    here = machine()
    made = {k: v for k, v in asdict(here).items() if k in {"cuda", "tensorrt_llm", "tensorrt"}}
    return {"machine": made, "gpu": asdict(here.gpus[0]) if here.gpus else {}}


def refuse_to_measure(plan: Plan, needs: Iterable[str], here: Machine | None = None) -> None:
    """Refuse, before any work, to measure an engine on a machine that it is not for.

    An engine is measured where it would serve, and by its own runtime. ``needs`` is what the
    policy's gates measure.
    """
    found: tuple[Refusal, ...] = ()
    if plan.runtime.name == "trtllm":
        found = (*_elsewhere(plan, here or machine()), *_unscored(plan, needs))
    elif of(plan).speaks and plan.tier.gpu:
        found = _without_gpus(plan, here or machine(), f"vLLM {plan.runtime.version}")
    if found:
        raise PlanError(found)


def _without_gpus(plan: Plan, here: Machine, image: str) -> tuple[Refusal, ...]:
    world = plan.tp * plan.pp
    if len(here.gpus) >= world and all(gpu.sm == plan.tier.sm for gpu in here.gpus[:world]):
        return ()
    seen = ", ".join(gpu.name for gpu in here.gpus) or "no GPU"
    return (
        Refusal(
            f"measuring on {plan.tier.name} needs {world} of them, and here is {seen}",
            f"run the same command in {image} on {world} × {plan.tier.name}; "
            f"quantize, build and render need no GPU in the {_LIGHT[plan.runtime.name]} lane",
        ),
    )


def _elsewhere(plan: Plan, here: Machine) -> tuple[Refusal, ...]:
    version = plan.runtime.version
    image = triton_image(version) or trtllm_image(version)
    if refusals := _without_gpus(plan, here, image):
        return refusals
    if here.tensorrt_llm != version:
        have = here.tensorrt_llm or "none"
        what = f"measuring needs TensorRT-LLM {version}, and here is {have}"
        return (Refusal(what, f"run the same command in {image}"),)
    return ()


def _unscored(plan: Plan, needs: Iterable[str]) -> list[Refusal]:
    """Refuse what tells no log-probabilities: a compiled engine, as `build` makes it."""
    if "scorer" not in needs or not of(plan).compiles:
        return []
    return [
        Refusal(
            f"the {plan.runtime.lane} lane tells no log-probabilities of given tokens, which "
            "perplexity and accuracy need: engines are built without --gather_context_logits",
            'judge them with target.lane = "llmapi" or target.runtime = "embedded" on the same '
            "recipe, and here prompts and latency",
        )
    ]


def tools(plan: Plan) -> dict[str, str]:
    """Return the version of what served, beside the libraries that are always told."""
    if of(plan).speaks:
        return {plan.runtime.name: plan.runtime.version}
    return {"tensorrt_llm": machine().tensorrt_llm} if plan.runtime.name == "trtllm" else {}


def hosting(repository: Path, *, host: str = HOST) -> Hosting:
    """Return how a repository is served here; an engine that is for another machine is refused.

    A compiled engine has a process for each rank; the LLM API starts its own.
    """
    refuse_triton(repository)
    record, _ = _fitting(repository)
    if record is None:
        return Hosting(host=host)
    return Hosting(host=host, ranks=record.world if record.lane == COMPILED else 1)


def openai_argv(repository: Path, host: str, port: int) -> tuple[str, ...]:
    """Return trtllm-serve's command line for the engine in a release's repository.

    Only TensorRT-LLM's engines have one; an engine that is for another machine is refused.
    """
    record, engine = _fitting(repository)
    if record is None or engine is None:
        raise UsageError(
            "this release's engine has no server of its own that speaks OpenAI's protocol",
            hint="serve it without --openai",
        )
    if record.lane == COMPILED:
        deployed = Deployed(model=engine, tokenizer=engine / "tokenizer")
    else:
        deployed = Deployed(model=engine / "checkpoint", config=engine / "llm_api.yaml")
    return serve_argv(record.version, deployed, host=host, port=port)


def _fitting(repository: Path) -> tuple[Sidecar | None, Path | None]:
    """Return the record of the engine in a repository, and its place; others have none."""
    engine = engine_of(repository)
    if engine is None or speaks(engine) or not (engine / FILE).is_file():
        return None, None
    record = Sidecar.read(engine)
    refusals = mismatches(record, machine())
    if refusals:
        raise PlanError(refusals)
    return record, engine
