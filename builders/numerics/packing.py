"""Round one weight matrix to a narrow format and lay it out as ModelOpt 0.47 does, byte for byte.

For formats that look at the weights alone. Each function takes a matrix of a model's own format
and returns the tensors that stand in its place; every operation is in the order of ModelOpt's, for
float32 rounds differently in another order. A scale of zero is kept for the caller to refuse.
"""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

Parts = Mapping[str, Tensor]
Pack = Callable[[Tensor], Parts]
Bounds = tuple[tuple[float, Callable[[Tensor, float], Tensor]], ...]

_E4M3_MAX: Final = 448.0
_E2M1_MAX: Final = 6.0
_INT4_MAX: Final = 7.0
_SMALLEST: Final = 2.0**-9  # E4M3's smallest number, which block scales never go below
# The midpoints between neighbours of E2M1; at a midpoint `ge` takes the upper one, `gt` the lower.
_MIDDLE: Final = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
_TIES_DOWN: Final[Bounds] = tuple((bound, torch.gt) for bound in _MIDDLE)
_TIES_TO_EVEN: Final[Bounds] = tuple(
    (bound, torch.ge if at % 2 else torch.gt) for at, bound in enumerate(_MIDDLE)
)
# Values at once: more leave a processor's cache; a GPU wants many, and memory for a few copies.
_AT_ONCE: Final[Mapping[str, int]] = {"cpu": 1 << 20, "cuda": 1 << 24, "meta": 1 << 62}


def fp8_rows(weight: Tensor) -> Parts:
    """FP8 E4M3 with a scale for each row."""
    scale = weight.abs().amax(-1).float() / _number(_E4M3_MAX, weight)
    return {"weight": (weight / scale[:, None]).to(torch.float8_e4m3fn), "weight_scale": scale}


def fp8_tiles(weight: Tensor, side: int = 128) -> Parts:
    """FP8 E4M3 with a scale for each tile; a single tile's scale is a number."""
    rows, columns = weight.shape
    padded = functional.pad(weight, (0, -columns % side, 0, -rows % side))
    tiles = padded.reshape(padded.shape[0] // side, side, padded.shape[1] // side, side)
    scale = tiles.abs().amax((1, 3), keepdim=True).float() / _number(_E4M3_MAX, weight)
    codes = (tiles / scale).to(torch.float8_e4m3fn).flatten(2, 3).flatten(0, 1)
    stored = scale.reshape(()) if scale.numel() == 1 else scale
    return {"weight": codes[:rows, :columns].contiguous(), "weight_scale": stored}


def mxfp8(weight: Tensor) -> Parts:
    """MXFP8: a power of two for each 32 values of a row."""
    block = _blocks(weight, 32)
    exponent = _exponent(block.abs().amax(-1), _E4M3_MAX)
    scaled = block * torch.exp2(127 - (exponent + 127).to(torch.uint8).float()).unsqueeze(-1)
    codes = scaled.clamp(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn)
    return {"weight": codes.flatten(-2), "weight_scale": (exponent + 127).to(torch.uint8)}


def mxfp4(weight: Tensor) -> Parts:
    """MXFP4: a power of two for each 32 values of a row; ties go down, and zero is minus zero."""
    block = _blocks(weight, 32)
    exponent = torch.ceil(
        torch.log2(block.abs().amax(-1).float() / _number(_E2M1_MAX, weight)).clamp_min(-127.0)
    )
    scaled = block / torch.exp2(exponent).unsqueeze(-1)
    codes = _above(scaled.abs(), _TIES_DOWN) + ((scaled <= 0).to(torch.uint8) << 3)
    return {
        "weight": _by_column(codes.flatten(-2)),
        "weight_scale": (exponent + 127).to(torch.uint8),
    }


def nvfp4(weight: Tensor, largest: Tensor) -> Parts:
    """NVFP4: an E4M3 scale for each 16 values under one for the tensor, from its largest value.

    ``largest`` is that of all matrices that runtimes fuse with this one.
    """
    unit = largest.float() / _number(_E2M1_MAX * _E4M3_MAX, weight)
    block = _blocks(weight, 16)
    scale = block.abs().amax(-1).float() / (_E2M1_MAX * unit)
    scale = torch.where(scale == 0, 1.0, scale).clamp(_SMALLEST, _E4M3_MAX)
    stored = scale.to(torch.float8_e4m3fn)
    scaled = block / (stored.float() * unit).unsqueeze(-1)
    codes = _above(scaled.abs(), _TIES_TO_EVEN)
    codes += (scaled < 0).to(torch.uint8) << 3
    return {
        "weight": _by_column(codes.flatten(-2)),
        "weight_scale": stored,
        "weight_scale_2": unit,
    }


def int4_groups(weight: Tensor, group: int = 128) -> Parts:
    """INT4 with a scale for each group of values of a row; two rows share a byte."""
    block = _blocks(weight, group)
    scale = block.abs().amax(-1).float() / _number(_INT4_MAX, weight)
    codes = (block / scale.unsqueeze(-1)).round().clamp(-8, 7).to(torch.int8).flatten(-2)
    nibbles = codes.view(torch.uint8) & 0x0F
    return {"weight": nibbles[0::2] | (nibbles[1::2] << 4), "weight_scale": scale}


def by_rows(pack: Pack) -> Pack:
    """Pack a matrix some rows at a time, which gives the same and takes little memory beside it."""

    def packed(weight: Tensor) -> Parts:
        rows = max(128, _AT_ONCE[weight.device.type] // weight.shape[1] // 128 * 128)
        found = [pack(weight[at : at + rows]) for at in range(0, weight.shape[0], rows)]
        return {
            name: torch.cat([parts[name] for parts in found]) if first.ndim else first
            for name, first in found[0].items()
        }

    return packed


def _above(size: Tensor, bounds: Bounds) -> Tensor:
    """Count the midpoints below each magnitude, which is its code."""
    codes = torch.zeros_like(size, dtype=torch.uint8)
    for bound, is_above in bounds:
        codes += is_above(size, bound)
    return codes


def _blocks(weight: Tensor, group: int) -> Tensor:
    return weight.reshape(*weight.shape[:-1], -1, group)


def _exponent(largest: Tensor, most: float) -> Tensor:
    scale = largest.float() / _number(most, largest)
    exponent = torch.where(scale > 0, torch.log2(scale), -127.0)
    return torch.ceil(exponent).clamp(-127, 127)


def _by_column(codes: Tensor) -> Tensor:
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def _number(value: float, like: Tensor) -> Tensor:
    """Make a divisor: CUDA would multiply by the rounded reciprocal of a plain number."""
    return torch.full((), value, device=like.device)
