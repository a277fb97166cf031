"""Rounding to narrow numbers and back, in torch, as the formats' definitions say.

Every function here is pure, keeps its input, and computes in float32; each result of rounding is
exactly representable in bfloat16, so a matrix product of two of them is exact but for its sum.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

E4M3_MAX: Final = 448.0
E2M1_MAX: Final = 6.0
_MANY: Final = 2048  # from so many values on, adding is faster than converting
_TINY: Final = 2.0**-24  # below this ModelOpt takes a maximum for zero
# OCP Microscaling Formats v1.0, E2M1: the eight magnitudes, and the midpoints between neighbours.
_E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_MIDDLE: Final = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def round_e4m3(values: Tensor) -> Tensor:
    """Round float32 to FP8 E4M3, ties to even, what is too large to the largest."""
    held = values.clamp(-E4M3_MAX, E4M3_MAX)
    if held.device.type != "cpu" or held.numel() < _MANY:
        return held.to(torch.float8_e4m3fn).float()
    return _by_adding(held)


def _by_adding(held: Tensor) -> Tensor:
    """Round in place by adding and taking off a number with the wanted last bit.

    It is 1.5 × 2^20 times the value's own power of two, of which E4M3 keeps three bits, or the
    smallest normal's, below which steps stay equal. torch's conversion to float8 takes 2 ns a
    value on a CPU, this a fifth; -0 comes out as 0.
    """
    power = (held.view(torch.int32) & 0x7F800000).view(torch.float32)
    power = power.clamp_min_(2.0**-6).mul_(1.5 * 2.0**20)
    return held.add_(power).sub_(power)


def round_e2m1(values: Tensor) -> Tensor:
    """Round float32 to FP4 E2M1, ties to the even code, what is too large to the largest."""
    middle = torch.tensor(_MIDDLE, device=values.device)
    size = values.abs()
    below = torch.bucketize(size, middle)  # a tie goes to the lower code
    above = torch.bucketize(size, middle, right=True)  # a tie goes to the upper code
    code = torch.where(below % 2 == 0, below, above)
    return torch.copysign(torch.tensor(_E2M1, device=values.device)[code], values)


def round_int8(values: Tensor) -> Tensor:
    """Round float32 to INT8, ties to even, what is too large to the largest."""
    return values.round().clamp(-128.0, 127.0)


def e2m1_by_column(packed: Tensor) -> Tensor:
    """Unpack two E2M1 codes a byte, the even column in the low nibble."""
    table = torch.tensor((*_E2M1, *(-value for value in _E2M1)), device=packed.device)
    low, high = table[(packed & 15).int()], table[(packed >> 4).int()]
    return torch.stack((low, high), dim=-1).flatten(-2)


def int4_by_row(packed: Tensor) -> Tensor:
    """Unpack two INT4 codes a byte, two's complement, the even row in the low nibble."""
    nibbles = torch.stack((packed & 15, packed >> 4), dim=1).flatten(0, 1).float()
    return torch.where(nibbles > 7, nibbles - 16, nibbles)


def power_of_two(exponents: Tensor) -> Tensor:
    """Read E8M0 bytes: 2^(byte - 127), and NaN for 255."""
    code = exponents.int()
    bits = torch.where(code == 0, 1 << 22, code << 23)  # 2^-127 is a subnormal float32
    return torch.where(code == 255, torch.nan, bits.view(torch.float32))


def _blocks(values: Tensor, group: int) -> Tensor:
    return values.reshape(*values.shape[:-1], -1, group)


def per_block(values: Tensor, scales: Tensor, group: int) -> Tensor:
    """Multiply each run of ``group`` columns by its scale."""
    return (_blocks(values, group) * scales.unsqueeze(-1)).flatten(-2)


def per_tile(values: Tensor, scales: Tensor, side: int) -> Tensor:
    """Multiply each ``side`` × ``side`` tile by its scale."""
    rows, columns = values.shape
    spread = scales.repeat_interleave(side, 0).repeat_interleave(side, 1)
    return values * spread[:rows, :columns]


def mx_round(values: Tensor, group: int, largest: float) -> Tensor:
    """Round blocks to an MX format whose largest value is ``largest``; scales are powers of two."""
    elements, exponents = mx_parts(values, group, largest)
    return (elements * _power(exponents)).flatten(-2)


def _over(values: Tensor, number: float) -> Tensor:
    """Divide by a number, rounding once: CUDA would multiply by its rounded reciprocal instead.

    Scales that end in the last digit elsewhere than on a CPU move values that lie between two codes
    (seen on an H200: 488 of 524,288 under scales per token).
    """
    return values / torch.full((), number, device=values.device)


def mx_parts(values: Tensor, group: int, largest: float) -> tuple[Tensor, Tensor]:
    """Return the elements of an MX format, block by block, and the exponents of their scales.

    The scale is the smallest power of two that lets the block's largest value fit, as in ModelOpt.
    """
    block = _blocks(values, group)
    mantissa, exponent = torch.frexp(_over(block.abs().amax(-1), largest))
    exponent = torch.where(mantissa > 0.5, exponent, exponent - 1).clamp(-127, 127)
    element = round_e4m3 if largest == E4M3_MAX else round_e2m1
    return element(block / _power(exponent)), exponent


def _power(exponents: Tensor) -> Tensor:
    return torch.ldexp(torch.ones_like(exponents, dtype=torch.float32), exponents).unsqueeze(-1)


def nvfp4_round(values: Tensor, group: int, unit: Tensor) -> Tensor:
    """Round blocks to NVFP4, in units of the tensor's own scale ``unit``."""
    elements, scales = nvfp4_parts(values, group, unit)
    return (elements * scales.unsqueeze(-1)).flatten(-2)


def nvfp4_parts(values: Tensor, group: int, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Return the elements of NVFP4, block by block, and the blocks' scales in units of ``unit``."""
    block = _blocks(values, group)
    scale = round_e4m3(_over(block.abs().amax(-1), E2M1_MAX) / unit)
    safe = torch.where(scale == 0, 1.0, scale)
    return round_e2m1(block / (safe * unit).unsqueeze(-1)), scale


def nvfp4_unit(largest: Tensor) -> Tensor:
    """Return a tensor's own scale: its largest value takes the largest block scale and element."""
    unit = _over(largest.float(), E2M1_MAX * E4M3_MAX)
    return torch.where(unit > 0, unit, 1.0)


def token_scale(values: Tensor) -> Tensor:
    """Return the E4M3 scale of each token: its largest value over the format's largest."""
    largest = values.abs().amax(-1, keepdim=True)
    return _over(torch.where(largest <= _TINY, 1.0, largest), E4M3_MAX)


def fp8_round(values: Tensor, group: int) -> Tensor:
    """Round runs of ``group`` values of each row to E4M3, each by its own float32 scale."""
    columns = values.shape[-1]
    padded = functional.pad(values, (0, -columns % group))
    block = _blocks(padded, group)
    scale = token_scale(block)
    return (round_e4m3(block / scale) * scale).flatten(-2)[..., :columns]
