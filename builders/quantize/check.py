"""The first autopsy of an export: what was written is what the recipe asked for.

Reads headers and scale tensors only, with the standard library. Knows nothing of how the export
was made.
"""

import json
import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Final

from builders.checkpoint import Checkpoint, TensorInfo
from builders.errors import ToolError
from builders.quantize.layouts import (
    ALGORITHMS,
    KV_ALGORITHMS,
    KV_SCALES,
    LAYOUTS,
    SCALES,
    Layout,
    Part,
)
from builders.quantize.shapes import is_kept, quantized
from builders.recipe import Recipe

_REDO: Final = "quantize again; if it stays so, report it with the output of enginesmith doctor"
_MORE_TEXT: Final = "give more or longer calibration texts, so that tokens reach this layer"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong in an export: the tensor or key, what is wrong, and what to do."""

    where: str
    what: str
    hint: str = _REDO


def check(exported: Checkpoint, source: Checkpoint, recipe: Recipe) -> None:
    """Hold an export against its source and recipe; anything wrong is a `ToolError`."""
    found = findings(exported, source, recipe)
    if found:
        more = f" (and {len(found) - 1} more findings)" if len(found) > 1 else ""
        first = found[0]
        raise ToolError(f"{exported.path}: {first.where} {first.what}{more}", hint=first.hint)


def findings(exported: Checkpoint, source: Checkpoint, recipe: Recipe) -> tuple[Finding, ...]:
    """Return everything that is wrong with an export; empty when it is sound."""
    declared = _declared(exported)
    if declared is None:
        return (Finding("hf_quant_config.json", "is missing or cannot be read"),)
    return (
        *_declarations(exported, declared, recipe),
        *_linears(exported, source, recipe),
        *_excluded(source, declared, recipe),
        *_kv_scales(exported, source, recipe),
        *_untouched(exported, source, recipe),
        *_values(exported),
    )


def _declared(exported: Checkpoint) -> Mapping[str, object] | None:
    try:
        data = json.loads((exported.path / "hf_quant_config.json").read_text(encoding="utf-8"))
        declared = data["quantization"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return declared if isinstance(declared, dict) else None


def _declarations(
    exported: Checkpoint, declared: Mapping[str, object], recipe: Recipe
) -> Iterator[Finding]:
    """What both configuration files say is what was asked."""
    wanted = {
        "quant_algo": ALGORITHMS[recipe.preset],
        "kv_cache_quant_algo": KV_ALGORITHMS.get(recipe.kv_cache.value),
    }
    for key, value in wanted.items():
        if declared.get(key) != value:
            what = f"says {key} {declared.get(key)!r} where {recipe.name} asks for {value!r}"
            yield Finding("hf_quant_config.json", what)
    inside = exported.config.get("quantization_config")
    inside = inside if isinstance(inside, Mapping) else {}
    pairs = (("quant_algo", "quant_algo"), ("exclude_modules", "ignore"))
    for key, other in pairs:
        if declared.get(key) != inside.get(other):
            yield Finding("config.json", f"and hf_quant_config.json disagree about {key}")


def _linears(exported: Checkpoint, source: Checkpoint, recipe: Recipe) -> Iterator[Finding]:
    """Each layer that the recipe quantizes has the tensors of its algorithm, and no other."""
    layout = LAYOUTS[ALGORITHMS[recipe.preset]]
    for module, (out, into) in quantized(source, recipe).items():
        group = recipe.group or layout.block or 1
        for name, part in {**layout.parts, **layout.optional}.items():
            info = exported.tensors.get(f"{module}.{name}")
            if info is None and name in layout.optional:
                continue
            yield from _part(f"{module}.{name}", info, part, part.shape(out, into, group))
        for name in sorted(SCALES - {"k_scale", "v_scale"} - _names(layout)):
            if f"{module}.{name}" in exported.tensors:
                yield Finding(f"{module}.{name}", "has no place in this format")


def _names(layout: Layout) -> set[str]:
    return set(layout.parts) | set(layout.optional)


def _part(
    name: str, info: TensorInfo | None, part: Part, shape: tuple[int, ...]
) -> Iterator[Finding]:
    if info is None:
        calibrated = name.endswith(".input_scale")
        yield Finding(name, "is missing", _MORE_TEXT if calibrated else _REDO)
    elif info.dtype not in part.dtypes:
        yield Finding(name, f"is {info.dtype}, not {' or '.join(sorted(part.dtypes))}")
    elif info.shape != shape:
        yield Finding(name, f"has shape {list(info.shape)}, not {list(shape)}")


def _excluded(
    source: Checkpoint, declared: Mapping[str, object], recipe: Recipe
) -> Iterator[Finding]:
    """A quantized layer that is declared excluded would be read as if it were not quantized."""
    patterns = declared.get("exclude_modules")
    patterns = [str(p) for p in patterns] if isinstance(patterns, list) else []
    for module in quantized(source, recipe):
        if is_kept(module, patterns):
            yield Finding(module, "is quantized, but exclude_modules names it")


def _kv_scales(exported: Checkpoint, source: Checkpoint, recipe: Recipe) -> Iterator[Finding]:
    """Every attention layer has both scales when the KV cache is quantized, none otherwise."""
    wanted = recipe.kv_cache.quantized
    for attention in _attentions(source):
        for scale in KV_SCALES:
            info = exported.tensors.get(f"{attention}.{scale}")
            if wanted and info is None:
                yield Finding(f"{attention}.{scale}", "is missing", _MORE_TEXT)
            elif wanted and info is not None and (info.dtype, info.shape) != ("F32", ()):
                yield Finding(f"{attention}.{scale}", "is not one float32 number")
            elif not wanted and info is not None:
                yield Finding(f"{attention}.{scale}", "is there, but no KV cache format was asked")


def _attentions(source: Checkpoint) -> list[str]:
    keys = ("k_proj", "qkv_proj", "query_key_value")
    parents = (name.removesuffix(".weight").rpartition(".") for name in source.tensors)
    return sorted({parent for parent, _, child in parents if child in keys})


def _untouched(exported: Checkpoint, source: Checkpoint, recipe: Recipe) -> Iterator[Finding]:
    """All other tensors are as they were in dtype and shape, and nothing else came in."""
    layers = quantized(source, recipe)
    tied = source.config.get("tie_word_embeddings") is True
    for name, before in sorted(source.tensors.items()):
        module = name.rpartition(".")[0]
        after = exported.tensors.get(name)
        if name.endswith(".weight") and module in layers:
            continue
        if after is None and not (tied and "lm_head" in name):
            yield Finding(name, "of the source is missing in the export")
        elif after is not None and (after.dtype, after.shape) != (before.dtype, before.shape):
            was, now = f"{before.dtype} {list(before.shape)}", f"{after.dtype} {list(after.shape)}"
            yield Finding(name, f"must be left alone, but was {was} and is {now}")
    for name in sorted(exported.tensors.keys() - source.tensors.keys()):
        module, _, kind = name.rpartition(".")
        layer = module.rpartition(".")[2]
        of_kv = f"{layer}.{kind}" in KV_SCALES
        if not (module in layers and kind in SCALES) and not of_kv:
            yield Finding(name, "does not belong to the model or is a scale of a kept layer")


def _values(exported: Checkpoint) -> Iterator[Finding]:
    """Scales are finite and positive, and not every one of a kind is exactly one."""
    ones: dict[str, list[bool]] = {}
    for name, info in sorted(exported.tensors.items()):
        kind = name.rpartition(".")[2]
        if kind in SCALES and info.dtype in _READERS:
            with (exported.path / info.file).open("rb") as file:
                file.seek(info.begin)
                problem, all_ones = _READERS[info.dtype](file.read(info.bytes))
            ones.setdefault(kind, []).append(all_ones)
            if problem:
                yield Finding(name, problem, "look for zero or damaged weights in this layer")
    for kind, seen in ones.items():
        if all(seen):
            yield Finding(f"every {kind}", "is exactly 1: nothing was calibrated", _MORE_TEXT)


def _floats(values: Sequence[float]) -> tuple[str, bool]:
    """Judge float scales; a sum of finite float32 cannot overflow a double."""
    if not isfinite(sum(values)):
        return "is not finite", False
    if values and min(values) <= 0:
        return "is zero or negative", False
    return "", bool(values) and min(values) == max(values) == 1


def _float32(raw: bytes) -> tuple[str, bool]:
    return _floats(array("f", raw))


def _bfloat16(raw: bytes) -> tuple[str, bool]:
    wide = bytearray(2 * len(raw))
    wide[2::4], wide[3::4] = raw[0::2], raw[1::2]
    return _floats(array("f", bytes(wide)))


def _float16(raw: bytes) -> tuple[str, bool]:
    return _floats(array("f", struct.unpack(f"<{len(raw) // 2}e", raw)))


def _e4m3(raw: bytes) -> tuple[str, bool]:
    """E4M3 has no infinity; 0x7F and 0xFF are NaN, 0x38 is one."""
    if raw.count(0x7F) or raw.count(0xFF):
        return "holds NaN", False
    positive = bytes(range(1, 0x7F))
    return "is zero or negative" if raw.translate(None, positive) else "", _only(raw, 0x38)


def _e8m0(raw: bytes) -> tuple[str, bool]:
    """E8M0 is a power of two with bias 127, always positive; 0xFF is NaN."""
    return "holds NaN" if raw.count(0xFF) else "", _only(raw, 127)


def _only(raw: bytes, value: int) -> bool:
    return raw.count(value) == len(raw)


_READERS: Final[Mapping[str, Callable[[bytes], tuple[str, bool]]]] = {
    "F32": _float32,
    "BF16": _bfloat16,
    "F16": _float16,
    "F8_E4M3": _e4m3,
    "U8": _e8m0,
}
