"""Tell a checkpoint's quantization from its files, whoever made it."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from builders.autopsy import compressed, integer, modelopt, narrow
from builders.autopsy.layers import stacks
from builders.autopsy.recognized import Recognized, mapping
from builders.autopsy.storage import FLOATS, Storage
from builders.checkpoint import Checkpoint
from builders.errors import UsageError
from builders.formats import Format
from builders.parse import nearest

METHODS: Final[Mapping[str, Callable[[Checkpoint, Mapping[str, Any]], Recognized]]] = {
    "modelopt": modelopt.recognize,
    "compressed-tensors": compressed.recognize,
    "gptq": integer.gptq,
    "awq": integer.awq,
    "bitsandbytes": integer.bitsandbytes,
    "hqq": integer.hqq,
    "mxfp4": narrow.mxfp4,
    "fp8": narrow.fp8,
}
# Files of tools that did not write into config.json, and the method each belongs to.
_BESIDE: Final = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
_OTHER_NAMES: Final = dict.fromkeys(modelopt.METHODS, "modelopt")
_DTYPES: Final = {"BF16": Format.BF16, "F16": Format.FP16, "F32": Format.FP32, "F64": Format.FP32}


def recognize(checkpoint: Checkpoint) -> Recognized:
    """Say what a checkpoint is; a method or variant that nobody here knows is a `UsageError`."""
    known, stacked = _recognize(checkpoint), stacks(checkpoint.tensors)
    return _stacked(checkpoint, known, stacked) if stacked else known


def _stacked(checkpoint: Checkpoint, known: Recognized, stacked: frozenset[str]) -> Recognized:
    """Tell of stacked experts how they are stored, and leave out the runtimes that do not read it.

    Declarations say the same of experts, whether they lie stacked or one by one.
    """

    def storage(module: str) -> Storage | None:
        single = known.storage(module)
        return single.stack if single and module in stacked else single

    narrow = (name for name in stacked if checkpoint.tensors[name].dtype not in FLOATS)
    readers = [stored.runtimes for name in narrow if (stored := storage(name))]
    runtimes = (one for one in known.runtimes if all(one in each for each in readers))
    return replace(known, storage=storage, runtimes=tuple(runtimes))


def _recognize(checkpoint: Checkpoint) -> Recognized:
    inside = declared(checkpoint)
    if (checkpoint.path / modelopt.BESIDE).is_file():
        return modelopt.recognize(checkpoint, inside)
    if inside:
        return _by_method(checkpoint, "config.json", inside)
    for file, method in _BESIDE.items():
        if (checkpoint.path / file).is_file():
            said = _read(checkpoint.path / file)
            return _by_method(checkpoint, file, {"quant_method": method} | dict(said))
    return Recognized(
        method="unquantized",
        weights=_most(checkpoint),
        runtimes=("embedded", "trtllm", "vllm"),
    )


def declared(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return what config.json says about quantization, empty when it says nothing."""
    tables = (checkpoint.config, mapping(checkpoint.config.get("text_config")))
    keys = ("quantization_config", "compression_config")
    found = (mapping(table.get(key)) for table in tables for key in keys)
    return next((table for table in found if table), {})


def _by_method(checkpoint: Checkpoint, file: str, said: Mapping[str, Any]) -> Recognized:
    method = str(said.get("quant_method") or _guess(said))
    method = _OTHER_NAMES.get(method, method)
    if method not in METHODS:
        raise UsageError(
            f"{checkpoint.path / file}: quantized by {method or 'an unnamed method'}, which is not "
            "known here",
            hint=nearest(method, METHODS),
        )
    return METHODS[method](checkpoint, said)


def _guess(said: Mapping[str, Any]) -> str:
    """Old files do not name their method."""
    if said.get("load_in_4bit") or said.get("load_in_8bit"):
        return "bitsandbytes"
    if "config_groups" in said:
        return "compressed-tensors"
    return "modelopt" if said.get("quant_algo") or said.get("quantization") else ""


def _most(checkpoint: Checkpoint) -> Format:
    """Return the format that most bytes of an unquantized checkpoint have."""
    counted: Counter[str] = Counter()
    for info in checkpoint.tensors.values():
        counted[info.dtype] += info.bytes if info.dtype in FLOATS else 0
    most = counted.most_common(1)
    return _DTYPES.get(most[0][0], Format.BF16) if most else Format.BF16


def _read(file: Path) -> Mapping[str, Any]:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{file}: not valid JSON ({error})", hint="fetch this file again"
        ) from error
    if not isinstance(said, Mapping):
        raise UsageError(f"{file}: must hold a JSON object", hint="fetch this file again")
    return said
