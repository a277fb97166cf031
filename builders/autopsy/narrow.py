"""Models published in few bits: fine-grained FP8 (DeepSeek, Qwen) and MXFP4 (GPT-OSS)."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from builders.autopsy import names
from builders.autopsy.compressed import kv_scheme
from builders.autopsy.layers import Role, named_role, split
from builders.autopsy.recognized import Recognized, texts, whole
from builders.autopsy.storage import (
    Part,
    Storage,
    blocks,
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

_NEVER: Final = frozenset({Role.OUTPUT, Role.EMBEDDING, Role.ROUTER, Role.NORM, Role.VISION})
_ONE: Final = scale("F32 BF16", scalar, single)
# What the scales of a weight and of what comes in are called: by AutoFP8 and vLLM, and by
# transformers' FP8Linear. Both multiply, whatever "inv" says (transformers 5.23, Fp8Dequantize).
_PAIRS: Final = (("weight_scale", "input_scale"), ("weight_scale_inv", "activation_scale"))


def fp8(checkpoint: Checkpoint, said: Mapping[str, Any]) -> Recognized:
    """Read an FP8 declaration: a scale per tile (``weight_block_size``), or one per tensor."""
    sides = said.get("weight_block_size")
    two = isinstance(sides, list) and len(sides) == 2 and all(whole(side) > 0 for side in sides)
    if sides is not None and not two:
        raise UsageError(
            f"{checkpoint.path / 'config.json'}: weight_block_size is {sides!r}, not two numbers",
            hint="DeepSeek's is [128, 128]",
        )
    static = said.get("activation_scheme") == "static"
    weight, inputs = _names(checkpoint)
    calibrated = {inputs: _ONE} if static else {}
    usual = _tiled(sides, calibrated) if sides else _whole(weight, calibrated)
    kept = texts(said.get("modules_to_not_convert")) or texts(said.get("ignored_layers"))
    left = names.skipped(kept)
    kv_cache, kv_static = kv_scheme(said.get("kv_cache_scheme"))
    return Recognized(
        method="fp8",
        algorithm=usual.name,
        weights=Format.FP8,
        activations=Format.FP8,
        kv_cache=kv_cache,
        group=usual.group,
        kept=kept,
        runtimes=usual.runtimes,
        notes=("scales are powers of two",) if said.get("scale_fmt") == "ue8m0" else (),
        explicit=False,
        kv_static=kv_static,
        storage=lambda m: None if named_role(m) in _NEVER or left(m) else usual,
    )


def _names(checkpoint: Checkpoint) -> tuple[str, str]:
    """Return what most layers call the scales of a weight and of what comes in."""
    counted = Counter(split(name)[1] for name in checkpoint.tensors)
    weight, inputs = max(_PAIRS, key=lambda pair: counted[pair[0]])
    others = [pair[1] for pair in _PAIRS]
    return weight, max((inputs, *others), key=lambda name: counted[name])


def _tiled(sides: list[object], inputs: Mapping[str, Part]) -> Storage:
    down, across = (whole(side, 128) for side in sides)
    grid = scale("F32 BF16 F8_E8M0 U8", tiles(down, across))
    return Storage(
        name="FP8_BLOCK_SCALES",
        weights=Format.FP8,
        activations=Format.FP8,
        group=across,
        parts={"weight": part("F8_E4M3", all_values), "weight_scale_inv": grid, **inputs},
        features=plain,
        runtimes=("vllm", "trtllm", "embedded") if (down, across) == (128, 128) else ("vllm",),
    )


def _whole(scale_name: str, inputs: Mapping[str, Part]) -> Storage:
    return Storage(
        name="FP8",
        weights=Format.FP8,
        activations=Format.FP8,
        parts={"weight": part("F8_E4M3", all_values), scale_name: _ONE, **inputs},
        features=plain,
        runtimes=("vllm", "embedded"),
    )


_EXPERTS: Final = Storage(
    name="MXFP4",
    weights=Format.MXFP4,
    group=32,
    parts={
        "blocks": part("U8", lambda o, i, _: (o, i // 32, 16)),
        "scales": scale("U8", blocks(32)),
    },
    features=lambda shape: (shape[0], shape[1] * 32) if len(shape) == 3 else None,
    stacked=True,
    runtimes=("vllm", "trtllm"),
)


def mxfp4(_checkpoint: Checkpoint, said: Mapping[str, Any]) -> Recognized:
    """Read an MXFP4 declaration: the experts of a mixture, stacked; all else is left alone."""
    kept = texts(said.get("modules_to_not_convert"))
    left = names.skipped(kept)
    return Recognized(
        method="mxfp4",
        algorithm="MXFP4",
        weights=Format.MXFP4,
        group=32,
        kept=kept,
        runtimes=_EXPERTS.runtimes,
        notes=("only the experts are quantized",),
        storage=lambda m: _EXPERTS if ".experts." in m and not left(m) else None,
    )
