"""How each of ModelOpt's algorithms is read and computed: one row of a table per algorithm.

Low-precision hardware multiplies narrow numbers exactly, sums in float32, then applies scales. So
a reader returns a matrix that bfloat16 holds exactly and a ``gain`` for the sums, and a rounder
turns activations into such numbers too. Weight-only kernels widen weights to the model's own
format first: their matrix carries its scales, where these vary along a row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from builders.numerics import blocks

Parts = Mapping[str, Tensor]
Rounded = tuple[Tensor, Tensor | None]
Rounding = Callable[[Tensor], Rounded]


@dataclass(frozen=True, slots=True)
class Decoded:
    """A weight matrix in float32, and what its products are multiplied by: one, or one a row."""

    matrix: Tensor
    gain: Tensor


@dataclass(frozen=True, slots=True)
class Reader:
    """How one algorithm reads a layer's tensors, and rounds what comes in (None: not at all).

    ``rounding`` makes, from the layer's tensors and group, a function of float32 activations that
    returns their codes and, where scales are found per token, those. A scale that is known
    beforehand belongs in ``decode``'s gain.
    """

    decode: Callable[[Parts, int], Decoded]
    rounding: Callable[[Parts, int], Rounding] | None = None


def _wide(parts: Parts, name: str) -> Tensor:
    return parts[name].float()


def _one(parts: Parts) -> Tensor:
    return torch.ones((), device=parts["weight"].device)


def _coded(parts: Parts, _group: int) -> Decoded:
    return Decoded(_wide(parts, "weight"), _wide(parts, "weight_scale"))


def _coded_static(parts: Parts, _group: int) -> Decoded:
    gain = _wide(parts, "weight_scale") * _wide(parts, "input_scale")
    return Decoded(_wide(parts, "weight"), gain)


def _tiles(parts: Parts, group: int) -> Decoded:
    weight = _wide(parts, "weight")
    rows, columns = (-(-side // group) for side in weight.shape)
    scales = _wide(parts, "weight_scale").reshape(rows, columns)
    return Decoded(blocks.per_tile(weight, scales, group), _one(parts))


def _mx(parts: Parts, group: int) -> Decoded:
    packed = parts["weight"]
    values = blocks.e2m1_by_column(packed) if packed.dtype == torch.uint8 else packed.float()
    scales = blocks.power_of_two(parts["weight_scale"])
    return Decoded(blocks.per_block(values, scales, group), _one(parts))


def _mx_static(parts: Parts, group: int) -> Decoded:
    return Decoded(_mx(parts, group).matrix, _wide(parts, "input_scale"))


def _nvfp4(parts: Parts, group: int) -> Decoded:
    values = blocks.e2m1_by_column(parts["weight"])
    matrix = blocks.per_block(values, _wide(parts, "weight_scale"), group)
    return Decoded(matrix, _wide(parts, "weight_scale_2"))


def _nvfp4_static(parts: Parts, group: int) -> Decoded:
    decoded = _nvfp4(parts, group)
    return Decoded(decoded.matrix, decoded.gain * _wide(parts, "input_scale"))


def _int4(parts: Parts, group: int) -> Decoded:
    values = blocks.int4_by_row(parts["weight"])
    return Decoded(blocks.per_block(values, _wide(parts, "weight_scale"), group), _one(parts))


def _int4_fp8(parts: Parts, group: int) -> Decoded:
    """The kernel widens INT4 to FP8 before it multiplies: a second rounding of the weight."""
    unit = _wide(parts, "weight_scale_2")
    matrix = blocks.round_e4m3(_int4(parts, group).matrix / unit)
    return Decoded(matrix, unit * _wide(parts, "input_scale"))


def _static(element: Callable[[Tensor], Tensor]) -> Callable[[Parts, int], Rounding]:
    def make(parts: Parts, _group: int) -> Rounding:
        per_unit = float(1.0 / parts["input_scale"].float())

        def rounding(values: Tensor) -> Rounded:
            return element(values * per_unit), None

        return rounding

    return make


def _per_token(_parts: Parts, _group: int) -> Rounding:
    def rounding(values: Tensor) -> Rounded:
        scale = blocks.token_scale(values)
        return blocks.round_e4m3(values / scale), scale

    return rounding


def _mx_blocks(largest: float) -> Callable[[Parts, int], Rounding]:
    def make(_parts: Parts, group: int) -> Rounding:
        return lambda values: (blocks.mx_round(values, group, largest), None)

    return make


def _nvfp4_blocks(parts: Parts, group: int) -> Rounding:
    unit = parts["input_scale"].float()
    return lambda values: (blocks.nvfp4_round(values, group, unit), None)


_fp8 = _static(blocks.round_e4m3)
_int8 = _static(blocks.round_int8)

READERS: Final[Mapping[str, Reader]] = {
    "FP8": Reader(_coded_static, _fp8),
    "FP8_PER_CHANNEL_PER_TOKEN": Reader(_coded, _per_token),
    "fp8_pb_wo": Reader(_tiles),
    "MXFP8": Reader(_mx, _mx_blocks(blocks.E4M3_MAX)),
    "W8A8_SQ_PER_CHANNEL": Reader(_coded_static, _int8),
    "W8A16": Reader(_coded),
    "W4A16_AWQ": Reader(_int4),
    "W4A8_AWQ": Reader(_int4_fp8, _fp8),
    "NVFP4": Reader(_nvfp4_static, _nvfp4_blocks),
    "NVFP4_AWQ": Reader(_nvfp4_static, _nvfp4_blocks),
    "W4A16_NVFP4": Reader(_nvfp4),
    "W4A8_NVFP4_FP8": Reader(_nvfp4_static, _fp8),
    "mxfp4": Reader(_mx, _mx_blocks(blocks.E2M1_MAX)),
    "W4A8_MXFP4_FP8": Reader(_mx_static, _fp8),
}
