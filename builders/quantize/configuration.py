"""A recipe in ModelOpt's own words: preset or recipe file, exclusions, KV cache."""

import contextlib
import copy
import io
from collections.abc import Iterable, Mapping
from typing import Any, Final

import modelopt.torch.quantization as mtq
from modelopt.recipe import load_recipe

from builders.checkpoint import Checkpoint
from builders.errors import UsageError
from builders.formats import Format
from builders.quantize.shapes import ALWAYS, kept_experts
from builders.recipe import Recipe, shipped

KV_PRESETS: Final[Mapping[Format, str]] = {Format.FP8: "FP8_KV_CFG", Format.NVFP4: "NVFP4_KV_CFG"}
# Which numbers a quantizer of ModelOpt's makes: elements, then the scales of its blocks.
_E4M3: Final = (4, 3)
_E2M1: Final = (2, 1)
_MADE: Final[Mapping[tuple[object, object], Format]] = {
    (_E4M3, None): Format.FP8,
    (_E4M3, (8, 0)): Format.MXFP8,
    (_E2M1, (4, 3)): Format.NVFP4,
    (_E2M1, (8, 0)): Format.MXFP4,
    (8, None): Format.INT8,
    (4, None): Format.INT4,
}


def config(recipe: Recipe, checkpoint: Checkpoint | None = None) -> dict[str, Any]:
    """Return ModelOpt's own configuration of a recipe: preset, then exclusions, then KV cache.

    Later entries win, so an excluded layer still keeps its KV cache in the format of all layers:
    runtimes know one format for the whole cache.
    """
    chosen = _referenced(recipe) if recipe.referenced else _preset(recipe.preset)
    chosen["quant_cfg"] += exclusions(recipe, checkpoint)
    if not recipe.kv_scales:
        chosen["quant_cfg"].append({"quantizer_name": "*[kv]_bmm_quantizer", "enable": False})
        return chosen
    kv_cache = getattr(mtq, KV_PRESETS[recipe.kv_cache])["quant_cfg"]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the whole configuration
        updated: dict[str, Any] = mtq.update_quant_cfg_with_kv_cache_quant(chosen, kv_cache)
    return updated


def exclusions(recipe: Recipe, checkpoint: Checkpoint | None) -> list[dict[str, Any]]:
    """Switch off what is left alone, experts under the names that they have in memory."""
    globs = dict.fromkeys((*ALWAYS, *recipe.keep))
    experts = kept_experts(checkpoint, recipe) if checkpoint else ()
    return [{"quantizer_name": f"{glob}.*", "enable": False} for glob in (*globs, *experts)]


def formats(recipe: Recipe) -> list[dict[str, Any]]:
    """Return the presets among which a mixture chooses."""
    known = shipped()
    return [_preset(known[name].preset) for name in recipe.formats]


def _preset(name: str) -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy(getattr(mtq, name))
    return found


def _referenced(recipe: Recipe) -> dict[str, Any]:
    """Load one of the recipes that ModelOpt ships; it must make what ours says it makes."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = load_recipe(recipe.preset).quantize.model_dump()
    except (ValueError, OSError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{recipe.name}: ModelOpt ships no quantization recipe {recipe.preset!r}",
            hint="it has those under modelopt_recipes/general/ptq of its package",
        ) from error
    for part, said in (("weight", recipe.weights), ("input", recipe.activations)):
        made = _made(found["quant_cfg"], f"{part}_quantizer")
        if made is not said:
            raise UsageError(
                f"{recipe.name}: {recipe.preset} makes {_name(made)} of what {part}_quantizer "
                f"rounds, the recipe says {said.value}",
                hint="let weights and activations say what ModelOpt's recipe makes",
            )
    chosen: dict[str, Any] = found
    return chosen


def _made(entries: Iterable[Mapping[str, Any]], ending: str) -> Format | None:
    """Return the format of the last enabled entry for weights or inputs; BF16 where none is."""
    made: Format | None = Format.BF16
    for entry in entries:
        name, settings = str(entry["quantizer_name"]), entry.get("cfg")
        if name.endswith(ending) and settings and entry.get("enable", True):
            one = settings[-1] if isinstance(settings, list) else settings
            scale = (one.get("block_sizes") or {}).get("scale_bits")
            made = _MADE.get((one["num_bits"], scale))
    return made


def _name(made: Format | None) -> str:
    return made.value if made else "a format that nobody exports"
