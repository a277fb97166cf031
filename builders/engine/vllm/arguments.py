"""vLLM's engine arguments for one plan: only keys that it knows, each said once. Pure.

The same table is `vllm.yaml` for ``vllm serve --config`` and `model.json` for Triton's backend.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

from builders.engine.description import EngineSettings
from builders.errors import PlanError, Refusal, UsageError
from builders.formats import Format
from builders.recipe import Recipe
from builders.tiers import Tier

# What vLLM calls the formats of a KV cache; "auto" is the model's own, where the checkpoint was not
# calibrated for another (the builder refuses it otherwise).
KV_CACHE: Final[Mapping[Format, str]] = MappingProxyType(
    {
        Format.BF16: "auto",
        Format.FP16: "auto",
        Format.FP32: "auto",
        Format.FP8: "fp8",
        Format.FP8_E5M2: "fp8_e5m2",
    }
)
_DTYPES: Final[Mapping[Format, str]] = MappingProxyType(
    {Format.BF16: "bfloat16", Format.FP16: "float16", Format.FP32: "float32"}
)
_SHARE: Final = 0.9  # of a GPU's memory, for weights and cache together; vLLM's own default is 0.9
_LEAST_CACHE: Final = 256 << 20  # bytes of KV cache on a CPU
_SPARE: Final = 2  # times the cache that the load fills


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSettings(EngineSettings):
    """Engine settings for one recipe, tier and version of vLLM.

    ``kv_bytes`` is the cache that all requests fill together, which a CPU must be told.
    """

    recipe: Recipe
    tier: Tier
    version: str
    tp: int = 1
    pp: int = 1
    kv_bytes: int = 0


def require(settings: EngineSettings) -> VllmSettings:
    """Return the settings as vLLM's; others are a `UsageError`."""
    if not isinstance(settings, VllmSettings):
        raise UsageError(
            "vLLM needs a recipe, a tier and a version",
            hint='set target.tier, target.runtime = "vllm" and target.runtime_version',
        )
    return settings


def arguments(settings: VllmSettings) -> dict[str, object]:
    """Return vLLM's arguments, all but the model; what it has no word for is a `PlanError`."""
    if settings.kv_cache not in KV_CACHE:
        reason = f"vLLM has no KV cache in {settings.kv_cache.value} here"
        raise PlanError((Refusal(reason, 'quantize.kv_cache = "fp8" or "none"'),))
    args = {
        "dtype": _DTYPES[settings.dtype] if settings.dtype else "auto",
        "kv_cache_dtype": KV_CACHE[settings.kv_cache],
        "max_model_len": settings.context,
        "max_num_seqs": settings.concurrency,
        "tensor_parallel_size": settings.tp,
        "pipeline_parallel_size": settings.pp,
        # Sampling is what a request asks for, not what a model's generation_config.json prefers.
        "generation_config": "vllm",
        "seed": 0,
        **_device(settings),
    }
    unknown = args.keys() - known()
    if unknown:
        raise PlanError(
            tuple(Refusal(f"vLLM has no argument {key}", "leave it out") for key in unknown)
        )
    return args


def _device(settings: VllmSettings) -> dict[str, object]:
    """A GPU gives a share of its memory; a CPU a number of bytes, and nothing is compiled on it."""
    if settings.tier.gpu:
        return {"gpu_memory_utilization": _SHARE}
    cache_bytes = max(_LEAST_CACHE, _SPARE * settings.kv_bytes)
    return {"kv_cache_memory_bytes": cache_bytes, "enforce_eager": True}


@cache
def known() -> frozenset[str]:
    """Return the names of vLLM's engine arguments, in the newest version that was read."""
    text = resources.files("builders.engine.vllm") / "contracts" / "engine-args.json"
    return frozenset(json.loads(text.read_text(encoding="utf-8"))["keys"])
