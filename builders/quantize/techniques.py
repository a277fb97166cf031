"""The quantizers beside ModelOpt: what each preset makes, and what it must not be given.

Measured on bitsandbytes 0.50.0, hqq 0.2.8 and GPTQModel 7.6.0. How a layer then lies on disk is
told in `builders.autopsy`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from builders.checkpoint import Checkpoint
from builders.errors import Refusal
from builders.formats import Format
from builders.quantize.layouts import Layout
from builders.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Technique:
    """One preset of a quantizer.

    ``layout`` says by what a layer's features must divide, ``algorithm`` is our name for what the
    export declares.
    """

    layout: Layout
    algorithm: str
    weights: Format
    activations: Format = Format.BF16


_FUSED: Final = "transformers 5 fuses experts into one tensor and cannot read them in this layout"
_RENAMED: Final = (
    "GPTQModel writes Mixtral's experts under names that are not those of the original checkpoint, "
    "which runtimes look for"
)
# Kernels take GPTQ weights in tiles of 32 outputs at least, and GPTQModel searches AWQ's clipping
# for 64 outputs at once; a group spans 128 inputs unless the recipe says otherwise.
_GPTQ: Final = Technique(
    layout=Layout(block=128, out=32, experts=_RENAMED),
    algorithm="W4A16_GPTQ",
    weights=Format.INT4,
)

# By backend and preset.
TECHNIQUES: Final[Mapping[str, Mapping[str, Technique]]] = {
    "bitsandbytes": {
        "llm_int8": Technique(
            layout=Layout(experts=_FUSED),
            algorithm="BNB_INT8",
            weights=Format.INT8,
            activations=Format.INT8,
        ),
        "nf4_double": Technique(
            layout=Layout(experts=_FUSED),
            algorithm="BNB_NF4",
            weights=Format.NF4,
        ),
    },
    "hqq": {
        "hqq4": Technique(
            layout=Layout(block=64, out=2, experts=_FUSED),
            algorithm="HQQ_INT4",
            weights=Format.INT4,
        ),
        "hqq8": Technique(
            layout=Layout(block=64, experts=_FUSED),
            algorithm="HQQ_INT8",
            weights=Format.INT8,
        ),
    },
    "gptq": {"gptq": _GPTQ, "gptq_desc_act": _GPTQ},
    "awq": {
        "gemm": Technique(
            layout=Layout(block=128, out=64, experts=_RENAMED),
            algorithm="AWQ",
            weights=Format.INT4,
        ),
    },
}
_CHOSEN_AT_RUN_TIME: Final = frozenset({Format.BF16, Format.FP16, Format.FP32, Format.FP8_E5M2})


def refusals(checkpoint: Checkpoint, recipe: Recipe) -> Iterator[Refusal]:
    """Say what these techniques cannot do whatever the shapes are."""
    technique = TECHNIQUES[recipe.backend][recipe.preset]
    made, asked = (
        f"{one.weights.value} weights under {one.activations.value} activations"
        for one in (technique, recipe)
    )
    if made != asked:
        yield Refusal(
            f"{recipe.name} asks {recipe.backend} for {asked}, but {recipe.preset} makes {made}",
            "correct weights and activations in the recipe, or take another preset",
        )
    if recipe.kv_cache not in _CHOSEN_AT_RUN_TIME:
        yield Refusal(
            f"{recipe.backend} calibrates no KV cache, so {recipe.name} has no scales for one in "
            f"{recipe.kv_cache.value}",
            'quantize.kv_cache = "none", or a ModelOpt recipe',
        )
    if _holds_experts(checkpoint, technique.layout.experts):
        yield Refusal(
            f"{recipe.name} cannot be written for this mixture of experts: "
            f"{technique.layout.experts}",
            "use fp8 or nvfp4, in which experts are written as they should be",
        )


def _holds_experts(checkpoint: Checkpoint, why: str) -> bool:
    where = ".block_sparse_moe.experts." if why == _RENAMED else ".experts."
    return any(where in name for name in checkpoint.tensors)
