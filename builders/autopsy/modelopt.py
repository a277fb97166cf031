"""NVIDIA ModelOpt: ``hf_quant_config.json``, the flat form in config.json, mixed precision.

The layouts were measured tensor by tensor on exports of ModelOpt 0.47, those of stacked experts on
its exports of a Llama 4.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from builders.autopsy import names
from builders.autopsy.finding import Finding, found
from builders.autopsy.recognized import Recognized, mapping, texts, whole
from builders.autopsy.storage import (
    Part,
    Storage,
    blocks,
    ceil,
    groups,
    halves,
    inputs,
    packed,
    part,
    plain,
    rows,
    scalar,
    scale,
    turned,
)
from builders.autopsy.storage import whole as all_values
from builders.checkpoint import Checkpoint
from builders.errors import UsageError
from builders.formats import Format
from builders.parse import nearest

METHODS: Final = ("modelopt", "modelopt_fp4", "modelopt_mixed")  # what config.json may call it
BESIDE: Final = "hf_quant_config.json"
MIXED: Final = "MIXED_PRECISION"
KV_FORMATS: Final[Mapping[str, Format]] = {
    "FP8": Format.FP8,
    "FP8_AFFINE": Format.FP8,
    "NVFP4": Format.NVFP4,
    "NVFP4_AFFINE": Format.NVFP4,
    "INT8": Format.INT8,
}


_FP8: Final = part("F8_E4M3", all_values)
_INT8: Final = part("I8", all_values)
_NIBBLES: Final = part("U8", halves)  # the low nibble is the even column
_INT4: Final = part("U8", lambda o, i, _: (o // 2, i))  # the low nibble is the even row
_ONE: Final = scale("F32", scalar)
_ROWS: Final = scale("F32", rows)
_GROUPS: Final = scale("F32", groups)
_INPUT: Final = {"input_scale": _ONE}
_SMOOTH: Final = {"pre_quant_scale": scale("BF16 F16 F32", inputs)}
_LOW_RANK: Final = {
    "svdquant_lora_a": part("BF16 F16 F32"),
    "svdquant_lora_b": part("BF16 F16 F32"),
}
# A layer of a single tile is written as a number.
_TILES: Final = scale(
    "F32",
    lambda o, i, g: (ceil(o, g), 1, ceil(i, g), 1) if max(o, i) > g else (),
)


def _nvfp4(width: int) -> dict[str, Part]:
    grid = scale("F8_E4M3", blocks(width))
    return {"weight": _NIBBLES, "weight_scale": grid, "weight_scale_2": _ONE}


_MXFP4: Final = {"weight": _NIBBLES, "weight_scale": scale("U8", blocks(32))}
_AWQ: Final = {"weight": _INT4, "weight_scale": _GROUPS}


_HERE: Final = ("embedded",)
_EVERYWHERE: Final = ("embedded", "trtllm", "vllm")
_NOT_VLLM: Final = ("embedded", "trtllm")
_BF16, _F8, _I8, _F4 = Format.BF16, Format.FP8, Format.INT8, Format.NVFP4


def _four(  # noqa: PLR0913 - one row of a table
    name: str,
    weights: Format,
    activations: Format,
    runtimes: tuple[str, ...],
    parts: Mapping[str, Part],
    optional: Mapping[str, Part] | None = None,
    *,
    group: int = 0,
) -> Storage:
    """Two codes a byte: neighbouring rows in INT4, neighbouring columns in FP4."""
    return Storage(
        name=name,
        weights=weights,
        activations=activations,
        group=group or weights.block or 128,
        parts=parts,
        optional=optional or {},
        features=packed(2, along=0 if weights is Format.INT4 else 1),
        runtimes=runtimes,
    )


def _eight(  # noqa: PLR0913 - one row of a table
    name: str,
    weights: Format,
    activations: Format,
    runtimes: tuple[str, ...],
    parts: Mapping[str, Part],
    optional: Mapping[str, Part] | None = None,
    *,
    group: int = 0,
) -> Storage:
    return Storage(
        name=name,
        weights=weights,
        activations=activations,
        group=group,
        parts=parts,
        optional=optional or {},
        features=plain,
        runtimes=runtimes,
    )


def _experts(one: Storage) -> Storage:
    """Let a format be known where all experts of a projection lie in one tensor.

    ModelOpt writes Llama 4 and GPT-OSS so, (experts, in, out) as those models compute: codes and
    block scales turned, scales of a whole tensor one for all experts (read as well: one for each).
    Its other formats are known by dtypes alone: their scales lie otherwise (MXFP8's along the out
    features), and no runtime is known to read them.
    """
    parts = {
        name: replace(part, shapes=tuple(map(turned, part.shapes)), shared=scalar in part.shapes)
        for name, part in one.parts.items()
    }
    stack = replace(
        one,
        parts=parts,
        features=lambda shape: one.features(shape[::-1]),
        stacked=True,
        runtimes=one.stack_runtimes,
    )
    return replace(one, experts=stack)


_FP8_ONE: Final = {"weight": _FP8, "weight_scale": _ONE}
_FP8_ROWS: Final = {"weight": _FP8, "weight_scale": _ROWS}
_FP8_TILES: Final = {"weight": _FP8, "weight_scale": _TILES}
_MXFP8: Final = {"weight": _FP8, "weight_scale": scale("U8", blocks(32))}
_INT8_ROWS: Final = {"weight": _INT8, "weight_scale": _ROWS}
_W4A8: Final = _AWQ | {"weight_scale_2": _ONE} | _INPUT

_ALL: Final = (
    _experts(_eight("FP8", _F8, _F8, _EVERYWHERE, _FP8_ONE | _INPUT)),
    _eight("FP8_PER_CHANNEL_PER_TOKEN", _F8, _F8, _EVERYWHERE, _FP8_ROWS),
    _eight("fp8_pb_wo", _F8, _BF16, _HERE, _FP8_TILES, group=128),
    _eight("MXFP8", Format.MXFP8, Format.MXFP8, _EVERYWHERE, _MXFP8, group=32),
    _eight("W8A8_SQ_PER_CHANNEL", _I8, _I8, _HERE, _INT8_ROWS | _INPUT, _SMOOTH),
    _eight("W8A16", _I8, _BF16, _NOT_VLLM, _INT8_ROWS),
    _four("W4A16_AWQ", Format.INT4, _BF16, _NOT_VLLM, _AWQ, _SMOOTH),
    _four("W4A8_AWQ", Format.INT4, _F8, _NOT_VLLM, _W4A8, _SMOOTH),
    _experts(_four("NVFP4", _F4, _F4, _EVERYWHERE, _nvfp4(16) | _INPUT)),
    _four("NVFP4_AWQ", _F4, _F4, _HERE, _nvfp4(16) | _INPUT, _SMOOTH),
    _four("NVFP4_SVD", _F4, _F4, (), _nvfp4(16) | _INPUT, _SMOOTH | _LOW_RANK),
    _experts(_four("W4A16_NVFP4", _F4, _BF16, _HERE, _nvfp4(16))),
    _four("W4A8_NVFP4_FP8", _F4, _F8, _NOT_VLLM, _nvfp4(32) | _INPUT, group=32),
    _four("mxfp4", Format.MXFP4, Format.MXFP4, _HERE, _MXFP4),
    _four("W4A8_MXFP4_FP8", Format.MXFP4, _F8, _NOT_VLLM, _MXFP4 | _INPUT),
)
ALGORITHMS: Final[Mapping[str, Storage]] = {one.name: one for one in _ALL}
_UNCLAMPED: Final = (0, 43)
_NOTES: Final = {"fp8_pb_wo": "loaders look for weight_scale_inv, ModelOpt writes weight_scale"}
_OTHER_NAMES: Final = {"MXFP4": "mxfp4", "FP8_PB_WO": "fp8_pb_wo"}


def beside(checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    """Read ``hf_quant_config.json``; None when there is none, a `UsageError` when it is broken."""
    said = _file(checkpoint)
    return None if said is None else mapping(said["quantization"])


def _file(checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    file = checkpoint.path / BESIDE
    if not file.is_file():
        return None
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        said = error
    if not isinstance(said, Mapping) or not isinstance(said.get("quantization"), Mapping):
        raise UsageError(
            f"{file}: holds no object named quantization", hint="fetch or write this file again"
        )
    return said


def _clamped(said: Mapping[str, Any], kv_cache: Format) -> str:
    """Name the ModelOpt that declared this FP8 KV cache, if it let none of its scales be below 1.

    Its exports for Hugging Face did, from 0.23 at the latest to 0.42; a change of 2026-03-13 ended
    it, first in 0.43.0rc0 (``export/quant_utils.py`` at each tag of its repository, and its
    changelog). A development version of 0.43 from before that day is taken for a later one. Its
    exports from Megatron clamp in 0.47 still; nothing in a file tells them from the others.
    """
    producer = mapping(said.get("producer"))
    version = str(producer.get("version"))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if kv_cache is not Format.FP8 or producer.get("name") != "modelopt" or not numbers:
        return ""
    return f"ModelOpt {version}" if (int(numbers[1]), int(numbers[2])) < _UNCLAMPED else ""


def recognize(checkpoint: Checkpoint, inside: Mapping[str, Any]) -> Recognized:
    """Read ModelOpt's declaration: the file beside wins, as in the runtimes, then config.json."""
    file = _file(checkpoint)
    said = _flat(inside) if file is None else mapping(file["quantization"])
    algorithm, group = str(said.get("quant_algo") or ""), whole(said.get("group_size"))
    kept = texts(said.get("exclude_modules"))
    kv_name = str(said.get("kv_cache_quant_algo") or "")
    if kv_name and kv_name not in KV_FORMATS:
        raise _unknown(checkpoint, "KV cache", kv_name, KV_FORMATS)
    kv_cache = KV_FORMATS.get(kv_name, Format.BF16)
    named = {
        str(module): _stored(checkpoint, layer)
        for module, layer in mapping(said.get("quantized_layers")).items()
    }
    usual = None if algorithm in {"", MIXED} else _stored(checkpoint, said)
    main = usual or _most(named)
    matches = names.modelopt(kept)

    def storage(module: str) -> Storage | None:
        if algorithm == MIXED:  # which names stacked experts by the module that holds them
            parent = module.rpartition(".")[0]
            return named.get(module) or named.get(parent if parent.endswith(".experts") else "")
        return None if matches(module) else usual

    note = _NOTES.get(main.name) if main else None
    return Recognized(
        method="modelopt",
        algorithm=algorithm or "KV cache only",
        weights=main.weights if main else Format.BF16,
        activations=main.activations if main else Format.BF16,
        kv_cache=kv_cache,
        kv_clamped=_clamped(file or inside, kv_cache),
        group=(group or main.group) if main else 0,
        kept=kept,
        runtimes=main.runtimes if main else _EVERYWHERE,
        notes=(note,) if note else (),
        named=frozenset(named),
        storage=storage,
    )


def _stored(checkpoint: Checkpoint, said: Mapping[str, Any]) -> Storage:
    """Return how the algorithm of a declaration, or of one layer in it, stores a layer."""
    name = str(mapping(said).get("quant_algo") or "")
    name = _OTHER_NAMES.get(name, name)
    if name not in ALGORITHMS:
        raise _unknown(checkpoint, "algorithm", name, ALGORITHMS)
    stored = ALGORITHMS[name]
    group = whole(said.get("group_size"))
    return replace(stored, group=group) if group > 0 and stored.weights is Format.INT4 else stored


def _most(named: Mapping[str, Storage]) -> Storage | None:
    """Return how most of the layers of a mixed checkpoint are stored."""
    counted = Counter(storage.name for storage in named.values())
    most = counted.most_common(1)
    return next((s for s in named.values() if s.name == most[0][0]), None) if most else None


def _flat(inside: Mapping[str, Any]) -> dict[str, Any]:
    """Say what config.json says in the words of the file beside."""
    inside = mapping(inside.get("quantization")) or inside
    scheme = inside.get("kv_cache_scheme")
    bits = mapping(scheme).get("num_bits")
    kv_cache = inside.get("kv_cache_quant_algo") or (scheme if isinstance(scheme, str) else None)
    kept = inside.get("exclude_modules")
    return dict(inside) | {
        "exclude_modules": inside.get("ignore") if kept is None else kept,
        "kv_cache_quant_algo": kv_cache or {8: "FP8", 4: "NVFP4"}.get(whole(bits)),
    }


def contradictions(checkpoint: Checkpoint, inside: Mapping[str, Any]) -> Iterator[Finding]:
    """Find where config.json and the file beside it say different things, or one is missing."""
    outside = beside(checkpoint)
    if outside is None:
        yield found("declaration-beside-missing", BESIDE, "is missing, only config.json tells")
        return
    if not inside:
        return
    flat = _flat(inside)
    if inside.get("quant_method", "modelopt") not in METHODS:
        what = f"says quant_method {inside['quant_method']!r}, but {BESIDE} is ModelOpt's"
        yield found("declarations-disagree", "config.json", what)
        return
    for key in ("quant_algo", "kv_cache_quant_algo", "exclude_modules", "quantized_layers"):
        mine, other = outside.get(key), flat.get(key)
        if isinstance(mine, list) and isinstance(other, list):
            mine, other = sorted(map(str, mine)), sorted(map(str, other))
        if (mine or None) != (other or None):
            what = f"and {BESIDE} disagree about {key}"
            yield found("declarations-disagree", "config.json", what)


def _unknown(
    checkpoint: Checkpoint, what: str, name: str, known: Mapping[str, object]
) -> UsageError:
    return UsageError(
        f"{checkpoint.path}: ModelOpt {what} {name!r} is not known here",
        hint=nearest(name, known),
    )
