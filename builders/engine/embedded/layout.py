"""How ModelOpt lays a quantized checkpoint out: declarations and tensors, told from headers alone.

Measured on exports of ModelOpt 0.47 (`hf_quant_config.json`, safetensors headers). Knows no torch.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Self

from builders.checkpoint import Checkpoint
from builders.errors import ToolError

BESIDE: Final = "hf_quant_config.json"
MIXED: Final = "MIXED_PRECISION"
KV_PARTS: Final = ("k_scale", "v_scale", "k_bias", "v_bias")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How one linear layer is stored: the algorithm's name, input channels that share a scale.

    The name is ModelOpt's, or that of `builders.autopsy` where another tool wrote it (``foreign``).
    """

    algorithm: str
    group: int = 0
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a layer: the dtypes it may have, and its shape from (out, in, group)."""

    dtypes: frozenset[str]
    shape: Callable[[int, int, int], tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The tensors that a layer must have, those it may have, and how many values a byte packs."""

    required: Mapping[str, Part]
    optional: Mapping[str, Part] = field(default_factory=dict)
    group: int = 0
    packed_out: int = 1
    packed_in: int = 1

    def features(self, stored: tuple[int, ...]) -> tuple[int, int]:
        """Return (out, in) features of a weight that is stored in this shape."""
        return stored[0] * self.packed_out, stored[1] * self.packed_in


def _part(dtypes: str, shape: Callable[[int, int, int], tuple[int, ...]]) -> Part:
    return Part(frozenset(dtypes.split()), shape)


def _blocks(dtype: str) -> Part:
    return _part(dtype, lambda o, i, g: (o, i // g))


_SCALAR: Final = _part("F32", lambda *_: ())
_CHANNELS: Final = _part("F32", lambda o, *_: (o,))
_TILES: Final = _part("F32", lambda o, i, _: (-(-o // 128), 1, -(-i // 128), 1))
_FP8: Final = _part("F8_E4M3", lambda o, i, _: (o, i))
_INT8: Final = _part("I8", lambda o, i, _: (o, i))
_EVEN_COLUMN_LOW: Final = _part("U8", lambda o, i, _: (o, i // 2))
_EVEN_ROW_LOW: Final = _part("U8", lambda o, i, _: (o // 2, i))
_SMOOTH: Final = {"pre_quant_scale": _part("BF16 F16 F32", lambda _o, i, _g: (i,))}
_INPUT: Final = {"input_scale": _SCALAR}
_NVFP4: Final = {
    "weight": _EVEN_COLUMN_LOW,
    "weight_scale": _blocks("F8_E4M3"),
    "weight_scale_2": _SCALAR,
}
_MXFP4: Final = {"weight": _EVEN_COLUMN_LOW, "weight_scale": _blocks("U8")}
_INT4: Final = {"weight": _EVEN_ROW_LOW, "weight_scale": _blocks("F32")}


def _by_column(
    required: Mapping[str, Part], optional: Mapping[str, Part] | None = None, *, group: int
) -> Layout:
    return Layout(required=required, optional=optional or {}, group=group, packed_in=2)


def _by_row(required: Mapping[str, Part]) -> Layout:
    return Layout(required=required, optional=_SMOOTH, group=128, packed_out=2)


LAYOUTS: Final[Mapping[str, Layout]] = {
    "FP8": Layout(required={"weight": _FP8, "weight_scale": _SCALAR} | _INPUT, optional=_SMOOTH),
    "FP8_PER_CHANNEL_PER_TOKEN": Layout(
        required={"weight": _FP8, "weight_scale": _CHANNELS}, optional=_SMOOTH
    ),
    "fp8_pb_wo": Layout(required={"weight": _FP8, "weight_scale": _TILES}),
    "MXFP8": Layout(required={"weight": _FP8, "weight_scale": _blocks("U8")}, group=32),
    "W8A8_SQ_PER_CHANNEL": Layout(
        required={"weight": _INT8, "weight_scale": _CHANNELS} | _INPUT, optional=_SMOOTH
    ),
    "W8A16": Layout(required={"weight": _INT8, "weight_scale": _CHANNELS}),
    "W4A16_AWQ": _by_row(_INT4),
    "W4A8_AWQ": _by_row(_INT4 | {"weight_scale_2": _SCALAR} | _INPUT),
    "NVFP4": _by_column(_NVFP4 | _INPUT, group=16),
    "NVFP4_AWQ": _by_column(_NVFP4 | _INPUT, _SMOOTH, group=16),
    "W4A16_NVFP4": _by_column(_NVFP4, group=16),
    "W4A8_NVFP4_FP8": _by_column(_NVFP4 | _INPUT, group=32),
    "mxfp4": _by_column(_MXFP4, group=32),
    "W4A8_MXFP4_FP8": _by_column(_MXFP4 | _INPUT, group=32),
}
PARTS: Final = frozenset(
    name for layout in LAYOUTS.values() for name in (*layout.required, *layout.optional)
) - {"weight"}
KV_ALGORITHMS: Final = ("FP8", "FP8_AFFINE", "NVFP4", "NVFP4_AFFINE")


def _named(required: str, optional: str = "") -> Layout:
    """Name the tensors of a layer whose dtypes and shapes `builders.autopsy` has checked."""
    unchecked = Part(frozenset(), lambda *_: ())
    needed, others = (dict.fromkeys(names.split(), unchecked) for names in (required, optional))
    return Layout(required=needed, optional=others)


# What the quantizers beside ModelOpt write, by the names that `builders.autopsy` gives it.
_NF4: Final = "weight weight.absmax weight.quant_map weight.quant_state.bitsandbytes__nf4"
_HQQ: Final = _named(
    "W_q scale zero shape",
    "nbits group_size axis packing unpack_view_dtype compute_dtype view_as_float quant_scale "
    "quant_zero offload_meta encoded_state_dict stores_quant_config channel_wise optimize "
    "round_zero",
)
_GPTQ: Final = _named("qweight qzeros scales", "g_idx")
_PACKED: Final = _named("weight_packed weight_scale weight_shape", "weight_zero_point weight_g_idx")
_WITH_SCALE: Final = _named("weight weight_scale", "input_scale")
_NARROW: Final = _named("weight weight_scale")
_FOUR: Final = "weight_packed weight_scale"
FOREIGN: Final[Mapping[str, Layout]] = {
    "BNB_INT8": _named("weight SCB", "weight_format"),
    "BNB_NF4": _named(_NF4, "weight.nested_absmax weight.nested_quant_map"),
    "HQQ_INT4": _HQQ,
    "HQQ_INT8": _HQQ,
    "W4A16_GPTQ": _GPTQ,
    "W8A16_GPTQ": _GPTQ,
    "W4A16_GPTQ_V2": _GPTQ,
    "W8A16_GPTQ_V2": _GPTQ,
    "AWQ": _named("qweight scales", "qzeros"),
    "W4A16": _PACKED,
    "W8A16": _PACKED,
    "FP8": _WITH_SCALE,
    "FP8_DYNAMIC": _NARROW,
    "FP8A16": _NARROW,
    "FP8_BLOCK": _WITH_SCALE,
    "FP8_BLOCK_SCALES": _named("weight weight_scale_inv", "input_scale"),
    "W8A8": _WITH_SCALE,
    "MXFP8": _NARROW,
    "MXFP8A16": _NARROW,
    "MXFP4": _named(_FOUR),
    "MXFP4A16": _named(_FOUR),
    "NVFP4": _named(f"{_FOUR} weight_global_scale input_global_scale"),
    "NVFP4A16": _named(f"{_FOUR} weight_global_scale"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a checkpoint says of its own quantization; all empty when it says nothing."""

    algorithm: str = ""
    group: int = 0
    kv_cache: str = ""
    excluded: tuple[str, ...] = ()
    layers: Mapping[str, Scheme] = field(default_factory=dict)

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> Self:
        """Read `hf_quant_config.json`; another tool's quantization is a `ToolError`."""
        file = checkpoint.path / BESIDE
        if not file.is_file():
            if checkpoint.quantization is not None:
                raise ToolError(
                    f"{checkpoint.path / 'config.json'}: quantized, but not by ModelOpt "
                    f"(no {BESIDE} beside it)",
                    hint="quantize the original checkpoint with a recipe of this package",
                )
            return cls()
        try:
            return cls._parse(json.loads(file.read_text(encoding="utf-8"))["quantization"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ToolError(
                f"{file}: not ModelOpt's declaration ({error!r})", hint="quantize again"
            ) from error

    @classmethod
    def _parse(cls, said: Mapping[str, object]) -> Self:
        layers = said.get("quantized_layers")
        excluded = said.get("exclude_modules")
        return cls(
            algorithm=str(said.get("quant_algo") or ""),
            group=_group(said),
            kv_cache=str(said.get("kv_cache_quant_algo") or ""),
            excluded=tuple(map(str, excluded)) if isinstance(excluded, list) else (),
            layers={
                str(name): Scheme(algorithm=str(layer["quant_algo"]), group=_group(layer))
                for name, layer in (layers.items() if isinstance(layers, Mapping) else ())
            },
        )

    def scheme(self, module: str) -> Scheme | None:
        """Return how a linear layer is stored, or None when it was left alone."""
        if self.layers or self.algorithm == MIXED:
            return self.layers.get(module)
        if not self.algorithm or any(fnmatchcase(module, name) for name in self.excluded):
            return None
        return Scheme(algorithm=self.algorithm, group=self.group)


def _group(said: Mapping[str, object]) -> int:
    value = said.get("group_size")
    return value if isinstance(value, int) else 0


def layout(scheme: Scheme, where: str) -> Layout:
    """Return the layout of a scheme; an algorithm that nobody here reads is a `ToolError`."""
    known = FOREIGN if scheme.foreign else LAYOUTS
    if scheme.algorithm not in known:
        raise ToolError(
            f"{where}: the embedded runtime cannot read {scheme.algorithm}",
            hint=f"it reads {', '.join(known)}",
        )
    return known[scheme.algorithm]


def check(checkpoint: Checkpoint, declaration: Declaration) -> None:
    """Hold every quantized layer's headers against its declaration; a defect is a `ToolError`."""
    if declaration.kv_cache and declaration.kv_cache not in KV_ALGORITHMS:
        raise ToolError(
            f"{checkpoint.path / BESIDE}: the embedded runtime has no {declaration.kv_cache} "
            "KV cache",
            hint=f"it has {', '.join(KV_ALGORITHMS)}, or none: quantize with kv_cache = 'fp8'",
        )
    for name in checkpoint.tensors:
        module, _, part = name.rpartition(".")
        if part in PARTS and f"{module}.weight" not in checkpoint.tensors:
            raise ToolError(f"{checkpoint.path}: {name} has no weight beside it")
        if part == "weight":
            _check_layer(checkpoint, module, declaration)


def _check_layer(checkpoint: Checkpoint, module: str, declaration: Declaration) -> None:
    found = {part for part in PARTS if f"{module}.{part}" in checkpoint.tensors}
    weight = checkpoint.tensors[f"{module}.weight"]
    narrow = weight.dtype in {"F8_E4M3", "F8_E5M2", "I8", "U8"}
    if not found and not narrow:
        return
    scheme = declaration.scheme(module)
    if scheme is None:
        raise ToolError(
            f"{checkpoint.path}: {module} is stored quantized, but {BESIDE} leaves it out",
            hint="quantize again: the declaration and the tensors must agree",
        )
    expected = layout(scheme, f"{checkpoint.path}: {module}")
    lost = sorted(expected.required.keys() - found - {"weight"})
    more = sorted(found - expected.required.keys() - expected.optional.keys())
    if lost or more:
        what = f"has no {lost[0]}" if lost else f"has a {more[0]} that nothing would read"
        raise ToolError(
            f"{checkpoint.path}: {module} is declared {scheme.algorithm}, but {what}",
            hint="quantize again with calibration texts that reach every layer",
        )
    _check_shapes(checkpoint, module, expected, scheme)


def _check_shapes(checkpoint: Checkpoint, module: str, expected: Layout, scheme: Scheme) -> None:
    stored = checkpoint.tensors[f"{module}.weight"].shape
    if len(stored) != 2:
        raise ToolError(f"{checkpoint.path}: {module}.weight has {len(stored)} dimensions, not 2")
    out, into = expected.features(stored)
    group = scheme.group or expected.group
    for part, wanted in (dict(expected.required) | dict(expected.optional)).items():
        info = checkpoint.tensors.get(f"{module}.{part}")
        if info is None:
            continue
        shape = wanted.shape(out, into, group or 1)
        if info.dtype not in wanted.dtypes or info.shape != shape:
            raise ToolError(
                f"{checkpoint.path}: {module}.{part} is {info.dtype} {list(info.shape)}, but "
                f"{scheme.algorithm} has {' or '.join(sorted(wanted.dtypes))} {list(shape)}",
                hint="quantize again; damaged or foreign exports are not read",
            )
