"""What each quantization algorithm writes for one linear layer, as a table.

Measured on ModelOpt 0.47's unified Hugging Face export, tensor by tensor. The shapes follow from
the layer's out and in features (o, i) and the number g of input channels that share a scale.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

Shape = Callable[[int, int, int], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a quantized linear layer: the dtypes it may have, and its shape."""

    dtypes: frozenset[str]
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The tensors that a linear layer must have, those it may have, and the block it is cut into.

    ``block`` is the number by which the in features must divide (0: any number will do, and the
    recipe's own group counts where it has one); ``out`` the same for the out features. ``experts``
    is why ModelOpt cannot write the experts of a mixture in this format, if so.
    """

    parts: Mapping[str, Part]
    optional: Mapping[str, Part] = field(default_factory=dict)
    block: int = 0
    out: int = 1
    experts: str = ""


def _part(dtypes: str, shape: Shape) -> Part:
    return Part(frozenset(dtypes.split()), shape)


def _whole(o: int, i: int, _: int) -> tuple[int, ...]:
    return (o, i)


_SCALAR = _part("F32", lambda *_: ())
_PER_CHANNEL = _part("F32", lambda o, *_: (o,))
_PRE_QUANT = _part("BF16 F16 F32", lambda _o, i, _g: (i,))
_FP8 = _part("F8_E4M3", _whole)
_INT8 = _part("I8", _whole)
_NIBBLES = _part("U8", lambda o, i, _: (o, i // 2))  # the low nibble is the even column
_INT4 = _part("U8", lambda o, i, _: (o // 2, i))  # the low nibble is the even row
_GROUPS = _part("F32", lambda o, i, g: (o, i // g))
_TILES = _part("F32", lambda o, i, g: _tiles(-(-o // g), -(-i // g)))


def _tiles(down: int, across: int) -> tuple[int, ...]:
    """ModelOpt writes a layer of one tile as a single number."""
    return (down, 1, across, 1) if down * across > 1 else ()


def _blocks(dtype: str, size: int) -> Part:
    return _part(dtype, lambda o, i, _: (o, i // size))


_NVFP4: Final = {
    "weight": _NIBBLES,
    "weight_scale": _blocks("F8_E4M3", 16),
    "weight_scale_2": _SCALAR,
}
_MXFP4: Final = {"weight": _NIBBLES, "weight_scale": _blocks("U8", 32)}
_PRE: Final = {"pre_quant_scale": _PRE_QUANT}

_NO_EXPORT: Final = "ModelOpt fails when it exports them, after the calibration"
_NOT_SMOOTHED: Final = "ModelOpt smooths none of them, so they would be plain INT8"
_MISNAMED: Final = "ModelOpt does not write them under their own names in every model"

LAYOUTS: Final[Mapping[str, Layout]] = {
    "FP8": Layout(parts={"weight": _FP8, "weight_scale": _SCALAR, "input_scale": _SCALAR}),
    "FP8_PER_CHANNEL_PER_TOKEN": Layout(parts={"weight": _FP8, "weight_scale": _PER_CHANNEL}),
    "fp8_pb_wo": Layout(parts={"weight": _FP8, "weight_scale": _TILES}, experts=_MISNAMED),
    "MXFP8": Layout(parts={"weight": _FP8, "weight_scale": _blocks("U8", 32)}, block=32),
    "NVFP4": Layout(parts=_NVFP4 | {"input_scale": _SCALAR}, block=16),
    "NVFP4_AWQ": Layout(parts=_NVFP4 | {"input_scale": _SCALAR}, optional=_PRE, block=16),
    "W4A16_NVFP4": Layout(parts=_NVFP4, block=16),
    "W4A8_NVFP4_FP8": Layout(
        parts=_NVFP4 | {"weight_scale": _blocks("F8_E4M3", 32), "input_scale": _SCALAR}, block=32
    ),
    "mxfp4": Layout(parts=_MXFP4, block=32),
    "W4A8_MXFP4_FP8": Layout(parts=_MXFP4 | {"input_scale": _SCALAR}, block=32),
    "W4A16_AWQ": Layout(
        parts={"weight": _INT4, "weight_scale": _GROUPS},
        optional=_PRE,
        block=128,
        out=2,
        experts=_NO_EXPORT,
    ),
    "W4A8_AWQ": Layout(
        parts={
            "weight": _INT4,
            "weight_scale": _GROUPS,
            "weight_scale_2": _SCALAR,
            "input_scale": _SCALAR,
        },
        optional=_PRE,
        block=128,
        out=2,
        experts=_NO_EXPORT,
    ),
    "W8A8_SQ_PER_CHANNEL": Layout(
        parts={"weight": _INT8, "weight_scale": _PER_CHANNEL, "input_scale": _SCALAR} | _PRE,
        experts=_NOT_SMOOTHED,
    ),
    "W8A16": Layout(parts={"weight": _INT8, "weight_scale": _PER_CHANNEL}),
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

KV_SCALES: Final = ("k_proj.k_scale", "v_proj.v_scale")
KV_ALGORITHMS: Final = {"fp8": "FP8"}  # the recipe's KV cache format, as the export declares it
SCALES: Final = frozenset(
    {"weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale", "k_scale", "v_scale"}
)
