"""The decision tree as data: for each architecture and quality, which algorithms to try in order.

It prefers what the Tensor Cores multiply natively, floating point before integers, and eight bits
before four; Turing gains memory only. Names are those that exports declare.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Quality(Enum):
    """How much accuracy may be traded for memory."""

    STRICT = "strict"
    BALANCED = "balanced"
    COMPACT = "compact"


# Algorithms (as exports declare them) in the order in which they are tried.
TREE: Final[Mapping[str, Mapping[Quality, tuple[str, ...]]]] = {
    "Blackwell": {
        Quality.STRICT: ("MXFP8", "FP8"),
        Quality.BALANCED: ("MXFP8", "FP8", "NVFP4"),
        Quality.COMPACT: ("NVFP4", "MXFP8", "FP8"),
    },
    "Hopper": {
        Quality.STRICT: ("FP8_PER_CHANNEL_PER_TOKEN", "FP8"),
        Quality.BALANCED: ("FP8", "W4A8_AWQ", "W4A16_AWQ"),
        Quality.COMPACT: ("W4A16_AWQ", "W4A8_AWQ", "FP8"),
    },
    "Ada": {
        Quality.STRICT: ("FP8",),
        Quality.BALANCED: ("FP8", "W4A16_AWQ"),
        Quality.COMPACT: ("W4A16_AWQ", "FP8"),
    },
    "Ampere": {
        Quality.STRICT: ("W8A8_SQ_PER_CHANNEL", "W8A16"),
        Quality.BALANCED: ("W8A8_SQ_PER_CHANNEL", "W4A16_AWQ", "AWQ", "W4A16_GPTQ"),
        Quality.COMPACT: ("W4A16_AWQ", "AWQ", "W4A16_GPTQ", "W8A8_SQ_PER_CHANNEL"),
    },
    "Turing": {
        Quality.STRICT: ("BNB_INT8", "W8A16", "W8A8_SQ_PER_CHANNEL"),
        Quality.BALANCED: ("BNB_INT8", "BNB_NF4", "W8A8_SQ_PER_CHANNEL", "W4A16_AWQ"),
        Quality.COMPACT: ("BNB_NF4", "AWQ", "W4A16_GPTQ", "W4A16_AWQ", "BNB_INT8"),
    },
    "host": {
        Quality.STRICT: ("FP8",),
        Quality.BALANCED: ("FP8",),
        Quality.COMPACT: ("W4A16_AWQ", "FP8"),
    },
}

VIRTUE: Final = {
    "MXFP8": "eight bits with a scale for every 32 values, multiplied natively: the most accurate "
    "format that halves memory and doubles the arithmetic",
    "FP8": "weights and activations in eight floating-point bits: half the memory and about twice "
    "the arithmetic, with outliers kept by the exponent",
    "FP8_PER_CHANNEL_PER_TOKEN": "FP8 with a scale for every channel and every token: closer to "
    "the original than one scale a tensor, at the same size",
    "NVFP4": "four bits in blocks of 16 with two levels of scales, multiplied natively: a quarter "
    "of the memory; the gates decide whether this model bears it",
    "W8A8_SQ_PER_CHANNEL": "INT8 is what Ampere multiplies natively, and SmoothQuant moves the "
    "outliers of the activations into the weights",
    "W4A16_AWQ": "four-bit weights under 16-bit arithmetic: a quarter of the memory, faster when "
    "few requests run at once, not when many do",
    "W4A8_AWQ": "four-bit weights multiplied in FP8: a quarter of the memory, faster prefill than "
    "W4A16",
    "BNB_INT8": "outlier channels stay in 16 bits; a memory saving only, for Turing has no Tensor "
    "Core path for it",
    "BNB_NF4": "four bits spaced for normally distributed weights; a memory saving only",
}
