"""Scales of projections that runtimes store as one matrix, and so with one scale."""

import struct
from collections.abc import Iterator, Mapping
from typing import Final

from builders.autopsy.finding import Finding, found
from builders.autopsy.layers import FUSED, Layer
from builders.autopsy.values import Files

# A scale of a whole matrix: of FP8 under either name, of NVFP4's block scales, and as
# compressed-tensors names it.
_WHOLE: Final = ("weight_scale", "weight_scale_inv", "weight_scale_2", "weight_global_scale")


def examine(layers: Mapping[str, Layer], files: Files) -> Iterator[Finding]:
    """Tell, once for each kind of scale, where such projections have scales of their own."""
    parents = {module.rpartition(".")[0] for module in layers}
    for part in _WHOLE:
        apart = [
            f"{parent}.{{{','.join(fused)}}}"
            for parent in sorted(parents)
            for fused in FUSED
            if len(set(_scales(layers, files, [f"{parent}.{one}" for one in fused], part))) > 1
        ]
        if apart:
            what = f"have each their own {part} ({len(apart)} such groups)"
            yield found("scales-apart", apart[0], what)


def _scales(
    layers: Mapping[str, Layer], files: Files, modules: list[str], part: str
) -> Iterator[float]:
    for module in modules:
        info = layers[module].parts.get(part) if module in layers else None
        if info is not None and info.dtype == "F32" and info.shape in {(), (1,)}:
            yield struct.unpack("<f", files.read(info, 0, 4))[0]
