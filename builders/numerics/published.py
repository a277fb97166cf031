"""FP8, INT8, FP4 as llm-compressor and model makers publish them, in ModelOpt's words.

Most checkpoints that come quantized are compressed-tensors or fine-grained FP8 (DeepSeek, Qwen).
They hold the numbers that ModelOpt's exports hold, under other names: a scale may be stored as its
reciprocal, a number as a column. So the names are translated, and ModelOpt's readers do the rest;
what ModelOpt never writes, scales found per token for INT8 and per 128 inputs for FP8, is here.
"""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from builders.errors import ToolError
from builders.numerics import blocks, packed, readers
from builders.numerics.readers import Decoded, Parts, Reader, Rounding

_OURS: Final = {"weight_scale_inv": "weight_scale", "activation_scale": "input_scale"}
_SIDE: Final = 128  # of the tiles, and inputs that share a scale where it is found per token


def _number(scale: Tensor) -> Tensor:
    """Return a scale as one number, or as one a row."""
    flat = scale.float().flatten()
    return flat[0] if flat.numel() == 1 else flat


def _ours(parts: Parts) -> Parts:
    """Call the parts of transformers' FP8Linear as others do; its "inv" multiplies all the same."""
    return {_OURS.get(name, name): part for name, part in parts.items()}


def _plain(parts: Parts) -> Parts:
    named = _ours(parts)
    scales = {name: _number(part) for name, part in named.items() if name != "weight"}
    return {"weight": named["weight"], **scales}


def _blocks(parts: Parts) -> Parts:
    codes = "weight" if "weight" in parts else "weight_packed"
    return {"weight": parts[codes], **_other(parts)}


def _other(parts: Parts) -> Parts:
    """Return the scales of FP4's blocks; the global ones are kept as their reciprocals."""
    found: dict[str, Tensor] = {"weight_scale": parts["weight_scale"]}
    for theirs, ours in (
        ("weight_global_scale", "weight_scale_2"),
        ("input_global_scale", "input_scale"),
    ):
        if theirs in parts:
            found[ours] = _number(parts[theirs]).reciprocal()
    return found


def _translated(name: str, translate: Callable[[Parts], Parts], *, rounds: bool = True) -> Reader:
    """Read by one of ModelOpt's readers; without ``rounds`` activations are left alone."""
    known = readers.READERS[name]
    make = known.rounding if rounds else None
    return Reader(
        lambda parts, group: known.decode(translate(parts), group),
        None if make is None else lambda parts, group: make(translate(parts), group),
    )


def _static_or(static: str, dynamic: Reader) -> Reader:
    """Read activations' scale where there is one, else find it token by token."""
    calibrated = _translated(static, _plain)

    def chosen(parts: Parts) -> Reader:
        return calibrated if "input_scale" in _ours(parts) else dynamic

    def rounding(parts: Parts, group: int) -> Rounding:
        make = chosen(parts).rounding
        assert make is not None
        return make(parts, group)

    return Reader(lambda parts, group: chosen(parts).decode(parts, group), rounding)


def _int8_by_token(_parts: Parts, _group: int) -> Rounding:
    def rounding(values: Tensor) -> readers.Rounded:
        largest = values.abs().amax(-1, keepdim=True)
        scale = torch.where(largest == 0, 1.0, largest) / 127.0
        return blocks.round_int8(values / scale), scale

    return rounding


def _tiles(parts: Parts, _group: int) -> Decoded:
    """Read tiles of 128 by 128, whatever the name of their scales."""
    weight = parts["weight"].float()
    scales = _ours(parts)["weight_scale"]
    wide = blocks.power_of_two(scales) if scales.dtype == torch.uint8 else scales.float()
    wanted = tuple(-(-size // _SIDE) for size in weight.shape)
    if wide.shape != wanted:
        raise ToolError(
            f"a weight of {list(weight.shape)} has scales of {list(wide.shape)}, not of "
            f"{list(wanted)}",
            hint="only tiles of 128 by 128 are read",
        )
    one = torch.ones((), device=weight.device)
    return Decoded(blocks.per_tile(weight, wide, _SIDE), one)


def _by_token_and_block(_parts: Parts, _group: int) -> Rounding:
    return lambda values: (blocks.fp8_round(values, _SIDE), None)


def _by_tensor(parts: Parts, _group: int) -> Rounding:
    scale = _number(_ours(parts)["input_scale"])
    return lambda values: (blocks.round_e4m3(values / scale) * scale, None)


def _tiles_rounding(parts: Parts, group: int) -> Rounding:
    return (_by_tensor if "input_scale" in _ours(parts) else _by_token_and_block)(parts, group)


_FP8_BY_TOKEN: Final = _translated("FP8_PER_CHANNEL_PER_TOKEN", _plain)
_INT8_BY_TOKEN: Final = Reader(_translated("W8A16", _plain).decode, _int8_by_token)
_FP8_TILES: Final = Reader(_tiles, _tiles_rounding)

READERS: Final[Mapping[str, Reader]] = {
    "FP8": _static_or("FP8", _FP8_BY_TOKEN),
    "FP8_DYNAMIC": _FP8_BY_TOKEN,
    "FP8A16": _translated("W8A16", _plain),
    "FP8_BLOCK": _FP8_TILES,
    "FP8_BLOCK_SCALES": _FP8_TILES,
    "W8A8": _static_or("W8A8_SQ_PER_CHANNEL", _INT8_BY_TOKEN),
    "MXFP8": _translated("MXFP8", _blocks),
    "MXFP8A16": _translated("MXFP8", _blocks, rounds=False),
    "MXFP4": _translated("mxfp4", _blocks),
    "MXFP4A16": _translated("mxfp4", _blocks, rounds=False),
    "NVFP4": _translated("NVFP4", _blocks),
    "NVFP4A16": _translated("W4A16_NVFP4", _blocks),
}
# All that quantizers beside ModelOpt write.
FOREIGN: Final[Mapping[str, Reader]] = {**packed.READERS, **READERS}
