"""GPU families as deployment targets: what their Tensor Cores multiply natively.

Sources: NVIDIA's architecture white papers (Turing 2018, Ampere A100 2020, Ada 2022, Hopper 2022,
Blackwell 2024) for memory and Tensor Core formats; the CUDA programming guide for compute
capabilities. ``cpu`` is a tier too: it emulates every format and multiplies none of the low ones.
"""

from dataclasses import dataclass
from typing import Final

from builders.errors import UsageError
from builders.formats import Format
from builders.parse import nearest

GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One GPU family: architecture, compute capability, memory in bytes, native formats."""

    name: str
    architecture: str
    sm: int
    memory_bytes: int
    native: frozenset[Format]

    @property
    def gpu(self) -> bool:
        """Whether this tier is a GPU at all."""
        return self.sm > 0

    def is_native(self, *formats: Format) -> bool:
        """Whether Tensor Cores multiply all these formats; otherwise the gain is memory-only."""
        return all(fmt in self.native for fmt in formats)


_TURING = frozenset({Format.FP16, Format.INT8, Format.INT4})
_AMPERE = frozenset({Format.FP16, Format.BF16, Format.INT8, Format.INT4})
_ADA = _AMPERE | {Format.FP8, Format.FP8_E5M2}
# Hopper dropped the INT4 Tensor Core path that Turing, Ampere and Ada have.
_HOPPER = frozenset({Format.FP16, Format.BF16, Format.INT8, Format.FP8, Format.FP8_E5M2})
_BLACKWELL = _HOPPER | {Format.MXFP8, Format.NVFP4, Format.MXFP4}


def _tier(name: str, architecture: str, sm: int, gib: int, native: frozenset[Format]) -> Tier:
    return Tier(name=name, architecture=architecture, sm=sm, memory_bytes=gib * GIB, native=native)


TIERS: Final = {
    tier.name: tier
    for tier in (
        _tier("cpu", "host", 0, 0, frozenset({Format.FP32, Format.BF16})),
        _tier("t4", "Turing", 75, 16, _TURING),
        _tier("a100", "Ampere", 80, 80, _AMPERE),
        _tier("l4", "Ada", 89, 24, _ADA),
        _tier("l40s", "Ada", 89, 48, _ADA),
        _tier("h100", "Hopper", 90, 80, _HOPPER),
        _tier("h200", "Hopper", 90, 141, _HOPPER),
        _tier("b200", "Blackwell", 100, 180, _BLACKWELL),
    )
}


def tier(name: str) -> Tier:
    """Look a tier up by name."""
    try:
        return TIERS[name]
    except KeyError:
        raise UsageError(f"unknown tier {name!r}", hint=nearest(name, TIERS)) from None
