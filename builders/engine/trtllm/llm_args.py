"""The LLM API's arguments for one version of TensorRT-LLM: only keys it knows, each said once.

An unknown or retired key aborts the start (extra="forbid"), so what is rendered is checked against
the version's contract before anybody sees it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Final

from builders.engine.trtllm.settings import DTYPES, BuildSettings, path
from builders.engine.trtllm.validate import validate_llm_args
from builders.errors import PlanError, Refusal, UsageError
from builders.formats import Format
from builders.ledger import Version, lane
from builders.ledger.releases import lanes

LANE: Final = "llmapi"
# From here on telemetry, EAGLE-3 and MTP are spelled as in the newest copy (see contracts).
_NEWEST: Final = "1.3.0rc29"
_EAGLE3: Final = "1.3.0rc6"
# What _torch/pyexecutor/model_loader.py takes; "auto" follows the checkpoint, which is plain.
KV_CACHE: Final[Mapping[Format, str]] = MappingProxyType({Format.FP8: "fp8", Format.NVFP4: "nvfp4"})
# NVIDIA's guide: CUTLASS, and for GPT-OSS on Hopper Triton's kernels.
_MOE: Final[Mapping[tuple[str, int], str]] = MappingProxyType({("GptOssForCausalLM", 90): "TRITON"})


class Draft(Enum):
    """How tokens are drafted for speculative decoding."""

    EAGLE3 = "eagle3"
    NGRAM = "ngram"
    MTP = "mtp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculative:
    """Speculative decoding: the draft, tokens a draft, EAGLE-3's own checkpoint, n-gram's width."""

    draft: Draft
    tokens: int = 3
    checkpoint: Path | None = None
    ngram: int = 2

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.ngram < 1:
            raise UsageError("a draft has at least one token", hint="mend the speculative settings")
        if (self.draft is Draft.EAGLE3) != (self.checkpoint is not None):
            raise UsageError(
                "EAGLE-3 needs the checkpoint of its head, and no other draft takes one",
                hint="name the directory of the EAGLE-3 head",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Low-rank adapters: their directories, and how many at which rank fit at once."""

    adapters: tuple[Path, ...]
    max_rank: int = 64
    max_loaded: int = 4

    def __post_init__(self) -> None:
        if not self.adapters or self.max_rank < 1 or self.max_loaded < 1:
            raise UsageError("LoRA needs adapters, a rank and a number", hint="name a directory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the LLM API can do besides; each is off, or NVIDIA's advice, unless asked for.

    ``experts`` says whether the model has any; ``ep`` spreads them over GPUs. ``extra`` are LlmArgs
    keys that win over all others.
    """

    kv_fraction: float = 0.9
    block_reuse: bool = True
    chunked_prefill: bool = True
    batch_sizes: tuple[int, ...] = ()
    experts: bool = False
    ep: int = 0
    moe_backend: str = ""
    attention_dp: bool = False
    speculative: Speculative | None = None
    lora: Lora | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


def llm_args(
    settings: BuildSettings, version: str, options: Options | None = None
) -> dict[str, object]:
    """Return the arguments, without the model; what this version cannot do is a `PlanError`."""
    chosen = options or Options()
    refusals = _refusals(settings, version, chosen)
    if refusals:
        raise PlanError(refusals)
    args = _merged(_args(settings, version, chosen), chosen.extra)
    faults = validate_llm_args(version, args)
    if faults:
        raise PlanError(faults)
    return args


def _merged(args: Mapping[str, object], extra: Mapping[str, object]) -> dict[str, object]:
    """Tables are merged key by key, so that asking for one knob loses none of the others."""
    merged = dict(args)
    for key, value in extra.items():
        own = merged.get(key)
        both = isinstance(own, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(own, value) if both else value  # type: ignore[arg-type]
    return merged


def _args(settings: BuildSettings, version: str, options: Options) -> dict[str, object]:
    return {
        "tensor_parallel_size": settings.tp,
        "pipeline_parallel_size": settings.pp,
        **_experts(settings, options),
        "max_batch_size": settings.max_batch_size,
        "max_num_tokens": settings.max_num_tokens or _tokens(settings, options),
        "max_seq_len": settings.max_seq_len,
        "max_beam_width": 1,
        "dtype": DTYPES[settings.dtype] if settings.dtype else "auto",
        "trust_remote_code": False,
        "enable_chunked_prefill": options.chunked_prefill,
        "kv_cache_config": {
            "dtype": KV_CACHE.get(settings.kv_cache, "auto"),
            "free_gpu_memory_fraction": options.kv_fraction,
            "enable_block_reuse": options.block_reuse,
        },
        "cuda_graph_config": _graphs(settings, options),
        **_speculative(version, options.speculative),
        **_lora(options.lora),
        **_telemetry(version),
    }


def _tokens(settings: BuildSettings, options: Options) -> int:
    """8192 is TensorRT-LLM's own default; a batch needs a token for each of its requests.

    A prompt that may not be cut into chunks must fit into one step.
    """
    whole = 0 if options.chunked_prefill else settings.max_seq_len
    return max(8192, settings.max_batch_size, whole)


def _graphs(settings: BuildSettings, options: Options) -> dict[str, object]:
    """Graphs are captured up to the largest batch, and smaller ones padded to the next."""
    if options.batch_sizes:
        return {"batch_sizes": sorted(set(options.batch_sizes)), "enable_padding": True}
    return {"max_batch_size": settings.max_batch_size, "enable_padding": True}


def _experts(settings: BuildSettings, options: Options) -> dict[str, object]:
    found: dict[str, object] = {}
    if options.experts:
        if options.ep:
            found["moe_expert_parallel_size"] = options.ep
        tuned = _MOE.get((settings.architecture, settings.sm), "CUTLASS")
        found["moe_config"] = {"backend": options.moe_backend or tuned}
    if options.attention_dp:
        found["enable_attention_dp"] = True
    return found


def _speculative(version: str, chosen: Speculative | None) -> dict[str, object]:
    if chosen is None:
        return {}
    at = Version.parse(version)
    if chosen.draft is Draft.NGRAM:
        # Its drafts are made on the host, which the overlap scheduler does not wait for
        # (pull request 6676 turns it off with a warning).
        config = {
            "decoding_type": "NGram",
            "max_draft_len": chosen.tokens,
            "max_matching_ngram_size": chosen.ngram,
        }
        return {"disable_overlap_scheduler": True, "speculative_config": config}
    if chosen.draft is Draft.MTP:
        length = "num_nextn_predict_layers" if at < Version.parse(_NEWEST) else "max_draft_len"
        return {"speculative_config": {"decoding_type": "MTP", length: chosen.tokens}}
    assert chosen.checkpoint is not None
    name = "Eagle" if at < Version.parse(_EAGLE3) else "Eagle3"
    return {
        "speculative_config": {
            "decoding_type": name,
            "max_draft_len": chosen.tokens,
            # Newer copies call it speculative_model and take this name too.
            "speculative_model_dir": path(chosen.checkpoint, "the EAGLE-3 head"),
        }
    }


def _lora(chosen: Lora | None) -> dict[str, object]:
    if chosen is None:
        return {}
    return {
        "enable_lora": True,
        "lora_config": {
            "lora_dir": [path(adapter, "the adapter") for adapter in chosen.adapters],
            "max_lora_rank": chosen.max_rank,
            "max_loras": chosen.max_loaded,
            "max_cpu_loras": chosen.max_loaded,
        },
    }


def _telemetry(version: str) -> dict[str, object]:
    """Older versions have no telemetry, and `launch.environment` turns it off everywhere."""
    if Version.parse(version) < Version.parse(_NEWEST):
        return {}
    return {"telemetry_config": {"disabled": True}}


def _refusals(settings: BuildSettings, version: str, options: Options) -> tuple[Refusal, ...]:
    if LANE not in lane("trtllm", version):
        known = next(one for one in lanes() if one.name == LANE)
        return (Refusal(known.why_not.format(version=version), known.remedy),)
    return (*_cache(settings), *_parallel(settings, options), *_batches(settings, options))


def _cache(settings: BuildSettings) -> list[Refusal]:
    if not settings.kv_cache.quantized or settings.kv_cache in KV_CACHE:
        return []
    return [
        Refusal(
            f"the LLM API has no KV cache in {settings.kv_cache.value}",
            'quantize.kv_cache = "fp8" (E4M3 with calibrated scales) or "none"',
        )
    ]


def _parallel(settings: BuildSettings, options: Options) -> list[Refusal]:
    found = []
    if options.ep and (not options.experts or settings.tp % options.ep):
        found.append(
            Refusal(
                f"ep {options.ep} does not divide tp {settings.tp}, or there are no experts",
                "choose an ep that divides tp, or leave it out",
            )
        )
    if options.moe_backend and not options.experts:
        found.append(Refusal("a model without experts has no MoE backend", "leave it out"))
    return found


def _batches(settings: BuildSettings, options: Options) -> list[Refusal]:
    wrong = [size for size in options.batch_sizes if not 1 <= size <= settings.max_batch_size]
    if not wrong:
        return []
    return [
        Refusal(
            f"a CUDA graph for a batch of {wrong[0]} is outside 1 to {settings.max_batch_size}",
            "capture batches up to max_batch_size",
        )
    ]
