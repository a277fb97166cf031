"""Quantize with HQQ: zero points and scales that fit the weights best, found without any text.

The library itself saves a pickle (qmodel.pt); here every layer goes into safetensors in the layout
that transformers 4 has for it. A layer's small facts lie beside it as tensors; hqq evaluates two of
them as Python when it reads them, so load only files that you trust with it. Our own reader
evaluates nothing.
"""

import contextlib
import io
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from torch import Tensor

from builders.checkpoint import Checkpoint
from builders.progress import Progress
from builders.quantize.calibration import Corpus
from builders.quantize.loading import device
from builders.quantize.rewrite import declare, left_alone, rewrite
from builders.quantize.shapes import quantized
from builders.recipe import Recipe

_GROUP: Final = 64
# Scales and zero points have 11 bits in float16 and 8 in bfloat16.
_SCALES: Final = torch.float16


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    corpus: Corpus | None,  # noqa: ARG001 - HQQ looks at the weights alone
    out: Path,
    progress: Progress,
) -> None:
    """Round every layer of the recipe on its way, and declare it as transformers 4 does."""
    modules = quantized(checkpoint, recipe)
    settings = BaseQuantizeConfig(
        nbits=recipe.weights.bits, group_size=recipe.group or _GROUP, axis=1
    )
    with contextlib.redirect_stdout(io.StringIO()):
        rewrite(checkpoint, modules, partial(_parts, settings), out, progress)
    declaration = {
        "quant_method": "hqq",
        "quant_config": settings,
        "skip_modules": left_alone(checkpoint, modules),
    }
    declare(checkpoint, declaration, out)


def _parts(settings: dict[str, Any], weight: Tensor) -> dict[str, Tensor]:
    layer = HQQLinear.from_weights(
        weight, None, settings, compute_dtype=_SCALES, device=str(device())
    )
    parts: dict[str, Tensor] = layer.state_dict()
    return parts
