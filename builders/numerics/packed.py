"""Weights as bitsandbytes, HQQ, GPTQ, AWQ and compressed-tensors pack them, widened in torch.

No library of theirs is needed. All arithmetic is in float32; kernels multiply scales in 16 bits and
round once more, which is noise beside the rounding to four bits.
"""

import json
from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from builders.errors import ToolError
from builders.numerics.readers import Decoded, Parts, Reader, Rounded, Rounding

THRESHOLD: Final = 6.0  # LLM.int8(): inputs that have a larger value anywhere stay in 16 bits

NF4_STATE: Final = "weight.quant_state.bitsandbytes__nf4"
# AWQ's kernels unpack eight columns in this order from an int32's nibbles, lowest first.
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)


def held(parts: Parts, dtype: torch.dtype) -> Parts:
    """Hold scales as kernels do, in the model's own format; 11 bits become 8 in a bfloat16 model.

    bitsandbytes keeps its scales in float32, HQQ is read in float32 only.
    """
    kept = ("scales", "weight_scale")
    return {name: part.to(dtype) if name in kept else part for name, part in parts.items()}


def nf4(parts: Parts) -> Tensor:
    """Look bitsandbytes' codes up in their map, the high nibble first, and scale each block."""
    said = _nf4_state(parts[NF4_STATE])
    packed = parts["weight"].flatten()
    codes = torch.stack((packed >> 4, packed & 15), dim=-1).flatten()[: said.count]
    values = parts["weight.quant_map"].float()[codes.int()]
    scales = _nf4_scales(parts, said)
    return _by_block(values, scales, said.block).reshape(said.shape)


class _State:
    """What quant_state says of a layer: its shape, the size of a block, the scales' offset."""

    def __init__(self, said: Mapping[str, object]) -> None:
        shape = said["shape"]
        if not isinstance(shape, list) or len(shape) != 2:
            raise TypeError("shape is no pair")
        self.shape = int(shape[0]), int(shape[1])
        self.count = self.shape[0] * self.shape[1]
        self.block = int(str(said["blocksize"]))
        self.nested_block = int(str(said.get("nested_blocksize") or 0))
        self.offset = float(str(said.get("nested_offset") or 0.0))


def _nf4_state(raw: Tensor) -> _State:
    try:
        return _State(json.loads(bytes(raw.cpu().tolist())))
    except (ValueError, KeyError, TypeError) as error:
        raise ToolError(
            f"bitsandbytes' quant_state cannot be read ({error!r})", hint="quantize again"
        ) from error


def _nf4_scales(parts: Parts, said: _State) -> Tensor:
    """Return the scale of every block; double quantization keeps them in 8 bits."""
    scales = parts["weight.absmax"]
    if "weight.nested_absmax" not in parts:
        return scales.float()
    values = parts["weight.nested_quant_map"].float()[scales.int()]
    return _by_block(values, parts["weight.nested_absmax"].float(), said.nested_block) + said.offset


def _by_block(values: Tensor, scales: Tensor, size: int) -> Tensor:
    """Multiply each run of ``size`` values by its scale; the last run may be shorter."""
    return values * scales.repeat_interleave(size)[: values.numel()]


def hqq(parts: Parts) -> Tensor:
    """Widen HQQ's groups: codes less a fractional zero point, times a scale."""
    packed, shape = parts["W_q"], tuple(parts["shape"].tolist())
    halves = (packed >> 4, packed & 15)
    groups = parts["scale"].shape[0]
    codes = torch.cat(halves) if packed.shape[0] != groups else packed
    return ((codes.float() - parts["zero"].float()) * parts["scale"].float()).reshape(shape)


def gptq(parts: Parts, bits: int, group: int, *, offset: int) -> Tensor:
    """Widen GPTQ's columns of codes; each input names its group (``g_idx``), or they are in order.

    The first version of the format stores zero points less one (``offset`` 1), the second as they
    are.
    """
    codes = _unpacked(parts["qweight"], bits, along=0)
    zeros = _unpacked(parts["qzeros"], bits, along=1) + offset
    inputs = codes.shape[0]
    order = torch.arange(inputs, device=codes.device) // (group or inputs)
    index = parts["g_idx"].long() if "g_idx" in parts else order
    wide = (codes - zeros[index]).float() * parts["scales"].float()[index]
    return wide.t().contiguous()


def awq(parts: Parts, group: int) -> Tensor:
    """Widen AWQ's rows of codes, eight to an int32 in the order of its kernels."""
    inputs = parts["qweight"].shape[0]
    size = group or inputs
    codes = _awq_order(_unpacked(parts["qweight"], 4, along=1)).float()
    spread = torch.arange(inputs, device=codes.device) // size
    if "qzeros" in parts:
        codes = codes - _awq_order(_unpacked(parts["qzeros"], 4, along=1)).float()[spread]
    else:
        codes = codes - 8.0
    return (codes * parts["scales"].float()[spread]).t().contiguous()


def compressed(parts: Parts, bits: int, group: int) -> Tensor:
    """Widen compressed-tensors' packed integers: stored with an offset, low nibble first."""
    out, inputs = (int(n) for n in parts["weight_shape"].tolist())
    codes = _unpacked(parts["weight_packed"], bits, along=1)[:, :inputs] - (1 << (bits - 1))
    scales = parts["weight_scale"].float()
    order = torch.arange(inputs, device=codes.device) // (group or inputs)
    index = parts["weight_g_idx"].long() if "weight_g_idx" in parts else order
    wide = codes.float()
    if "weight_zero_point" in parts:
        zeros = _unpacked(parts["weight_zero_point"], bits, along=0)[:out] - (1 << (bits - 1))
        wide = wide - zeros.float()[:, index]
    return wide * scales[:, index]


def _unpacked(packed: Tensor, bits: int, *, along: int) -> Tensor:
    """Spread each int32 over 32 / bits integers along one dimension, the lowest bits first."""
    shifts = torch.arange(0, 32, bits, device=packed.device, dtype=torch.int32)
    shape = [1, 1, 1]
    shape[along + 1] = len(shifts)
    spread = (packed.unsqueeze(along + 1) >> shifts.reshape(shape)) & ((1 << bits) - 1)
    return spread.flatten(along, along + 1)


def _awq_order(codes: Tensor) -> Tensor:
    columns = torch.tensor(_AWQ_ORDER, device=codes.device).argsort()
    return codes.reshape(codes.shape[0], -1, 8)[:, :, columns].flatten(1)


def outliers(values: Tensor) -> Tensor:
    """Tell which columns hold a value that LLM.int8() leaves in 16 bits, in any of the tokens."""
    large = values.to(torch.float16).abs() >= THRESHOLD
    return large.flatten(0, -2).any(0)


def _by_token(_parts: Parts, _group: int) -> Rounding:
    """Round each token to INT8 by its largest value; outlier columns are left out."""

    def rounding(values: Tensor) -> Rounded:
        half = values.to(torch.float16).float()
        regular = half.masked_fill(half.abs() >= THRESHOLD, 0.0)
        largest = regular.abs().amax(-1, keepdim=True)
        scale = torch.where(largest == 0, 1.0, largest) / 127.0
        codes = (regular / scale).round().masked_fill(outliers(values), 0.0)
        return codes, scale

    return rounding


def _int8(parts: Parts, _group: int) -> Decoded:
    return Decoded(parts["weight"].float(), parts["SCB"].float() / 127.0)


def _whole(widen: Callable[[Parts, int], Tensor]) -> Reader:
    """Read a weight-only format: the matrix carries its scales."""

    def decode(parts: Parts, group: int) -> Decoded:
        matrix = widen(parts, group)
        return Decoded(matrix, torch.ones((), device=matrix.device))

    return Reader(decode)


def _gptq(bits: int, offset: int) -> Reader:
    return _whole(lambda parts, group: gptq(parts, bits, group, offset=offset))


def _compressed(bits: int) -> Reader:
    return _whole(lambda parts, group: compressed(parts, bits, group))


READERS: Final[Mapping[str, Reader]] = {
    "BNB_INT8": Reader(_int8, _by_token),
    "BNB_NF4": _whole(lambda parts, _: nf4(parts)),
    "HQQ_INT4": _whole(lambda parts, _: hqq(parts)),
    "HQQ_INT8": _whole(lambda parts, _: hqq(parts)),
    "W4A16_GPTQ": _gptq(4, 1),
    "W8A16_GPTQ": _gptq(8, 1),
    "W4A16_GPTQ_V2": _gptq(4, 0),
    "W8A16_GPTQ_V2": _gptq(8, 0),
    "AWQ": _whole(awq),
    "W4A16": _compressed(4),
    "W8A16": _compressed(8),
}
