"""Quantize with bitsandbytes: LLM.int8(), or NF4 with double quantization, in transformers' layout.

Weights are rounded as they pass from file to file. A model that has run once on a CPU with
AVX512-BF16 saves its NF4 weights in that CPU's own order, which reads back as garbage without an
error (measured on bitsandbytes 0.50.0); here no model ever runs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import bitsandbytes.functional as bnb
import torch
from torch import Tensor

from builders.checkpoint import Checkpoint
from builders.errors import ToolError
from builders.progress import Progress
from builders.quantize.calibration import Corpus
from builders.quantize.rewrite import Round, declare, left_alone, rewrite
from builders.quantize.shapes import quantized
from builders.recipe import Recipe

_BLOCK: Final = 64
_THRESHOLD: Final = 6.0  # activations beyond it stay in 16 bits; bitsandbytes' default


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    corpus: Corpus | None,  # noqa: ARG001 - rounding to the nearest reads no text
    out: Path,
    progress: Progress,
) -> None:
    """Round every layer of the recipe on its way, and declare it as transformers does."""
    modules = quantized(checkpoint, recipe)
    rewrite(checkpoint, modules, _ROUNDED[recipe.preset], out, progress)
    kept = left_alone(checkpoint, modules)
    declare(checkpoint, _COMMON | _DECLARED[recipe.preset] | {"llm_int8_skip_modules": kept}, out)


def _int8(weight: Tensor) -> dict[str, Tensor]:
    """Round each row to INT8; bitsandbytes rounds from float16."""
    half = weight.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        raise ToolError(
            "a weight is larger than float16 can hold, which LLM.int8() starts from",
            hint="use bnb_nf4 or fp8, or exclude this layer",
        )
    codes, largest, _ = bnb.int8_vectorwise_quant(half)
    return {"weight": codes, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}


def _nf4(weight: Tensor) -> dict[str, Tensor]:
    """Round blocks of 64 to NF4, and their scales to 8 bits."""
    codes, state = bnb.quantize_4bit(
        weight, blocksize=_BLOCK, compress_statistics=True, quant_type="nf4"
    )
    parts: dict[str, Tensor] = state.as_dict(packed=True)
    return {"weight": codes, **{f"weight.{name}": value for name, value in parts.items()}}


_ROUNDED: Final[Mapping[str, Round]] = {"llm_int8": _int8, "nf4_double": _nf4}
_COMMON: Final[dict[str, Any]] = {
    "quant_method": "bitsandbytes",
    "llm_int8_threshold": _THRESHOLD,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_enable_fp32_cpu_offload": False,
}
_DECLARED: Final[Mapping[str, dict[str, Any]]] = {
    "llm_int8": {"load_in_8bit": True, "load_in_4bit": False},
    "nf4_double": {
        "load_in_8bit": False,
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_compute_dtype": "bfloat16",
    },
}
