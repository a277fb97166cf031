"""Give projections that runtimes fuse into one matrix one weight scale, before they are written.

vLLM and TensorRT-LLM store queries, keys and values as one matrix, gates and ups as another, with
one FP8 scale each: they take the largest and round the others again. ModelOpt unites the scales of
its other formats and leaves those of FP8 apart, so what such a runtime computes would not be what
was exported and judged (seen in vLLM 0.20.2 on the demo model, whose values have a fifth of the
keys' scale: perplexity moved by 2 %). FP8 loses next to nothing by a larger scale: its precision is
relative.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from modelopt.torch.quantization.nn import TensorQuantizer
from torch import nn

from builders.autopsy.layers import FUSED

_FP8: Final = (4, 3)


def unite(model: nn.Module) -> None:
    """Set the scales of every such group to the largest of them; other formats are left alone."""
    for parent in model.modules():
        for names in FUSED:
            rounders = list(_rounders(parent, names))
            if len(rounders) > 1:
                largest = torch.stack([one.amax.reshape(()) for one in rounders]).max()
                for one in rounders:
                    one.amax = largest.expand_as(one.amax).clone()


def _rounders(parent: nn.Module, names: Sequence[str]) -> Iterator[Any]:
    for name in names:
        rounder = getattr(getattr(parent, name, None), "weight_quantizer", None)
        if _is_fp8_of_a_tensor(rounder):
            yield rounder


def _is_fp8_of_a_tensor(rounder: Any) -> bool:  # noqa: ANN401 - ModelOpt is untyped
    """Weights rounded twice have two rounders in one, which ModelOpt unites itself."""
    if not isinstance(rounder, TensorQuantizer) or not rounder.is_enabled:
        return False
    return bool(rounder.num_bits == _FP8 and rounder.amax is not None and rounder.amax.numel() == 1)
