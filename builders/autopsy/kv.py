"""The KV cache's scales: declared and there, or neither; and what is known to break it."""

from collections.abc import Iterator, Mapping
from typing import Final

from builders.autopsy.finding import Finding, found
from builders.autopsy.layers import Layer, Role
from builders.autopsy.recognized import Recognized
from builders.checkpoint import TensorInfo

# One way to name the two scales per tool: ModelOpt, compressed-tensors and vLLM, AutoFP8, older.
_WAYS: Final = (
    ("k_proj.k_scale", "v_proj.v_scale"),
    ("k_scale", "v_scale"),
    ("kv_scale",),
    ("k_proj.output_scale", "v_proj.output_scale"),
)
_FUSED: Final = ("qkv_proj", "query_key_value")
_KEYS: Final = ("k_proj", "v_proj", *_FUSED)
_DTYPES: Final = frozenset({"F32", "BF16", "F16"})


def examine(
    layers: Mapping[str, Layer], tensors: Mapping[str, TensorInfo], recognized: Recognized
) -> Iterator[Finding]:
    """Hold the KV cache's scales against the declaration."""
    attentions = sorted(_attentions(layers))
    scales = {
        name
        for at in attentions
        for way in _WAYS
        for one in way
        if (name := f"{at}.{one}") in tensors
    }
    if recognized.kv_cache.quantized:
        yield from _declared(attentions, scales, recognized)
        yield from _biases(attentions, tensors, recognized)
    else:
        for name in sorted(scales):
            yield found("kv-scale-undeclared", name, "is there, but no KV cache format is declared")
    for name in sorted(scales):
        info = tensors[name]
        if info.dtype not in _DTYPES or info.shape not in {(), (1,)}:
            what = f"is {info.dtype} {list(info.shape)}, not one float number"
            yield found("part-shape", name, what)


def _attentions(layers: Mapping[str, Layer]) -> set[str]:
    parents = (
        module.rpartition(".")
        for module, layer in layers.items()
        if layer.codes and layer.role is not Role.VISION
    )
    return {parent for parent, _, child in parents if child in _KEYS}


def _declared(attentions: list[str], scales: set[str], recognized: Recognized) -> Iterator[Finding]:
    format_ = recognized.kv_cache.value
    if not scales and not recognized.kv_static and attentions:
        yield found(
            "kv-cast",
            "KV cache",
            f"is declared {format_} without a scale: values are cast as they are (fp8_cast)",
        )
        return
    way = max(
        _WAYS, key=lambda one: sum(f"{at}.{name}" in scales for at in attentions for name in one)
    )
    for at in attentions:
        for name in way:
            if f"{at}.{name}" not in scales:
                yield found("kv-scale-missing", f"{at}.{name}", "is missing")


def _biases(
    attentions: list[str], tensors: Mapping[str, TensorInfo], recognized: Recognized
) -> Iterator[Finding]:
    named = [f"{at}.{key}.bias" for at in attentions for key in _KEYS]
    there = [name for name in named if name in tensors]
    if there:
        format_ = recognized.kv_cache.value
        what = f"is an attention bias under a KV cache in {format_} ({len(there)} such tensors)"
        yield found("kv-attention-bias", there[0], what)
