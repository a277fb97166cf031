"""compressed-tensors, the format of llm-compressor: groups of layers, each with its arguments.

The layouts were measured on what compressed-tensors 0.20 writes for each of its preset schemes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from builders.autopsy import names
from builders.autopsy.layers import Role, named_role
from builders.autopsy.recognized import Recognized, mapping, texts, whole
from builders.autopsy.storage import (
    MakeShape,
    Part,
    Storage,
    blocks,
    ceil,
    column,
    groups,
    halves,
    inputs,
    packed,
    part,
    plain,
    scalar,
    scale,
    single,
    tiles,
)
from builders.autopsy.storage import whole as all_values
from builders.checkpoint import Checkpoint
from builders.errors import UsageError
from builders.formats import Format
from builders.parse import nearest

_WIDE: Final = "BF16 F16 F32"
_ONE: Final[tuple[MakeShape, ...]] = (single, scalar)


@dataclass(frozen=True, slots=True)
class Group:
    """The arguments of one group: of its weights, of its activations (empty: left alone)."""

    weights: Mapping[str, Any]
    inputs: Mapping[str, Any]

    @property
    def bits(self) -> int:
        """Bits of a weight."""
        return whole(self.weights.get("num_bits"), 8)

    @property
    def size(self) -> int:
        """Input channels that share a scale, 0 where a whole channel or tensor does."""
        return max(whole(self.weights.get("group_size")), 0)

    @property
    def symmetric(self) -> bool:
        """Whether zero lies in the middle of the codes."""
        return self.weights.get("symmetric") is not False

    @property
    def static(self) -> bool:
        """Whether the scales of activations were calibrated."""
        return bool(self.inputs) and self.inputs.get("dynamic") is False

    @property
    def grid(self) -> tuple[MakeShape, ...]:
        """The shapes that the scales of the weights may have."""
        if self.weights.get("strategy") == "block":
            sides = self.weights.get("block_structure")
            down, across = sides if isinstance(sides, list) and len(sides) == 2 else (128, 128)
            return (tiles(max(whole(down, 128), 1), max(whole(across, 128), 1)),)
        if self.weights.get("strategy") == "tensor":
            return _ONE
        return (groups,) if self.size else (column,)


def _activations(group: Group) -> dict[str, Part]:
    return {"input_scale": scale(_WIDE, *_ONE)} if group.static else {}


def _plain(dtype: str) -> Callable[[Group], dict[str, Part]]:
    def parts(group: Group) -> dict[str, Part]:
        zero = {} if group.symmetric else {"weight_zero_point": part(dtype, *group.grid)}
        weight = {"weight": part(dtype, all_values), "weight_scale": scale(_WIDE, *group.grid)}
        return weight | zero | _activations(group)

    return parts


def _naive(group: Group) -> dict[str, Part]:
    return _plain("I8" if group.weights.get("type") == "int" else "F8_E4M3")(group)


def _packed(group: Group) -> dict[str, Part]:
    bits = group.bits
    width = part("I32", lambda o, i, _: (o, ceil(i * bits, 32)))
    parts = {
        "weight_packed": width,
        "weight_scale": scale(_WIDE, *group.grid),
        "weight_shape": part("I64 I32", lambda *_: (2,)),
    }
    if not group.symmetric:
        shape = group.grid[0]
        down = part("I32", lambda o, i, g: (ceil(o * bits, 32), *shape(o, i, g)[1:]))
        parts["weight_zero_point"] = down
    return parts | _activations(group)


def _nvfp4(group: Group) -> dict[str, Part]:
    unit = scale("F32", *_ONE)
    parts = {
        "weight_packed": part("U8", halves),
        "weight_scale": scale("F8_E4M3", blocks(16)),
        "weight_global_scale": unit,
    }
    static = bool(group.inputs) and group.inputs.get("dynamic") is not True
    return parts | ({"input_global_scale": unit} if static else {})


def _mxfp4(_group: Group) -> dict[str, Part]:
    return {"weight_packed": part("U8", halves), "weight_scale": scale("U8", blocks(32))}


def _mxfp8(_group: Group) -> dict[str, Part]:
    return {"weight": part("F8_E4M3", all_values), "weight_scale": scale("U8", blocks(32))}


LAYOUTS: Final[Mapping[str, Callable[[Group], dict[str, Part]]]] = {
    "float-quantized": _plain("F8_E4M3"),
    "int-quantized": _plain("I8"),
    "naive-quantized": _naive,
    "pack-quantized": _packed,
    "nvfp4-pack-quantized": _nvfp4,
    "mxfp4-pack-quantized": _mxfp4,
    "mxfp8-quantized": _mxfp8,
}
_OPTIONAL: Final = {
    "weight_g_idx": part("I32", inputs),
    "input_zero_point": part("F8_E4M3 I8", *_ONE),
}
# (bits, type, group) of the arguments; the first that matches counts, 0 matches every group.
_FORMATS: Final = (
    (4, "int", 0, Format.INT4),
    (8, "int", 0, Format.INT8),
    (4, "float", 16, Format.NVFP4),
    (4, "float", 32, Format.MXFP4),
    (8, "float", 32, Format.MXFP8),
    (8, "float", 0, Format.FP8),
)
# Who reads it besides vLLM. TensorRT-LLM's are from its documentation, not run.
_TRTLLM: Final = frozenset({"FP8_DYNAMIC", "FP8_BLOCK"})
EMBEDDED: Final = frozenset({
    "FP8", "FP8_DYNAMIC", "FP8_BLOCK", "FP8A16", "W8A8", "MXFP8", "MXFP8A16", "MXFP4", "MXFP4A16",
    "NVFP4", "NVFP4A16",
})  # fmt: skip
EMBEDDED_PACKED: Final = frozenset({"W4A16", "W8A16"})


def recognize(checkpoint: Checkpoint, said: Mapping[str, Any]) -> Recognized:
    """Read the groups of a declaration; the first speaks for all."""
    _refuse_sparse(checkpoint, said)
    kept = texts(said.get("ignore"))
    made = [
        (texts(mapping(one).get("targets")), _storage(checkpoint, said, mapping(one)))
        for one in mapping(said.get("config_groups")).values()
        if mapping(mapping(one).get("weights"))
    ]
    if not made and not said.get("kv_cache_scheme"):
        raise UsageError(
            f"{checkpoint.path / 'config.json'}: compressed-tensors without config_groups",
            hint="fetch config.json again",
        )
    main = made[0][1] if made else None
    kv_cache, kv_static = kv_scheme(said.get("kv_cache_scheme"))
    first = _group(next(iter(mapping(said.get("config_groups")).values()), {}))
    return Recognized(
        method="compressed-tensors",
        algorithm=main.name if main else "KV cache only",
        weights=main.weights if main else Format.BF16,
        activations=main.activations if main else Format.BF16,
        kv_cache=kv_cache,
        group=main.group if main else 0,
        symmetric=first.symmetric,
        kept=kept,
        runtimes=main.runtimes if main else ("vllm",),
        notes=tuple(f"also {storage.name}" for _, storage in made[1:]),
        named=frozenset(name for targets, _ in made for name in targets if ":" not in name),
        kv_static=kv_static,
        storage=_chooser(kept, made),
    )


def _chooser(
    kept: tuple[str, ...], made: list[tuple[tuple[str, ...], Storage]]
) -> Callable[[str], Storage | None]:
    left = names.compressed(kept)
    rules = [("Linear" in targets, names.compressed(targets), stored) for targets, stored in made]

    def storage(module: str) -> Storage | None:
        if left(module) or named_role(module) is Role.EMBEDDING:
            return None
        by_name = (stored for _, matches, stored in rules if matches(module))
        by_class = (stored for linear, _, stored in rules if linear)
        return next(by_name, None) or next(by_class, None)

    return storage


def kv_scheme(said: object) -> tuple[Format, bool]:
    """Read a KV cache scheme: its format, and whether its scales were calibrated."""
    scheme = mapping(said)
    if not scheme:
        return (Format.FP8, True) if said == "static" else (Format.BF16, False)
    format_ = Format.INT8 if scheme.get("type") == "int" else Format.FP8
    return format_, scheme.get("dynamic") is not True


def _group(one: object) -> Group:
    said = mapping(one)
    return Group(mapping(said.get("weights")), mapping(said.get("input_activations")))


def _storage(checkpoint: Checkpoint, said: Mapping[str, Any], one: Mapping[str, Any]) -> Storage:
    group, layout = _group(one), str(one.get("format") or said.get("format") or "")
    weights = _format(group.weights)
    if layout not in LAYOUTS or weights is None:
        what = f"format {layout!r}" if layout not in LAYOUTS else f"{group.bits}-bit weights"
        raise UsageError(
            f"{checkpoint.path / 'config.json'}: compressed-tensors {what} are not known here",
            hint=nearest(layout, LAYOUTS),
        )
    parts = LAYOUTS[layout](group)
    codes = next(iter(parts))
    activations = (_format(group.inputs) if group.inputs else None) or Format.BF16
    times = {"I32": 32 // group.bits, "U8": 2}.get(parts[codes].dtypes[0], 1)
    name = _label(weights, activations, group)
    return Storage(
        name=name,
        weights=weights,
        activations=activations,
        group=group.size,
        parts=parts,
        optional={name: one for name, one in _OPTIONAL.items() if name not in parts},
        features=packed(times) if times > 1 else plain,
        runtimes=_runtimes(name, packs=layout == "pack-quantized"),
    )


def _runtimes(name: str, *, packs: bool) -> tuple[str, ...]:
    others = {"trtllm": _TRTLLM, "embedded": EMBEDDED_PACKED if packs else EMBEDDED}
    return ("vllm", *(runtime for runtime, names in others.items() if name in names))


def _format(arguments: Mapping[str, Any]) -> Format | None:
    facts = (whole(arguments.get("num_bits"), 8), arguments.get("type", "int"))
    size = whole(arguments.get("group_size"))
    return next(
        (
            one
            for bits, kind, group, one in _FORMATS
            if (bits, kind) == facts and group in {0, size}
        ),
        None,
    )


def _label(weights: Format, activations: Format, group: Group) -> str:
    """Say it as llm-compressor's presets do: FP8_DYNAMIC, W4A16, NVFP4A16."""
    if weights in {Format.INT4, Format.INT8}:
        float8 = "FP" if activations is Format.FP8 else ""
        return f"W{weights.bits}A{float8}{activations.bits}"
    name = str(weights.value).upper()
    if not activations.quantized:
        return f"{name}A16"
    if weights is not Format.FP8 or group.static:
        return name
    return f"{name}_BLOCK" if group.weights.get("strategy") == "block" else f"{name}_DYNAMIC"


def _refuse_sparse(checkpoint: Checkpoint, said: Mapping[str, Any]) -> None:
    sparse = str(mapping(said.get("sparsity_config")).get("format") or "dense")
    if sparse != "dense":
        raise UsageError(
            f"{checkpoint.path / 'config.json'}: sparse weights ({sparse}) are not known here",
            hint="save the checkpoint dense",
        )
