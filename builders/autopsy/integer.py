"""GPTQ, AWQ, bitsandbytes, HQQ: integer codes with scales, packed each in its own way.

GPTQ packs along the inputs, AWQ along the outputs, both into int32; bitsandbytes lays the weight
out as one row of bytes, HQQ as rows of one group. Measured on bitsandbytes 0.50 and hqq 0.2.8; the
other two as AutoGPTQ and AutoAWQ wrote them and vLLM and transformers read them.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from builders.autopsy import names
from builders.autopsy.layers import Role, named_role
from builders.autopsy.recognized import Recognized, mapping, texts, whole
from builders.autopsy.storage import (
    Judge,
    Part,
    Shape,
    Storage,
    ceil,
    inputs,
    packed,
    part,
    plain,
    rows,
    scalar,
    scale,
)
from builders.autopsy.storage import whole as all_values
from builders.checkpoint import Checkpoint
from builders.errors import UsageError
from builders.formats import Format

_WIDE: Final = "F16 BF16 F32"
_INTEGERS: Final = {4: Format.INT4, 8: Format.INT8}
_RUNTIMES: Final = ("vllm", "embedded")
_NEVER: Final = frozenset({Role.OUTPUT, Role.EMBEDDING, Role.ROUTER, Role.VISION, Role.NORM})


def gptq(checkpoint: Checkpoint, said: Mapping[str, Any]) -> Recognized:
    """Read a GPTQ declaration; ``dynamic`` gives some modules other settings, or none."""
    layout = str(said.get("checkpoint_format") or "gptq")
    if layout not in {"gptq", "gptq_v2"}:
        raise _unknown(checkpoint, f"GPTQ packing {layout!r}", "gptq, gptq_v2")
    usual = _gptq(checkpoint, said)
    rules = [
        (
            names.beginnings((pattern.removeprefix("-:").removeprefix("+:"),)),
            None if pattern.startswith("-:") else _gptq(checkpoint, dict(said) | dict(mapping(to))),
        )
        for pattern, to in mapping(said.get("dynamic")).items()
    ]
    head = said.get("lm_head") is True

    def storage(module: str) -> Storage | None:
        for matches, stored in rules:
            if matches(module):
                return stored
        role = named_role(module)
        return None if role in _NEVER and not (head and role is Role.OUTPUT) else usual

    return Recognized(
        method="gptq",
        algorithm=usual.name,
        weights=usual.weights,
        group=usual.group,
        symmetric=said.get("sym") is not False,
        kept=tuple(p.removeprefix("-:") for p in mapping(said.get("dynamic")) if p[:2] == "-:"),
        runtimes=usual.runtimes,
        notes=("activation order (desc_act)",) if said.get("desc_act") is True else (),
        explicit=False,
        named=frozenset({"lm_head"}) if head else frozenset(),
        storage=storage,
    )


def _gptq(checkpoint: Checkpoint, said: Mapping[str, Any]) -> Storage:
    """The second version of the format differs from the first in its zero points only."""
    second = "_V2" if said.get("checkpoint_format") == "gptq_v2" else ""
    bits, group = _bits(checkpoint, said, "GPTQ", 4), max(whole(said.get("group_size"), -1), 0)
    return Storage(
        name=f"W{bits}A16_GPTQ{second}",
        weights=_INTEGERS[bits],
        group=group,
        parts={
            "qweight": part("I32", lambda o, i, _: (ceil(i * bits, 32), o)),
            "qzeros": part("I32", lambda o, i, g: (ceil(i, g), ceil(o * bits, 32))),
            "scales": scale(_WIDE, lambda o, i, g: (ceil(i, g), o)),
        },
        optional={"g_idx": part("I32", inputs)},
        features=_turned(packed(32 // bits, along=0)),
        runtimes=_RUNTIMES,
    )


def _turned(features: Callable[[Shape], tuple[int, int] | None]) -> Callable[[Shape], Any]:
    """Read (in, out) as (out, in)."""

    def turned(shape: Shape) -> tuple[int, int] | None:
        sides = features(shape)
        return None if sides is None else (sides[1], sides[0])

    return turned


def awq(checkpoint: Checkpoint, said: Mapping[str, Any]) -> Recognized:
    """Read an AWQ declaration, in its old words too."""
    layout = str(said.get("version") or said.get("format") or "gemm").lower()
    if layout != "gemm":
        raise _unknown(checkpoint, f"AWQ packing {layout!r}", "gemm")
    group = whole(said.get("group_size"), whole(said.get("q_group_size"), 128))
    offset = said.get("zero_point") is not False
    usual = _awq(_bits(checkpoint, said, "AWQ", 4), max(group, 0), offset=offset)
    kept = texts(said.get("modules_to_not_convert"))
    left = names.skipped(kept)
    return Recognized(
        method="awq",
        algorithm="AWQ",
        weights=usual.weights,
        group=usual.group,
        symmetric=not offset,
        kept=kept,
        runtimes=usual.runtimes,
        explicit=False,
        storage=lambda m: None if named_role(m) in _NEVER or left(m) else usual,
    )


def _awq(bits: int, group: int, *, offset: bool) -> Storage:
    zeros = {"qzeros": part("I32", lambda o, i, g: (ceil(i, g), ceil(o * bits, 32)))}
    return Storage(
        name="AWQ",
        weights=_INTEGERS[bits],
        group=group,
        parts={
            "qweight": part("I32", lambda o, i, _: (i, ceil(o * bits, 32))),
            "scales": scale(_WIDE, lambda o, i, g: (ceil(i, g), o)),
            **(zeros if offset else {}),
        },
        optional={} if offset else zeros,
        features=_turned(packed(32 // bits)),
        runtimes=_RUNTIMES if bits == 4 else ("vllm",),
    )


def bitsandbytes(checkpoint: Checkpoint, said: Mapping[str, Any]) -> Recognized:
    """Read a bitsandbytes declaration: LLM.int8() or NF4, perhaps with its scales quantized too."""
    kept = texts(said.get("llm_int8_skip_modules")) or ("lm_head",)
    left = names.skipped(kept)
    usual = _nf4(checkpoint, said) if said.get("load_in_4bit") is True else _INT8
    doubled = usual.parts.get("weight.nested_absmax") is not None
    return Recognized(
        method="bitsandbytes",
        algorithm=usual.name,
        weights=usual.weights,
        activations=usual.activations,
        group=usual.group,
        kept=kept,
        runtimes=usual.runtimes,
        notes=("scales in 8 bits (double quantization)",) if doubled else (),
        explicit=False,
        storage=lambda m: None if named_role(m) is Role.EMBEDDING or left(m) else usual,
    )


_INT8: Final = Storage(
    name="BNB_INT8",
    weights=Format.INT8,
    activations=Format.INT8,
    parts={"weight": part("I8", all_values), "SCB": part("F32", rows, judge=Judge.MAGNITUDE)},
    optional={"weight_format": part("U8", scalar, lambda *_: (1,))},
    features=plain,
    runtimes=_RUNTIMES,
)


def _nf4(checkpoint: Checkpoint, said: Mapping[str, Any]) -> Storage:
    kind = str(said.get("bnb_4bit_quant_type") or "fp4")
    if kind != "nf4" or said.get("bnb_4bit_quant_storage", "uint8") != "uint8":
        stored = said.get("bnb_4bit_quant_storage", "uint8")
        raise _unknown(checkpoint, f"bitsandbytes {kind} stored as {stored}", "nf4 as uint8")
    return Storage(
        name="BNB_NF4",
        weights=Format.NF4,
        group=64,
        parts=_nf4_parts(doubled=said.get("bnb_4bit_use_double_quant") is True),
        features=lambda shape: (2 * shape[0], 1) if len(shape) == 2 and shape[1] == 1 else None,
        flat=True,
        runtimes=_RUNTIMES,
    )


def _nf4_parts(*, doubled: bool) -> dict[str, Part]:
    count = part("U8 F32", lambda o, i, _: (ceil(o * i, 64),))
    parts = {
        "weight": part("U8", lambda o, i, _: (ceil(o * i, 2), 1)),
        "weight.absmax": Part(("U8",), count.shapes),
        "weight.quant_map": part("F32", lambda *_: (16,)),
        "weight.quant_state.bitsandbytes__nf4": part("U8"),
    }
    if not doubled:
        return parts | {"weight.absmax": Part(("F32",), count.shapes, Judge.MAGNITUDE)}
    return parts | {
        "weight.nested_absmax": part(
            "F32", lambda o, i, _: (ceil(ceil(o * i, 64), 256),), judge=Judge.MAGNITUDE
        ),
        "weight.nested_quant_map": part("F32", lambda *_: (256,)),
    }


def hqq(checkpoint: Checkpoint, said: Mapping[str, Any]) -> Recognized:
    """Read an HQQ declaration: codes, scales and zero points in rows of one group each."""
    settings = mapping(mapping(said.get("quant_config")).get("weight_quant_params"))
    bits = _bits(checkpoint, {"bits": settings.get("nbits")}, "HQQ", 4)
    if settings.get("axis", 1) != 1:
        raise _unknown(checkpoint, f"HQQ along axis {settings['axis']}", "axis 1")
    kept = texts(said.get("skip_modules")) or ("lm_head",)
    left = names.skipped(kept)
    usual = _hqq(bits, max(whole(settings.get("group_size"), 64), 1))
    return Recognized(
        method="hqq",
        algorithm=usual.name,
        weights=usual.weights,
        group=usual.group,
        symmetric=False,
        kept=kept,
        runtimes=usual.runtimes,
        notes=("transformers 4 loads it with the library hqq",),
        explicit=False,
        storage=lambda m: None if named_role(m) is Role.EMBEDDING or left(m) else usual,
    )


# Small facts of a layer that hqq stores as tensors beside it.
_HQQ_FACTS: Final = (
    "nbits", "group_size", "shape", "axis", "packing", "unpack_view_dtype", "view_as_float",
    "quant_scale", "quant_zero", "compute_dtype", "offload_meta", "encoded_state_dict",
    "stores_quant_config", "channel_wise", "optimize", "round_zero",
)  # fmt: skip


def _hqq(bits: int, group: int) -> Storage:
    def per_group(o: int, i: int, _g: int) -> Shape:
        return (ceil(o * i, group), 1)

    return Storage(
        name=f"HQQ_INT{bits}",
        weights=_INTEGERS[bits],
        group=group,
        parts={
            "W_q": part("U8", lambda o, i, _: (ceil(o * i * bits, 8 * group), group)),
            "scale": scale(_WIDE, per_group),
            "zero": part(_WIDE, per_group),
        },
        optional={name: part("U8 I32 I64") for name in _HQQ_FACTS},
        features=lambda s: (s[0] * s[1] * 8 // bits, 1) if len(s) == 2 and s[1] == group else None,
        flat=True,
        runtimes=("embedded",),
    )


def _bits(checkpoint: Checkpoint, said: Mapping[str, Any], what: str, usual: int) -> int:
    bits = whole(said.get("bits"), whole(said.get("w_bit"), usual))
    if bits not in _INTEGERS:
        raise _unknown(checkpoint, f"{what} with {bits} bits", "4 and 8")
    return bits


def _unknown(checkpoint: Checkpoint, what: str, known: str) -> UsageError:
    return UsageError(f"{checkpoint.path}: {what} is not known here", hint=f"known: {known}")
