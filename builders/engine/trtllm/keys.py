"""What an engine depends on: the inputs of the stage store's key. No path and no time is in it."""

import re
from collections.abc import Mapping
from dataclasses import asdict

from builders.engine.trtllm.flags import TUNING, flags
from builders.engine.trtllm.machine import Gpu
from builders.engine.trtllm.settings import BuildSettings
from builders.errors import UsageError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_DECIDING = frozenset({"workers", "log_level"})


def cache_inputs(
    settings: BuildSettings, weights_root: str, versions: Mapping[str, str], gpu: Gpu
) -> dict[str, object]:
    """Return everything that decides an engine's bytes; equal inputs, equal engine.

    ``weights_root`` is the SHA-256 over the checkpoint's tree. ``versions`` names what compiles:
    TensorRT-LLM, TensorRT, CUDA, driver, container.
    """
    if not _DIGEST.fullmatch(weights_root):
        raise UsageError(
            f"{weights_root!r} is no digest of weights", hint="64 hex digits: the tree's SHA-256"
        )
    built = {flag: value for flag, value in flags(settings).items() if flag not in _DECIDING}
    return {
        "lane": "tensorrt",
        "weights": weights_root,
        "architecture": settings.architecture,
        "quantization": {
            "quant_algo": settings.quant_algo,
            "kv_cache": settings.kv_cache.value,
            "dtype": settings.dtype.value if settings.dtype else "checkpoint",
        },
        "mapping": {"tp": settings.tp, "pp": settings.pp},
        "flags": built,
        "tuning": TUNING,
        "versions": dict(versions),
        "gpu": asdict(gpu),
    }
