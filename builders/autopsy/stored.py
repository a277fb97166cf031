"""Hold one layer's tensors against what is declared of it: format, parts, dtypes, shapes."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Final

from builders.autopsy.finding import Finding, Severity, found
from builders.autopsy.layers import Layer, Role
from builders.autopsy.recognized import Recognized
from builders.autopsy.storage import FLOATS, Part, Shape, Storage, size
from builders.checkpoint import TensorInfo

KV_PARTS: Final = frozenset(
    {"q_scale", "k_scale", "v_scale", "kv_scale", "k_bias", "v_bias", "output_scale"}
)
# What only a quantized layer has, whoever wrote it.
SCALES: Final = frozenset({
    "weight_scale", "weight_scale_2", "weight_scale_inv", "weight_global_scale", "input_scale",
    "activation_scale", "input_global_scale", "pre_quant_scale", "weight_zero_point",
    "input_zero_point", "weight_shape", "weight_g_idx", "weight_packed", "W_q", "qweight",
    "qzeros", "scales", "g_idx", "SCB", "weight_format", "blocks", "svdquant_lora_a",
    "svdquant_lora_b",
    "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map",
    "weight.quant_state.bitsandbytes__nf4", "weight.quant_state.bitsandbytes__fp4",
})  # fmt: skip
_BY_CLASS: Final = "compressed-tensors"  # its usual target is every module of the class Linear
_SENSITIVE: Final = {
    Role.OUTPUT: "the output layer",
    Role.EMBEDDING: "an embedding",
    Role.ROUTER: "a router",
    Role.VISION: "part of a vision tower",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """One layer, examined: its format as it lies there, and what is wrong with it.

    ``exact`` is what its format takes to the byte, ``quietly`` whether it was left alone where
    nothing says so.
    """

    layer: Layer
    storage: Storage | None
    format: str
    parameters: int
    bytes: int
    exact: int
    findings: tuple[Finding, ...] = ()
    quietly: bool = False


def is_narrow(layer: Layer) -> bool:
    """Whether a layer is stored quantized, whatever is declared."""
    if layer.parts.keys() & SCALES:
        return True
    codes = layer.parts.get(layer.codes)
    return codes is not None and codes.dtype not in FLOATS


def examine(layer: Layer, recognized: Recognized) -> Examined:
    """Judge one layer by its headers."""
    codes, narrow = layer.parts.get(layer.codes), is_narrow(layer)
    matrix = codes is not None and len(codes.shape) > 1
    declared = recognized.storage(layer.module) if matrix else None
    storage = declared if narrow else None
    sides = _sides(layer, storage) if storage else None
    held = [info.bytes for name, info in layer.parts.items() if name not in KV_PARTS]
    return Examined(
        layer=layer,
        storage=storage,
        format=_format(layer, storage, codes),
        parameters=prod(sides) if sides else sum(prod(i.shape) for i in layer.parts.values()),
        bytes=sum(held),
        exact=_exact(layer, storage, sides) if storage and sides else sum(held),
        findings=tuple(_findings(layer, recognized, declared, narrow=narrow)),
        quietly=_quietly(layer, recognized, declared, narrow=narrow),
    )


def _sides(layer: Layer, storage: Storage) -> tuple[int, int, int] | None:
    codes = layer.parts.get(storage.codes)
    return storage.sides(codes.shape) if codes else None


def _format(layer: Layer, storage: Storage | None, codes: TensorInfo | None) -> str:
    if storage:
        return storage.name
    return codes.dtype if codes else next(iter(layer.parts.values())).dtype


def _exact(layer: Layer, storage: Storage, sides: tuple[int, int, int]) -> int:
    total = 0
    for name, part in storage.every.items():
        info = layer.parts.get(name)
        if info is None and name not in storage.parts:
            continue
        shapes = storage.shapes(part, sides)
        if shapes:
            dtype = info.dtype if info and info.dtype in part.dtypes else part.dtypes[0]
            total += size(dtype, shapes[0])
        elif info:
            total += info.bytes
    bias = layer.parts.get("bias")
    return total + (bias.bytes if bias else 0)


def _quietly(
    layer: Layer, recognized: Recognized, declared: Storage | None, *, narrow: bool
) -> bool:
    linear = layer.role is Role.LINEAR
    return bool(declared and linear and not narrow and not _says_all(layer, recognized))


def _says_all(layer: Layer, recognized: Recognized) -> bool:
    """Whether a layer left alone must be named; a stack is no module, and so of no class."""
    return recognized.explicit and not (layer.stacked and recognized.method == _BY_CLASS)


def _findings(
    layer: Layer, recognized: Recognized, declared: Storage | None, *, narrow: bool
) -> Iterator[Finding]:
    codes = layer.parts.get(layer.codes)
    if codes is None:
        for name in sorted(layer.parts.keys() & SCALES):
            yield found("part-orphan", layer.name(name), "has no weight beside it")
    elif len(codes.shape) < 2:
        if narrow:
            yield found("norm-quantized", layer.module, f"is stored as {codes.dtype}")
    elif declared and narrow:
        yield from _sensitive(layer, recognized, declared)
        yield from _parts(layer, declared)
    elif declared or narrow:
        yield from _contradiction(layer, recognized, declared, codes.dtype)


def _contradiction(
    layer: Layer, recognized: Recognized, declared: Storage | None, dtype: str
) -> Iterator[Finding]:
    """Quantized, but declared left alone, or the other way round."""
    if declared and _says_all(layer, recognized) and layer.role in {Role.LINEAR, Role.OUTPUT}:
        what = f"is stored in {dtype}, but declared {declared.name}"
        yield found("layer-unquantized", layer.module, what)
    elif not declared and recognized.method != "unquantized":
        what = f"is stored quantized ({dtype}), but {_where(recognized)} leaves it out"
        yield found("layer-undeclared", layer.module, what)


def _where(recognized: Recognized) -> str:
    return "the declaration" if recognized.explicit else f"a {recognized.method} reader"


def _sensitive(layer: Layer, recognized: Recognized, declared: Storage) -> Iterator[Finding]:
    """What few bits hurt most, or no runtime reads; only an output layer can be asked for."""
    if layer.role not in _SENSITIVE:
        return
    meant = layer.role is Role.OUTPUT and layer.module in recognized.named
    warn = meant or layer.role is Role.VISION or not recognized.explicit
    yield found(
        "layer-sensitive",
        layer.module,
        f"is {_SENSITIVE[layer.role]}, and quantized ({declared.name})",
        severity=Severity.WARN if warn else Severity.STOP,
    )


def _parts(layer: Layer, storage: Storage) -> Iterator[Finding]:
    codes, sides = layer.parts.get(storage.codes), _sides(layer, storage)
    for name, part in storage.every.items():
        info = layer.parts.get(name)
        if info is None:
            if name in storage.parts:
                rule = "input-scale-missing" if _is_input(name) else "part-missing"
                yield found(rule, layer.name(name), "is missing")
            continue
        yield from _part(layer.name(name), info, part, storage.shapes(part, sides) if sides else ())
    if codes and sides is None:
        what = f"has shape {list(codes.shape)}, which {storage.name} cannot have"
        yield found("part-shape", layer.name(storage.codes), what)
    for name in sorted(layer.parts.keys() & SCALES - storage.every.keys()):
        what = f"has no place in this format ({storage.name})"
        yield found("part-stray", layer.name(name), what)


def _is_input(name: str) -> bool:
    return name in {"input_scale", "activation_scale", "input_global_scale"}


def _part(name: str, info: TensorInfo, part: Part, shapes: tuple[Shape, ...]) -> Iterator[Finding]:
    if info.dtype not in part.dtypes:
        yield found("part-dtype", name, f"is {info.dtype}, not {' or '.join(part.dtypes)}")
    elif shapes and info.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        yield found("part-shape", name, f"has shape {list(info.shape)}, not {wanted}")
