"""What was written is what the recipe asked, and it is sound: headers, scales, and values."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from builders import autopsy
from builders.autopsy import Finding, Inspection
from builders.checkpoint import Checkpoint
from builders.errors import ToolError
from builders.formats import Format
from builders.quantize.layouts import ALGORITHMS, SMOOTHED
from builders.quantize.shapes import matrices, quantized
from builders.recipe import Recipe

# Warnings for a checkpoint from elsewhere, errors in one that we have just written.
_OURS: Final = frozenset({
    "declaration-beside-missing", "base-dtype", "base-bias-extra", "base-unlike", "kv-cast",
    "scale-underflow", "size-differs", "kv-scale-undeclared", "tensor-unused", "file-private",
    "file-unread", "rope-new-only", "tokenizer-step-differs", "padding-differs",
    "generation-differs",
})  # fmt: skip
_AGAIN: Final = "quantize again; if it stays so, report it with the output of enginesmith doctor"


@dataclass(frozen=True, slots=True)
class Unasked:
    """Something sound that the recipe did not ask for, or asked for in vain."""

    where: str
    what: str
    hint: str = _AGAIN


def check(exported: Checkpoint, source: Checkpoint, recipe: Recipe) -> None:
    """Hold an export against its source and recipe; anything wrong is a `ToolError`."""
    found = findings(exported, source, recipe)
    if found:
        more = f" (and {len(found) - 1} more findings)" if len(found) > 1 else ""
        first = found[0]
        raise ToolError(f"{exported.path}: {first.where} {first.what}{more}", hint=first.hint)


def findings(
    exported: Checkpoint, source: Checkpoint, recipe: Recipe
) -> tuple[Finding | Unasked, ...]:
    """Return everything that is wrong with an export; empty when it is sound."""
    inspection = autopsy.inspect(exported.path, base=source, limit=None)
    wrong = (one for one in inspection.findings if one.stops or one.rule in _OURS)
    told: tuple[Finding | Unasked, ...] = (
        *_declared(inspection, recipe),
        *wrong,
        *_layers(exported, source, recipe, inspection),
    )
    if told:  # values are read from what must be sound
        return told
    return tuple(_values(exported, source, recipe, inspection))


def _values(
    exported: Checkpoint, source: Checkpoint, recipe: Recipe, inspection: Inspection
) -> Iterator[Unasked]:
    """The numbers stand for the source's; needs torch, which GPTQModel's environment has alone."""
    if importlib.util.find_spec("torch") is None:
        return
    from builders.quantize import values  # noqa: PLC0415 - torch, which a backend has loaded

    known = inspection.recognized
    for one in values.apart(exported, source, known, tuned=_tuned(recipe)):
        yield Unasked(one.where, one.what)


def _tuned(recipe: Recipe) -> bool:
    """Whether weights, and norms for them, were moved for the sake of activations."""
    named = (recipe.backend, recipe.preset, *recipe.formats)
    return recipe.referenced or any(
        name in text.lower() for text in named for name in ("awq", "gptq")
    )


def _declared(inspection: Inspection, recipe: Recipe) -> Iterator[Unasked]:
    """The declaration says what was asked."""
    known = inspection.recognized
    kv_cache = recipe.kv_cache if recipe.kv_scales else Format.BF16
    algorithm = ALGORITHMS.get(recipe.preset, known.algorithm)  # only ModelOpt's are known here
    facts = (
        ("method", known.method, recipe.backend),
        ("algorithm", known.algorithm, algorithm),
        ("weights", known.weights.value, (known if recipe.mixed else recipe).weights.value),
        ("KV cache", known.kv_cache.value, kv_cache.value),
    )
    for what, said, wanted in facts:
        if said != wanted:
            yield Unasked(
                "the declaration",
                f"says {what} {said!r} where {recipe.name} asks for {wanted!r}",
            )


def _layers(
    exported: Checkpoint, source: Checkpoint, recipe: Recipe, inspection: Inspection
) -> Iterator[Unasked]:
    """What the recipe quantizes is declared quantized, and nothing else is."""
    wanted = quantized(source, recipe)
    for module in matrices(source):
        declared = inspection.recognized.storage(module) is not None
        if declared and module not in wanted:
            yield Unasked(module, f"is declared quantized, but {recipe.name} leaves it alone")
        elif not declared and module in wanted and not recipe.mixed:  # it may choose 16 bits
            yield Unasked(module, f"is declared left alone, but {recipe.name} quantizes it")
    for module in wanted if recipe.preset in SMOOTHED else ():
        if f"{module}.pre_quant_scale" not in exported.tensors:
            yield Unasked(f"{module}.pre_quant_scale", "is missing")
