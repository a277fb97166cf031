"""Which layers a recipe quantizes, and which shapes it cannot take: from headers alone."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final

from builders.checkpoint import Checkpoint
from builders.errors import Refusal
from builders.parse import nearest
from builders.quantize import techniques
from builders.quantize.layouts import ALGORITHMS, LAYOUTS, Layout
from builders.quantize.techniques import TECHNIQUES
from builders.recipe import KEEP, Recipe

# Never quantized, whatever a recipe says: outputs, embeddings, routers of mixtures of experts,
# vision towers, multi-token prediction. ModelOpt 0.47's default unit leaves the same ones alone,
# but not every one of its constants starts from that unit.
ALWAYS: Final = (
    *KEEP,
    "*embed*",
    "*output_layer*",
    "output",
    "*proj_out",
    "*router*",
    "*mlp.gate",
    "*block_sparse_moe.gate*",
    "*shared_expert_gate",
    "*linear_attn.conv1d*",
    "*self_attention.conv1d*",
    "*mixer.conv1d*",
    "*linear_attn.in_proj_a*",
    "*linear_attn.in_proj_b*",
    "mtp",
    "*vision_tower*",
    "*vision_model*",
    "*visual*",
    "*multi_modal_projector*",
)


def is_kept(module: str, patterns: Iterable[str]) -> bool:
    """Whether a module, or one that it lies in, matches one of the patterns."""
    return any(fnmatchcase(module, p) or fnmatchcase(module, f"{p}.*") for p in patterns)


def matrices(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """Return every module with a weight of two dimensions, with its out and in features."""
    found: dict[str, tuple[int, int]] = {}
    for name, info in sorted(checkpoint.tensors.items()):
        if name.endswith(".weight") and len(info.shape) == 2:
            found[name.removesuffix(".weight")] = (info.shape[0], info.shape[1])
    return found


def quantized(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, tuple[int, int]]:
    """Return the modules that this recipe quantizes, with their out and in features."""
    patterns = (*ALWAYS, *recipe.keep)
    return {name: s for name, s in matrices(checkpoint).items() if not is_kept(name, patterns)}


def shape_refusals(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Refusal, ...]:
    """Return why this checkpoint's layers cannot take this recipe; costs milliseconds."""
    layout = layout_of(recipe)
    if layout is None:
        known = TECHNIQUES.get(recipe.backend) or ALGORITHMS
        reason = f"{recipe.name}: {_maker(recipe)} preset {recipe.preset!r} is unknown"
        return (Refusal(reason, nearest(recipe.preset, known)),)
    layers = quantized(checkpoint, recipe)
    if not layers:
        reason = f"{recipe.name} would quantize nothing: {checkpoint.path} has no linear layer left"
        return (Refusal(reason, "exclude fewer modules"),)
    block = recipe.group if layout.block and recipe.group else layout.block
    others = recipe.backend in TECHNIQUES
    return (
        *_indivisible(layers, recipe, 1, block, "in"),
        *_indivisible(layers, recipe, 0, layout.out, "out"),
        *(techniques.refusals(checkpoint, recipe) if others else ()),
        *_experts(checkpoint, recipe, "" if others else layout.experts),
        *_unmatched(checkpoint, recipe),
    )


def layout_of(recipe: Recipe) -> Layout | None:
    """Return what a layer looks like after this recipe; None where the preset is unknown."""
    if recipe.backend in TECHNIQUES:
        found = TECHNIQUES[recipe.backend].get(recipe.preset)
        return found.layout if found else None
    algorithm = ALGORITHMS.get(recipe.preset)
    return LAYOUTS[algorithm] if algorithm else None


def _maker(recipe: Recipe) -> str:
    return "ModelOpt" if recipe.backend == "modelopt" else recipe.backend


def _indivisible(
    layers: Mapping[str, tuple[int, int]], recipe: Recipe, axis: int, block: int, side: str
) -> tuple[Refusal, ...]:
    bad = [name for name, shape in layers.items() if block and shape[axis] % block]
    if not bad:
        return ()
    more = f" (and {len(bad) - 1} more layers)" if len(bad) > 1 else ""
    return (
        Refusal(
            f"{bad[0]} has {layers[bad[0]][axis]} {side} features, which {recipe.name} cannot cut "
            f"into blocks of {block}{more}",
            "use fp8 or int8_smoothquant, whose scales span a channel or a tensor; or exclude "
            "these layers",
        ),
    )


def _experts(checkpoint: Checkpoint, recipe: Recipe, why: str) -> tuple[Refusal, ...]:
    if not why or not any(".experts." in name for name in checkpoint.tensors):
        return ()
    reason = f"{recipe.name} cannot be written for a mixture of experts: {why}"
    return (Refusal(reason, "use fp8 or nvfp4, in which experts are written as they should be"),)


def _unmatched(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Refusal, ...]:
    """A pattern of the user's that matches no module is a spelling mistake."""
    modules = {name.rpartition(".")[0] for name in checkpoint.tensors}
    idle = [p for p in recipe.keep if p not in KEEP and not any(is_kept(m, (p,)) for m in modules)]
    reason = "the exclusion {!r} matches no module of this checkpoint"
    parts = sorted({part for module in modules for part in module.split(".")})
    return tuple(Refusal(reason.format(p), nearest(p.strip("*."), parts)) for p in idle)
