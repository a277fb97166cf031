"""Which layers a recipe quantizes, and which shapes it cannot take: from headers alone."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from math import lcm
from typing import Final

from builders import ledger
from builders.checkpoint import Checkpoint
from builders.errors import Refusal
from builders.formats import Format
from builders.parse import nearest
from builders.quantize import techniques
from builders.quantize.layouts import ALGORITHMS, LAYOUTS, Layout
from builders.quantize.techniques import TECHNIQUES
from builders.recipe import KEEP, Recipe, shipped

# Never quantized, whatever a recipe says: outputs, embeddings, routers of mixtures of experts,
# vision towers, multi-token prediction. ModelOpt 0.47's default unit leaves the same ones alone,
# but not every one of its constants starts from that unit.
ALWAYS: Final = (
    *KEEP,
    "*embed*",
    "*wte",
    "*wpe",
    "*output_layer*",
    "output",
    "*proj_out",
    "*router*",
    "*mlp.gate",
    "*block_sparse_moe.gate*",
    "*shared_expert_gate",
    "*conv1d*",
    "*linear_attn.in_proj_a*",
    "*linear_attn.in_proj_b*",
    "mtp",
    "*vision_tower*",
    "*vision_model*",
    "*visual*",
    "*multi_modal_projector*",
)
# Layers that predict further tokens lie behind the last decoder layer, or under a name.
_LAYER: Final = re.compile(r"^(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.(\d+)\.")
_FURTHER: Final = re.compile(r"(?:^|\.)mtp(?:[._]|$)")
# GPT-2 keeps its matrices as (in, out), which no format here is laid out for.
TRANSPOSED: Final = frozenset({"GPT2LMHeadModel", "OpenAIGPTLMHeadModel"})
# Experts, each a matrix of its own, and the block that they belong to.
_EXPERT: Final = re.compile(r"(?P<block>.*)\.experts\.\d+\.")
# Experts that ModelOpt cannot write, beside those of `layouts`.
_NO_EXPERTS: Final[Mapping[str, str]] = {
    "NVFP4_AWQ": "ModelOpt smooths none of them and fails when it exports them",
}


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
    return {
        name: sides
        for name, sides in matrices(checkpoint).items()
        if not is_kept(name, patterns) and not is_further(name, checkpoint)
    }


def is_further(name: str, checkpoint: Checkpoint) -> bool:
    """Whether a tensor or module belongs to layers that predict further tokens (MTP).

    Runtimes draft with them; they are left as they are.
    """
    at = _LAYER.match(f"{name}.")
    last = checkpoint.number("num_hidden_layers", 1 << 30)
    return bool(_FURTHER.search(name)) or (at is not None and int(at[1]) >= last)


def kept(checkpoint: Checkpoint, recipe: Recipe) -> list[str]:
    """Return the modules with a matrix that this recipe leaves alone."""
    taken = quantized(checkpoint, recipe)
    return [name for name in matrices(checkpoint) if name not in taken]


def shape_refusals(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Refusal, ...]:
    """Return why this checkpoint's layers cannot take this recipe; costs milliseconds."""
    layout = layout_of(recipe)
    if layout is None:
        return (_unknown(recipe),)
    if checkpoint.architecture in TRANSPOSED:
        reason = f"{checkpoint.architecture} stores its matrices transposed (Conv1D)"
        return (Refusal(reason, "no recipe here takes such a model; serve it unquantized"),)
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
        *(() if others else (*_some_experts(checkpoint, recipe), *_kv_cache(checkpoint, recipe))),
        *(() if others or recipe.referenced else _group(recipe, layout.block)),
    )


def _group(recipe: Recipe, block: int) -> tuple[Refusal, ...]:
    """ModelOpt's presets have groups of their own, which a recipe only repeats."""
    if recipe.mixed or not (block and recipe.group) or recipe.group == block:
        return ()
    reason = f"{recipe.name}: ModelOpt's {recipe.preset} has groups of {block}, not {recipe.group}"
    return (Refusal(reason, f"group = {block}; HQQ takes groups of other sizes"),)


def layout_of(recipe: Recipe) -> Layout | None:
    """Return what a layer looks like after this recipe; None where the preset is unknown."""
    if recipe.backend in TECHNIQUES:
        found = TECHNIQUES[recipe.backend].get(recipe.preset)
        return found.layout if found else None
    if recipe.mixed:
        return _common(recipe)
    algorithm = ALGORITHMS.get(recipe.preset)
    if recipe.referenced:
        declared = ledger.algorithm(recipe)
        algorithm = declared.name if declared else None
    if algorithm is None or algorithm not in LAYOUTS:
        return None
    layout = LAYOUTS[algorithm]
    return replace(layout, experts=_NO_EXPERTS.get(algorithm, layout.experts))


def _common(recipe: Recipe) -> Layout | None:
    """Return what a layer must be to take any format of a mixture."""
    known = shipped()
    each = [layout_of(known[name]) for name in recipe.formats if name in known]
    layouts = [one for one in each if one is not None]
    if len(layouts) != len(recipe.formats):
        return None
    return Layout(
        block=lcm(*(one.block or 1 for one in layouts)),
        out=lcm(*(one.out for one in layouts)),
        experts=next((one.experts for one in layouts if one.experts), ""),
    )


def kept_experts(checkpoint: Checkpoint, recipe: Recipe) -> tuple[str, ...]:
    """Name the mixtures that are left alone, as transformers 5 holds them: one module, one name."""
    groups = _mixtures(checkpoint)
    alone = [block for block, names in groups.items() if _kept(names, recipe) == len(names)]
    renamed = (block.replace("block_sparse_moe", "mlp") for block in alone)
    return tuple(dict.fromkeys(f"{block}.experts" for block in (*alone, *renamed)))


def _mixtures(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """Group the weights of experts by the block that they belong to."""
    groups: dict[str, list[str]] = {}
    for name in matrices(checkpoint):
        found = _EXPERT.match(name)
        if found:
            groups.setdefault(found["block"], []).append(name)
    return groups


def _kept(names: Iterable[str], recipe: Recipe) -> int:
    return sum(is_kept(name, (*ALWAYS, *recipe.keep)) for name in names)


def _some_experts(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Refusal, ...]:
    for block, names in _mixtures(checkpoint).items():
        if 0 < _kept(names, recipe) < len(names):
            return (
                Refusal(
                    f"some weights of the experts of {block} are excluded and others are not, but "
                    "transformers holds them as one",
                    'exclude all experts, for example by "*experts*", or none',
                ),
            )
    return ()


def _kv_cache(checkpoint: Checkpoint, recipe: Recipe) -> tuple[Refusal, ...]:
    """ModelOpt has E4M3 and NVFP4; runtimes convert to E5M2 by themselves, without scales."""
    if recipe.kv_cache is Format.INT8:
        reason = "ModelOpt fails to export a KV cache in int8"
        hint = "compiled engines take one from a TensorRT-LLM checkpoint only"
        return (Refusal(f"{recipe.name}: {reason}", f'quantize.kv_cache = "fp8"; {hint}'),)
    block = recipe.kv_cache.block or 1
    if recipe.kv_scales and checkpoint.head_dim % block:
        reason = f"heads of {checkpoint.head_dim} values do not divide into blocks of {block}"
        where = f"a KV cache in {recipe.kv_cache.value}"
        return (Refusal(f"{recipe.name}: {reason} for {where}", 'quantize.kv_cache = "fp8"'),)
    return ()


def _unknown(recipe: Recipe) -> Refusal:
    if recipe.mixed:
        known = shipped()
        lost = next((name for name in recipe.formats if name not in known), recipe.formats[0])
        makers = [name for name, one in known.items() if one.backend == "modelopt"]
        return Refusal(f"{recipe.name}: {lost!r} is no recipe to mix", nearest(lost, makers))
    if recipe.referenced:
        pair = f"{recipe.weights.value} weights under {recipe.activations.value} activations"
        reason = f"{recipe.name}: no algorithm that ModelOpt exports has {pair}"
        return Refusal(reason, "let weights and activations say what ModelOpt's recipe makes")
    reason = f"{recipe.name}: {_maker(recipe)} preset {recipe.preset!r} is unknown"
    return Refusal(reason, nearest(recipe.preset, TECHNIQUES.get(recipe.backend) or ALGORITHMS))


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
