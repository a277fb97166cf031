"""What trtllm-build will silently change, and what it would only refuse after loading for minutes.

Each rule names where it was read: `tensorrt_llm/builder.py`, `commands/build.py`, `_common.py` and
`plugin/plugin.py` of the 1.1 to 1.2 line (build.py@65f1d153, the others' commits not recorded).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builders.engine.trtllm import flags as tuned
from builders.engine.trtllm.convert import DECODERS
from builders.engine.trtllm.flags import DISABLE, ENABLE
from builders.engine.trtllm.settings import KV_ALGORITHMS, BuildSettings
from builders.engine.trtllm.validate import validate_argv
from builders.errors import Refusal
from builders.formats import Format
from builders.ledger import lane
from builders.ledger.releases import lanes

LANE: Final = "tensorrt"
IGNORED: Final = "ignored"
_INTEGER: Final = frozenset({Format.INT8, Format.INT4})
# PluginConfig.validate refuses these on SM 100; SM 103 is the same architecture.
_NOT_ON_BLACKWELL: Final = (
    "gemm_swiglu_plugin", "fp8_rowwise_gemm_plugin", "low_latency_gemm_plugin",
    "low_latency_gemm_swiglu_plugin", "bert_context_fmha_fp32_acc",
)  # fmt: skip

Flags = Mapping[str, str]
Change = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One flag that trtllm-build will not take as it was asked for, and why."""

    flag: str
    asked: str
    effective: str
    reason: str

    def __str__(self) -> str:
        return f"{self.flag}: {self.asked} becomes {self.effective} ({self.reason})"

    def as_json(self) -> dict[str, str]:
        """Return it for the record beside the engine."""
        return {
            "flag": self.flag,
            "asked": self.asked,
            "effective": self.effective,
            "reason": self.reason,
        }


def predict_rewrites(settings: BuildSettings) -> tuple[Rewrite, ...]:
    """Return every silent change of what is asked for, in the order in which they are made."""
    return _walk(settings)[1]


def effective_flags(settings: BuildSettings) -> dict[str, str]:
    """Return the flags as they will be, after every silent change."""
    return _walk(settings)[0]


def _walk(settings: BuildSettings) -> tuple[dict[str, str], tuple[Rewrite, ...]]:
    asked = tuned.flags(settings)
    state = tuned.defaults() | asked
    made = []
    for rule in _RULES:
        for flag, value, reason in rule(state, settings):
            if flag in asked and state[flag] != value:
                made.append(Rewrite(flag, state[flag], value, reason))
            if value != IGNORED:
                state[flag] = value
    return state, tuple(made)


def _on(state: Flags, flag: str) -> bool:
    return state.get(flag) not in {None, DISABLE}


def _number(state: Flags, flag: str) -> int:
    text = state.get(flag, "")
    return int(text) if text.isdecimal() else 0


def _fused_mlp(state: Flags, settings: BuildSettings) -> Iterator[Change]:
    """Read in build.py: the network loses it, config.json may go on saying that it is on."""
    if _on(state, "use_fused_mlp") and settings.quant_algo not in tuned.FUSED_MLP:
        yield "use_fused_mlp", DISABLE, f"{settings.quant_algo} has no fused MLP"


def _lengths(state: Flags, settings: BuildSettings) -> Iterator[Change]:
    """Read in builder.py, _init_max_seq_len."""
    longest = _number(state, "max_seq_len")
    if _number(state, "max_input_len") > longest:
        yield "max_input_len", str(longest), "it is clipped to max_seq_len"
    if settings.max_input_len and _on(state, "remove_input_padding") and _on(state, "context_fmha"):
        yield "max_input_len", IGNORED, "padding removal and context FMHA need no such limit"


def _tokens(state: Flags, _: BuildSettings) -> Iterator[Change]:
    """Read in _common.py, check_max_num_tokens."""
    batch, longest = _number(state, "max_batch_size"), _number(state, "max_seq_len")
    if not _on(state, "remove_input_padding"):
        yield "max_num_tokens", str(batch * longest), "padding is kept: batch × sequence length"
        return
    tokens, most = _number(state, "max_num_tokens"), batch * longest
    if tokens > most:
        yield "max_num_tokens", str(most), "all requests together hold no more tokens"
        tokens = most
    fused = _on(state, "context_fmha")
    least = _number(state, "tokens_per_block" if fused else "max_input_len")
    if tokens < least:
        what = "one block of the cache" if fused else "one whole prompt"
        yield "max_num_tokens", str(least), f"a step holds {what} at least"
        tokens = least
    yield from _opt_tokens(state, batch, tokens)


def _opt_tokens(state: Flags, batch: int, tokens: int) -> Iterator[Change]:
    asked = _number(state, "opt_num_tokens")
    if asked > tokens:
        yield "opt_num_tokens", str(tokens), "it cannot be more than max_num_tokens"
    elif not asked and not _on(state, "multiple_profiles"):
        best = min(batch * _number(state, "max_beam_width"), tokens)
        yield "opt_num_tokens", str(best), "one profile is tuned for batch × beams"


def _fusions(state: Flags, settings: BuildSettings) -> Iterator[Change]:
    """Read in builder.py, build; the rules lean on each other in this order."""
    reduce = _on(state, "reduce_fusion")
    if reduce and (settings.tp == 1 or settings.architecture not in tuned.REDUCE_FUSION):
        why = "tp is 1" if settings.tp == 1 else f"{settings.architecture} has none"
        yield "reduce_fusion", DISABLE, why
        reduce = False
    if _on(state, "user_buffer") and not reduce:
        yield "user_buffer", DISABLE, "it needs reduce_fusion"
    plain = settings.architecture == "LlamaForCausalLM" and settings.quant_algo == "NVFP4"
    if _on(state, "norm_quant_fusion") and (reduce or not plain):
        yield "norm_quant_fusion", DISABLE, "it is for Llama in NVFP4 without reduce_fusion"


def _speculative(state: Flags, _: BuildSettings) -> Iterator[Change]:
    """Read in builder.py, build."""
    if not state.get("speculative_decoding_mode"):
        return
    draft = _number(state, "max_draft_len")
    longer = _number(state, "max_seq_len") + draft
    yield "max_seq_len", str(longer), "draft tokens are added to it"
    least = _number(state, "max_batch_size") * (draft + 1)
    if _number(state, "max_num_tokens") < least:
        yield "max_num_tokens", str(least), "every request drafts in every step"


def _context_attention(state: Flags, settings: BuildSettings) -> Iterator[Change]:
    """Read in builder.py, build."""
    paged, fp8 = _on(state, "use_paged_context_fmha"), _on(state, "use_fp8_context_fmha")
    cached = settings.kv_cache is Format.FP8
    if not _on(state, "context_fmha"):
        reason = "context FMHA is off"
        yield "use_fp8_context_fmha", DISABLE, reason
        yield "use_paged_context_fmha", DISABLE, reason
    elif settings.quant_algo not in tuned.FP8_ATTENTION or settings.sm < 89:
        yield "use_fp8_context_fmha", DISABLE, _why_no_fp8(settings)
        if paged and cached:
            yield "use_paged_context_fmha", DISABLE, "an FP8 cache needs FP8 context FMHA"
    elif paged and fp8 and not cached:
        yield "use_fp8_context_fmha", DISABLE, "with a paged cache it needs an FP8 cache"
    elif paged and cached:
        yield "use_fp8_context_fmha", ENABLE, "an FP8 paged cache needs it"
    if settings.kv_cache is Format.INT8:
        yield "use_paged_context_fmha", DISABLE, "it cannot read an INT8 cache"


def _why_no_fp8(settings: BuildSettings) -> str:
    if settings.quant_algo in tuned.FP8_ATTENTION:
        return f"SM{settings.sm} has no FP8"
    return f"{settings.quant_algo or 'unquantized'} is no FP8 workflow"


def _gemm(state: Flags, settings: BuildSettings) -> Iterator[Change]:
    """Read in builder.py, build: only an explicit "disable" is left alone."""
    if settings.quant_algo == "NVFP4" and state.get("gemm_plugin") != DISABLE:
        yield "gemm_plugin", "nvfp4", "NVFP4 weights need its GEMM plugin"


_RULES: Final[tuple[Callable[[Flags, BuildSettings], Iterator[Change]], ...]] = (
    _fused_mlp, _lengths, _tokens, _fusions, _speculative, _context_attention, _gemm,
)  # fmt: skip


def refusals(settings: BuildSettings, version: str) -> tuple[Refusal, ...]:
    """Return why trtllm-build of this version cannot build it; empty when it can."""
    if LANE not in lane("trtllm", version):
        ended = next(one for one in lanes() if one.name == LANE)
        return (Refusal(ended.why_not.format(version=version), ended.remedy),)
    asked = tuned.defaults() | tuned.flags(settings)
    places = tuned.Places(checkpoint=Path("checkpoint"), engine=Path("engine"))
    return (
        *validate_argv(tuned.PROGRAM, version, tuned.build_argv(settings, places)),
        *_architecture(settings),
        *_blackwell(settings, asked),
        *_cache(settings),
        *_pairs(settings, asked),
        *_draft(asked),
    )


def _architecture(settings: BuildSettings) -> Iterator[Refusal]:
    if settings.architecture not in DECODERS:
        yield Refusal(
            f"trtllm-build knows no engine of {settings.architecture}",
            "the llmapi lane loads more architectures",
        )


def _blackwell(settings: BuildSettings, asked: Flags) -> Iterator[Refusal]:
    if not 100 <= settings.sm < 120:
        return
    if _INTEGER & {settings.weights, settings.activations, settings.kv_cache}:
        yield Refusal(
            f"trtllm-build takes no INT8 and no INT4 on SM{settings.sm}",
            "on Blackwell use nvfp4 or fp8",
        )
    if settings.quant_algo == "FP8_PER_CHANNEL_PER_TOKEN":
        yield Refusal(
            f"trtllm-build takes no scales per channel and token on SM{settings.sm}",
            "on Blackwell use nvfp4 or fp8",
        )
    for plugin in _NOT_ON_BLACKWELL:
        if _on(asked, plugin):
            yield Refusal(f"{plugin} does not exist on SM{settings.sm}", f"leave {plugin} out")


def _cache(settings: BuildSettings) -> Iterator[Refusal]:
    if settings.kv_cache in {Format.FP8, Format.INT8} or not settings.kv_cache.quantized:
        return
    known = settings.kv_cache in KV_ALGORITHMS.values()
    yield Refusal(
        f"compiled engines have no KV cache in {settings.kv_cache.value}",
        "the llmapi lane has one" if known else 'quantize.kv_cache = "fp8" or "none"',
    )


def _pairs(settings: BuildSettings, asked: Flags) -> Iterator[Refusal]:
    if _on(asked, "multiple_profiles") and "opt_num_tokens" in asked:
        yield Refusal(
            "opt_num_tokens cannot be set beside multiple_profiles", "leave opt_num_tokens out"
        )
    if _on(asked, "streamingllm"):
        yield Refusal("streamingllm is no longer supported", "leave streamingllm out")
    if _on(asked, "pp_reduce_scatter") and settings.architecture != "MixtralForCausalLM":
        yield Refusal("pp_reduce_scatter is for Mixtral only", "leave pp_reduce_scatter out")
    swiglu = [f for f in ("gemm_swiglu_plugin", "low_latency_gemm_swiglu_plugin") if _on(asked, f)]
    if swiglu and not (_on(asked, "use_fused_mlp") and settings.quant_algo == "FP8"):
        yield Refusal(f"{swiglu[0]} needs FP8 weights and use_fused_mlp", f"leave {swiglu[0]} out")


def _draft(asked: Flags) -> Iterator[Refusal]:
    draft = _number(asked, "max_draft_len")
    if "gather_context_logits" in asked and draft:
        yield Refusal(
            "gather_context_logits cannot be set beside draft tokens",
            "leave gather_context_logits out",
        )
    if asked.get("speculative_decoding_mode") == "eagle":
        limits = {"max_batch_size": 512, "max_draft_len": 256}
        for flag, most in limits.items():
            if _number(asked, flag) > most:
                yield Refusal(f"EAGLE takes {flag} up to {most}", f"set {flag} = {most} or less")
