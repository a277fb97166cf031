"""What ModelOpt can make of a layer: its algorithms, and the shapes that each of them can cut.

Measured on ModelOpt 0.47. How a layer then lies on disk is told in `builders.autopsy.modelopt`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The numbers by which a layer's features must divide.

    ``block`` counts for the in features (0: any number will do, and the recipe's own group counts
    where it has one), ``out`` for the out features. ``experts`` is why ModelOpt cannot write the
    experts of a mixture in this format, if so.
    """

    block: int = 0
    out: int = 1
    experts: str = ""


_NO_EXPORT: Final = "ModelOpt fails when it exports them, after the calibration"
_NOT_SMOOTHED: Final = "ModelOpt smooths none of them, so they would be plain INT8"
_MISNAMED: Final = "ModelOpt does not write them under their own names in every model"

LAYOUTS: Final[Mapping[str, Layout]] = {
    "FP8": Layout(),
    "FP8_PER_CHANNEL_PER_TOKEN": Layout(),
    "fp8_pb_wo": Layout(experts=_MISNAMED),
    "MXFP8": Layout(block=32),
    "NVFP4": Layout(block=16),
    "NVFP4_AWQ": Layout(block=16),
    "W4A16_NVFP4": Layout(block=16),
    "W4A8_NVFP4_FP8": Layout(block=32),
    "mxfp4": Layout(block=32),
    "W4A8_MXFP4_FP8": Layout(block=32),
    "W4A16_AWQ": Layout(block=128, out=2, experts=_NO_EXPORT),
    "W4A8_AWQ": Layout(block=128, out=2, experts=_NO_EXPORT),
    "W8A8_SQ_PER_CHANNEL": Layout(experts=_NOT_SMOOTHED),
    "W8A16": Layout(),
}

# ModelOpt's constant for an algorithm, and the quant_algo that its export declares for it.
ALGORITHMS: Final[Mapping[str, str]] = {
    "FP8_DEFAULT_CFG": "FP8",
    "INT8_SMOOTHQUANT_CFG": "W8A8_SQ_PER_CHANNEL",
    "INT4_BLOCKWISE_WEIGHT_ONLY_CFG": "W4A16_AWQ",
    "FP8_PER_CHANNEL_PER_TOKEN_CFG": "FP8_PER_CHANNEL_PER_TOKEN",
    "FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG": "fp8_pb_wo",
    "INT8_WEIGHT_ONLY_CFG": "W8A16",
    "INT4_AWQ_CFG": "W4A16_AWQ",
    "W4A8_AWQ_BETA_CFG": "W4A8_AWQ",
    "MXFP8_DEFAULT_CFG": "MXFP8",
    "MXFP4_DEFAULT_CFG": "mxfp4",
    "MXFP4_MLP_WEIGHT_ONLY_CFG": "mxfp4",
    "W4A8_MXFP4_FP8_CFG": "W4A8_MXFP4_FP8",
    "NVFP4_DEFAULT_CFG": "NVFP4",
    "NVFP4_AWQ_LITE_CFG": "NVFP4_AWQ",
    "NVFP4_MLP_ONLY_CFG": "NVFP4",
    "W4A16_NVFP4_CFG": "W4A16_NVFP4",
    "W4A8_NVFP4_FP8_CFG": "W4A8_NVFP4_FP8",
}
# These must have a scale that the others may have: pre_quant_scale.
SMOOTHED: Final = frozenset({"INT8_SMOOTHQUANT_CFG"})
