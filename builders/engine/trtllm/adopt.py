"""Engines and TensorRT-LLM checkpoints that others made, read into our own nouns.

The first step of their way to gates: what is broken is refused here, by file and key.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builders.bundle import fingerprint
from builders.engine.sources import read_object
from builders.engine.trtllm import effective
from builders.engine.trtllm.effective import Effective
from builders.engine.trtllm.settings import ALGORITHMS, DTYPES, KV_ALGORITHMS, name
from builders.errors import UsageError
from builders.formats import Format
from builders.ledger import lane
from builders.parse import nearest

_RANK: Final = re.compile(r"rank([0-9]+)\.(engine|safetensors)")
# What a checkpoint must have (docs/source/legacy/architecture/checkpoint.md@10c1d594).
_MANDATORY: Final = (
    "architecture", "dtype", "vocab_size", "hidden_size", "num_hidden_layers",
    "num_attention_heads", "hidden_act",
)  # fmt: skip
_LIMITS: Final = ("max_batch_size", "max_seq_len", "max_num_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """What was found: an engine (``version`` says which TensorRT-LLM built it) or a checkpoint.

    ``weights`` and ``activations`` are None where they differ from layer to layer. Limits are 0 for
    a checkpoint, which has none.
    """

    kind: str
    version: str
    architecture: str
    quant_algo: str
    weights: Format | None
    activations: Format | None
    kv_cache: Format
    dtype: Format
    tp: int
    pp: int
    max_batch_size: int
    max_seq_len: int
    max_num_tokens: int
    config_digest: str
    files: tuple[str, ...]

    @property
    def world(self) -> int:
        """The number of ranks."""
        return self.tp * self.pp


def adopt(directory: Path) -> Adopted:
    """Read a foreign directory; what is no whole engine or checkpoint is a `UsageError`."""
    data = read_object(directory / effective.CONFIG)
    if "build_config" in data or "pretrained_config" in data:
        return _engine(directory)
    if "architecture" in data:
        return _checkpoint(directory, data)
    if "architectures" in data:
        raise UsageError(
            f"{directory}: a Hugging Face checkpoint, not an engine",
            hint="set [model] path to it and run enginesmith release",
        )
    raise UsageError(
        f"{directory / effective.CONFIG}: neither an engine's nor a checkpoint's configuration",
        hint="an engine's has version, pretrained_config and build_config",
    )


def _engine(directory: Path) -> Adopted:
    found = Effective.read(directory)
    file = directory / effective.CONFIG
    if "tensorrt" not in lane("trtllm", found.version):
        raise UsageError(
            f"{file}: no TensorRT-LLM {found.version} ever compiled engines",
            hint="is the version right? 0.9.0 to 1.2.1 and 1.3.0rc20 did",
        )
    limits = {key: _whole(file, found.build, key) for key in _LIMITS}
    return _adopted(directory, found, "engine", limits, found.digest)


def _checkpoint(directory: Path, data: Mapping[str, object]) -> Adopted:
    file = directory / effective.CONFIG
    absent = [key for key in _MANDATORY if key not in data]
    if absent:
        raise UsageError(f"{file}: {absent[0]} is missing", hint="export the checkpoint again")
    whole = Effective(version="", pretrained=data, build={})
    return _adopted(directory, whole, "checkpoint", dict.fromkeys(_LIMITS, 0), fingerprint(data))


def _adopted(
    directory: Path, found: Effective, kind: str, limits: Mapping[str, int], digest: str
) -> Adopted:
    file = directory / effective.CONFIG
    algorithm = found.quantization("quant_algo")
    weights, activations = _formats(file, algorithm)
    tp, pp = _mapping(file, found)
    return Adopted(
        kind=kind,
        version=found.version,
        architecture=name(_text(file, found.pretrained, "architecture"), f"{file}: architecture"),
        quant_algo=algorithm,
        weights=weights,
        activations=activations,
        kv_cache=_kv_cache(file, found),
        dtype=_dtype(file, found),
        tp=tp,
        pp=pp,
        config_digest=digest,
        files=_files(directory, kind, tp * pp),
        **limits,
    )


def _formats(file: Path, algorithm: str) -> tuple[Format | None, Format | None]:
    if algorithm not in ALGORITHMS:
        raise UsageError(
            f"{file}: quant_algo {algorithm!r} is not one of TensorRT-LLM's",
            hint=nearest(algorithm, filter(None, ALGORITHMS)),
        )
    return ALGORITHMS[algorithm] or (None, None)


def _kv_cache(file: Path, found: Effective) -> Format:
    algorithm = found.quantization("kv_cache_quant_algo")
    if algorithm not in KV_ALGORITHMS:
        raise UsageError(
            f"{file}: kv_cache_quant_algo {algorithm!r} is not one of TensorRT-LLM's",
            hint=nearest(algorithm, filter(None, KV_ALGORITHMS)),
        )
    return KV_ALGORITHMS[algorithm]


def _dtype(file: Path, found: Effective) -> Format:
    text = _text(file, found.pretrained, "dtype")
    by_name = {spelled: fmt for fmt, spelled in DTYPES.items()}
    if text not in by_name:
        raise UsageError(f"{file}: dtype cannot be {text!r}", hint=nearest(text, by_name))
    return by_name[text]


def _mapping(file: Path, found: Effective) -> tuple[int, int]:
    tp, pp, cp = (found.mapping(f"{which}_size") for which in ("tp", "pp", "cp"))
    world = found.mapping("world_size") if _has_world(found) else tp * pp * cp
    if cp != 1:
        raise UsageError(
            f"{file}: context parallelism of {cp} is not served here", hint="build with cp_size 1"
        )
    if world != tp * pp:
        raise UsageError(
            f"{file}: world_size is {world}, but tp {tp} × pp {pp} is {tp * pp}",
            hint="the configuration is damaged; build the engine again",
        )
    return tp, pp


def _has_world(found: Effective) -> bool:
    mapping = found.pretrained.get("mapping")
    return isinstance(mapping, Mapping) and "world_size" in mapping


def _files(directory: Path, kind: str, world: int) -> tuple[str, ...]:
    """Every rank's file must be there, whole and once; no link may lead out of the directory."""
    suffix = "engine" if kind == "engine" else "safetensors"
    found: dict[int, str] = {}
    for entry in sorted(directory.iterdir()):
        rank = _RANK.fullmatch(entry.name)
        if rank and rank[2] == suffix:
            if entry.is_symlink() or not entry.is_file() or not entry.stat().st_size:
                raise UsageError(
                    f"{entry}: empty, a link or no file", hint=f"copy the whole {kind} again"
                )
            found[int(rank[1])] = entry.name
    if sorted(found) != list(range(world)):
        ranks = ", ".join(map(str, sorted(found))) or "none"
        raise UsageError(
            f"{directory}: {world} ranks are configured, and the files are of {ranks}",
            hint=f"copy the whole {kind} again: rank0 to rank{world - 1}",
        )
    return (effective.CONFIG, *(found[rank] for rank in range(world)))


def _text(file: Path, table: Mapping[str, object], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{file}: {key} must be a text, not {value!r}", hint="build it again")
    return value


def _whole(file: Path, table: Mapping[str, object], key: str) -> int:
    value = table.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(
            f"{file}: build_config.{key} must be a whole number of at least 1, not {value!r}",
            hint="the configuration is damaged; build the engine again",
        )
    return value
