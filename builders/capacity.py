"""What a model takes of a tier's memory, and how many requests it serves at once.

Weights and KV cache are counted exactly, from safetensors headers and config.json; activations and
workspace are estimates and called so. The rule of the KV cache is TensorRT-LLM's: a fraction of
what is free after weights, activations and workspace (`kv_cache_config.free_gpu_memory_fraction`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Final, Self

from builders import ledger
from builders.checkpoint import Checkpoint
from builders.errors import Refusal, UsageError
from builders.recipe import Recipe
from builders.tiers import GIB, Tier
from builders.weights import Weights, stages

# TensorRT-LLM's defaults: tokens that share one block of the paged cache, tokens of one step.
BLOCK_TOKENS: Final = 32
STEP_TOKENS: Final = 8192
# Which layer of so many sees all tokens, where older configurations do not write it down.
_PATTERN: Final[Mapping[object, int]] = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}
TPS: Final = (1, 2, 4, 8)  # the GPUs of one host
# A CUDA context took 0.51 GiB on an H100 and an H200 (driver 580.159), and 0.68 GiB once PyTorch
# 2.11 had loaded matmul, attention and sampling kernels (measured). The rest is an estimate of
# cuBLAS and attention workspaces, and of NCCL's buffers where GPUs talk.
CONTEXT_BYTES: Final = int(0.68 * GIB)
WORKSPACE_BYTES: Final = GIB // 2
NCCL_BYTES: Final = GIB // 2


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """One checkpoint under one recipe on ``tp`` × ``pp`` GPUs of a tier, and the load asked of it.

    All bytes but `weight_bytes` are those of the fullest GPU; ``hosts`` are the numbers of GPUs
    that may be suggested.
    """

    weights: Weights
    tier: Tier
    context: int
    concurrency: int
    tp: int
    pp: int
    kv_fraction: float
    hosts: tuple[int, ...] = TPS

    @classmethod
    def of(  # noqa: PLR0913 - eight facts make a capacity; the last three are named by the caller
        cls,
        checkpoint: Checkpoint,
        recipe: Recipe,
        tier: Tier,
        context: int,
        concurrency: int,
        *,
        tp: int = 1,
        pp: int = 1,
        kv_fraction: float = 0.9,
    ) -> Self:
        """Check the numbers and keep them; nothing heavy happens before a property is asked."""
        if min(context, concurrency, tp, pp) < 1:
            raise UsageError("context, concurrency, tp and pp must be at least 1")
        if not 0 < kv_fraction < 1:
            raise UsageError(f"the KV cache's fraction must lie between 0 and 1, not {kv_fraction}")
        return cls(
            weights=Weights(checkpoint, recipe),
            tier=tier,
            context=context,
            concurrency=concurrency,
            tp=tp,
            pp=pp,
            kv_fraction=kv_fraction,
        )

    @property
    def checkpoint(self) -> Checkpoint:
        """The model that is served."""
        return self.weights.checkpoint

    @property
    def recipe(self) -> Recipe:
        """How it is quantized."""
        return self.weights.recipe

    @property
    def weight_bytes(self) -> int:
        """Bytes of the exported weights on disk, all scales included."""
        return self.weights.exported_bytes

    @cached_property
    def gpu_weight_bytes(self) -> int:
        """Bytes of weights on the fullest GPU, padding of scales and vocabulary included."""
        return self.weights.gpu_bytes(self.tp, self.pp)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache for one token, over all layers and GPUs."""
        return _bytes(sum(values for values, _ in layers(self.checkpoint)), self.recipe)

    @property
    def kv_bytes_per_sequence(self) -> int:
        """Bytes of KV cache on the fullest GPU for one sequence that fills its context."""
        share = -(-self.checkpoint.kv_heads // self.tp), self.checkpoint.kv_heads
        if _latent(self.checkpoint):
            share = 1, 1  # a latent cache belongs to all heads, so every GPU keeps all of it
        values = [
            width * share[0] // share[1] * _paged(min(self.context, window or self.context))
            for width, window in layers(self.checkpoint)
        ]
        groups = stages(len(values), self.pp)
        return max(_bytes(sum(values[first:last]), self.recipe) for first, last in groups)

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV cache on the fullest GPU when every request fills its context."""
        return self.concurrency * self.kv_bytes_per_sequence

    @property
    def activation_bytes(self) -> int:
        """Estimate the largest activations of one step: a step's tokens through one layer.

        Tokens × 2 bytes × (4 hidden widths + the wider of attention and MLP), because one layer's
        buffers are used again by the next (TensorRT-LLM docs/source/reference/memory.md@5a211b91),
        plus the logits and probabilities of every running request in float32.
        """
        model = self.checkpoint
        tokens = min(STEP_TOKENS, self.context * self.concurrency)
        attention = 2 * (model.heads + model.kv_heads) * model.head_dim // self.tp
        wide = max(attention, 3 * _mlp(model) // self.tp)
        logits = 2 * 4 * self.concurrency * model.number("vocab_size", 0)
        return 2 * tokens * (4 * model.number("hidden_size") + wide) + logits

    @property
    def workspace_bytes(self) -> int:
        """Estimate what CUDA, its libraries and NCCL keep for themselves."""
        talking = NCCL_BYTES if self.tp * self.pp > 1 else 0
        return CONTEXT_BYTES + WORKSPACE_BYTES + talking

    @property
    def usable_bytes(self) -> int:
        """Bytes that one process can allocate on a GPU of the tier; 0 when it is no GPU."""
        return ledger.usable_bytes(self.tier) if self.tier.gpu else 0

    @property
    def kv_budget_bytes(self) -> int:
        """Bytes that the runtime gives to the KV cache on one GPU."""
        taken = self.gpu_weight_bytes + self.activation_bytes + self.workspace_bytes
        return max(0, int(self.kv_fraction * (self.usable_bytes - taken)))

    @property
    def max_concurrency(self) -> int | None:
        """The requests that can fill their context at once without eviction; None off the GPU."""
        if not self.tier.gpu:
            return None
        each = self.kv_bytes_per_sequence
        return self.kv_budget_bytes // each if each else self.concurrency

    @property
    def fits(self) -> bool | None:
        """Whether weights and the load asked for fit; None where no GPU sets a limit."""
        most = self.max_concurrency
        return None if most is None else most >= self.concurrency

    @cached_property
    def suggested_tp(self) -> int | None:
        """The fewest GPUs of one host on which it fits; None when eight do not do, or off GPUs."""
        if not self.tier.gpu:
            return None
        tried = (replace(self, tp=tp) for tp in self.hosts)
        return next((one.tp for one in tried if one.fits and not one.indivisible), None)

    @property
    def indivisible(self) -> str:
        """Say what ``tp`` does not divide, or ""."""
        if self.checkpoint.heads % self.tp:
            return f"the {self.checkpoint.heads} attention heads"
        return self.weights.indivisible(self.tp)

    def refusals(self) -> tuple[Refusal, ...]:
        """Return why the model cannot be split so, or does not fit."""
        found = []
        if self.tp > 1 and (what := self.indivisible):
            found.append(Refusal(f"tp {self.tp} does not divide {what}", self._advice()))
        if self.fits is False:
            found.append(Refusal(self._shortage(), self._advice()))
        return tuple(found)

    def _shortage(self) -> str:
        gpus = f"{self.tp * self.pp} × {self.tier.name} ({_gib(self.usable_bytes)} usable each)"
        if not self.max_concurrency:
            return (
                f"{self.recipe.name} weights take {_gib(self.gpu_weight_bytes)} of each GPU and "
                f"leave no room for {self.context} tokens of KV cache on {gpus}"
            )
        return (
            f"{self.concurrency} requests of {self.context} tokens need {_gib(self.kv_bytes)} of "
            f"KV cache a GPU where {_gib(self.kv_budget_bytes)} are left on {gpus}"
        )

    def _advice(self) -> str:
        ways = []
        if self.suggested_tp and self.suggested_tp != self.tp:
            ways.append(f"target.tp = {self.suggested_tp}")
        if self.max_concurrency:
            ways.append(f"serve.concurrency of at most {self.max_concurrency}")
        if not self.recipe.kv_cache.quantized:
            ways.append('quantize.kv_cache = "fp8"')
        ways.append("a shorter serve.context, a smaller recipe or a larger tier")
        return ", or ".join(ways)

    def as_json(self) -> dict[str, object]:
        """Return every number, in bytes, as one JSON object."""
        return {
            "context": self.context,
            "concurrency": self.concurrency,
            "tp": self.tp,
            "pp": self.pp,
            "kv_fraction": self.kv_fraction,
            "weight_bytes": self.weight_bytes,
            "gpu_weight_bytes": self.gpu_weight_bytes,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "kv_bytes_per_sequence": self.kv_bytes_per_sequence,
            "kv_bytes": self.kv_bytes,
            "activation_bytes": self.activation_bytes,
            "workspace_bytes": self.workspace_bytes,
            "usable_bytes": self.usable_bytes,
            "kv_budget_bytes": self.kv_budget_bytes,
            "max_concurrency": self.max_concurrency,
            "fits": self.fits,
            "suggested_tp": self.suggested_tp,
            "exact": self.weights.exact,
            "estimates": ["activation_bytes", "workspace_bytes"],
        }


def layers(model: Checkpoint) -> tuple[tuple[int, int], ...]:
    """Return for each attention layer the values cached a token, and its window (0: none).

    Keys and values × KV heads × head width; a latent cache (MLA) holds one vector for all heads.
    Layers that keep a state of fixed size instead (Mamba, linear attention) are left out.
    """
    latent = _latent(model)
    rope = model.number("qk_rope_head_dim", 0) if latent else 0
    width = latent + rope if latent else 2 * model.kv_heads * model.head_dim
    return tuple((width, window) for window in _windows(model) if window is not None)


def _windows(model: Checkpoint) -> list[int | None]:
    """Return each layer's attention window: 0 for all tokens, None for no attention."""
    kinds = _setting(model, "layer_types")
    window = model.number("sliding_window", 0)
    if isinstance(kinds, list):
        chunk = model.number("attention_chunk_size", 0)
        known = {"full_attention": 0, "sliding_attention": window, "chunked_attention": chunk}
        return [known.get(str(kind)) for kind in kinds]
    if not window or _setting(model, "use_sliding_window") is False:
        return [0] * model.layers
    every = model.number("sliding_window_pattern", _PATTERN.get(model.config.get("model_type"), 0))
    if every:  # each such layer sees all tokens (Gemma)
        return [0 if (at + 1) % every == 0 else window for at in range(model.layers)]
    full = model.number("max_window_layers", 0)  # Qwen2: the first layers see all tokens
    return [0 if at < full else window for at in range(model.layers)]


def _setting(model: Checkpoint, key: str) -> object:
    text = model.config.get("text_config")
    inner = text.get(key) if isinstance(text, Mapping) else None
    return model.config.get(key, inner)


def _latent(model: Checkpoint) -> int:
    return model.number("kv_lora_rank", 0)


def _mlp(model: Checkpoint) -> int:
    """The width of one token's MLP: of a mixture, the experts that one token visits."""
    dense = model.number("intermediate_size", 4 * model.number("hidden_size"))
    experts = model.number("num_experts_per_tok", 0)
    return max(dense, experts * model.number("moe_intermediate_size", dense))


def _paged(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def _bytes(values: int, recipe: Recipe) -> int:
    """Bytes of cached values; a block format keeps its scales beside them (NVFP4: 4.5 bits)."""
    fmt = recipe.kv_cache
    bits = Fraction(fmt.bits) + (Fraction(fmt.scale_bits, fmt.block) if fmt.block else 0)
    return -(-values * bits // 8)


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
