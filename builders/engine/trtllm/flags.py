"""trtllm-build's command line: tuned defaults, then the user's own flags. Pure.

Why each default is what it is stands at it; the numbers come from NVIDIA's guide for Llama-3.3-70B
on four H100 (useful-build-time-flags.md@2a9abd95, tuning-max-batch-size…md@04ecb910).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from builders.engine.trtllm import contract
from builders.engine.trtllm.settings import BuildSettings, path
from builders.formats import Format

# Grows when a default changes: it is part of what an engine depends on.
TUNING: Final = "2026.11"
PROGRAM: Final = "trtllm-build"
ENABLE: Final = "enable"
DISABLE: Final = "disable"

# Quantized workflows that FP8 context attention works in (builder.py, commit not recorded).
FP8_ATTENTION: Final = frozenset({"FP8", "W4A8_AWQ", "NVFP4"})
# Architectures whose all-reduce trtllm-build fuses, by their exact names: Mistral is not one.
REDUCE_FUSION: Final = frozenset({"LlamaForCausalLM", "Gemma2ForCausalLM", "MedusaForCausalLM"})
# Algorithms that the fused gate and up projection can hold.
FUSED_MLP: Final = frozenset({"", "FP8", "MIXED_PRECISION"})
# "auto" speeds the GEMMs that stay in FP16 or BF16 (1867 to 2033 tok/s); the guide turns it off
# for FP8. Every other algorithm leaves lm_head, at least, to it.
_GEMM: Final[Mapping[str, str]] = MappingProxyType(
    {
        "FP8": DISABLE,
        "FP8_PER_CHANNEL_PER_TOKEN": DISABLE,
        "MIXED_PRECISION": DISABLE,
        "NVFP4": "nvfp4",
    }
)
# Throughput is flat from 2048 to 16384 tokens a step; on Ada a step of 4096 keeps the activations
# small beside 24 or 48 GB (an estimate).
_TOKENS: Final = 8192
_TOKENS_BY_SM: Final[Mapping[int, int]] = MappingProxyType({89: 4096})
_BLOCK: Final = 32  # tokens_per_block, trtllm-build's default


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a build reads and writes.

    The timing cache is read from one file and written to another, because trtllm-build writes it
    in place: a killed build must not cost it.
    """

    checkpoint: Path
    engine: Path
    timing_in: Path | None = None
    timing_out: Path | None = None


def fp8_attention(settings: BuildSettings) -> bool:
    """Whether context attention can compute in FP8: FP8 cache and workflow, Ada or newer."""
    workflow = settings.quant_algo in FP8_ATTENTION and settings.sm >= 89
    return workflow and settings.kv_cache is Format.FP8


def paged_attention(settings: BuildSettings) -> bool:
    """Whether context attention can read a paged cache: not INT8, and FP8 only when it computes so.

    Without it there is no chunked context and no reuse of cached blocks.
    """
    return not settings.kv_cache.quantized or fp8_attention(settings)


def flags(settings: BuildSettings) -> dict[str, str]:
    """Return every flag that decides what is built, in order, without dashes."""
    tuned = {
        "max_batch_size": str(settings.max_batch_size),
        "max_seq_len": str(settings.max_seq_len),
        "max_num_tokens": str(settings.max_num_tokens or _tokens(settings)),
        "max_beam_width": "1",
        "kv_cache_type": "paged",
        "remove_input_padding": ENABLE,
        "context_fmha": ENABLE,
        # Chunked context and cache reuse need it; it costs less than 2 % at worst.
        "use_paged_context_fmha": _switch(paged_attention(settings)),
        "use_fp8_context_fmha": _switch(fp8_attention(settings)),
        # 1564 to 1861 tok/s; kernels, and so last bits, may differ from run to run.
        "multiple_profiles": ENABLE,
        "gemm_plugin": _GEMM.get(settings.quant_algo, "auto"),
        "gpt_attention_plugin": "auto",
        "use_fused_mlp": _switch(settings.quant_algo in FUSED_MLP),
        # 2033 to 2044 tok/s, with tensor parallelism only.
        "reduce_fusion": _switch(settings.tp > 1 and settings.architecture in REDUCE_FUSION),
        # One process per rank: each builds its own engine.
        "workers": "1",
        # What the progress is read from.
        "log_level": "info",
    }
    if settings.max_input_len:
        tuned["max_input_len"] = str(settings.max_input_len)
    if settings.quant_algo == "FP8_PER_CHANNEL_PER_TOKEN":
        tuned["fp8_rowwise_gemm_plugin"] = "auto"
    return tuned | dict(settings.overrides)


def build_argv(settings: BuildSettings, places: Places) -> tuple[str, ...]:
    """Return the command line; every path in it is absolute and safe."""
    where = {
        "checkpoint_dir": path(places.checkpoint, "the checkpoint"),
        "output_dir": path(places.engine, "the engine directory"),
    }
    if places.timing_in:
        where["input_timing_cache"] = path(places.timing_in, "the timing cache")
    if places.timing_out:
        where["output_timing_cache"] = path(places.timing_out, "the timing cache")
    words = [PROGRAM]
    for flag, value in (where | flags(settings)).items():
        words += [f"--{flag}"] if value == "" else [f"--{flag}", value]
    return tuple(words)


def defaults() -> dict[str, str]:
    """Return trtllm-build's own defaults, where they were read, without dashes."""
    options = contract.reads(PROGRAM)[-1].top.options
    return {
        option.flags[0].removeprefix("--"): str(option.default)
        for option in options
        if option.default is not None and option.kind.name != "flag"
    }


def _switch(on: bool) -> str:  # noqa: FBT001 - a switch is made of a truth
    return ENABLE if on else DISABLE


def _tokens(settings: BuildSettings) -> int:
    """Tokens a step: the tuned number, never below one for each request.

    A prompt must fit into one step where it cannot be cut into chunks, and trtllm-build cuts the
    number down to what all requests hold together.
    """
    least = settings.max_batch_size
    if not paged_attention(settings):
        least = max(least, settings.max_seq_len)
    wanted = max(_TOKENS_BY_SM.get(settings.sm, _TOKENS), least)
    return max(min(wanted, settings.max_seq_len * settings.max_batch_size), _BLOCK)
