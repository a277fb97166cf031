"""Numeric formats: the names the field uses, with the facts we rely on."""

from enum import Enum
from typing import Self


class Format(Enum):
    """How one tensor is stored: bits of an element, and the block that shares a scale in hardware.

    ``scale_bits`` is the width of that block scale (OCP Microscaling Formats v1.0 for MX: E8M0;
    NVFP4: E4M3 per 16 elements plus one float32 per tensor). ``None`` means that the recipe, not
    the format, decides which elements share a scale.
    """

    bits: int
    block: int | None
    scale_bits: int

    FP32 = "fp32", 32, None, 0
    BF16 = "bf16", 16, None, 0
    FP16 = "fp16", 16, None, 0
    FP8 = "fp8", 8, None, 32
    FP8_E5M2 = "fp8_e5m2", 8, None, 0
    MXFP8 = "mxfp8", 8, 32, 8
    INT8 = "int8", 8, None, 32
    NVFP4 = "nvfp4", 4, 16, 8
    MXFP4 = "mxfp4", 4, 32, 8
    INT4 = "int4", 4, None, 32
    NF4 = "nf4", 4, 64, 32

    def __new__(cls, name: str, bits: int, block: int | None, scale_bits: int) -> Self:
        """Make the field's own name the value, so ``Format("nvfp4")`` works."""
        self = object.__new__(cls)
        self._value_, self.bits, self.block, self.scale_bits = name, bits, block, scale_bits
        return self

    @property
    def quantized(self) -> bool:
        """Whether values of this format need scales or a code book to be read."""
        return self not in UNQUANTIZED


UNQUANTIZED = frozenset({Format.FP32, Format.BF16, Format.FP16})
